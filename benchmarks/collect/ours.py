"""Our side, in a process of its own: `python -m benchmarks.collect.ours MODE CONFIG ROUNDS`. One JSON object a line.

cold   one collection a round, as `runbook collect` does it, without the second sample: connect, read, parse, store
warm   connections kept open between rounds
idle   connections kept open and nothing done, for ROUNDS seconds
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

_started = time.monotonic()

import psutil  # noqa: E402

from runbooks_lib import config as configuration  # noqa: E402
from runbooks_lib.facts.collect import read_snapshot  # noqa: E402
from runbooks_lib.history import collecting  # noqa: E402
from runbooks_lib.history.keeper import Keeper  # noqa: E402
from runbooks_lib.history.sqlite import SqliteHistory, snapshot_of  # noqa: E402
from runbooks_lib.history.writing import Snapshot  # noqa: E402
from runbooks_lib.hosts.host import Host  # noqa: E402
from runbooks_lib.hosts.opening import open_host  # noqa: E402
from runbooks_lib.hosts.shares import Shares, processes_for  # noqa: E402


def cpu_seconds() -> float:
    """This process and its children, those that still run as well."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    running = [psutil.Process(child.pid).cpu_times() for child in multiprocessing.active_children() if child.pid]
    ended = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return ended + sum(each.user + each.system for each in running)


def memory_mb() -> float:
    """Peak resident memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024 * 1024)


def tell(**values: Any) -> None:
    print(json.dumps({**values, "rss_mb": memory_mb(), "threads": _threads()}), flush=True)


def _threads() -> int:
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]
    return sum(psutil.Process(pid).num_threads() for pid in pids)


def cold(config: configuration.Config, rounds: int) -> None:
    entries = list(config.hosts.values())
    for _ in range(rounds):
        cpu, started = cpu_seconds(), time.monotonic()
        rows = collecting.collect(config, entries, sample_seconds=0, processes=processes_for(len(entries)))
        told = sorted({row.message for row in rows if row.state != "ok"})[:3]
        tell(
            seconds=time.monotonic() - started,
            cpu_seconds=cpu_seconds() - cpu,
            ok=sum(row.state == "ok" for row in rows),
            slowest_seconds=max(row.seconds for row in rows),
            errors=told,
        )


def kept(config: configuration.Config, rounds: int, *, idle: bool) -> None:
    assert config.history.path is not None
    hosts: list[Host] = [open_host(entry, config) for entry in config.hosts.values()]

    def work(host: Host) -> Snapshot:
        snapshot = read_snapshot(host, sample_seconds=0)
        return snapshot_of(host.name, snapshot.time, snapshot.samples())

    with (
        Shares(hosts, work, processes=processes_for(len(hosts))) as shares,
        SqliteHistory(config.history.path) as history,
    ):
        for number in range(1 if idle else rounds + 1):
            cpu, started = cpu_seconds(), time.monotonic()
            with Keeper(history) as keeper:
                outcomes = shares.round(
                    workers=config.collect.workers,
                    deadline_seconds=config.collect.deadline_seconds,
                    on_progress=lambda row, keep=keeper.keep: keep(row.value) if row.value else None,  # type: ignore[misc]
                    keep_connections=True,
                )
            tell(
                first=number == 0,
                seconds=time.monotonic() - started,
                cpu_seconds=cpu_seconds() - cpu,
                ok=sum(outcome.error is None for outcome in outcomes),
                errors=sorted({str(outcome.error) for outcome in outcomes if outcome.error})[:3],
            )
        if idle:
            time.sleep(2)
            cpu, started = cpu_seconds(), time.monotonic()
            time.sleep(rounds)
            tell(idle=True, seconds=time.monotonic() - started, cpu_seconds=cpu_seconds() - cpu, ok=len(hosts))


def main() -> None:
    mode, path, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    config = configuration.load(path)
    tell(start=True, seconds=time.monotonic() - _started, cpu_seconds=cpu_seconds(), ok=len(config.hosts))
    if mode == "cold":
        cold(config, rounds)
    else:
        kept(config, rounds, idle=mode == "idle")


if __name__ == "__main__":
    main()
