"""One partition in words: the cells of its row, its dates and chances, and what the reader must know to judge them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import numpy as np

from runbooks_lib.capacity import Outlook
from runbooks_lib.reports import disk_words as words
from runbooks_lib.reports.disk_page import Row
from runbooks_lib.reports.disk_partitions import Partition


def row(partition: Partition, today: date, horizon_days: int) -> Row:
    """The partition as the table and its own part say it."""
    expected = partition.outlook
    marks = (
        ("example data", partition.example),
        ("database", expected.database),
        ("inodes", expected.resource == "inodes"),
    )
    chances = expected.probability_full or {}
    return Row(
        state=expected.state,
        mountpoint=words.plain(expected.mountpoint),
        instance=words.plain(expected.instance),
        mark=", ".join(name for name, applies in marks if applies),
        used=f"{words.percent(partition.used_ratio)} of {words.amount(expected.usable, expected.resource)}",
        threshold=words.percent(expected.threshold_ratio),
        between=_between(expected, today, horizon_days),
        full_30_days=words.chance(chances.get(30)),
        begin_by=_begin_by(expected, today),
        sentence=words.sentence(expected.sentence),
        dates=_dates(expected, today, horizon_days),
        chances=tuple((f"within {days} days", words.chance(chances[days])) for days in sorted(chances)),
        notes=tuple(_notes(partition)),
    )


def _between(expected: Outlook, today: date, horizon_days: int) -> str:
    if expected.state == "crossed":
        return "already past it"
    if expected.dates is None:
        return "cannot be said"
    first, _, last = expected.dates
    if first is None:
        return f"not within {horizon_days} days"
    if last is None:
        return f"{words.day(first, today=today)} at the earliest"
    if first == last:
        return words.day(first, today=today)
    return f"{words.day(first, today=today)} to {words.day(last, today=today)}"


def _begin_by(expected: Outlook, today: date) -> str:
    if expected.state == "crossed":
        return "at once"
    if expected.start_by is None:
        return "–"
    when = words.day(expected.start_by, today=today)
    return f"at once (was {when})" if expected.start_by < today else when


def _dates(expected: Outlook, today: date, horizon_days: int) -> tuple[tuple[str, str], ...]:
    if expected.dates is None or expected.state == "crossed":
        return ()
    later = f"after {horizon_days} days"
    return tuple(
        (f"{percent} by", later if when is None else words.day(when, today=today))
        for percent, when in zip(("10 %", "50 %", "90 %"), expected.dates, strict=True)
    )


def _notes(partition: Partition) -> Iterable[str]:
    """What the reader must know to judge the numbers: how long the past is, whence it came, what was odd in it."""
    past, expected = partition.history, partition.outlook
    days = past.days
    if len(days):
        length = int((days[-1] - days[0]) / np.timedelta64(1, "D")) + 1
        missing = length - len(days)
        known = f"{words.count(length, 'day')} of history"
        known += f", {words.count(missing, 'day')} of them without data" if missing else ""
    else:
        known = "No day of history"
    device = f"{words.plain(past.device)}, {words.plain(past.fstype)}"
    origins = words.listing([words.plain(origin) for origin in expected.origins]) or "unknown"
    yield f"{known} ({origins}); {device}."
    if expected.confidence:
        yield words.sentence(expected.confidence)
