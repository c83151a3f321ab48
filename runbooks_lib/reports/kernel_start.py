"""Starts a report's kernel: ipykernel's own, that keeps what it has said until it is read.

ZeroMQ drops what a publisher says when a thousand messages wait. A cell that shows much beside a slow reader would lose
some of it without a word, and a headline with it.
"""

from __future__ import annotations

from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp

MOST_WAITING = 100_000  # messages; not without end: a cell in an endless loop must not take all memory


class KernelApp(IPKernelApp):
    """ipykernel's application with a longer queue of what is published."""

    def init_iopub(self, context: Any) -> None:
        """Called by ipykernel before the socket is made."""
        context.setsockopt(zmq.SNDHWM, MOST_WAITING)
        super().init_iopub(context)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    KernelApp.launch_instance()
