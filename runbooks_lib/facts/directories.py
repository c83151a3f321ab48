"""The biggest directories of one mount: du(1), on one file system, at the lowest priority, bounded in time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

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
    r"""Rows `KiB<tab>PATH` after one row `status N`. Raises Damaged.

    A newline in a name comes as the byte 1 where du can end rows with NUL. busybox's cannot: there the rest of such a
    name stands as a row of its own, which is left out and told; a row outside the mount is left out as well.
    """
    records = [record for record in text.split("\n") if record]
    status = _STATUS.match(records[0]) if records else None
    if status is None:
        raise Damaged("du's exit status is missing")
    rows, odd = [], 0
    inside = mountpoint.rstrip("/") + "/"
    for record in records[1:]:
        match = _ROW.match(record)
        path = match[2].replace("\x01", "\n") if match else ""
        if match is None or not (path == mountpoint or path.startswith(inside)):
            odd += 1
            continue
        rows.append(Directory(path, int(match[1]) * 1024))
    code = int(status[1])
    details = []
    if code:
        details.append("time ran out" if code in (124, 137) else "some directories could not be read")
    if odd:
        details.append(f"{odd} rows were left out: a directory's name holds a newline")
    if code and not rows:  # du ends every walk with a row for where it began
        why = "does it know -d? du of coreutils before 8.6 (RHEL 6) does not" if code == 1 else details[0]
        raise Damaged(f"du ended with status {code} and no row: {why}")
    rows.sort(key=lambda row: -row.size_bytes)
    return Directories(mountpoint, tuple(rows), not details, "; ".join(details))
