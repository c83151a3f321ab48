from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from runbooks_lib import secrets
from runbooks_lib.hosts.bastion import Bastions
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.runbook.places import Places
from runbooks_lib.training.practice_host import PracticeHost
from tests.runbook.bench import Bench


@pytest.fixture(scope="session")
def practice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PracticeHost]:
    with PracticeHost(tmp_path_factory.mktemp("practice")) as server:
        yield server


@pytest.fixture
def host(practice: PracticeHost) -> Iterator[SshHost]:
    bastions = Bastions()
    made = SshHost(
        practice.names[0],
        settings_source=partial(resolve, config_file=practice.ssh_config),
        bastions=bastions,
    )
    yield made
    made.close()
    bastions.close()


@pytest.fixture
def places(quick_path: Path) -> Places:
    directory = quick_path / "places"
    directory.mkdir()
    directory.chmod(0o1777)
    return Places((str(directory),))


@pytest.fixture(autouse=True)
def _no_secrets_left() -> Iterator[None]:
    yield
    secrets.forget()


@pytest.fixture
def bench(host: SshHost, places: Places, quick_path: Path) -> Bench:
    return Bench(host, places, quick_path)


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A directory in memory where there is such a thing: the tests sync much, and other tests' disks are busy."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)
