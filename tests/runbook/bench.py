"""A host, a directory on it, and the runs there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook import journal, runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import open_run, resume
from runbooks_lib.runbook.run import Options, Run, target
from runbooks_lib.runbook.step import Runbook
from runbooks_lib.runbook.undo import undo, undo_digest
from tests.runbook.operators import Scripted


class Bench:
    """A host, a directory on it, and runs."""

    def __init__(self, host: SshHost, places: Places, path: Path) -> None:
        self.host, self.places, self.runs = host, places, path / "runs"
        self.directory = path / "work"
        self.directory.mkdir()
        self.parameters = {"directory": str(self.directory), "text": "new"}

    def options(self, *answers: str, **changes: object) -> Options:
        made = Options(self.runs, self.places, Scripted(answers))
        return replace(made, **changes)  # type: ignore[arg-type]

    def approved(self, runbook: Runbook, **parameters: str) -> Run:
        """A run of the plan as it is now, held."""
        aim = target(runbook, self.host, {**self.parameters, **parameters})
        run = open_run(aim, self.options(approve=aim.plan().digest))
        assert isinstance(run, Run)
        return run

    def undo(self, runbook: Runbook) -> str:
        aim = target(runbook, self.host, self.parameters)
        directory = runs.directories(self.runs)[0]
        run = resume(directory, aim, self.options())
        return undo(run, approve=undo_digest(runbook, run.state))

    def text(self, name: str) -> str | None:
        path = self.directory / name
        return path.read_text() if path.exists() else None

    def kinds(self) -> list[str]:
        found = journal.read(runs.directories(self.runs)[0] / journal.NAME)
        return [entry.kind for entry in found.entries]
