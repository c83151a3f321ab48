"""How good one forecast was, once the truth is known; and what many such marks say together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runbooks_lib.capacity.daily import Floats
from runbooks_lib.capacity.growth import Forecast


@dataclass(frozen=True, eq=False)
class Mark:
    """One forecast of one series from one origin, compared with what came. Arrays are per horizon unless said.

    `crps` is the continuous ranked probability score (Gneiting & Raftery 2007; of a point it is the absolute error),
    in the series' unit. `said` and `came` are per threshold and horizon: the probability of touching it, and whether
    it was. `first_said` (10, 50, 90 %) and `first_came` are days to the first touch per threshold, `inf` where not
    within the longest horizon. What is not known yet is nan.
    """

    series: str
    source: str
    absolute_error: Floats
    naive_error: Floats
    crps: Floats
    covered: Floats  # 1 inside the 80 % band, 0 outside
    above: Floats  # 1 above it
    width: Floats  # of the 80 % band
    said: Floats
    came: Floats
    first_said: Floats  # (thresholds, 3)
    first_came: Floats
    seconds: float


def crps(paths: Floats, truth: float) -> float:
    """Continuous ranked probability score of the sample `paths` (one day's values) for `truth`, in their unit."""
    ordered = np.sort(paths)
    count = len(ordered)
    spread = float((ordered * (2 * np.arange(1, count + 1) - count - 1)).sum()) / count**2
    return float(np.abs(ordered - truth).mean()) - spread


def mark(
    told: Forecast,
    truth: Floats,
    *,
    horizons: Sequence[int],
    thresholds: Floats,
    series: str,
    source: str,
    seconds: float,
) -> Mark:
    """Marks for one forecast. `truth[i]` is the value at the end of day i + 1 after the origin, nan where not known."""
    rows: list[tuple[float, float, float, float, float, float]] = []
    for horizon in horizons:
        value = float(truth[horizon - 1]) if len(truth) >= horizon else np.nan
        low, middle, high = (float(edge) for edge in np.quantile(told.paths[:, horizon - 1], (0.1, 0.5, 0.9)))
        if not np.isfinite(value):
            rows.append((np.nan,) * 6)
            continue
        rows.append(
            (
                abs(middle - value),
                abs(told.last_value - value),
                crps(told.paths[:, horizon - 1], value),
                float(low <= value <= high),
                float(value > high),
                high - low,
            )
        )
    columns = np.array(rows).T
    seen = np.maximum.accumulate(np.where(np.isfinite(truth), truth, -np.inf))
    came, said = np.full((len(thresholds), len(horizons)), np.nan), np.full((len(thresholds), len(horizons)), np.nan)
    for j, horizon in enumerate(horizons):
        # Right-censored: a disk not watched to the end of the horizon is no witness that it did not fill.
        if len(truth) >= horizon and np.isfinite(truth[:horizon]).mean() > 0.5:
            came[:, j] = seen[horizon - 1] >= thresholds
            said[:, j] = [told.probability_reached(float(level), horizon) for level in thresholds]
    touched = seen[None, :] >= thresholds[:, None]
    first_came = np.where(touched.any(axis=1), touched.argmax(axis=1) + 1.0, np.inf)
    first_said = np.array([told.days_to(float(level)) for level in thresholds])
    absolute, naive, scores, covered, above, width = columns
    return Mark(
        series=series,
        source=source,
        absolute_error=absolute,
        naive_error=naive,
        crps=scores,
        covered=covered,
        above=above,
        width=width,
        said=said,
        came=came,
        first_said=first_said,
        first_came=first_came,
        seconds=seconds,
    )


def relative(marks: Sequence[Mark], get: Callable[[Mark], Floats], horizon: int) -> dict[str, float]:
    """Per series: the sum of `get` over the origins divided by that of "no growth"; series that never changed are
    left out.
    """
    ratios = {}
    for name in {one.series for one in marks}:
        own = [one for one in marks if one.series == name and np.isfinite(one.naive_error[horizon])]
        naive = float(sum(one.naive_error[horizon] for one in own))
        if naive > 0:
            ratios[name] = float(sum(get(one)[horizon] for one in own)) / naive
    return ratios


def geometric_mean(values: Sequence[float]) -> float:
    """The mean of ratios; nan of nothing. A ratio of zero (a perfect forecast) counts as a thousandth."""
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-3))))) if len(values) else float("nan")


def brier_skill(said: Floats, came: Floats) -> float:
    """1 - Brier score / that of always saying the base rate (0: no better, 1: perfect); nan where nothing varies."""
    base = float(came.mean()) if len(came) else float("nan")
    if not 0 < base < 1:
        return float("nan")
    return 1.0 - float(((said - came) ** 2).mean()) / (base * (1 - base))


def bootstrap_ratio(
    ours: dict[str, float], theirs: dict[str, float], source_of: dict[str, str], *, draws: int = 1000
) -> tuple[float, float, float]:
    """Geometric mean of ours / theirs over the common series, with its 90 % interval when whole *sources* are drawn
    again:
    two partitions of one host are not two witnesses.
    """
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return (float("nan"),) * 3
    logs = np.log([max(ours[name], 1e-3) / max(theirs[name], 1e-3) for name in common])
    sources = np.array([source_of[name] for name in common])
    names, index = np.unique(sources, return_inverse=True)
    sums, counts = np.bincount(index, weights=logs), np.bincount(index)
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(names), size=(draws, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.05, 0.95))
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))
