"""A move that is cut off anywhere ends, after resume or undo, with one running database in exactly one place, and every
commit that a client was told of. Its WAL and its tables lie apart from its data, on a third filesystem.

The places: before and after each script that the operator sends, by killing the operator and by cutting its connection;
before and after each tool that the move's commands call, by killing the command with its whole process group; a full
target, a full source and a killed standby at each step. The machine's own power cut is in `test_on_a_machine`.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.relocate.here import Here, here
from benchmarks.relocate.moving import forget
from runbooks_lib.training.lab.load import Load
from tests.hosts.sshd import Sshd
from tests.procedures.relocate_postgres.crashing import Operator
from tests.procedures.relocate_postgres.moves import servers

SEED = 20261127
SAMPLE = int(os.environ.get("RUNBOOKS_RELOCATE_CASES", "6"))  # one of each kind; 0: all of them

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300 + 60 * SAMPLE if SAMPLE else 24 * 3600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Here]:
    with here(20, apart=True) as standing:
        yield standing


class Bench:
    """One cluster and an operator who may die; every case begins with a database that lies in one place."""

    def __init__(self, cluster: Here, sshd: Sshd, path: Path) -> None:
        self.cluster, self.sshd, self.path = cluster, sshd, path
        self.place = cluster.root / "cases"
        self.number = 0

    def operator(self) -> Operator:
        """For the next case, with journals of its own."""
        self.number += 1
        kept = self.path / f"case-{self.number}"
        kept.mkdir()
        forget(self.cluster)
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        self.place.chmod(0o1777)
        to = str(self.cluster.free(f"moved-{self.number}"))
        parameters = {"directory": str(self.cluster.directory), "target": to, "backup": "a test's"}
        return Operator(self.sshd.ssh_config, self.sshd.names[0], kept, str(self.place), parameters)

    def mark(self, at: list[Any]) -> None:
        (self.place / "count").write_text("0\n")
        (self.place / "case").write_text(f"{at[1]} {at[2]}\n" if at[0] == "inside" else "0 none\n")

    def count(self) -> list[list[Any]]:
        """Run once undisturbed; every place where it could have been cut."""
        operator = self.operator()
        self.mark(["inside", 0, "none"])
        assert operator.run("run") == 0, operator.said()
        inside, commands = int((self.place / "count").read_text()), operator.commands()
        found: list[list[Any]] = [["inside", n, "group"] for n in range(1, inside + 1)]
        for n in range(1, commands + 1):
            found += [["command", n, when, how] for when in ("before", "after") for how in ("kill", "cut")]
        meanwhile = ("target full", "source full", "WAL full", "standby killed")
        return found + [[what, n] for what in meanwhile for n in range(1, 8)]

    def check(self, at: list[Any], then: str) -> str:
        """One case to its end; how it ended."""
        operator = self.operator()
        lay, outside = str(self.cluster.directory.resolve()), self.cluster.outside()
        self.mark(at)
        with Load([self.cluster.address], password="unused") as load:
            load.wait_acknowledged(20, seconds=120)
            if at[0] in ("inside", "command"):
                operator.run("run", at)
            else:
                self._meanwhile(operator, at)
                stays = str(self.cluster.directory.resolve()) == lay  # the move had not come as far as its switch
                if at[0] in ("source full", "WAL full") and stays and lay not in servers(self.cluster):
                    self.cluster.start()  # no room for WAL ends the server; who has made room starts it
            self.mark(["none"])
            ended = operator.run(then)
            if then == "undo" and ended == 1 and "has been passed" in operator.said():
                ended = operator.run("run")
            assert ended == 0, (at, then, operator.said())
            load.wait_acknowledged(20, seconds=120)
        verdict = load.verify()
        assert verdict.ok, (at, then, verdict)
        lies = str(self.cluster.directory.resolve())
        assert servers(self.cluster) == [lies], (at, then, operator.said())
        outcome = operator.outcome()
        assert (lies == operator.parameters["target"]) == (outcome == "done"), (at, then, outcome)
        if outcome != "done":
            assert lies == lay
            assert not Path(operator.parameters["target"]).exists()
            assert self.cluster.outside() == outside
            assert list(self.cluster.root.glob(f"*/{Path(operator.parameters['target']).name}*")) == []
            assert len(list(self.cluster.root.glob("side/wal/*"))) == 1
            assert self.cluster.sql("select count(*) from pg_replication_slots") == "0"
        return outcome

    def _meanwhile(self, operator: Operator, at: list[Any]) -> None:
        """What is done to the host before the operator's n-th tenth of the scripts is sent."""
        script = 12 * int(at[1])
        operator.run("run", ["command", script, "before", "kill"])
        target = Path(operator.parameters["target"])
        if at[0] == "standby killed":
            with suppress(OSError, ValueError, IndexError):  # there is none at this step
                os.kill(int((target / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            return
        sides = {"target full": target.parent, "source full": self.cluster.directory.resolve().parent}
        sides["WAL full"] = self.cluster.root / "side"
        side = sides[at[0]]
        free = os.statvfs(side)
        ballast = side / "ballast"
        subprocess.run(
            ["fallocate", "-l", str(max(4096, (free.f_bavail - 200) * free.f_bsize)), str(ballast)], check=False
        )
        try:
            operator.run("run")
        finally:
            ballast.unlink(missing_ok=True)


def sampled(cases: list[tuple[list[Any], str]], count: int) -> list[tuple[list[Any], str]]:
    """So many cases, each kind in its turn."""
    mixed = random.Random(SEED).sample(cases, len(cases))
    kinds = {kind: [case for case in mixed if case[0][0] == kind] for kind in sorted({at[0] for at, _ in cases})}
    turns = [case for turn in itertools.zip_longest(*kinds.values()) for case in turn if case]
    return turns[:count]


def test_some_of_the_matrix(cluster: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RUNBOOKS_RELOCATE_CASES=0 takes every case, as `make crash-matrix` does."""
    with Sshd(tmp_path / "sshd") as sshd:
        bench = Bench(cluster, sshd, tmp_path)
        cases = [(at, then) for at in bench.count() for then in ("run", "undo")]
        chosen = sampled(cases, SAMPLE) if SAMPLE else cases
        ends: dict[str, int] = {}
        for at, then in chosen:
            outcome = bench.check(at, then)
            ends[outcome] = ends.get(outcome, 0) + 1
            with capsys.disabled():
                print(f"{at} then {then}: {outcome}", flush=True)
    with capsys.disabled():
        print(f"\ncrash matrix of the relocation: {len(chosen)} of {len(cases)} cases, none ended wrongly: {ends}")
