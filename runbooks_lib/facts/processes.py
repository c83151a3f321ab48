"""Top processes by CPU and memory, and the blocked ones: /proc/PID/stat (proc_pid_stat(5)), chosen on the host."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.cpu import TICKS_PER_SECOND
from runbooks_lib.facts.fact import Damaged
from runbooks_lib.facts.mounts import unescape

_ROW = re.compile(
    r"(cpu|rss|blocked) ([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,10}) ([0-9]{1,10})"
    r" ([A-Za-z]) ([0-9]{1,10}) ([0-9]{1,20})"
    r" ([0-9]{1,20}) ([0-9]{1,20}) (.*)\Z",
    re.DOTALL,
)
_COUNTS = re.compile(r"counts ([0-9]{1,10}) ([0-9]{1,10}) ([0-9]{1,10}) ([0-9]{1,10})\Z")
_UPTIME = re.compile(r"uptime (\?|[0-9]{1,12}\.[0-9]{1,4}) ([0-9]{1,12}\.[0-9]{1,4})\Z")


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `name` is the kernel's comm, 15 bytes that the process chooses itself: never trust it.

    `cpu_ratio` is CPUs used in the window between two readings (1.0 is one whole CPU), or over its life with one
    reading. `rss_bytes` is None when the page size is not known. `block_wait_seconds` is the wait for disks since
    it began, 0 where the kernel does not count it (kernel.task_delayacct, off by default since Linux 5.14).
    `started_seconds` is after boot."""

    pid: int
    parent: int
    name: str
    state: str
    cpu_ratio: float | None
    cpu_seconds: float
    rss_bytes: int | None
    threads: int
    started_seconds: float
    major_faults: int
    block_wait_seconds: float


@dataclass(frozen=True, slots=True)
class Processes:
    """Numbers of processes, threads, zombies and processes in uninterruptible sleep (state D); the ten that used
    most CPU,
    the ten with most memory, and up to fifty blocked ones. `window_seconds` is 0 with one reading."""

    total: int
    threads: int
    zombies: int
    blocked_count: int
    by_cpu: tuple[Process, ...]
    by_memory: tuple[Process, ...]
    blocked: tuple[Process, ...]
    window_seconds: float


def parse(text: str, page_bytes: int | None) -> Processes:
    """The processes section of an answer. Raises Damaged."""
    found: dict[str, list[Process]] = {"cpu": [], "rss": [], "blocked": []}
    lines = text.strip("\n").split("\n")
    heading, counts = _UPTIME.match(lines[0]), _COUNTS.match(lines[1]) if len(lines) > 1 else None
    if heading is None or counts is None:
        raise Damaged("the processes do not begin with their uptime and counts")
    uptime = float(heading[2])
    window = uptime - float(heading[1]) if heading[1] != "?" else 0.0
    for line in lines[2:]:
        match = _ROW.match(line)
        if match is None:
            if line.startswith("postgres "):
                continue
            raise Damaged("a process is not eleven fields and a name")
        kind, delta, ticks, rss, pid, parent, state, threads, start, faults, wait, name = match.groups()
        age = uptime - int(start) / TICKS_PER_SECOND
        span = min(window, age) if heading[1] != "?" else age
        found[kind].append(
            Process(
                int(pid),
                int(parent),
                unescape(name),
                state,
                int(delta) / TICKS_PER_SECOND / span if span > 0.05 else None,
                int(ticks) / TICKS_PER_SECOND,
                int(rss) * page_bytes if page_bytes else None,
                int(threads),
                int(start) / TICKS_PER_SECOND,
                int(faults),
                int(wait) / TICKS_PER_SECOND,
            )
        )
    total, threads_total, zombies, blocked = map(int, counts.groups())
    return Processes(
        total,
        threads_total,
        zombies,
        blocked,
        tuple(found["cpu"]),
        tuple(found["rss"]),
        tuple(found["blocked"]),
        max(0.0, window),
    )
