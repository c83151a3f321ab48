"""How good the forecasts for one's own partitions would have been, in words and rows for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from runbooks_lib import words
from runbooks_lib.capacity import Backtest, Curve, backtest
from runbooks_lib.capacity.rolling import HORIZONS, OURS, Score
from runbooks_lib.config import HostEntry
from runbooks_lib.history import FilesystemHistory, History
from runbooks_lib.history.model import EXAMPLE
from runbooks_lib.reports.disk_partitions import pasts_of

LEAST_DAYS = 30  # of history before the first forecast that is scored
_PAST_DAYS = 1200
_FEW = 3  # hosts or partitions: below it the numbers are anecdotes
_HEADER = ("Method", "Days ahead", "Cases", "Error", "Range error", "80 % held", "Brier skill", "Said <= 5 %, came")


@dataclass(frozen=True)
class Told:
    """The backtest as text: `before` and `after` are sentences, `rows` the table (empty: nothing could be tested)."""

    before: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    after: tuple[str, ...]


def run(history: History, entries: Sequence[HostEntry], *, now: datetime) -> Told:
    """Score forecasts on the past of these hosts' partitions. Where no past is long enough, says so and has no rows."""
    pasts = [past for entry in entries for past in pasts_of(history, entry, now=now, days=_PAST_DAYS)]
    enough = LEAST_DAYS + HORIZONS[0]
    fit = [past for past in pasts if _length(past) >= enough]
    short = [words.place(past.mountpoint, past.instance) for past in pasts if _length(past) < enough]
    too_short = (f"Too short a past (less than {enough} days): {words.listing(short)}.",) if short else ()
    if not fit:
        longest = max((_length(past) for past in pasts), default=0)
        why = (
            f"No forecast can be scored yet: it takes {enough} days of history, the longest here has {longest}."
            if pasts
            else "No forecast can be scored: the history knows no partition of these hosts."
        )
        return Told((why, *too_short), _HEADER, (), ("Nothing is said rather than something untested.",))
    scored = backtest([_curve(past) for past in fit], least_history_days=LEAST_DAYS)
    before = [
        f"Forecast {scored.origins} times from points in the past of {words.count(scored.series, 'partition')} on "
        f"{words.count(scored.sources, 'host')}, knowing only what was known then."
    ]
    if any(EXAMPLE in past.origins for past in fit):
        before.append("Example data is among it: what it scores says nothing about your disks.")
    after = [*too_short, *_verdict(scored)]
    after.append(
        "Error and range error (CRPS): as a share of what `no growth` gets, less is better. Brier skill of `reaches a "
        "level`: 1 is perfect, 0 no better than the base rate. –: no such case."
    )
    if scored.series < _FEW:
        after.append("So few partitions are an anecdote, not a proof.")
    return Told(tuple(before), _HEADER, tuple(_rows(scored)), tuple(after))


def _length(past: FilesystemHistory) -> int:
    days = past.days[np.isfinite(past.used_bytes_max)]
    return int((days[-1] - days[0]) / np.timedelta64(1, "D")) if len(days) else 0


def _curve(past: FilesystemHistory) -> Curve:
    usable = (past.size_bytes - np.nan_to_num(past.reserved_bytes))[np.isfinite(past.size_bytes)]
    return Curve(
        name=words.place(past.mountpoint, past.instance),
        source=past.instance,
        times=past.days.astype("datetime64[s]"),
        used=past.used_bytes_max,
        usable=float(usable[-1]) if len(usable) else None,
    )


def _rows(scored: Backtest) -> list[tuple[str, ...]]:
    by_method = {method: scored.scores(method) for method in scored.marks}
    return [
        _row(by_method[method][index])
        for index in range(len(scored.horizons))
        for method in by_method
        if by_method[method][index].count
    ]


def _row(score: Score) -> tuple[str, ...]:
    return (
        score.method,
        str(score.horizon_days),
        str(score.count),
        _number(score.relative_error),
        _number(score.relative_crps),
        _percent(score.cover80),
        _number(score.brier_skill),
        f"{_percent(score.rare)} of {score.rare_count}" if score.rare_count else "–",
    )


def _verdict(scored: Backtest) -> list[str]:
    lines = []
    for index, ours in enumerate(scored.scores(OURS)):
        if not ours.count:
            lines.append(f"{ours.horizon_days} days ahead nothing can be scored: the past is too short for it.")
            continue
        line = (
            f"{ours.horizon_days} days ahead, {_percent(ours.cover80)} of {ours.count} ranges that should hold 80 % "
            "of what comes did so"
        )
        others = [scored.scores(method)[index] for method in scored.marks if method != OURS]
        rivals = [one for one in others if one.count and math.isfinite(one.relative_crps)]
        if math.isfinite(ours.relative_crps) and rivals:
            best = min(rivals, key=lambda one: one.relative_crps)
            if ours.relative_crps < best.relative_crps:
                line += f"; ours was the best, next is `{best.method}`"
            else:
                line += f"; `{best.method}` was better than ours here"
        lines.append(f"{line}.")
    return lines


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _percent(value: float) -> str:
    return f"{value * 100:.0f} %" if math.isfinite(value) else "–"
