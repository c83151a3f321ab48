"""A program that does not outlive who started it: `python -I lifeline.py PATH… -- COMMAND…`.

Stdin is the line: its other end is held by the parent, and the kernel lets go of it however the parent dies, SIGKILL
included. Then the command is asked to end (SIGTERM), and ten seconds later its process group, of which this process is
the leader, is killed. The PATHs are removed at the end. Standard library only, and no import of this package: it runs
isolated.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

STOP_SECONDS = 10.0


def main(arguments: Sequence[str]) -> int:
    """Run the command to its end or to the parent's. Returns its exit status, negative for a signal."""
    split = arguments.index("--")
    remove, command = arguments[:split], arguments[split + 1 :]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    # Ours to hear and the command's to act on: it ends first.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: child.terminate())
    threading.Thread(target=_hold, args=(child, remove), daemon=True).start()
    status = child.wait()
    _remove(remove)
    return status


def _hold(child: subprocess.Popen[bytes], remove: Sequence[str]) -> None:
    while os.read(0, 1):
        pass
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_SECONDS)
        return
    _remove(remove)
    os.killpg(0, signal.SIGKILL)


def _remove(paths: Sequence[str]) -> None:
    for path in map(Path, paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
