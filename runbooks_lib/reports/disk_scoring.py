"""Published forecasts are kept beside the history and scored when their day has passed: the installation's own record.

What is kept: the 80 % range of the use, and the chance that the threshold is touched, within 7, 30 and 90 days. Example
data is never counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np

from runbooks_lib import words
from runbooks_lib.capacity import Running, Said, score_due
from runbooks_lib.config import HistorySettings
from runbooks_lib.history import FilesystemHistory, History, SqliteHistory, notes, volumes
from runbooks_lib.history.model import HistoryError
from runbooks_lib.history.notes import StoredForecast
from runbooks_lib.reports.disk_partitions import Partition

METHOD = "runbook-1"  # another method is another record
_GIVE_UP_DAYS = 14  # a day that nobody measured is not measured later; imports may bring it for this long


@dataclass(frozen=True)
class Tally:
    """What came of the forecasts so far. `fresh` are scores, by id, that `keep` writes down; `since` the first day."""

    running: Running
    fresh: Mapping[int, Mapping[str, Any]]
    since: date | None


def tally(history: History, *, now: datetime) -> Tally | None:
    """Judge what has come due, beside what was judged before. Writes nothing. None where no forecasts are kept."""
    if not isinstance(history, SqliteHistory):
        return None
    begun = notes.counted_since(history)
    said: list[Said] = []
    truths: dict[tuple[str, str, str, date, date], tuple[float, float]] = {}
    fresh: dict[int, Mapping[str, Any]] = {}
    pasts: dict[tuple[str, str], FilesystemHistory | None] = {}
    for one in [*notes.scored_forecasts(history), *notes.due_forecasts(history, now)]:
        if one.method != METHOD:
            continue
        statement = _said(one)
        score = one.score
        if score is None:
            place = (one.instance, one.mountpoint)
            if place not in pasts:
                pasts[place] = volumes.past_of(history, *place, end=now)
            truth = _truth(pasts[place], statement)
            if truth is not None:
                score = {"highest": truth[0], "at_end": truth[1]}
            elif now - one.due_at > timedelta(days=_GIVE_UP_DAYS):
                score = {"unknown": True}
            if score is not None:
                fresh[one.id] = score
        if score is not None and "at_end" in score:
            key = (one.instance, one.mountpoint, one.resource, statement.made + timedelta(days=1), statement.due)
            truths[key] = (float(score["highest"]), float(score["at_end"]))
        said.append(statement)
    running = score_due(said, lambda *key: truths.get(key), today=now.date())
    return Tally(running, fresh, None if begun is None else begun.date())


def sentence(told: Tally | None, *, today: date) -> str:
    """The running record in one paragraph; before anything has come due, since when it is counted."""
    if told is None:
        return "Forecasts are not kept and scored here: the history is a server, which only answers."
    if told.since is None:
        return f"From {words.day(today, today=today)} on forecasts are kept, and scored when they come due."
    since = words.day(told.since, today=today)
    running = told.running
    if not running.bands and not running.chances:
        return f"Forecasts are kept and scored since {since}; none has come due yet."
    lines = [f"Forecasts kept since {since} and scored when due.", *running.sentences()]
    if running.chances:
        lines.append(
            f"Brier score {running.brier:.3f} over {words.count(running.chances, 'chance')} (0 is perfect; always "
            f"saying what share came true would get {running.brier_base:.3f})."
        )
    if running.unknown:
        lines.append(f"{running.unknown} could not be judged: nobody measured on their day.")
    return " ".join(lines)


def keep(settings: HistorySettings, partitions: Sequence[Partition], told: Tally, *, now: datetime) -> str:
    """Write down today's forecasts and the fresh scores. Returns "", or a sentence why they could not be kept: a report
    is not lost for it."""
    if settings.path is None:
        return ""
    made_at = datetime.combine(now.date(), time(), UTC)
    rows = [row for partition in partitions if not partition.example for row in _statements(partition, made_at)]
    try:
        store = SqliteHistory(settings.path)
        try:
            notes.store_day(store, made_at, METHOD, rows)
            notes.score_forecasts(store, told.fresh, now=now)
        finally:
            store.close()
    except HistoryError as error:
        return f"Today's forecasts were not kept for scoring: {words.message(str(error))}"
    return ""


def _statements(partition: Partition, made_at: datetime) -> list[tuple[str, str, str, datetime, Mapping[str, Any]]]:
    expected = partition.outlook
    told = expected.forecast
    if told is None or told.refusal is not None or expected.probability_full is None:
        return []
    habit = any(event.kind == "clean-ups" for event in expected.events)
    rows: list[tuple[str, str, str, datetime, Mapping[str, Any]]] = []
    for within, chance in expected.probability_full.items():
        day = within + expected.stale_days
        if not math.isfinite(chance) or day > told.horizon_days:
            continue
        # Where clean-ups are a habit the crests are forecast, so that the use on one day is no test of the range.
        low, middle, high = (None,) * 3 if habit else (float(told.quantile(q, day)) for q in (0.1, 0.5, 0.9))
        open_question = expected.used < expected.threshold_level
        body = {
            "low": low,
            "middle": middle,
            "high": high,
            "level": expected.threshold_level,
            "probability": told.probability_reached(expected.threshold_level, day) if open_question else None,
        }
        # Due when the day is over.
        due = made_at + timedelta(days=within + 1)
        rows.append((expected.instance, expected.mountpoint, expected.resource, due, body))
    return rows


def _said(one: StoredForecast) -> Said:
    low, middle, high, level, probability = (
        math.nan if one.body.get(name) is None else float(one.body[name])
        for name in ("low", "middle", "high", "level", "probability")
    )
    return Said(
        one.instance,
        one.mountpoint,
        one.resource,
        one.made_at.date(),
        one.due_at.date() - timedelta(days=1),
        low,
        middle,
        high,
        level,
        probability,
    )


def _truth(past: FilesystemHistory | None, said: Said) -> tuple[float, float] | None:
    """The highest use after the day it was said on, and the use of the due day; None when that was not measured."""
    if past is None:
        return None
    used = past.used_bytes_max if said.resource == "bytes" else past.inodes_used_max
    inside = (past.days > np.datetime64(said.made)) & (past.days <= np.datetime64(said.due)) & np.isfinite(used)
    days = past.days[inside]
    if not len(days) or days[-1] != np.datetime64(said.due):
        return None
    return float(used[inside].max()), float(used[inside][-1])
