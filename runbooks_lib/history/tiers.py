"""The three tiers of blocks, and how samples get into them.

Samples are kept for days, hours for a year, days for ever; the coarser tiers are filled at the same time as the finer
one, so that ageing is nothing but deleting whole blocks. Adding is a union: in any order, twice, or after a clock went
back, the blocks come out the same.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np

from runbooks_lib.history import buckets as gathering
from runbooks_lib.history.model import DAY_SECONDS, HOUR_SECONDS, Floats, Ints
from runbooks_lib.history.packing import (
    NO_BUCKETS,
    Buckets,
    concatenate,
    pack_buckets,
    pack_samples,
    unpack_buckets,
    unpack_samples,
)


@dataclass(frozen=True)
class Tier:
    """A tier's number in the keys, what one of its blocks spans and, but for raw, what one of its buckets spans."""

    number: int
    period_seconds: int
    width_seconds: int = 0

    def key(self, series: int, period: int) -> int:
        """The block's key (schema.py)."""
        return series << 24 | self.number << 20 | period

    def keys(self, series: int) -> tuple[int, int]:
        """The first and the last possible key of this tier's blocks of a series."""
        return self.key(series, 0), self.key(series, (1 << 20) - 1)


# A block is rewritten whenever a day is added to it: small enough for that, large enough to compress.
RAW = Tier(0, DAY_SECONDS)
HOURS = Tier(1, 16 * DAY_SECONDS, HOUR_SECONDS)
DAYS = Tier(2, 128 * DAY_SECONDS, DAY_SECONDS)


@dataclass(frozen=True)
class Keep:
    """How long the finer tiers last, in days; days are kept for ever."""

    raw_days: int = 14
    hourly_days: int = 365

    def raw_from(self, now: int) -> int:
        """The first second of the raw tier."""
        return max(0, now // DAY_SECONDS - self.raw_days) * DAY_SECONDS

    def hourly_from(self, now: int) -> int:
        """The first second of the hourly tier."""
        return max(0, now // DAY_SECONDS - max(self.hourly_days, self.raw_days)) * DAY_SECONDS


def add(connection: sqlite3.Connection, series: int, times: Ints, values: Floats, *, keep: Keep, now: int) -> None:
    """Add samples (any order) to every tier that still keeps their time. Call inside a transaction."""
    times, values = gathering.ascending(times, values)
    if not len(times):
        return
    times, values = _add_raw(connection, series, times, values, keep.raw_from(now))
    recent = int(np.searchsorted(times, keep.hourly_from(now)))
    _add_buckets(connection, HOURS, series, times[recent:], values[recent:])
    _add_buckets(connection, DAYS, series, times, values)


def expire(connection: sqlite3.Connection, series: int, *, keep: Keep, now: int) -> None:
    """Drop the finer blocks whose time is over. Call inside a transaction.

    A block goes when it is too old by the clock *and* as many younger ones stand after it as the tier keeps: one run
    with a clock years ahead costs nothing, and a host that was switched off keeps its last weeks as they were.
    """
    _expire(connection, RAW, series, keep.raw_from(now), keep.raw_days)
    period_days = HOURS.period_seconds // DAY_SECONDS
    _expire(connection, HOURS, series, keep.hourly_from(now), -(-max(keep.hourly_days, keep.raw_days) // period_days))


def read_samples(connection: sqlite3.Connection, series: int, start: int, end: int) -> tuple[Ints, Floats]:
    """Samples kept as they came, with start <= time <= end."""
    found = [
        unpack_samples((key & 0xFFFFF) * RAW.period_seconds, blob)
        for key, blob in _blocks(connection, RAW, series, start, end)
    ]
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0)
    times = np.concatenate([part[0] for part in found])
    values = np.concatenate([part[1] for part in found])
    inside = slice(int(np.searchsorted(times, start)), int(np.searchsorted(times, end, side="right")))
    return times[inside], values[inside]


def read_buckets(connection: sqlite3.Connection, tier: Tier, series: int, start: int, end: int) -> Buckets:
    """Buckets of a tier whose start lies in start..end (`start` rounded down to a bucket's)."""
    found = [
        unpack_buckets((key & 0xFFFFF) * tier.period_seconds, tier.width_seconds, blob)
        for key, blob in _blocks(connection, tier, series, start, end)
    ]
    if not found:
        return NO_BUCKETS
    whole = concatenate(found)
    first = int(np.searchsorted(whole.start, start - start % tier.width_seconds))
    return whole.take(slice(first, int(np.searchsorted(whole.start, end, side="right"))))


def write_buckets(connection: sqlite3.Connection, tier: Tier, series: int, whole: Buckets) -> None:
    """Put buckets in place of what their blocks held."""
    for period in np.unique(whole.start // tier.period_seconds).tolist():
        base = period * tier.period_seconds
        inside = (whole.start >= base) & (whole.start < base + tier.period_seconds)
        _put(connection, tier.key(series, period), pack_buckets(base, tier.width_seconds, whole.take(inside)))


def remove_days(connection: sqlite3.Connection, series: int, days: Ints) -> None:
    """Take whole UTC days (counted from 1970) of a series out of every tier. Call inside a transaction."""
    for day in days.tolist():
        connection.execute("DELETE FROM block WHERE key = ?", (RAW.key(series, day),))
    for tier in (HOURS, DAYS):
        _remove_buckets(connection, tier, series, days)


def holds_whole_day(connection: sqlite3.Connection, series: int, day: int, count: int) -> bool:
    """Whether `count` samples of a UTC day, with those that still stand, are all that its buckets were made of."""
    if connection.execute("SELECT 1 FROM block WHERE key = ?", (RAW.key(series, day),)).fetchone() is not None:
        return True
    known = read_buckets(connection, DAYS, series, day * DAY_SECONDS, day * DAY_SECONDS)
    return not len(known) or count >= int(known.count[0])


def gather_anew(connection: sqlite3.Connection, series: int, days: Ints, *, keep: Keep, now: int) -> None:
    """Take the buckets of whole UTC days away that the next `add` of these days writes again: from the samples that
    still stand and those that are added. Call inside the same transaction."""
    _remove_buckets(connection, HOURS, series, days[days * DAY_SECONDS >= keep.hourly_from(now)])
    _remove_buckets(connection, DAYS, series, days)


# -- parts -------------------------------------------------------------------------------------------------------------


def _blocks(connection: sqlite3.Connection, tier: Tier, series: int, start: int, end: int) -> list[tuple[int, bytes]]:
    if end < 0 or end < start:
        return []
    first, last = max(0, start) // tier.period_seconds, min(end // tier.period_seconds, (1 << 20) - 1)
    return connection.execute(
        "SELECT key, data FROM block WHERE key BETWEEN ? AND ? ORDER BY key",
        (tier.key(series, first), tier.key(series, last)),
    ).fetchall()


def _remove_buckets(connection: sqlite3.Connection, tier: Tier, series: int, days: Ints) -> None:
    for period in np.unique(days * DAY_SECONDS // tier.period_seconds).tolist():
        key, base = tier.key(series, period), period * tier.period_seconds
        row = connection.execute("SELECT data FROM block WHERE key = ?", (key,)).fetchone()
        if row is None:
            continue
        whole = unpack_buckets(base, tier.width_seconds, row[0])
        left = whole.take(~np.isin(whole.start // DAY_SECONDS, days))
        if len(left):
            _put(connection, key, pack_buckets(base, tier.width_seconds, left))
        else:
            connection.execute("DELETE FROM block WHERE key = ?", (key,))


def _add_raw(
    connection: sqlite3.Connection, series: int, times: Ints, values: Floats, raw_from: int
) -> tuple[Ints, Floats]:
    """Puts what is young, or belongs to a day that still has its samples, into the raw tier. Returns everything that
    the coarser tiers must take in: the samples, and those that stood beside them."""
    days = times // DAY_SECONDS
    parts: list[tuple[Ints, Floats]] = []
    edges = np.flatnonzero(np.diff(days)) + 1
    for day_times, day_values in zip(np.split(times, edges), np.split(values, edges), strict=True):
        day = int(day_times[0]) // DAY_SECONDS
        base, key = day * DAY_SECONDS, RAW.key(series, day)
        row = connection.execute("SELECT data FROM block WHERE key = ?", (key,)).fetchone()
        if row is not None:
            day_times, day_values = gathering.union(*unpack_samples(base, row[0]), day_times, day_values)
        if row is not None or base >= raw_from:
            _put(connection, key, pack_samples(base, day_times, day_values))
        parts.append((day_times, day_values))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _add_buckets(connection: sqlite3.Connection, tier: Tier, series: int, times: Ints, values: Floats) -> None:
    if not len(times):
        return
    edges = np.flatnonzero(np.diff(times // tier.period_seconds)) + 1
    for part_times, part_values in zip(np.split(times, edges), np.split(values, edges), strict=True):
        period = int(part_times[0]) // tier.period_seconds
        base, key = period * tier.period_seconds, tier.key(series, period)
        row = connection.execute("SELECT data FROM block WHERE key = ?", (key,)).fetchone()
        known = NO_BUCKETS if row is None else unpack_buckets(base, tier.width_seconds, row[0])
        whole = gathering.absorb(known, part_times, part_values, tier.width_seconds)
        if len(whole):
            _put(connection, key, pack_buckets(base, tier.width_seconds, whole))


def _expire(connection: sqlite3.Connection, tier: Tier, series: int, before: int, keep_blocks: int) -> None:
    first, last = tier.keys(series)
    row = connection.execute(
        "SELECT key FROM block WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT 1 OFFSET ?",
        (first, last, max(0, keep_blocks - 1)),
    ).fetchone()
    if row is None:
        return
    # The period that holds `before` is still needed in part.
    oldest_kept = min(row[0], tier.key(series, before // tier.period_seconds))
    connection.execute("DELETE FROM block WHERE key >= ? AND key < ?", (first, oldest_kept))


def _put(connection: sqlite3.Connection, key: int, blob: bytes) -> None:
    connection.execute(
        "INSERT INTO block (key, data) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET data = excluded.data", (key, blob)
    )
