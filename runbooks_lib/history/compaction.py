"""Snapshots of finished days become blocks, and blocks whose time is over go."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from runbooks_lib.history import head, tiers
from runbooks_lib.history.database import transaction
from runbooks_lib.history.model import DAY_SECONDS
from runbooks_lib.history.writing import Writer


@dataclass(frozen=True)
class Compacted:
    """What a compaction did: how many days of hosts, and snapshots in them, went into blocks."""

    days: int
    snapshots: int


def compact(writer: Writer, *, keep: tiers.Keep, now: int) -> Compacted:
    """Put every finished UTC day's snapshots into blocks and drop what is too old, one host and day at a time.

    Each host's day is one transaction, so that stopping or killing it anywhere leaves days done and days still to do,
    and another writer waits a fraction of a second. Snapshots from the future stay as they are until their day is over.
    """
    days = snapshots = 0
    today = now - now % DAY_SECONDS
    for (instance,) in writer.connection.execute("SELECT id FROM instance ORDER BY id").fetchall():
        # The search goes on after each finished day, so that it ends whatever other writers do meanwhile.
        start = 0
        while (oldest := _oldest(writer.connection, instance, start, today)) is not None:
            day = oldest - oldest % DAY_SECONDS
            snapshots += _seal(writer, instance, day, keep=keep, now=now)
            days += 1
            start = day + DAY_SECONDS
    return Compacted(days, snapshots)


def _oldest(connection: sqlite3.Connection, instance: int, start: int, before: int) -> int | None:
    if start >= before:
        return None
    first, last = head.keys(instance, start, before - 1)
    row = connection.execute("SELECT min(key) FROM snapshot WHERE key BETWEEN ? AND ?", (first, last)).fetchone()
    return None if row[0] is None else int(row[0]) - head.key(instance, 0)


def _seal(writer: Writer, instance: int, day: int, *, keep: tiers.Keep, now: int) -> int:
    connection = writer.connection
    first, last = head.keys(instance, day, day + DAY_SECONDS - 1)
    with transaction(connection, writing=True):
        found = head.read(connection, instance, day, day + DAY_SECONDS - 1)
        origin = writer.collected()
        for series in found.series():
            times, values = found.samples(series)
            # By its own day's clock it is young, whatever this machine's says: what is too old `expire` drops, and only
            # when enough younger data stand after it.
            tiers.add(connection, series, times, values, keep=keep, now=min(now, day + DAY_SECONDS))
            tiers.expire(connection, series, keep=keep, now=now)
            writer.came_from(series, origin, int(times[0]), int(times[-1]))
        gone = connection.execute("DELETE FROM snapshot WHERE key BETWEEN ? AND ?", (first, last)).rowcount
        connection.execute(
            "DELETE FROM layout WHERE instance = ?1 AND id NOT IN"
            " (SELECT layout FROM snapshot WHERE key BETWEEN ?2 AND ?3)",
            (instance, *head.keys(instance)),
        )
    return gone
