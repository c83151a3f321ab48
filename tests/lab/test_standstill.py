"""A boot that gets nowhere is started again; one that is only slow is left alone."""

import threading
from pathlib import Path

import pytest

from runbooks_lib.training.lab import standstill
from runbooks_lib.training.lab.standstill import Standstill


class Told:
    """Stands in for qemu's own protocol: which commands it was given. The real one is in the tests on machines."""

    commands: list[str]

    def __init__(self, _directory: Path) -> None: ...

    def __enter__(self) -> "Told":
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, command: str) -> None:
        self.commands.append(command)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    Told.commands = []
    monkeypatch.setattr(standstill, "Qmp", Told)
    return Told.commands


def test_a_machine_that_writes_to_no_disk_is_started_again_with_more_patience(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "root.qcow2").touch()
    watch = Standstill(tmp_path, patience_seconds=0.05)
    watch.look()
    assert told == []
    for _ in range(2):
        threading.Event().wait(0.12)
        watch.look()
    assert told == ["system_reset", "system_reset"]
    threading.Event().wait(0.12)  # patience is 0.2 s by now
    watch.look()
    assert watch.restarts == 2


def test_a_machine_that_has_written_is_only_slow(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "root.qcow2").touch()
    watch = Standstill(tmp_path, patience_seconds=0.05)
    threading.Event().wait(0.02)
    (tmp_path / "root.qcow2").write_bytes(b"x")
    watch.look()
    threading.Event().wait(0.2)
    watch.look()
    assert told == []
