"""The practice machine as the ways to more space want it: reset after each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook.run import Options
from runbooks_lib.training.lab.machine import Machine, connected
from tests.procedures.storage.work import quiet_options


@pytest.fixture
def fresh(machine: Machine) -> Iterator[Machine]:
    """The machine; whatever the test does to it is undone by a reset."""
    yield machine
    machine.reset()


@pytest.fixture
def host(fresh: Machine) -> Iterator[SshHost]:
    with connected(fresh) as opened:
        yield opened


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return quiet_options(tmp_path / "runs")
