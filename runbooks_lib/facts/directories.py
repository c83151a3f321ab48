"""The biggest directories of one mount: du(1), on one file system, at the lowest priority, bounded in time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_STATUS = re.compile(r"status ([0-9]{1,3})\Z")
_ROW = re.compile(r"([0-9]{1,20})\t(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory and the disk space used below it (not its length). `partial`: the walk had not finished it, and
    the size is of what is known to lie in it."""

    path: str
    size_bytes: int
    partial: bool = False


@dataclass(frozen=True, slots=True)
class LargeFile:
    """A file, and the disk space that it takes (not its length)."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Directories:
    """The largest directories down to two levels below `mountpoint`, largest first, the mount itself included when
    the walk ended. `complete` is False when time ran out or a directory could not be read: sizes are then of what was
    seen, and of directories not yet finished only those are there in which something large is known.

    `files` are the largest files down to three levels, largest first, each at least a fiftieth of what is used; they
    are looked for before the walk. Empty as well where the host has no find(1)."""

    mountpoint: str
    rows: tuple[Directory, ...]
    complete: bool
    detail: str = ""
    files: tuple[LargeFile, ...] = ()


def parse(text: str, mountpoint: str, files: str = "") -> Directories:
    r"""Rows `KiB<tab>PATH` after one row `status N`; `files` are such rows alone. Raises Damaged.

    A newline in a name comes as the byte 1 where du can end rows with NUL. busybox's cannot: there the rest of such a
    name stands as a row of its own, which is left out and told; a row outside the mount is left out as well.
    """
    records = [record for record in text.split("\n") if record]
    status = _STATUS.match(records[0]) if records else None
    if status is None:
        raise Damaged("du's exit status is missing")
    walked, odd = _rows(records[1:], mountpoint)
    found, odd_files = _rows([record for record in files.split("\n") if record], mountpoint)
    large = tuple(LargeFile(path, size) for path, size in sorted(found, key=lambda row: -row[1]))
    code = int(status[1])
    rows = [Directory(path, size) for path, size in walked]
    if code:
        rows += _unfinished(mountpoint, dict(walked), large)
    details = []
    if code:
        details.append("time ran out" if code in (124, 137) else "some directories could not be read")
    if odd or odd_files:
        details.append(f"{odd + odd_files} rows were left out: a directory's name holds a newline")
    if code and not walked:  # du ends every walk with a row for where it began
        why = "does it know -d? du of coreutils before 8.6 (RHEL 6) does not" if code == 1 else details[0]
        if not rows and not large:
            raise Damaged(f"du ended with status {code} and no row: {why}")
        details[0] = why
    rows.sort(key=lambda row: -row.size_bytes)
    return Directories(mountpoint, tuple(rows), not details, "; ".join(details), large)


def _rows(records: list[str], mountpoint: str) -> tuple[list[tuple[str, int]], int]:
    """Paths and bytes of the rows below the mount, and how many other rows there are."""
    inside = mountpoint.rstrip("/") + "/"
    matches = [_ROW.match(record) for record in records]
    rows = [(match[2].replace("\x01", "\n"), int(match[1]) * 1024) for match in matches if match]
    rows = [(path, size) for path, size in rows if path == mountpoint or path.startswith(inside)]
    return rows, len(records) - len(rows)


def _unfinished(mountpoint: str, finished: dict[str, int], files: tuple[LargeFile, ...]) -> list[Directory]:
    """Of the directories that the walk did not finish, those in which something is known: finished directories, large
    files. Each of both counts once, in the first and in the second level below the mount."""
    top = mountpoint.rstrip("/") + "/"
    known: dict[str, int] = {}
    for path, size in [*finished.items(), *((file.path, file.size_bytes) for file in files)]:
        parts = path.removeprefix(top).split("/")[:-1] if path != mountpoint else []
        above = [top + "/".join(parts[:depth]) for depth in (1, 2) if depth <= len(parts)]
        if any(directory in finished for directory in above):
            continue  # it counts there
        for directory in above:
            known[directory] = known.get(directory, 0) + size
    return [Directory(path, size, partial=True) for path, size in known.items()]
