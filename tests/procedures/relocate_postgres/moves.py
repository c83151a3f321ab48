"""Moves of a real PostgreSQL on this machine, step by step, for the tests."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.relocate.here import Here
from benchmarks.relocate.moving import forget
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures.relocate_postgres import RUNBOOK
from runbooks_lib.runbook import runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.plan import Plan
from runbooks_lib.runbook.resume import open_run, resume
from runbooks_lib.runbook.run import Options, Run, Target, target
from runbooks_lib.runbook.step import Command, Known, Runbook
from runbooks_lib.runbook.undo import undo, undo_digest
from tests.runbook.operators import Scripted


@contextmanager
def room_for_runs(cluster: Here) -> Iterator[None]:
    """A place for locks and journals; afterwards one server is left, and nothing of a move."""
    (cluster.root / "place").mkdir()
    (cluster.root / "place").chmod(0o1777)
    yield
    for name in ("place", "runs"):
        shutil.rmtree(cluster.root / name, ignore_errors=True)
    for directory in set(servers(cluster)) - {str(cluster.directory.resolve())}:
        os.kill(int((Path(directory) / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    cluster.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active")
    forget(cluster)


def places(cluster: Here) -> Places:
    return Places((str(cluster.root / "place"),))


def aimed(cluster: Here, **given: Any) -> Target:
    parameters = {"directory": str(cluster.directory), "target": str(cluster.free("moved")), "backup": "a test's"}
    return target(RUNBOOK, LocalHost(), parameters | given)


def begun(cluster: Here, aim: Target) -> Run:
    plan = aim.plan()
    assert not plan.blocked, plan.blocked[0].because
    run = open_run(aim, Options(cluster.root / "runs", places(cluster), Scripted(present=False), plan.digest), plan)
    assert isinstance(run, Run)
    return run


def done(cluster: Here, aim: Target, names: Sequence[str] = ()) -> None:
    """A new run through these steps, or to its end."""
    run = begun(cluster, aim)
    try:
        for step in RUNBOOK.steps:
            if not names or step.name in names:
                run.do(step)
        if not names:
            run.finish("done")
    finally:
        run.close()


def taken_back(cluster: Here, aim: Target) -> None:
    directory = runs.directories(cluster.root / "runs")[0]
    held = resume(directory, aim, Options(cluster.root / "runs", places(cluster), Scripted(present=False)))
    undo(held, approve=undo_digest(RUNBOOK, held.state))


def blocked(plan: Plan) -> str:
    assert plan.blocked
    return plan.blocked[0].because


def servers(cluster: Here) -> list[str]:
    """The directories on which a server runs, below this test's root."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            directory = (each / "cwd").readlink()
        except OSError:
            continue
        if directory.is_relative_to(cluster.root) and (directory / "postmaster.pid").exists():
            pid = (directory / "postmaster.pid").read_text().split()[0]
            found += [str(directory)] if pid == each.name else []
    return found


def before_in(name: str, place: str, text: str) -> Runbook:
    """The runbook, in one of whose steps something happens right before a place in its text."""
    whole = RUNBOOK.step(name)

    def commands(known: Known) -> list[Command]:
        (command,) = whole.commands(known)
        before, at, after = command.text.rpartition(place)
        assert at
        return [replace(command, text=f"{before}{text}{at}{after}")]

    cut = replace(whole, commands=commands)
    return replace(RUNBOOK, steps=tuple(cut if step is whole else step for step in RUNBOOK.steps))
