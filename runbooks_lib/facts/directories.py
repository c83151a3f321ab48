"""The biggest directories of one mount: du(1), on one file system, at the lowest priority, bounded in time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged, excerpt

_STATUS = re.compile(r"status ([0-9]{1,3})\Z")
_ROW = re.compile(r"([0-9]{1,20})\t(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory and the disk space used below it (not its length)."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Directories:
    """The largest directories down to two levels below `mountpoint`, largest first, the mount itself included when
    the walk
    ended. `complete` is False when time ran out or a directory could not be read: sizes are then of what was seen, and
    directories not yet finished are missing."""

    mountpoint: str
    rows: tuple[Directory, ...]
    complete: bool
    detail: str = ""


def parse(text: str, mountpoint: str) -> Directories:
    """Records `KiB<tab>PATH` ended by NUL (GNU du -0) or newline (busybox), after one record `status N`. Raises
    Damaged.

    A path outside the mount is refused: with newlines as ends a directory's name can look like a row."""
    separator = "\0" if "\0" in text else "\n"
    records = [record.lstrip("\n") if separator == "\0" else record for record in text.split(separator)]
    records = [record for record in records if record]
    status = _STATUS.match(records[0]) if records else None
    if status is None:
        raise Damaged("du's exit status is missing")
    rows = []
    inside = mountpoint.rstrip("/") + "/"
    for record in records[1:]:
        match = _ROW.match(record)
        if match is None or not (match[2] == mountpoint or match[2].startswith(inside)):
            raise Damaged(f"{excerpt(record)} is not a size and a path below the mount")
        rows.append(Directory(match[2], int(match[1]) * 1024))
    code = int(status[1])
    detail = {0: "", 137: "time ran out", 124: "time ran out"}.get(code, "some directories could not be read")
    if code not in (0, 1) and not rows:
        raise Damaged(f"du ended with status {code} and no row: {detail}")
    return Directories(mountpoint, tuple(sorted(rows, key=lambda row: -row.size_bytes)), code == 0, detail)
