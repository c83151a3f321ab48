"""One partition in words: the cells of its row, its dates and chances, and what the reader must know to judge them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import date, timedelta

import numpy as np

from runbooks_lib import words
from runbooks_lib.capacity import Event, Outlook
from runbooks_lib.capacity.partition import FLOORS
from runbooks_lib.capacity.plan import gain
from runbooks_lib.facts.lvm import THIN_POOL
from runbooks_lib.history import FilesystemHistory
from runbooks_lib.reports.disk_page import Row
from runbooks_lib.reports.disk_partitions import Partition

_MOST_EVENTS = 6


def row(partition: Partition, today: date, horizon_days: int) -> Row:
    """The partition as the table and its own part say it."""
    expected = partition.outlook
    marks = (
        ("example data", partition.example),
        ("database", expected.database),
        (expected.resource, expected.resource != "bytes"),
        ("thin pool", expected.fstype == THIN_POOL),
        (words.plain(partition.note), bool(partition.note)),
    )
    chances = _chances(expected)
    return Row(
        state=expected.state,
        mountpoint=words.plain(expected.mountpoint),
        instance=words.plain(expected.instance),
        mark=", ".join(name for name, applies in marks if applies),
        used=f"{words.percent(partition.used_ratio)} of {words.amount(expected.usable, expected.resource)}",
        between=_between(expected, today, horizon_days),
        full_30_days=chances.get(30, "–"),
        begin_by=_begin_by(expected, today),
        sentence=words.sentence(expected.sentence),
        dates_of="Full" if expected.state == "crossed" else f"Passes {words.percent(expected.threshold_ratio)}",
        dates=_dates(expected, today, horizon_days),
        chances=tuple((f"within {days} days", chance) for days, chance in chances.items()),
        buys=_buys(partition, today),
        notes=tuple(_notes(partition, today)),
    )


def _between(expected: Outlook, today: date, horizon_days: int) -> str:
    if expected.state == "crossed":
        return "already past it"
    if _runs_away(expected):
        return "within hours, if it goes on"
    if expected.level_only is not None:
        return "no forecast"
    if expected.dates is None:
        return "too young to tell" if expected.tier == "hours" and expected.rates is not None else "cannot be said"
    first, _, last = expected.dates
    if first is None:
        return f"not within {horizon_days} days"
    begin = words.short_day(first, today=today)
    if last is None:
        return f"from {begin} on"
    return begin if first == last else f"{begin} to {words.short_day(last, today=today)}"


def _begin_by(expected: Outlook, today: date) -> str:
    if expected.state == "crossed" or (expected.state == "act" and (expected.start_by is None or _runs_away(expected))):
        return "now"
    if expected.start_by is None:
        return "–"
    when = words.short_day(expected.start_by, today=today)
    return f"now (was {when})" if expected.start_by < today else when


def _runs_away(expected: Outlook) -> bool:
    return any(event.kind == "runaway" for event in expected.events)


def _dates(expected: Outlook, today: date, horizon_days: int) -> tuple[tuple[str, str], ...]:
    """10, 50 and 90 % dates: of passing the threshold, or of being full where that is past."""
    dates = _full_dates(expected, today) if expected.state == "crossed" else expected.dates
    if dates is None or dates[0] is None:
        return ()
    later = f"not within {horizon_days} days"
    return tuple(
        (percent, later if when is None else f"by {words.day(when, today=today)}")
        for percent, when in zip(("10 %", "50 %", "90 %"), dates, strict=True)
    )


def _full_dates(expected: Outlook, today: date) -> tuple[date | None, ...] | None:
    forecast = expected.forecast
    if forecast is None or forecast.refusal is not None or expected.used >= expected.usable:
        return None
    spans = (span - expected.stale_days for span in forecast.days_to(expected.usable))
    return tuple(today + timedelta(days=int(max(0.0, span))) if math.isfinite(span) else None for span in spans)


def _chances(expected: Outlook) -> dict[int, str]:
    """The chance of being full within so many days; `up to` where it is the least that is ever said (`FLOORS`)."""
    said = {}
    for within, chance in sorted((expected.probability_full or {}).items()):
        least = FLOORS.get(within, 0.0)
        said[within] = f"up to {words.chance(least)}" if chance <= least else words.chance(chance)
    return said


def _buys(partition: Partition, today: date) -> tuple[tuple[str, str], ...]:
    """What each amount of the plan buys, where the disk could be full within the plan's time at all."""
    if partition.plan is None or not partition.plan.needed_bytes:
        return ()
    end = f"until {words.short_day(partition.plan.until, today=today)}"
    return tuple(
        (words.amount(one.bytes_added), end if math.isinf(one.days_gained) else gain(one))
        for one in partition.plan.choices[1:]
    )


def _notes(partition: Partition, today: date) -> Iterable[str]:
    """What the reader must know to judge the numbers: how long the past is, whence it came, what was odd in it."""
    past, expected = partition.history, partition.outlook
    origins = words.listing([words.plain(origin) for origin in expected.origins]) or "unknown"
    parts = [f"{_length(past)} ({origins})", words.plain(past.device), words.plain(past.fstype), _reserve(expected)]
    yield f"{'; '.join(part for part in parts if part)}."
    if expected.confidence:
        yield words.sentence(expected.confidence)
    happened = [_happened(event, expected.resource, today) for event in expected.events]
    told = [text for text in happened if text][-_MOST_EVENTS:]
    if told:
        yield f"In that time: {'; '.join(told)}."
    for number, one in list(enumerate(partition.annotations, start=1))[-_MOST_EVENTS:]:
        out = ", taken out of the forecast" if one.kind == "exclude" else ""
        when = words.day(one.start.date(), today=today)
        yield f"({number}) Noted for {when} by {words.plain(one.author)}{out}: {words.sentence(one.text)}"
    if partition.with_excluded is not None:
        yield f"With what was taken out: {words.sentence(partition.with_excluded.sentence)}"


def _length(past: FilesystemHistory) -> str:
    days, times = past.days, past.recent.times
    if not len(days):
        return "No history"
    if past.samples <= 1 or len(times) == 1:
        return "One sample"
    if len(days) <= 2 and len(times):
        return f"{words.span(timedelta(seconds=int((times[-1] - times[0]) / np.timedelta64(1, 's'))))} of history"
    length = int((days[-1] - days[0]) / np.timedelta64(1, "D")) + 1
    missing = length - len(days)
    return f"{words.count(length, 'day')} of history" + (f", {missing} of them without data" if missing else "")


def _reserve(expected: Outlook) -> str:
    if expected.resource != "bytes":
        return f"{words.amount(expected.size, expected.resource)} in all"
    kept = expected.size - expected.usable
    reserve = f", of which {words.amount(kept)} are reserved" if kept > 0 else ""
    return f"{words.amount(expected.size)} in all{reserve}"


def _happened(event: Event, resource: str, today: date) -> str:
    when = words.day(event.day, today=today)
    if event.kind in ("resize", "source"):
        before, after = words.amount(event.before, resource), words.amount(event.after, resource)
        if event.kind == "source":
            return f"other numbers from {when} on: {before} usable before (imported), {after} since"
        return f"resized on {when}, from {before} usable to {after}"
    if event.kind == "gap" and event.until is not None:
        return f"no data from {when} to {words.day(event.until, today=today)}"
    if event.kind == "step":
        return f"a step of {words.amount(event.change, resource)} on {when}"
    if event.kind == "reset":
        return f"emptied or made anew on {when}"
    return ""
