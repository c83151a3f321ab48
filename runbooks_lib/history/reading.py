"""Reading from an open history file, across its tiers."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from runbooks_lib.history import buckets as gathering
from runbooks_lib.history import head, names, partitions, tiers
from runbooks_lib.history.model import (
    AVAIL_BYTES,
    COLLECTED,
    DAY_SECONDS,
    FILES,
    FREE_BYTES,
    HOUR_SECONDS,
    SIZE_BYTES,
    USED_BYTES,
    USED_FILES,
    Floats,
    Ints,
)
from runbooks_lib.history.packing import NO_BUCKETS, Buckets


@dataclass(frozen=True)
class Known:
    """A series as the file knows it; `labels` without `instance`."""

    id: int
    name: str
    labels: Mapping[str, str]


@dataclass
class _Seen:
    """What was read of the file in one state of it."""

    version: int = -1
    catalogs: dict[int, list[Known]] = field(default_factory=dict)
    heads: dict[int, head.Head] = field(default_factory=dict)


class Reader:
    """Reads of one connection. Call `begin` inside a read transaction first: it forgets what others have changed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._seen = _Seen()

    def begin(self) -> None:
        """Forget what was remembered if the file has changed since."""
        # data_version moves with every commit of another connection, and this one never writes.
        self.connection.execute("SELECT 1 FROM instance LIMIT 1").fetchone()
        version = int(self.connection.execute("PRAGMA data_version").fetchone()[0])
        if version != self._seen.version:
            self._seen = _Seen(version)

    def instances(self) -> dict[str, int]:
        """Ids of all hosts by name, sorted by name."""
        return {name: number for number, name in self.connection.execute("SELECT id, name FROM instance ORDER BY name")}

    def catalog(self, instance: int) -> list[Known]:
        """Every series of a host."""
        found = self._seen.catalogs.get(instance)
        if found is None:
            rows = self.connection.execute("SELECT id, name, labels FROM series WHERE instance = ?", (instance,))
            found = [Known(number, name, names.labels_of(labels)) for number, name, labels in rows]
            self._seen.catalogs[instance] = found
        return found

    def head(self, instance: int) -> head.Head:
        """The snapshots of a host that are not in blocks yet."""
        found = self._seen.heads.get(instance)
        if found is None:
            found = self._seen.heads[instance] = head.read(self.connection, instance)
        return found

    def fine(self, instance: int, series: int, start: int, end: int) -> tuple[Ints, Floats]:
        """Samples as they came, start <= time <= end, as far back as they are kept."""
        times, values = tiers.read_samples(self.connection, series, start, end)
        new_times, new_values = self.head(instance).samples(series, start, end)
        return gathering.union(times, values, new_times, new_values) if len(new_times) else (times, values)

    def finest(self, instance: int, series: int, start: int, end: int) -> tuple[Ints, Floats]:
        """Samples where they are kept; before that the last value of each hour, then of each day, at its own time."""
        times, values = self.fine(instance, series, start, end)
        for tier in (tiers.HOURS, tiers.DAYS):
            coarse = tiers.read_buckets(self.connection, tier, series, start, end)
            width = tier.width_seconds
            usable = (
                (coarse.last_time >= start) & (coarse.last_time <= end) & ~np.isin(coarse.start, times - times % width)
            )
            if usable.any():
                times, values = gathering.union(coarse.last_time[usable], coarse.last[usable], times, values)
        return times, values

    def daily(self, instance: int, series: int, start: int, end: int) -> Buckets:
        """Days (UTC) from the one that holds `start` on, none of what came after `end`."""
        start -= start % DAY_SECONDS
        days = gathering.join(
            tiers.read_buckets(self.connection, tiers.DAYS, series, start, end),
            gathering.gather(*self.head(instance).samples(series, start, end), DAY_SECONDS),
        )
        if len(days) and days.last_time[-1] > end:
            days = days.take(slice(0, len(days) - 1))
            rest = self._part_of_day(instance, series, end)
            days = gathering.join(days, rest)
        return days

    def origins(self, series: int, start: int, end: int) -> list[tuple[int, str]]:
        """(first time, origin) of everything that a series' numbers between start and end may have come from."""
        return self.connection.execute(
            "SELECT first_time, name FROM series_origin JOIN origin ON origin.id = origin"
            " WHERE series = ? AND first_time <= ? AND last_time >= ?",
            (series, end, start),
        ).fetchall()

    def origins_with_head(self, instance: int, series: int, start: int, end: int) -> list[tuple[int, str]]:
        """The same with `collected` for what is not in blocks yet."""
        found = self.origins(series, start, end)
        times, _ = self.head(instance).samples(series, start, end)
        return [*found, (int(times[0]), COLLECTED)] if len(times) else found

    def device_past(
        self, instance: int, device: str, fstype: str, by_name: Mapping[str, Known], begin: int, until: int
    ) -> partitions.DevicePast:
        """What one device behind a mount point said, from the day of `begin` to `until`; `by_name` are its series."""

        def daily(name: str) -> Buckets:
            known = by_name.get(name)
            return NO_BUCKETS if known is None else self.daily(instance, known.id, begin, until)

        used, inodes = daily(USED_BYTES), daily(USED_FILES)
        size, free, avail, files = daily(SIZE_BYTES), daily(FREE_BYTES), daily(AVAIL_BYTES), daily(FILES)
        days = np.union1d(used.start, inodes.start)
        last_time, count = np.zeros(len(days), dtype=np.int64), np.zeros(len(days), dtype=np.int64)
        for buckets in (inodes, used):
            at = np.searchsorted(days, buckets.start)
            last_time[at] = np.maximum(last_time[at], buckets.last_time)
            count[at] = np.maximum(count[at], buckets.count)
        recent = by_name.get(USED_BYTES)
        # Of a host that has been silent for long, the last that it said.
        youngest = int(used.last_time[-1]) if len(used) else until
        recent_begin = max(begin, youngest - partitions.RECENT_DAYS * DAY_SECONDS)
        times, values = (
            (np.empty(0, dtype=np.int64), np.empty(0))
            if recent is None
            else self.finest(instance, recent.id, recent_begin, until)
        )
        last_free, last_avail = (partitions.on_days(days, one.start, one.last) for one in (free, avail))
        return partitions.DevicePast(
            device,
            fstype,
            days,
            last_time,
            count,
            partitions.on_days(days, used.start, used.maximum),
            partitions.on_days(days, size.start, size.last),
            last_free - last_avail,
            partitions.on_days(days, inodes.start, inodes.maximum),
            partitions.on_days(days, files.start, files.last),
            times,
            values,
        )

    def _part_of_day(self, instance: int, series: int, end: int) -> Buckets:
        """The day that holds `end` up to it, as exactly as the finer tiers still know."""
        day = end - end % DAY_SECONDS
        times, values = self.fine(instance, series, day, end)
        hours = tiers.read_buckets(self.connection, tiers.HOURS, series, day, end)
        hours = hours.take((hours.last_time <= end) & ~np.isin(hours.start, times - times % HOUR_SECONDS))
        part = gathering.gather(times, values, DAY_SECONDS)
        if not len(hours):
            return part
        whole = Buckets(
            np.array([day]),
            hours.last_time[-1:],
            np.array([hours.count.sum()]),
            np.array([hours.minimum.min()]),
            np.array([hours.maximum.max()]),
            hours.last[-1:],
        )
        return gathering.join(whole, part)
