"""The backtest: forecast again and again from points in the past, knowing only what was known then, and compare.

The protocol: origins evenly spaced over the record; thresholds fixed beforehand at set headrooms above the value of the
day (and at the real size where it is known); futures that are not known to the end count neither way; intervals by
drawing whole sources again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from runbooks_lib.capacity import scoring
from runbooks_lib.capacity.baselines import Method, drift, no_growth, predict_linear
from runbooks_lib.capacity.daily import Floats, Times
from runbooks_lib.capacity.growth import Forecast, forecast
from runbooks_lib.capacity.scoring import Mark
from runbooks_lib.errors import UsageError

HORIZONS = (7, 30, 90)
HEADROOMS = (0.005, 0.01, 0.02, 0.05, 0.10)
OURS = "ours"
_DAY = np.timedelta64(86_400, "s")


@dataclass(frozen=True, eq=False)
class Curve:
    """One record to test on: `source` names what is not independent (a host, a repository)."""

    name: str
    source: str
    times: Times
    used: Floats
    usable: float | None = None  # the present size, if known: 80, 90 and 100 % of it become thresholds too


def our_forecast(times: Times, used: Floats, horizon_days: int) -> Forecast:
    """`forecast` as a method of the backtest."""
    return forecast(times, used, horizon_days=horizon_days)


def usual_methods() -> dict[str, Method]:
    """Ours and what `runbook backtest` shows beside it."""
    return {
        OURS: our_forecast,
        "no growth": no_growth,
        "drift": drift,
        "predict_linear 7 d": predict_linear(7),
        "predict_linear 30 d": predict_linear(30),
    }


@dataclass(frozen=True)
class Score:
    """One method at one horizon.

    `relative_error` and `relative_crps`: to the error of "no growth" on the same origins, geometric mean over the
    series (1: no better). `cover80`: share of truths inside the 80 % band. `above`: share above it. `relative_width`:
    of that band, in errors of "no growth". `brier_skill` of "touches the threshold within the horizon" against the
    base rate. `rare`: how often what was said to be at most 5 % happened, of `rare_count` cases.
    """

    method: str
    horizon_days: int
    count: int
    relative_error: float
    relative_crps: float
    cover80: float
    above: float
    relative_width: float
    brier_skill: float
    rare: float
    rare_count: int


@dataclass(frozen=True)
class Arrival:
    """How well one method said *when* a threshold is touched, for touches within 90 days (read `brier_skill` beside
    it).

    Median absolute error in days (never said counts as twice the longest horizon), median of |log2(said / came)|, share
    said more than twice too late, share inside the said 10-90 % range.
    """

    method: str
    count: int
    median_error_days: float
    median_log2_ratio: float
    twice_too_late: float
    cover80: float


@dataclass(frozen=True, eq=False)
class Backtest:
    """All marks of a backtest by method, and the tables over them."""

    horizons: tuple[int, ...]
    marks: Mapping[str, tuple[Mark, ...]]
    refused: Mapping[str, int]  # origins at which the method gave no answer
    origins: int
    series: int
    sources: int
    left_out: tuple[str, ...] = field(default=())  # too short to test: names

    def scores(self, method: str) -> list[Score]:
        """One Score per horizon; fields are nan where nothing could be judged."""
        return [self._score(method, j) for j in range(len(self.horizons))]

    def _score(self, method: str, j: int) -> Score:
        own = [one for one in self.marks[method] if np.isfinite(one.crps[j])]
        said, came = self._chances(method, j)
        rare = said <= 0.05
        mean = scoring.geometric_mean
        return Score(
            method=method,
            horizon_days=self.horizons[j],
            count=len(own),
            relative_error=mean(list(scoring.relative(own, lambda one: one.absolute_error, j).values())),
            relative_crps=mean(list(scoring.relative(own, lambda one: one.crps, j).values())),
            cover80=_mean([one.covered[j] for one in own]),
            above=_mean([one.above[j] for one in own]),
            relative_width=mean(list(scoring.relative(own, lambda one: one.width, j).values())),
            brier_skill=scoring.brier_skill(said, came),
            rare=_mean(came[rare]),
            rare_count=int(rare.sum()),
        )

    def _chances(self, method: str, j: int) -> tuple[Floats, Floats]:
        said = np.concatenate([one.said[:, j] for one in self.marks[method]] or [np.empty(0)])
        came = np.concatenate([one.came[:, j] for one in self.marks[method]] or [np.empty(0)])
        known = np.isfinite(came)
        return said[known], came[known]

    def calibration(self, method: str, horizon_days: int) -> list[tuple[float, float, float, float, int]]:
        """Rows (from, to, mean said, share that came, count) of the chances said: ten classes, empty ones left out."""
        said, came = self._chances(method, self.horizons.index(horizon_days))
        rows = []
        edges = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        for low, high in pairwise(edges):
            inside = (said > low) & (said <= high) if low else said <= high
            if inside.any():
                rows.append((low, high, float(said[inside].mean()), float(came[inside].mean()), int(inside.sum())))
        return rows

    def arrival(self, method: str) -> Arrival:
        """How well the method said when."""
        said = np.concatenate([one.first_said for one in self.marks[method]] or [np.empty((0, 3))])
        came = np.concatenate([one.first_came for one in self.marks[method]] or [np.empty(0)])
        late = 2.0 * max(self.horizons)
        hit = came <= max(self.horizons)
        middle, truth = np.minimum(said[hit, 1], late), came[hit]
        middle = np.maximum(middle, 1.0)
        return Arrival(
            method=method,
            count=int(hit.sum()),
            median_error_days=_median(np.abs(middle - truth)),
            median_log2_ratio=_median(np.abs(np.log2(middle / truth))),
            twice_too_late=_mean(said[hit, 1] > 2 * truth),
            cover80=_mean((said[hit, 0] <= truth) & (truth <= said[hit, 2])),
        )

    def ratio(self, method: str, to: str, horizon_days: int) -> tuple[float, float, float]:
        """CRPS of `method` over that of `to` on their common series, with its 90 % interval (cluster bootstrap)."""
        j = self.horizons.index(horizon_days)
        both = []
        for name in (method, to):
            both.append(scoring.relative(self.marks[name], lambda one: one.crps, j))
        source_of = {one.series: one.source for one in self.marks[method]}
        return scoring.bootstrap_ratio(both[0], both[1], source_of)

    def milliseconds(self, method: str) -> float:
        """Median time of one forecast."""
        return 1000 * _median(np.array([one.seconds for one in self.marks[method]]))


def backtest(
    curves: Iterable[Curve],
    *,
    methods: Mapping[str, Method] | None = None,
    horizons: Sequence[int] = HORIZONS,
    history_days: int = 365,
    least_history_days: int | None = None,
    origins: int = 24,
    headrooms: Sequence[float] = HEADROOMS,
    on_progress: Callable[[str], None] | None = None,
) -> Backtest:
    """Score forecasts on the past of `curves`: at up to `origins` points of each, from the `history_days` before it.

    The first origin has `least_history_days` before it (default: `history_days`), the last one the shortest horizon
    after it; where the record ends within a horizon, that horizon is not judged there. Series that are too short are
    named in `left_out`. A method that raises is a mistake in the method and is not caught. Raises UsageError without
    usable curves.
    """
    methods = usual_methods() if methods is None else methods
    horizons = tuple(sorted(horizons))
    least = history_days if least_history_days is None else least_history_days
    marks: dict[str, list[Mark]] = {name: [] for name in methods}
    refused = dict.fromkeys(methods, 0)
    names, sources, left_out, tested = set(), set(), [], 0
    for curve in curves:
        times, used = _usable(curve)
        cuts = _origins(times, least, horizons, origins)
        if not len(cuts):
            left_out.append(curve.name)
            continue
        if on_progress is not None:
            on_progress(curve.name)
        names.add(curve.name)
        sources.add(curve.source)
        for cut in cuts:
            past = (times <= cut) & (times > cut - history_days * _DAY - _DAY)
            if past.sum() < 2:
                continue
            tested += 1
            truth = _truth(times, used, cut, horizons[-1])
            now = float(used[past][-1])
            levels = now * (1 + np.asarray(headrooms, dtype=np.float64))
            if curve.usable is not None:
                real = curve.usable * np.array([0.8, 0.9, 1.0])
                levels = np.concatenate([levels, real[real > now]])
            levels = levels[levels > now]
            for name, method in methods.items():
                began = time.perf_counter()
                told = method(times[past], used[past], horizons[-1])
                seconds = time.perf_counter() - began
                if told.refusal is not None:
                    refused[name] += 1
                    continue
                marks[name].append(
                    scoring.mark(
                        told,
                        truth,
                        horizons=horizons,
                        thresholds=levels,
                        series=curve.name,
                        source=curve.source,
                        seconds=seconds,
                    )
                )
    if not names:
        short = f"the longest of them has less than {least + horizons[0]} days" if left_out else "none was given"
        raise UsageError(f"no series can be tested: {short}", next="wait, or ask for a shorter history or horizon")
    return Backtest(
        horizons=horizons,
        marks={name: tuple(own) for name, own in marks.items()},
        refused=refused,
        origins=tested,
        series=len(names),
        sources=len(sources),
        left_out=tuple(left_out),
    )


def _usable(curve: Curve) -> tuple[Times, Floats]:
    times, used = np.asarray(curve.times).astype("datetime64[s]"), np.asarray(curve.used, dtype=np.float64)
    good = np.isfinite(used) & ~np.isnat(times)
    order = np.argsort(times[good], kind="stable")
    return times[good][order], used[good][order]


def _origins(times: Times, least: int, horizons: Sequence[int], count: int) -> Times:
    """Up to `count` times, evenly spread. The last leaves the longest horizon if the record is long enough for half of
    them to have it, else the shortest.
    """
    if len(times) < 2:
        return times[:0]
    first, last = times[0] + least * _DAY, times[-1]
    room = float((last - first) / _DAY)
    after = horizons[-1] if room > 2 * horizons[-1] else horizons[0]
    if room < after:
        return times[:0]
    days = np.unique(np.linspace(0, room - after, count).astype(np.int64))
    return np.asarray(first + days * _DAY)


def _truth(times: Times, used: Floats, cut: np.datetime64, days: int) -> Floats:
    """The highest value of each of the `days` days after `cut`; nan where there is no sample."""
    later = (times > cut) & (times <= cut + days * _DAY)
    day = np.ceil((times[later] - cut) / _DAY).astype(np.int64) - 1
    truth = np.full(days, -np.inf)
    np.maximum.at(truth, day, used[later])
    return np.where(np.isfinite(truth), truth, np.nan)


def _mean(values: npt.ArrayLike) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if array.size else float("nan")


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else float("nan")
