"""A directory of logs and how it is compared, byte for byte."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

HOURS_AGO = 7200
NAMES = ("app.log", "with blank.log", "quote's.log", "line\nend.log", "größe.log", os.fsdecode(b"\xff\xfe.log"))


def make_logs(directory: Path, names: tuple[str, ...] = NAMES, *, lines: int = 200) -> Path:
    """Quiet logs under awkward names, one that something else has rotated, and one that is still written to."""
    directory.mkdir(parents=True)
    quiet = time.time() - HOURS_AGO
    for number, name in enumerate(names):
        path = directory / name
        path.write_bytes(b"".join(b"%d line %d \xff\0\n" % (number, line) for line in range(lines + number)))
        path.chmod(0o640 if number % 2 else 0o604)
        os.utime(path, (quiet + number, quiet + number))
    rotated = directory / "app.log.1"
    rotated.write_bytes(b"yesterday\n" * 300)
    os.utime(rotated, (quiet, quiet))
    (directory / "busy.log").write_bytes(b"today\n")
    (directory / "notes.txt").write_bytes(b"no log\n")
    return directory


def picture(directory: Path) -> dict[str, tuple[str, int, int]]:
    """Name to content's hash, mode, and last change; of an empty file the last change does not count."""
    found = {}
    for path in sorted(directory.iterdir()):
        status = path.stat()
        changed = status.st_mtime_ns if status.st_size else 0
        found[os.fsdecode(path.name)] = (hashlib.sha256(path.read_bytes()).hexdigest(), status.st_mode, changed)
    return found
