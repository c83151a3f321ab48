"""Nothing is left running: the processes that a run started, found and ended, whatever session they moved to.

A kernel lives in a session of its own, and a cell may start daemons. On Linux the worker is made the place where
orphans go (prctl), so that they stay its descendants; and every process inherits `RUNBOOKS_RUN` in its environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

RUN_VARIABLE = "RUNBOOKS_RUN"
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_PATIENCE_SECONDS = 3.0


def adopt_orphans() -> None:
    """Let orphaned descendants become this process's children instead of init's. Linux only; elsewhere nothing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def has_children() -> bool:
    """Whether this process has any child, zombies included; True where that cannot be told cheaply."""
    try:
        return any((thread / "children").read_bytes() for thread in Path("/proc/self/task").iterdir())
    except OSError:
        return True


def end_descendants(pid: int | None = None) -> list[str]:
    """Kill every descendant of a process (this one), until none is left. Returns what was ended, as command lines."""
    # Imported here: a run that leaves nothing behind does not pay for it.
    import psutil  # type: ignore[import-untyped]

    ended: dict[int, str] = {}
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            alive = [
                process
                for process in psutil.Process(pid).children(recursive=True)
                if process.status() != psutil.STATUS_ZOMBIE
            ]
        except psutil.Error:
            alive = []
        if not alive or time.monotonic() > deadline:
            break
        for process in alive:
            with contextlib.suppress(psutil.Error):
                ended.setdefault(process.pid, " ".join(process.cmdline())[:200] or process.name())
                process.kill()
        time.sleep(0.02)
        if pid is None:
            _reap()
    return list(ended.values())


def end_marked(run_id: str) -> list[str]:
    """Kill every process of this user that carries the run's mark in its environment, but not this process.

    For a run whose worker is dead: its orphans are no longer anybody's descendants.
    """
    import psutil

    ended = []
    for process in psutil.process_iter(["pid"]):
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(RUN_VARIABLE) == run_id:
                ended.append(" ".join(process.cmdline())[:200] or process.name())
                process.kill()
    return ended


def end_group(pid: int) -> None:
    """Kill a process group; one that is gone is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _reap() -> None:
    """Collect adopted zombies; the kernel's own is left to jupyter_client, which waits for it by its id."""
    with contextlib.suppress(ChildProcessError, OSError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
