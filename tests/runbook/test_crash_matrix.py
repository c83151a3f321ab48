"""The operator is killed, the connection is cut, the host's shell is killed - everywhere. Afterwards a second run ends
in the same final state as an undisturbed one, and an undo in the initial one, byte for byte; no case is a false done.

The places: before, in the middle of and after every write to the journal; before and after every remote command; and
inside every change, before and after every tool that it calls.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib.procedures.clean_log_directory import RUNBOOK
from runbooks_lib.runbook import runs
from runbooks_lib.training.practice_host import PracticeHost
from tests.hosts.sshd import Sshd
from tests.runbook.every_kind import EVERY_KIND
from tests.runbook.logs import make_logs, picture

ROOT = Path(__file__).parents[2]


class Matrix:
    """One runbook on one host; each case begins with the same directory under the same path."""

    def __init__(self, book: str, ssh_config: Path, host: str, path: Path) -> None:
        self.book, self.path = book, path
        self.directory, self.initial = path / "work", path / "initial"
        self.case = {"book": book, "ssh_config": str(ssh_config), "host": host, "parameters": self._parameters()}
        if book == RUNBOOK.name:
            make_logs(self.initial, ("app.log", "line\nend's.log"), lines=20)
            tomorrow = time.time() + 86400  # the whole matrix may take longer than the busy log is busy
            os.utime(self.initial / "busy.log", (tomorrow, tomorrow))
        else:
            self.initial.mkdir()
            (self.initial / "already").write_text("new")
            (self.initial / "first").write_text("old\n")
        self.log = (path / "operators.log").open("wb+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runbook.operator_program"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )

    def _parameters(self) -> dict[str, Any]:
        return {"directory": str(self.directory)} | ({} if self.book == RUNBOOK.name else {"text": "new"})

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.log.close()

    def begin(self) -> None:
        for name in ("work", "runs", "place"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        shutil.copytree(self.initial, self.directory)
        (self.path / "place").mkdir()
        (self.path / "place").chmod(0o1777)

    def operate(self, do: str, at: list[Any] | None = None) -> dict[str, int]:
        place, kept = str(self.path / "place"), str(self.path / "runs")
        case = {**self.case, "do": do, "at": at, "place": place, "runs": kept}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(case).encode() + b"\n")
        self.process.stdin.flush()
        answer: dict[str, int] = json.loads(self.process.stdout.readline())
        return answer

    def undisturbed(self, do: str) -> list[list[Any]]:
        """Run once to the end; every place where one could die in it."""
        counts = self.operate(do)
        assert counts["status"] == 0, self.said()
        inside = int((self.path / "place/count").read_text())
        places: list[list[Any]] = [
            ["journal", n, when] for n in range(1, counts["journal"] + 1) for when in ("before", "torn", "after")
        ]
        places += [
            ["command", n, when, how]
            for n in range(1, counts["command"] + 1)
            for when in ("before", "after")
            for how in ("kill", "cut")
        ]
        return places + [["inside", n, how] for n in range(1, inside + 1) for how in ("kill", "cut", "shell", "group")]

    def said(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_bytes()[-6000:].decode(errors="replace")

    def picture(self) -> dict[str, Any]:
        """Names, bytes and modes; for the logs, whose undo promises it, also when each was last changed."""
        whole = picture(self.directory)
        return {name: each if self.book == RUNBOOK.name else each[:2] for name, each in whole.items()}

    def outcome(self) -> str:
        found = runs.directories(self.path / "runs")
        return runs.state_of(found[0]).outcome if found else "none"


def check(matrix: Matrix, *, every: int) -> int:
    """Every case (or each `every`-th) of the run and of the undo. Returns how many."""
    matrix.begin()
    first = matrix.picture()
    forth = matrix.undisturbed("run")
    final = matrix.picture()
    assert final != first
    back = matrix.undisturbed("undo")
    assert matrix.picture() == first
    cases = [("run", at) for at in forth] + [("undo", at) for at in back]
    chosen = cases[::every]
    for number, (do, at) in enumerate(chosen):
        matrix.begin()
        if do == "undo":
            assert matrix.operate("run")["status"] == 0, matrix.said()
        died = matrix.operate(do, at)
        _not_falsely_done(matrix, died["status"], do, at, first, final)
        # Half of the broken runs are finished and then undone, half are undone at once.
        if do == "run" and number % 2 == 0:
            assert matrix.operate("run")["status"] == 0, (do, at, matrix.said())
            assert matrix.picture() == final, (do, at, matrix.said())
            assert matrix.outcome() == "done"
        assert matrix.operate("undo")["status"] == 0, (do, at, matrix.said())
        assert matrix.picture() == first, (do, at, matrix.said())
        assert matrix.outcome() in ("undone", "not begun", "none")
    return len(chosen)


def _not_falsely_done(
    matrix: Matrix, status: int, do: str, at: list[Any], first: dict[str, Any], final: dict[str, Any]
) -> None:
    said = (do, at, matrix.said())
    outcome = matrix.outcome() if at[2] != "torn" else "torn"
    if outcome == "done" and do == "run":
        assert matrix.picture() == final, said
    if outcome == "undone":
        assert matrix.picture() == first, said
    if status == 0:  # a read is asked once more when the connection dies under it
        assert matrix.picture() == (final if do == "run" else first), said


@pytest.fixture
def path() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


@pytest.mark.parametrize(("book", "every"), [(RUNBOOK.name, 199), (EVERY_KIND.name, 149)])
def test_some_of_the_matrix(book: str, every: int, practice: PracticeHost, path: Path) -> None:
    matrix = Matrix(book, practice.ssh_config, practice.names[0], path)
    try:
        print(f"{check(matrix, every=every)} cases of {book}")
    finally:
        matrix.close()


@pytest.mark.lab
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("book", [RUNBOOK.name, EVERY_KIND.name])
def test_the_matrix_over_a_real_sshd(book: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RUNBOOKS_MATRIX_EVERY=1 takes every case; each 12th is what every change has time for."""
    with Sshd(tmp_path / "sshd") as sshd:
        matrix = Matrix(book, sshd.ssh_config, sshd.names[0], path)
        try:
            count = check(matrix, every=int(os.environ.get("RUNBOOKS_MATRIX_EVERY", "12")))
        finally:
            matrix.close()
    with capsys.disabled():
        print(f"\ncrash matrix: {count} cases of {book}, none ended wrongly")
