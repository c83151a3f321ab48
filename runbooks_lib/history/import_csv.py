"""A past out of a CSV file: checked whole before anything of it is kept.

Two forms; the order of the columns is free, and comma, semicolon or tab may part them:

- one partition a row: `time,used_bytes` and any of `size_bytes`, `avail_bytes`, `inodes_used`, `inodes_total`,
`instance`, `mountpoint`, `device`, `fstype`; - one sample a row: `time,metric,value` and any of `instance`; every other
column is a label of that name.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from runbooks_lib.errors import UsageError
from runbooks_lib.history import names, writing
from runbooks_lib.history.model import (
    AVAIL_BYTES,
    FILES,
    FILES_FREE,
    FREE_BYTES,
    SIZE_BYTES,
    USED_BYTES,
    USED_FILES,
    to_seconds,
)
from runbooks_lib.history.sqlite import SqliteHistory

_PARTITION_VALUES = ("used_bytes", "size_bytes", "avail_bytes", "inodes_used", "inodes_total")
_PARTITION_LABELS = ("instance", "mountpoint", "device", "fstype")
_LONG = ("time", "metric", "value")
_SHOWN = 20
_MOST_MISTAKES = 10_000
_MILLISECONDS_FROM = 1e11  # as seconds that would be the year 5138
_EPOCH = re.compile(r"[0-9]+(\.[0-9]*)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|(?:19|20)[0-9]{6}")  # the second would be some day of 1970 or so

_Row = tuple[str, str, int, float]  # instance, key, time, value


@dataclass(frozen=True)
class _Place:
    """What a file's rows belong to when they do not say it themselves."""

    instance: str | None
    mountpoint: str | None
    zone: tzinfo | None


class _Bad(Exception):
    """What is wrong with a line."""


def import_csv(
    history: SqliteHistory,
    path: str | os.PathLike[str],
    *,
    instance: str | None = None,
    mountpoint: str | None = None,
    zone: tzinfo | None = None,
    now: datetime | None = None,
) -> writing.Imported:
    """Read a CSV file, plain or gzip, and keep all of it or nothing; its origin is "imported from NAME".

    `instance` and `mountpoint` stand for the columns of that name where there are none. Times are ISO 8601 or seconds
    (or milliseconds) since 1970; a date alone is its midnight in UTC; `zone` is that of times that name none.

    Raises UsageError that lists the bad lines by number, HistoryError when nothing could be stored.
    """
    file = Path(path)
    per_instance = writing.arrays_of(_rows(file, _Place(instance, mountpoint, zone)))
    if not per_instance:
        raise UsageError("no line with a value", where=str(file), true_now="nothing was imported")
    return history.import_arrays(per_instance, origin=f"imported from {_printable(file.name)}", now=now)


def _rows(file: Path, place: _Place) -> list[_Row]:
    mistakes: list[str] = []
    rows: list[_Row] = []
    try:
        with _text(file) as text:
            reader = csv.reader(text, delimiter=_delimiter(text), strict=True)
            parse: Callable[[Mapping[str, str]], Iterator[_Row]] | None = None
            header: list[str] = []
            while len(mistakes) < _MOST_MISTAKES:
                try:
                    cells = next(reader, None)
                    if cells is None:
                        break
                    if not any(cell.strip() for cell in cells) or cells[0].startswith("#"):
                        continue
                    if parse is None:
                        header = [cell.strip() for cell in cells]
                        parse = _parser(header, place, file)
                        continue
                    if len(cells) != len(header):
                        raise _Bad(f"{len(cells)} columns, the header has {len(header)}")
                    rows += parse({name: cell.strip() for name, cell in zip(header, cells, strict=True)})
                except (_Bad, csv.Error) as error:
                    mistakes.append(f"line {reader.line_num}: {error}")
    except UnicodeDecodeError as error:
        mistakes.append(f"after line {len(rows)}: not UTF-8 text ({error.reason})")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot be read: {reason}", where=str(file), true_now="nothing was imported") from error
    if mistakes:
        count = "1 bad line" if len(mistakes) == 1 else f"{len(mistakes)} bad lines"
        more = [f"  … and {len(mistakes) - _SHOWN} more"] if len(mistakes) > _SHOWN else []
        raise UsageError(
            "\n".join([count, *(f"  {mistake}" for mistake in mistakes[:_SHOWN]), *more]),
            where=str(file),
            true_now="nothing was imported",
            next="mend these lines; docs/history.md lists the columns",
        )
    return rows


def _text(file: Path) -> io.TextIOWrapper:
    with file.open("rb") as probe:
        packed = probe.read(2) == b"\x1f\x8b"
    if packed:
        return io.TextIOWrapper(gzip.GzipFile(file), encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _delimiter(text: io.TextIOWrapper) -> str:
    """What parts the columns of the first line; the text is at its beginning again."""
    line = ""
    while (line := text.readline()) and (not line.strip() or line.startswith("#")):
        pass
    text.seek(0)
    return max(",;\t", key=line.count)


def _parser(header: list[str], place: _Place, file: Path) -> Callable[[Mapping[str, str]], Iterator[_Row]]:
    repeated = sorted({name for name in header if header.count(name) > 1 or not name})
    if repeated:
        raise UsageError(
            f"columns without a name or twice: {repeated}", where=str(file), true_now="nothing was imported"
        )
    if place.instance is None and "instance" not in header:
        raise UsageError(
            "it does not say which host it is about",
            where=str(file),
            true_now="nothing was imported",
            next="name the host: --host NAME (or add a column `instance`)",
        )
    if set(_LONG) <= set(header):
        return lambda cells: _sample(cells, place)
    unknown = sorted(set(header) - {"time", *_PARTITION_VALUES, *_PARTITION_LABELS})
    if "time" not in header or "used_bytes" not in header or unknown:
        raise UsageError(
            f"the header is not understood: {', '.join(header)[:200]}"
            + (f" (unknown: {', '.join(unknown)[:200]})" if unknown and "used_bytes" in header else ""),
            where=str(file),
            true_now="nothing was imported",
            next=f"time,{','.join(_PARTITION_VALUES)} (only the first two are needed), or time,metric,value,LABEL…",
        )
    if place.mountpoint is None and "mountpoint" not in header:
        raise UsageError(
            "it does not say which partition it is about",
            where=str(file),
            true_now="nothing was imported",
            next="name it: --mountpoint PATH (or add a column `mountpoint`)",
        )
    return lambda cells: _partition(cells, place)


def _partition(cells: Mapping[str, str], place: _Place) -> Iterator[_Row]:
    time, instance = _time(cells["time"], place.zone), _instance(cells, place)
    mountpoint = cells.get("mountpoint") or place.mountpoint
    if not mountpoint or not mountpoint.startswith("/"):
        raise _Bad("no mount point" if not mountpoint else f"not an absolute mount point: {mountpoint!r}")
    labels = {"device": cells.get("device", ""), "fstype": cells.get("fstype", ""), "mountpoint": mountpoint}
    found = {name: _value(name, cells[name]) for name in _PARTITION_VALUES if cells.get(name)}
    used, size = found.get("used_bytes"), found.get("size_bytes")
    inodes_used, inodes = found.get("inodes_used"), found.get("inodes_total")
    if used is None:
        raise _Bad("no used_bytes")
    if size is not None and used > size:
        raise _Bad(f"more used ({used:.0f}) than there is ({size:.0f})")
    if inodes is not None and inodes_used is not None and inodes_used > inodes:
        raise _Bad(f"more inodes used ({inodes_used:.0f}) than there are ({inodes:.0f})")
    values = {
        USED_BYTES: used,
        SIZE_BYTES: size,
        FREE_BYTES: None if size is None else size - used,
        AVAIL_BYTES: found.get("avail_bytes"),
        USED_FILES: inodes_used,
        FILES: inodes,
        FILES_FREE: None if inodes is None or inodes_used is None else inodes - inodes_used,
    }
    for name, value in values.items():
        if value is not None:
            yield instance, names.key(name, labels), time, value


def _sample(cells: Mapping[str, str], place: _Place) -> Iterator[_Row]:
    time, instance = _time(cells["time"], place.zone), _instance(cells, place)
    if not re.fullmatch(r"[^\W\d][\w:.]*", cells["metric"]):
        raise _Bad(f"not a metric name: {cells['metric']!r}")
    labels = {name: cell for name, cell in cells.items() if name not in (*_LONG, names.INSTANCE) and cell}
    yield instance, names.key(cells["metric"], labels), time, _number("value", cells["value"])


def _instance(cells: Mapping[str, str], place: _Place) -> str:
    instance = cells.get("instance") or place.instance
    if not instance:
        raise _Bad("no host: name one for the file, or add a column `instance`")
    return instance


def _value(name: str, cell: str) -> float:
    value = _number(name, cell)
    if not math.isfinite(value) or value < 0:
        raise _Bad(f"{name}: {cell!r} cannot be")
    return value


def _number(name: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise _Bad(f"{name}: {cell[:40]!r} is not a number") from None


def _time(cell: str, zone: tzinfo | None) -> int:
    try:
        if _DATE.fullmatch(cell):
            return to_seconds(datetime.fromisoformat(cell).replace(tzinfo=UTC))  # whatever the zone: a day is a day
        if _EPOCH.fullmatch(cell):
            seconds = float(cell)
            return to_seconds(datetime.fromtimestamp(seconds / 1000 if seconds >= _MILLISECONDS_FROM else seconds, UTC))
        time = datetime.fromisoformat(cell)
        if time.tzinfo is None:
            if zone is None:
                raise _Bad(f"a time without a zone: {cell[:40]!r}; add Z or +02:00, or name the file's zone")
            time = time.replace(tzinfo=zone)
        return to_seconds(time)
    except (ValueError, OverflowError, OSError, UsageError):
        raise _Bad(f"not a time: {cell[:40]!r}") from None


def _printable(text: str) -> str:
    return re.sub(r"[^\w .,+@=~()-]", "?", text, flags=re.ASCII)[:150] if not text.isprintable() else text[:150]
