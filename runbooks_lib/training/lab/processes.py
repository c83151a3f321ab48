"""Which process is meant: a number alone is not enough, for numbers are used again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """A process of this boot: its number and when it began, in clock ticks since the boot."""

    pid: int
    start_ticks: int
    boot_id: str

    @property
    def alive(self) -> bool:
        """True while this very process runs; a zombie does not run."""
        return _read(self.pid) == (self.start_ticks, False) and self.boot_id == boot_id()

    def kill(self, *, patience_seconds: float = 5.0) -> bool:
        """End it for sure. True when it is gone. The handle (pidfd) makes sure that no other process is hit."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return not self.alive
        try:
            if self.alive:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            end = time.monotonic() + patience_seconds
            while self.alive and time.monotonic() < end:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self.pid, os.WNOHANG)
                time.sleep(0.02)
        finally:
            os.close(handle)
        return not self.alive


def process_id(pid: int) -> ProcessId | None:
    """The identity of a running process; None when there is none of that number."""
    found = _read(pid)
    return ProcessId(pid, found[0], boot_id()) if found and not found[1] else None


def this_process() -> ProcessId:
    """The identity of the running interpreter."""
    found = process_id(os.getpid())
    if found is None:
        raise RuntimeError("/proc does not show this process")
    return found


def boot_id() -> str:
    """The kernel's random name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _read(pid: int) -> tuple[int, bool] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # a process may have any name, with brackets and spaces
    return int(fields[19]), fields[0] in "ZX"
