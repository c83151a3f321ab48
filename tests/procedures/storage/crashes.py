"""Operators that die in the middle of a way, and whoever comes after them.

The dying is the engine's own (`tests.runbook.operator_program`): before, in the middle of and after each write to the
journal; before and after each remote command; before and after each tool inside a change.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbooks_lib.runbook import runs

ROOT = Path(__file__).parents[3]
SEED = 6


@dataclass(frozen=True)
class Work:
    """A way on a host. `begin` brings the host to where every case begins, `picture` says all that matters of it.
    `inside`: how one dies inside a change; on another machine its shell can be killed, the operator cannot. `mark`
    sets the count of the tools back before an operator begins, where that is not this machine's."""

    book: str
    ssh_config: Path
    host: str
    parameters: Mapping[str, Any]
    begin: Callable[[], object]
    picture: Callable[[], object]
    path: Path
    count: Callable[[], int]
    inside: tuple[str, ...] = ("kill", "cut", "shell", "group")
    mark: Callable[[], object] = lambda: None


class Operators:
    """The program that forks one operator for each line."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.log = (work.path / "operators.log").open("wb+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runbook.operator_program"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.log.close()

    def begin(self) -> None:
        shutil.rmtree(self.work.path / "runs", ignore_errors=True)
        shutil.rmtree(self.work.path / "place", ignore_errors=True)
        (self.work.path / "place").mkdir()
        (self.work.path / "place").chmod(0o1777)
        self.work.begin()

    def operate(self, do: str, at: list[Any] | None = None) -> dict[str, int]:
        work = self.work
        work.mark()
        case = {"book": work.book, "ssh_config": str(work.ssh_config), "host": work.host,
                "parameters": dict(work.parameters), "do": do, "at": at, "place": str(work.path / "place"),
                "runs": str(work.path / "runs")}  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(case).encode() + b"\n")
        self.process.stdin.flush()
        answer: dict[str, int] = json.loads(self.process.stdout.readline())
        return answer

    def said(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_bytes()[-6000:].decode(errors="replace")

    def outcome(self) -> str:
        found = runs.directories(self.work.path / "runs")
        return runs.state_of(found[0]).outcome if found else "none"

    def places(self, do: str) -> list[list[Any]]:
        """Run once undisturbed; every place where one could die in it."""
        counts = self.operate(do)
        assert counts["status"] == 0, self.said()
        found: list[list[Any]] = [
            ["journal", n, when] for n in range(1, counts["journal"] + 1) for when in ("before", "torn", "after")
        ]
        found += [
            ["command", n, when, how]
            for n in range(1, counts["command"] + 1)
            for when in ("before", "after")
            for how in ("kill", "cut")
        ]
        return found + [["inside", n, how] for n in range(1, self.work.count() + 1) for how in self.work.inside]


def sampled(every: list[tuple[str, list[Any]]], cases: int) -> list[tuple[str, list[Any]]]:
    """So many of them by the seed, each kind of place in its turn; with RUNBOOKS_MATRIX_EVERY=1 all, in that order."""
    mixed = random.Random(SEED).sample(every, len(every))
    kinds = {kind: [case for case in mixed if case[1][0] == kind] for kind in sorted({at[0] for _, at in every})}
    turns = [case for turn in itertools.zip_longest(*kinds.values()) for case in turn if case]
    return turns if os.environ.get("RUNBOOKS_MATRIX_EVERY") == "1" else turns[:cases]


def seconds_allowed() -> float:
    """How long a matrix may last."""
    return float(os.environ.get("RUNBOOKS_MATRIX_SECONDS", "inf"))


def check_to_the_point_of_no_return(work: Work, *, cases: int, refused: str) -> tuple[int, int, dict[str, int]]:
    """As `check`, for a way whose last step is not taken back: after a death it is finished, or taken back as long as
    undo does not refuse with `refused`; then it is finished too. Returns how many were tried, of how many, and how
    they ended. RUNBOOKS_MATRIX_SECONDS ends it after so long."""
    operators = Operators(work)
    try:
        operators.begin()
        first = work.picture()
        places = operators.places("run")
        final = work.picture()
        assert final != first
        every = [(then, at) for at in places for then in ("run", "undo")]
        end, tried, ends = time.monotonic() + seconds_allowed(), 0, {"done": 0, "undone": 0}
        for then, at in sampled(every, cases):
            if time.monotonic() > end:
                break
            operators.begin()
            died = operators.operate("run", at)
            assert died["status"] != 0 or work.picture() == final, (then, at, operators.said())
            outcome = operators.outcome() if at[2:3] != ["torn"] else "torn"
            assert outcome != "done" or work.picture() == final, (then, at, operators.said())
            taken_back = then == "undo" and operators.operate("undo")["status"] == 0
            if taken_back:
                assert work.picture() == first, (then, at, operators.said())
            else:
                assert then == "run" or refused in operators.said(), (then, at, operators.said())
                assert operators.operate("run")["status"] == 0, (then, at, operators.said())
                assert work.picture() == final, (then, at, operators.said())
                assert operators.outcome() == "done"
            ends["undone" if taken_back else "done"] += 1
            tried += 1
            print(f"{at}, then {then}: {'undone' if taken_back else 'done'}", flush=True)
        return tried, len(every), ends
    finally:
        operators.close()


def check(work: Work, *, cases: int, undo: bool) -> tuple[int, int]:
    """A seeded sample of `cases` deaths, each followed by an operator who finishes, and with `undo` by one who takes
    back. RUNBOOKS_MATRIX_EVERY=1 takes all, RUNBOOKS_MATRIX_SECONDS ends it after so long. Returns how many were tried,
    of how many."""
    operators = Operators(work)
    try:
        operators.begin()
        first = work.picture()
        forth = operators.places("run")
        final = work.picture()
        assert final != first
        every = [("run", at) for at in forth]
        if undo:
            every += [("undo", at) for at in operators.places("undo")]
            assert work.picture() == first
        end, tried = time.monotonic() + seconds_allowed(), 0
        for do, at in sampled(every, cases):
            if time.monotonic() > end:
                break
            operators.begin()
            if do == "undo":
                assert operators.operate("run")["status"] == 0, operators.said()
            died = operators.operate(do, at)
            words = (do, at, operators.said())
            assert died["status"] != 0 or work.picture() == (final if do == "run" else first), words
            if do == "run":
                assert operators.operate("run")["status"] == 0, (do, at, operators.said())
                assert work.picture() == final, (do, at, operators.said())
                assert operators.outcome() == "done"
            if undo:
                assert operators.operate("undo")["status"] == 0, (do, at, operators.said())
                assert work.picture() == first, (do, at, operators.said())
            tried += 1
            print(f"{do} {at}", flush=True)
        return tried, len(every)
    finally:
        operators.close()
