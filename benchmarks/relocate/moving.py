"""One move of a database, by the runbook or by a cold copy, under a write load with an oracle."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.relocate.here import PARTITIONS, Here
from runbooks_lib.hosts.host import Host
from runbooks_lib.procedures.relocate_postgres import RUNBOOK
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import Finished, carry_out, open_run
from runbooks_lib.runbook.run import Options, target
from runbooks_lib.runbook.step import Runbook
from runbooks_lib.training.lab.load import Load

BACKUP = "none: a benchmark"
REST_SECONDS = 3.0


@dataclass
class Nobody:
    """An operator who is not there; what it was told is kept."""

    present: bool = False
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def fold(self, title: str, text: str) -> bool:
        self.said.append(f"{title}\n{text}")
        return True

    def ask(self, question: str) -> str:
        raise EOFError(question)


@dataclass(frozen=True)
class Moved:
    """What clients saw of one move: the longest gap between acknowledged commits, the whole time, both in seconds;
    acknowledged commits that were lost; failures by kind."""

    gap: float
    whole: float
    lost: int
    failures: Mapping[str, int]


def by_runbook(
    host: Host, runs: Path, places: Places, parameters: Mapping[str, Any], runbook: Runbook = RUNBOOK
) -> None:
    """The runbook, approved by its digest. Raises RunbookError."""
    aim = target(runbook, host, {"backup": BACKUP, **parameters})
    plan = aim.plan()
    run = open_run(aim, Options(runs, places, Nobody(), approve=plan.digest), plan)
    assert not isinstance(run, Finished)
    carry_out(run)


def cold_copy(cluster: Here, to: Path) -> None:
    """Stop, `cp -a`, symlink, start."""
    lies = cluster.directory.resolve()
    cluster.stop()
    subprocess.run(["cp", "-a", str(lies), str(to)], check=True)
    lies.rename(lies.with_name(lies.name + ".relocated"))
    cluster.directory.unlink(missing_ok=True)
    cluster.directory.symlink_to(to)
    cluster.start()


@contextmanager
def observed(address: tuple[str, int], found: list[Moved], **load: Any) -> Iterator[None]:
    """Write load around a move; what it saw is appended to `found`."""
    begin = time.monotonic()
    with Load([address], **load) as clients:
        clients.wait_acknowledged(50, seconds=120)
        time.sleep(REST_SECONDS)
        begin = time.monotonic()
        yield
        whole = time.monotonic() - begin
        clients.wait_acknowledged(50, seconds=120)
        time.sleep(REST_SECONDS)
    verdict = clients.verify()
    found.append(
        Moved(clients.longest_gap().seconds, whole, len(verdict.lost) + len(verdict.invented), clients.refusals)
    )


def forget(cluster: Here) -> None:
    """Remove what earlier moves left."""
    used = [cluster.directory, cluster.directory.resolve(), *cluster.outside()]
    for side in PARTITIONS:
        for path in [*(cluster.root / side).glob("*"), *(cluster.root / side).glob("wal/*")]:
            if path.name != "lost+found" and not any(each.is_relative_to(path) for each in used):
                shutil.rmtree(path, ignore_errors=True)
