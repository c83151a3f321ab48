from __future__ import annotations

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
def places(tmp_path: Path) -> Places:
    directory = tmp_path / "places"
    directory.mkdir()
    directory.chmod(0o1777)
    return Places((str(directory),))


@pytest.fixture(autouse=True)
def _no_secrets_left() -> Iterator[None]:
    yield
    secrets.forget()


@pytest.fixture
def bench(host: SshHost, places: Places, tmp_path: Path) -> Bench:
    return Bench(host, places, tmp_path)
