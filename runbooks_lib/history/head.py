"""The youngest snapshots, one row each: written at once, read as one table of numbers."""

from __future__ import annotations

import array
import hashlib
import sqlite3
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runbooks_lib.history.buckets import ascending
from runbooks_lib.history.model import Floats, Ints
from runbooks_lib.history.packing import Unreadable

_TIME_BITS = 40
_LATEST = (1 << _TIME_BITS) - 1
_LEVEL = 1  # a snapshot is packed again, and better, a day later

_NO_TIMES = np.empty(0, dtype=np.int64)
_NO_VALUES = np.empty(0)


def key(instance: int, time: int) -> int:
    """The snapshot's key (schema.py)."""
    return instance << _TIME_BITS | time


def keys(instance: int, start: int = 0, end: int = _LATEST) -> tuple[int, int]:
    """The first and the last possible key of an instance's snapshots of start..end (seconds)."""
    return key(instance, max(0, start)), key(instance, min(max(0, end), _LATEST))


def pack(values: Iterable[float]) -> bytes:
    """One snapshot's numbers as a blob."""
    numbers = array.array("d", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return zlib.compress(numbers.tobytes(), _LEVEL)


def digest(texts: Iterable[str]) -> bytes:
    """What tells two layouts of one instance apart."""
    return hashlib.blake2b("\x00".join(texts).encode("utf-8"), digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class Table:
    """Snapshots of one layout: `values[i, j]` is series `series[j]` at `times[i]`."""

    series: npt.NDArray[np.int64]
    times: Ints
    values: npt.NDArray[np.float64]


class Head:
    """The snapshots of one instance that are not in blocks yet."""

    def __init__(self, tables: list[Table]) -> None:
        self._tables = tables
        self._places: dict[int, list[tuple[Table, int]]] = {}
        for table in tables:
            for column, series in enumerate(table.series.tolist()):
                self._places.setdefault(series, []).append((table, column))

    def series(self) -> Iterator[int]:
        """The ids of all series that have a number."""
        return iter(self._places)

    def samples(self, series: int, start: int = 0, end: int = _LATEST) -> tuple[Ints, Floats]:
        """Times (ascending) and values of one series, start <= time <= end."""
        places = self._places.get(series)
        if places is None:
            return _NO_TIMES, _NO_VALUES
        times = np.concatenate([table.times for table, _ in places])
        values = np.concatenate([table.values[:, column] for table, column in places])
        times, values = ascending(times, values)
        inside = slice(int(np.searchsorted(times, start)), int(np.searchsorted(times, end, side="right")))
        return times[inside], values[inside]


def read(connection: sqlite3.Connection, instance: int, start: int = 0, end: int = _LATEST) -> Head:
    """The instance's snapshots of start..end. Raises Unreadable."""
    rows: dict[int, tuple[list[int], list[bytes]]] = {}
    query = "SELECT key, layout, data FROM snapshot WHERE key BETWEEN ? AND ? ORDER BY key"
    for found, layout, data in connection.execute(query, keys(instance, start, end)):
        times, blobs = rows.setdefault(layout, ([], []))
        times.append(found & _LATEST)
        blobs.append(data)
    return Head([_table(_series(connection, layout), times, blobs) for layout, (times, blobs) in rows.items()])


def read_one(connection: sqlite3.Connection, instance: int, time: int) -> Mapping[int, float]:
    """One snapshot as numbers by series id; empty when there is none."""
    found = read(connection, instance, time, time)
    return {series: float(found.samples(series)[1][0]) for series in found.series()}


def _series(connection: sqlite3.Connection, layout: int) -> npt.NDArray[np.int64]:
    row = connection.execute("SELECT series FROM layout WHERE id = ?", (layout,)).fetchone()
    if row is None:
        raise Unreadable(f"snapshots refer to layout {layout}, which is not there")
    return np.frombuffer(row[0], dtype="<u4").astype(np.int64)


def _table(series: npt.NDArray[np.int64], times: list[int], blobs: list[bytes]) -> Table:
    try:
        numbers = np.frombuffer(b"".join(zlib.decompress(blob) for blob in blobs), dtype="<f8")
        return Table(series, np.array(times, dtype=np.int64), numbers.reshape(len(times), len(series)))
    except (zlib.error, ValueError) as error:
        raise Unreadable(f"a snapshot's numbers: {error}") from error
