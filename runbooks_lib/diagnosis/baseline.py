"""A host's normal: what its measures were at this hour of the week, as a band.

The band is the median ± three robust standard deviations (1.4826 times the median absolute deviation: Hampel 1974, as
an identifier of outliers: Davies and Gather 1993). It is never narrower than a tenth of the median to each side.
Values are means of ten minutes, so that one second's burst is no outlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from runbooks_lib.diagnosis.measures import MEASURES, Measure, Part, combined
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history.model import Floats, History, Ints, to_seconds

WEEKS = 8
_STEP = 600
_DAY, _WEEK = 86_400, 7 * 86_400
_NEAR = 3_600  # "this hour": an hour to each side, which also covers a change of the clocks
_LATELY = 2 * 3_600  # the trouble itself is no baseline
_FEWEST = 3  # weeks, or days, that must speak
_LONGEST_STEP = 2 * 3_600  # a rate over a longer gap is no rate of that hour
_FRESH = 20 * 60


@dataclass(frozen=True, eq=False)
class Band:
    """Where a measure normally lies: `low` to `high` round `median`, from `count` values of ten minutes. `of` says
    which past that is, in words: "this hour of the week, over 5 weeks"."""

    median: float
    low: float
    high: float
    count: int
    of: str


@dataclass(frozen=True, eq=False)
class Past:
    """One measure's past: `times` (seconds since 1970) and `values` of the last day in ten-minute means, the band of
    the present hour (None: no baseline), the bands of the last day's hours as arrays, and its mean since the last
    collection (None when that is too long ago)."""

    measure: Measure
    times: Ints
    values: Floats
    band: Band | None
    day_low: Floats
    day_high: Floats
    lately: float | None


@dataclass(frozen=True, eq=False)
class Baseline:
    """The past of every measure that the history knows, by the measure's name. `why_none` says why there is none."""

    pasts: Mapping[str, Past]
    why_none: str = ""

    def band(self, name: str) -> Band | None:
        """The band of one measure, None without a baseline."""
        past = self.pasts.get(name)
        return None if past is None else past.band


def read(history: History, host: str, *, now: datetime, samples: list[Sample] | None = None) -> Baseline:
    """The host's normal at `now`. `samples`, this moment's reading, gives the mean since the last collection. Raises
    HistoryError."""
    pasts: dict[str, Past] = {}
    at = to_seconds(now)
    start = now - timedelta(weeks=WEEKS, hours=3)
    series: dict[str, list[tuple[Mapping[str, str], Ints, Floats]]] = {}
    for metric in dict.fromkeys(part.metric for measure in MEASURES for part in measure.parts):
        found = history.series(metric, {"instance": host}, start=start, end=now)
        series[metric] = [(one.labels, one.times.astype(np.int64), one.values) for one in found if len(one.times)]
    for measure in MEASURES:
        parts = [_stepped(part, series[part.metric]) for part in measure.parts]
        steps = sorted(set.intersection(*(set(part) for part in parts)))
        pairs = [(step, value) for step in steps
                 if (value := combined(measure, [part[step] for part in parts])) is not None]  # fmt: skip
        if not pairs:
            continue
        times = np.array([step for step, _ in pairs], dtype=np.int64) * _STEP
        values = np.array([value for _, value in pairs])
        recent = times > at - _DAY
        hours = [band_of(times, values, int(time), measure) for time in times[recent]]
        pasts[measure.name] = Past(
            measure,
            times[recent],
            values[recent],
            band_of(times, values, at, measure),
            np.array([hour.low if hour else np.nan for hour in hours]),
            np.array([hour.high if hour else np.nan for hour in hours]),
            None if samples is None else _lately(measure, series, samples, at),
        )
    why = ""
    if not pasts:
        why = (
            "the history knows nothing of this host: `runbook collect` begins one, `runbook history import` brings one"
        )
    elif not any(past.band for past in pasts.values()):
        why = "the history does not yet reach over three days, from which this hour's normal could be told"
    return Baseline(pasts, why)


def band_of(times: Ints, values: Floats, at: int, measure: Measure) -> Band | None:
    """The band for the hour round `at`, from what lies before it: the same hour of the week where three weeks speak,
    else the same hour of the day where three days do, else None."""
    earlier = times < at - _LATELY
    for period, word in ((_WEEK, "week"), (_DAY, "day")):
        apart = np.abs((at - times + period // 2) % period - period // 2)
        chosen = earlier & (apart <= _NEAR)
        turns = len(np.unique((at - times[chosen] + period // 2) // period))
        if turns >= _FEWEST:
            return _band(values[chosen], f"this hour of the {word}, over {turns} {word}s", measure)
    return None


def _band(values: Floats, of: str, measure: Measure) -> Band:
    median = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - median)))
    reach = max(3 * spread, 0.1 * abs(median), 0.1 * measure.least)
    high = median + reach
    return Band(median, max(0.0, median - reach), min(1.0, high) if measure.unit == "ratio" else high, len(values), of)


def _stepped(part: Part, series: list[tuple[Mapping[str, str], Ints, Floats]]) -> dict[int, float]:
    """Means of ten minutes, summed over the part's series: number of the step to value. A rate stands at its end."""
    sums: dict[int, float] = {}
    for labels, times, values in series:
        if not part.takes(labels):
            continue
        if part.counter:
            gaps, grown = np.diff(times), np.diff(values)
            good = (gaps > 0) & (gaps <= _LONGEST_STEP) & (grown >= 0)
            times, values = times[1:][good], grown[good] / gaps[good]
        if not len(times):
            continue
        steps, places = np.unique(times // _STEP, return_inverse=True)
        means = np.bincount(places, weights=values) / np.bincount(places)
        for step, mean in zip(steps.tolist(), means.tolist(), strict=True):
            sums[step] = sums.get(step, 0.0) + mean
    return sums


def _lately(
    measure: Measure,
    series: Mapping[str, list[tuple[Mapping[str, str], Ints, Floats]]],
    samples: list[Sample],
    at: int,
) -> float | None:
    """The measure between the last collection, at most twenty minutes ago, and this reading."""
    totals: list[float] = []
    for part in measure.parts:
        now = [sample.value for sample in samples if sample.name == part.metric and part.takes(sample.labels)]
        if not now:
            return None
        if not part.counter:
            totals.append(sum(now))
            continue
        last = [
            (int(times[-1]), float(values[-1])) for labels, times, values in series[part.metric] if part.takes(labels)
        ]
        newest = max((time for time, _ in last), default=0)
        before = sum(value for time, value in last if time == newest)
        gap = at - newest
        if not 20 <= gap <= _FRESH or sum(now) < before:
            return None
        totals.append((sum(now) - before) / gap)
    return combined(measure, totals)
