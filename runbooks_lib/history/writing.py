"""Writing into an open history file: snapshots, failures, imports. Each call is one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from runbooks_lib.history import head, names, tiers
from runbooks_lib.history.buckets import ascending
from runbooks_lib.history.database import WriterConnection, transaction
from runbooks_lib.history.model import COLLECTED, DAY_SECONDS, Floats, Ints

_LONGEST_MESSAGE = 4000
_FAILURES_KEPT = 1000  # per host, the latest; the same again and again is one

_CAME_FROM = (
    "INSERT INTO series_origin (series, origin, first_time, last_time) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (series, origin) DO UPDATE SET first_time = min(first_time, excluded.first_time),"
    " last_time = max(last_time, excluded.last_time)"
)

Arrays = Mapping[str, tuple[Ints, Floats]]  # by key: times in seconds, values


@dataclass(frozen=True)
class Imported:
    """What an import brought: how many samples (the derived ones not counted), series and hosts, from when to when
    (seconds since 1970)."""

    samples: int
    series: int
    instances: tuple[str, ...]
    first_time: int
    last_time: int
    origin: str


@dataclass(frozen=True)
class Snapshot:
    """One host's numbers by key (`names.key`) at one second."""

    instance: str
    time: int
    values: Mapping[str, float]


class Writer:
    """Remembers ids, so that a snapshot costs a few statements. Raises sqlite3.Error, which the caller tells in
    words."""

    def __init__(self, connection: WriterConnection, keep: tiers.Keep) -> None:
        self.connection = connection
        self._keep = keep
        self._instances: dict[str, int] = {}
        self._layouts: dict[tuple[int, bytes], int] = {}

    def store_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """All of these snapshots in one transaction. A second one of the same host and second is joined with the first:
        where both have a number the later one holds."""
        seen: list[tuple[str, int, bytes, int]] = []
        with transaction(self.connection, writing=True):
            for snapshot in snapshots:
                keys = sorted(snapshot.values)
                digest = head.digest(keys)
                number = self._instance(snapshot.instance)
                layout = self._layout(number, digest, keys, snapshot.time)
                seen.append((snapshot.instance, number, digest, layout))
                stored = self.connection.execute(
                    "INSERT INTO snapshot (key, layout, data) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING",
                    (head.key(number, snapshot.time), layout, head.pack([snapshot.values[key] for key in keys])),
                )
                if not stored.rowcount:
                    self._join_snapshot(number, snapshot.time, snapshot.values)
                self._attempt(number, snapshot.time, "ok", "")
        # Only what was committed is remembered.
        for instance, number, digest, layout in seen:
            self._instances[instance] = number
            self._layouts[number, digest] = layout

    def record_failure(self, instance: str, time: int, state: str, message: str) -> None:
        """A collection that brought nothing. The same failure as the one before lengthens its row."""
        message = message.encode("utf-8", "replace").decode("utf-8")[:_LONGEST_MESSAGE]
        with transaction(self.connection, writing=True):
            number = self._instance(instance)
            before = self.connection.execute(
                "SELECT last_state, last_message FROM instance WHERE id = ?", (number,)
            ).fetchone()
            latest = self.connection.execute("SELECT max(id) FROM failure WHERE instance = ?", (number,)).fetchone()[0]
            if latest is not None and before == (state, message):
                self.connection.execute(
                    "UPDATE failure SET count = count + 1, first_time = min(first_time, ?1),"
                    " last_time = max(last_time, ?1) WHERE id = ?2",
                    (time, latest),
                )
            else:
                self.connection.execute(
                    "INSERT INTO failure (instance, first_time, last_time, state, message, count)"
                    " VALUES (?1, ?2, ?2, ?3, ?4, 1)",
                    (number, time, state, message),
                )
                self.connection.execute(
                    "DELETE FROM failure WHERE instance = ?1 AND id <= (SELECT id FROM failure WHERE instance = ?1"
                    " ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                    (number, _FAILURES_KEPT),
                )
            self._attempt(number, time, state, message)
        self._instances[instance] = number

    def import_arrays(self, per_instance: Mapping[str, Arrays], origin: str, *, now: int) -> Imported:
        """All of it or nothing, into the tiers where it belongs by age. The same again changes nothing; what was mended
        takes the place of what the same origin brought before."""
        samples = series_count = 0
        first_time, last_time = now, 0
        with transaction(self.connection, writing=True):
            origin_id = self._origin(origin)
            for instance, arrays in per_instance.items():
                number = self._instance(instance)
                for text, (times, values) in with_differences(arrays).items():
                    if not len(times):
                        continue
                    series = self._series(number, text)
                    mended = self._days_mended(series, origin_id, times)
                    tiers.gather_anew(self.connection, series, mended, keep=self._keep, now=now)
                    tiers.add(self.connection, series, times, values, keep=self._keep, now=now)
                    begin, end = int(times.min()), int(times.max())
                    self.came_from(series, origin_id, begin, end)
                    first_time, last_time = min(first_time, begin), max(last_time, end)
                    if text in arrays:
                        samples += len(times)
                        series_count += 1
            if samples:
                self._note_import(origin_id, now, first_time, last_time, samples)
        return Imported(samples, series_count, tuple(sorted(per_instance)), first_time, last_time, origin)

    def came_from(self, series: int, origin: int, first_time: int, last_time: int) -> None:
        """Note where a series' numbers of that span came from. Call inside a transaction."""
        self.connection.execute(_CAME_FROM, (series, origin, first_time, last_time))

    def collected(self) -> int:
        """The id of the origin `collected`. Call inside a transaction."""
        return self._origin(COLLECTED)

    def instance_id(self, instance: str) -> int:
        """The id of an instance, made when new. Call inside a transaction."""
        return self._instance(instance)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _days_mended(self, series: int, origin: int, times: Ints) -> Ints:
        """The days (since 1970) of which these times are the whole, and which only the same origin has brought before.

        They are: with the samples that are still kept, or with as many values as were counted then. Their buckets are
        made anew, since a wrong peak in one would outlive the samples that were mended.
        """
        spans = self.connection.execute(
            "SELECT origin = ?, first_time / ?, last_time / ? FROM series_origin WHERE series = ?",
            (origin, DAY_SECONDS, DAY_SECONDS, series),
        ).fetchall()
        days, counts = np.unique(np.unique(times) // DAY_SECONDS, return_counts=True)
        brought = {mine: np.zeros(len(days), dtype=bool) for mine in (0, 1)}
        for mine, first, last in spans:
            brought[mine] |= (days >= first) & (days <= last)
        chosen = brought[1] & ~brought[0]
        return np.array(
            [
                day
                for day, count in zip(days[chosen].tolist(), counts[chosen].tolist(), strict=True)
                if tiers.holds_whole_day(self.connection, series, day, count)
            ],
            dtype=np.int64,
        )

    def _instance(self, name: str) -> int:
        known = self._instances.get(name)
        if known is not None:
            return known
        names.check_name(name, "a host's name")
        return self._identify("instance", name)

    def _origin(self, name: str) -> int:
        return self._identify("origin", name)

    def _identify(self, table: str, name: str) -> int:
        row = self.connection.execute(f"SELECT id FROM {table} WHERE name = ?", (name,)).fetchone()  # noqa: S608
        if row is None:
            return _new_id(self.connection.execute(f"INSERT INTO {table} (name) VALUES (?)", (name,)))  # noqa: S608
        return int(row[0])

    def _series(self, instance: int, text: str) -> int:
        name, labels = names.split(text)
        row = self.connection.execute(
            "SELECT id FROM series WHERE instance = ? AND name = ? AND labels = ?", (instance, name, labels)
        ).fetchone()
        if row is not None:
            return int(row[0])
        return _new_id(
            self.connection.execute(
                "INSERT INTO series (instance, name, labels) VALUES (?, ?, ?)", (instance, name, labels)
            )
        )

    def _all_series(self, instance: int, keys: Iterable[str]) -> list[int]:
        """The ids of these series in their order. The new ones are made together: a host's first snapshot brings a
        hundred."""
        wanted = [names.split(text) for text in keys]
        known = self._known_series(instance)
        new = [(instance, *each) for each in wanted if each not in known]
        if new:
            self.connection.executemany("INSERT INTO series (instance, name, labels) VALUES (?, ?, ?)", new)
            known = self._known_series(instance)
        return [known[each] for each in wanted]

    def _known_series(self, instance: int) -> dict[tuple[str, str], int]:
        rows = self.connection.execute("SELECT name, labels, id FROM series WHERE instance = ?", (instance,))
        return {(name, labels): int(number) for name, labels, number in rows}

    def _layout(self, instance: int, digest: bytes, keys: list[str], time: int) -> int:
        known = self._layouts.get((instance, digest))
        # Asked each time: compaction in another process may have dropped a layout that no snapshot used.
        if known is not None and self.connection.execute("SELECT 1 FROM layout WHERE id = ?", (known,)).fetchone():
            return known
        row = self.connection.execute(
            "SELECT id FROM layout WHERE instance = ? AND digest = ?", (instance, digest)
        ).fetchone()
        if row is not None:
            return int(row[0])
        series = self._all_series(instance, keys)
        origin = self.collected()
        self.connection.executemany(_CAME_FROM, [(number, origin, time, time) for number in series])
        packed = np.array(series, dtype="<u4").tobytes()
        return _new_id(
            self.connection.execute(
                "INSERT INTO layout (instance, digest, series) VALUES (?, ?, ?)", (instance, digest, packed)
            )
        )

    def _join_snapshot(self, instance: int, time: int, values: Mapping[str, float]) -> None:
        joined: dict[str, float] = {}
        for series, value in head.read_one(self.connection, instance, time).items():
            name, labels = self.connection.execute("SELECT name, labels FROM series WHERE id = ?", (series,)).fetchone()
            joined[f"{name}\n{labels}"] = value
        joined.update(values)
        keys = sorted(joined)
        layout = self._layout(instance, head.digest(keys), keys, time)
        self.connection.execute(
            "UPDATE snapshot SET layout = ?, data = ? WHERE key = ?",
            (layout, head.pack([joined[key] for key in keys]), head.key(instance, time)),
        )

    def _attempt(self, instance: int, time: int, state: str, message: str) -> None:
        self.connection.execute(
            "UPDATE instance SET last_time = ?, last_state = ?, last_message = ? WHERE id = ?",
            (time, state, message, instance),
        )

    def _note_import(self, origin: int, now: int, first_time: int, last_time: int, samples: int) -> None:
        same = self.connection.execute(
            "UPDATE import SET imported_at = ? WHERE origin = ? AND first_time = ? AND last_time = ? AND samples = ?",
            (now, origin, first_time, last_time, samples),
        )
        if not same.rowcount:
            self.connection.execute(
                "INSERT INTO import (origin, imported_at, first_time, last_time, samples) VALUES (?, ?, ?, ?, ?)",
                (origin, now, first_time, last_time, samples),
            )


def with_differences(arrays: Arrays) -> dict[str, tuple[Ints, Floats]]:
    """The arrays and, wherever whole and free stand at the same times, what is used."""
    complete = dict(arrays)
    for whole, free, used in names.differences():
        for text in arrays:
            name, labels = names.split(text)
            other, target = f"{free}\n{labels}", f"{used}\n{labels}"
            if name != whole or other not in arrays or target in arrays:
                continue
            (times, values), (other_times, other_values) = arrays[text], arrays[other]
            both, left, right = np.intersect1d(times, other_times, return_indices=True)
            complete[target] = both, values[left] - other_values[right]
    return complete


def arrays_of(rows: Iterable[tuple[str, str, int, float]]) -> dict[str, dict[str, tuple[Ints, Floats]]]:
    """Rows of (instance, key, time, value) as arrays by instance and key, ascending in time."""
    lists: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for instance, text, time, value in rows:
        times, values = lists.setdefault(instance, {}).setdefault(text, ([], []))
        times.append(time)
        values.append(value)
    return {
        instance: {
            text: ascending(np.array(times, dtype=np.int64), np.array(values, dtype=np.float64))
            for text, (times, values) in by_key.items()
        }
        for instance, by_key in lists.items()
    }


def _new_id(cursor: sqlite3.Cursor) -> int:
    return cast(int, cursor.lastrowid)
