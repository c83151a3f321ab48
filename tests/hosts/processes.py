"""Looking for processes on this machine, which is every test host."""

from __future__ import annotations

import os
import time
from pathlib import Path


def with_mark(mark: str) -> list[int]:
    """Pids whose environment holds `mark`; zombies and this process left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != os.getpid() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def all_gone(mark: str, seconds: float = 3.0) -> bool:
    """True when no process with `mark` is left within `seconds`."""
    deadline = time.monotonic() + seconds
    while with_mark(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def wait_for(mark: str, count: int, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while len(with_mark(mark)) < count:
        assert time.monotonic() < deadline, f"{with_mark(mark)} of {count} processes with {mark}"
        time.sleep(0.02)
