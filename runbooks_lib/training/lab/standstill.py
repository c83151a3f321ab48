"""A boot that gets nowhere: seen by disks that nobody writes to, mended by starting it again.

On a machine that other work keeps busy, an emulated guest now and then measures its interrupt timer wrongly while its
kernel starts, and is then drowned in interrupts before it has mounted a disk. It does not come out of that, and does
not say so; a second start is a new throw of the dice. Patience doubles each time, since slow is not stuck.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from runbooks_lib.training.lab.qmp import Qmp, QmpError

PATIENCE_SECONDS = 90.0


class Standstill:
    """Looks at the disks of a booting machine in `directory`. `restarts`: how often it was started again."""

    def __init__(self, directory: Path, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._directory = directory
        self._patience = patience_seconds
        self._begin()
        self.restarts = 0

    def look(self) -> None:
        """Start the machine again when no disk was written to for as long as patience lasts."""
        if self._written() != self._before:
            self._since = float("inf")  # it boots; from here on it is only slow
        elif time.monotonic() - self._since > self._patience:
            with contextlib.suppress(QmpError):  # it does not listen now: the next look tries again
                with Qmp(self._directory) as qmp:
                    qmp.execute("system_reset")
                self.restarts += 1
                self._patience *= 2
                self._begin()

    def _begin(self) -> None:
        self._before, self._since = self._written(), time.monotonic()

    def _written(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in sorted(self._directory.glob("*.qcow2")))
