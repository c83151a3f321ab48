"""Simple forecasts to measure against: no growth, drift, Theil-Sen, predict_linear, the plain bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from runbooks_lib.capacity.daily import DailyValues, Floats, Times
from runbooks_lib.capacity.growth import HISTORY_DAYS, Forecast, daily_values, tier_of

# What `backtest` scores: samples and horizon in, a forecast out; one with a `refusal` counts as no answer.
Method = Callable[[Times, Floats, int], Forecast]

_DAY_SECONDS = 86_400.0
_PATHS = 400
_WINDOWS = (14, 30, 60, 90, 180, 365)


def no_growth(times: Times, used: Floats, horizon_days: int) -> Forecast:
    """Tomorrow is as today: one path, flat at the last value. What any forecast has to beat."""
    daily = daily_values(times, used)
    return _from_paths(daily, horizon_days, np.zeros((1, horizon_days)))


def drift(times: Times, used: Floats, horizon_days: int) -> Forecast:
    """Random walk with drift over the last 90 days: mean and standard deviation of the daily changes, normal steps."""
    daily = daily_values(times, used)
    changes = np.diff(daily.values)[-90:]
    if len(changes) < 2:
        return _from_paths(daily, horizon_days, np.empty((0, horizon_days)), "there are fewer than three days")
    random = np.random.default_rng(0)
    steps = changes.mean() + changes.std(ddof=1) * random.standard_normal((_PATHS, horizon_days))
    return _from_paths(daily, horizon_days, np.cumsum(steps, axis=1))


def theil_sen(times: Times, used: Floats, horizon_days: int) -> Forecast:
    """The median slope between all pairs of the last 90 days (Theil 1950, Sen 1968), from the last value on: one
    path.
    """
    daily = daily_values(times, used)
    values = daily.values[-90:]
    if len(values) < 2:
        return _from_paths(daily, horizon_days, np.empty((0, horizon_days)), "there is one day only")
    first, second = np.triu_indices(len(values), 1)
    slope = float(np.median((values[second] - values[first]) / (second - first)))
    return _from_paths(daily, horizon_days, slope * np.arange(1.0, horizon_days + 1)[None])


def predict_linear(window_days: float) -> Method:
    """Prometheus' function of that name over the last `window_days`: the least-squares line through the samples, its
    own
    value in the future, not moved to the last sample (promql/functions.go). One path; refused below two samples.
    """

    def method(times: Times, used: Floats, horizon_days: int) -> Forecast:
        daily = daily_values(times, used)
        seconds = np.asarray(times).astype("datetime64[s]").astype(np.int64).astype(np.float64)
        age = (seconds - seconds.max()) / _DAY_SECONDS
        inside = (age > -window_days) & np.isfinite(used)
        age, values = age[inside], np.asarray(used, dtype=np.float64)[inside]
        if len(age) < 2 or np.ptp(age) == 0:
            reason = f"fewer than two samples in {window_days:g} days"
            return _from_paths(daily, horizon_days, np.empty((0, horizon_days)), reason)
        centre = age.mean()
        slope = float(((age - centre) * (values - values.mean())).sum() / ((age - centre) ** 2).sum())
        line = values.mean() + slope * (np.arange(1, horizon_days + 1) - centre)
        return _from_paths(daily, horizon_days, (line - daily.values[-1])[None])

    return method


def mixed_windows(spread: float = 1.5) -> Method:
    """The plain mixed-window block bootstrap: 14-day blocks of daily changes out of the last 14, 30, 60, 90, 180 and
    365
    days, 67 paths each, their distance from the median path times `spread`. The reference that `forecast` is measured
    by.
    """

    def method(times: Times, used: Floats, horizon_days: int) -> Forecast:
        daily = daily_values(times, used)
        changes = np.diff(daily.values)
        if len(changes) < 2:
            return _from_paths(daily, horizon_days, np.empty((0, horizon_days)), "there are fewer than three days")
        random = np.random.default_rng(0)
        parts = []
        for window in _WINDOWS:
            own = changes[-window:]
            length = min(14, len(own))
            starts = random.integers(0, len(own) - length + 1, size=(67, -(-horizon_days // length)))
            picked = own[(starts[:, :, None] + np.arange(length)).reshape(67, -1)[:, :horizon_days]]
            parts.append(np.cumsum(picked, axis=1))
            if window >= len(changes):
                break
        paths = np.concatenate(parts)
        middle = np.median(paths, axis=0)
        return _from_paths(daily, horizon_days, middle + spread * (paths - middle))

    return method


def _from_paths(
    daily: DailyValues, horizon_days: int, growth: npt.NDArray[np.float64], refusal: str | None = None
) -> Forecast:
    return Forecast(
        tier=tier_of(daily),
        horizon_days=horizon_days,
        last_day=daily.last_day,
        last_value=float(daily.values[-1]),
        history_days=min(len(daily.values), HISTORY_DAYS),
        missing_ratio=daily.missing_ratio,
        paths=daily.values[-1] + growth,
        refusal=refusal,
    )
