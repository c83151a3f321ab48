"""Taking an import back: what one origin brought, where nothing else brought numbers for the same day."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runbooks_lib.errors import UsageError
from runbooks_lib.history import names, tiers
from runbooks_lib.history.database import transaction
from runbooks_lib.history.model import COLLECTED, DAY_SECONDS, Ints
from runbooks_lib.history.sqlite import SqliteHistory


@dataclass(frozen=True)
class Part:
    """One host's or partition's share: how many days of it go, and how many stay because others brought them too."""

    instance: str
    mountpoint: str  # empty for what is not of a partition
    days_gone: int
    days_kept: int


@dataclass(frozen=True)
class Forgotten:
    """What taking an origin back removes, or removed. `first_time` and `last_time` in seconds since 1970."""

    origin: str
    parts: tuple[Part, ...]
    first_time: int
    last_time: int


def origins(history: SqliteHistory) -> list[str]:
    """Every origin that the history has numbers of, sorted; `collected` is what was measured."""
    with history.read_access() as reader:
        return [name for (name,) in reader.connection.execute("SELECT name FROM origin ORDER BY name")]


def forget(history: SqliteHistory, origin: str, *, dry: bool) -> Forgotten:
    """Remove what `origin` brought, all of it or nothing; `dry` only says what would go.

    Blocks do not know from where a value came, the file knows which origin brought which days of a series: a day that
    another origin may have brought as well stays whole. Raises UsageError for `collected` and for an unknown origin.
    """
    known = origins(history)
    if origin == COLLECTED:
        raise UsageError("what was collected is not an import", true_now="nothing was removed")
    if origin not in known:
        raise UsageError(
            f"the history has nothing {origin!r}",
            where=str(history.path),
            true_now="nothing was removed",
            next=f"it has: {', '.join(name for name in known if name != COLLECTED) or 'no import'}",
        )
    if dry:
        with history.read_access() as reader:
            return _told(origin, _shares(reader.connection, origin))
    with history.write_access(f"{origin}: nothing was removed") as writer, transaction(writer.connection, writing=True):
        shares = _shares(writer.connection, origin)
        for share in shares:
            _remove(writer.connection, share)
        writer.connection.execute("DELETE FROM import WHERE origin = (SELECT id FROM origin WHERE name = ?)", (origin,))
        writer.connection.execute(
            "DELETE FROM origin WHERE name = ? AND id NOT IN (SELECT origin FROM series_origin)", (origin,)
        )
        return _told(origin, shares)


@dataclass(frozen=True)
class _Share:
    """What one series has of an origin: its id, and the days (since 1970) that go and that stay."""

    series: int
    instance: str
    mountpoint: str
    origin: int
    first_time: int
    last_time: int
    gone: Ints
    kept: Ints


def _shares(connection: sqlite3.Connection, origin: str) -> list[_Share]:
    rows = connection.execute(
        "SELECT series.id, instance.name, series.labels, origin.id, first_time, series_origin.last_time"
        " FROM series_origin JOIN origin ON origin.id = series_origin.origin"
        " JOIN series ON series.id = series_origin.series JOIN instance ON instance.id = series.instance"
        " WHERE origin.name = ? ORDER BY instance.name, series.labels",
        (origin,),
    ).fetchall()
    shares = []
    for series, instance, labels, number, first, last in rows:
        days = _days(first, last)
        others = connection.execute(
            "SELECT first_time, last_time FROM series_origin WHERE series = ? AND origin <> ?", (series, number)
        ).fetchall()
        shared = np.isin(days, np.concatenate([days[:0], *(_days(*span) for span in others)]))
        mountpoint = names.labels_of(labels).get("mountpoint", "")
        shares.append(_Share(series, instance, mountpoint, number, first, last, days[~shared], days[shared]))
    return shares


def _days(first: int, last: int) -> Ints:
    return np.arange(first // DAY_SECONDS, last // DAY_SECONDS + 1, dtype=np.int64)


def _remove(connection: sqlite3.Connection, share: _Share) -> None:
    tiers.remove_days(connection, share.series, share.gone)
    span = (share.series, share.origin)
    if len(share.kept):
        first, last = int(share.kept[0]) * DAY_SECONDS, int(share.kept[-1] + 1) * DAY_SECONDS - 1
        connection.execute(
            "UPDATE series_origin SET first_time = max(first_time, ?), last_time = min(last_time, ?)"
            " WHERE series = ? AND origin = ?",
            (first, last, *span),
        )
        return
    connection.execute("DELETE FROM series_origin WHERE series = ? AND origin = ?", span)
    # A series that anybody else ever brought has a row there too, and then it stays.
    connection.execute("DELETE FROM series WHERE id = ?1 AND id NOT IN (SELECT series FROM series_origin)", span[:1])


def _told(origin: str, shares: Sequence[_Share]) -> Forgotten:
    parts: dict[tuple[str, str], tuple[int, int]] = {}
    for share in shares:
        place = share.instance, share.mountpoint
        gone, kept = parts.get(place, (0, 0))
        parts[place] = max(gone, len(share.gone)), max(kept, len(share.kept))
    return Forgotten(
        origin,
        tuple(Part(*place, *days) for place, days in parts.items()),
        min((share.first_time for share in shares), default=0),
        max((share.last_time for share in shares), default=0),
    )
