"""Samples of any spacing as one value per day: the daily maximum, gaps interpolated and remembered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.datetime64]

_DAY_SECONDS = 86_400
# Samples further apart than this are "about daily": they are put on UTC days. Denser ones are put into days that end at
# the last sample, so that the morning after a nightly clean-up is not mistaken for a whole day's maximum.
_DAILY_SPACING_SECONDS = 20 * 3600


@dataclass(frozen=True, eq=False)
class DailyValues:
    """`values[i]` is the highest value of day i (interpolated where `observed[i]` is False); day -1 is the last one.

    `last_day` is the UTC day of the last sample; `samples` counts the usable ones; `span_days` is the time from the
    first to the last of them; `spacing_days` is the median distance of the days that have data.
    """

    values: Floats
    observed: npt.NDArray[np.bool_]
    last_day: np.datetime64
    samples: int
    span_days: float
    spacing_days: float

    @property
    def missing_ratio(self) -> float:
        """Share of days without data, 0..1, measured against the series' own usual spacing."""
        expected = (len(self.values) - 1) / self.spacing_days + 1
        return max(0.0, 1.0 - float(self.observed.sum()) / expected)

    def gaps(self, longer_than_days: int = 1) -> list[tuple[np.datetime64, np.datetime64]]:
        """First and last missing day of each gap of more than `longer_than_days` days beyond the usual spacing."""
        seen = np.flatnonzero(self.observed)
        wide = np.flatnonzero(np.diff(seen) > longer_than_days + round(self.spacing_days))
        first = self.last_day - np.timedelta64(len(self.values) - 1, "D")
        return [
            (first + np.timedelta64(int(seen[i]) + 1, "D"), first + np.timedelta64(int(seen[i + 1]) - 1, "D"))
            for i in wide
        ]


def to_daily(times: npt.ArrayLike, values: npt.ArrayLike, *, keep_days: int) -> DailyValues:
    """The last `keep_days` days of the samples as daily maxima; without days when no sample is usable.

    `times` datetime64 of any unit and order, `values` of the same length; samples that are not finite or are negative
    are dropped (a filesystem cannot use less than nothing). Raises ValueError on lengths that differ or times of
    another type.
    """
    when = np.asarray(times)
    amount = np.asarray(values, dtype=np.float64)
    if when.size and when.dtype.kind != "M":
        raise ValueError(f"times must be datetime64 (UTC), not {when.dtype}")
    if when.shape != amount.shape or when.ndim != 1:
        raise ValueError(f"times and values must be flat and of one length, not {when.shape} and {amount.shape}")
    usable = np.isfinite(amount) & (amount >= 0) & ~np.isnat(when) if when.size else np.zeros(0, dtype=bool)
    if not usable.any():
        return DailyValues(np.empty(0), np.empty(0, dtype=bool), np.datetime64("NaT", "D"), 0, 0.0, 1.0)
    seconds = when[usable].astype("datetime64[s]").astype(np.int64)
    amount = amount[usable]
    if np.any(np.diff(seconds) < 0):
        order = np.argsort(seconds, kind="stable")
        seconds, amount = seconds[order], amount[order]
    last = int(seconds[-1])
    distances = np.diff(np.unique(seconds))
    if distances.size and float(np.median(distances)) < _DAILY_SPACING_SECONDS:
        age = (last - seconds) // _DAY_SECONDS
    else:
        age = last // _DAY_SECONDS - seconds // _DAY_SECONDS
    recent = age < keep_days
    age, amount, seconds = age[recent], amount[recent], seconds[recent]
    length = int(age[0]) + 1
    highest = np.full(length, -np.inf)
    np.maximum.at(highest, length - 1 - age, amount)
    observed = highest >= 0
    seen = np.flatnonzero(observed)
    filled = highest if len(seen) == length else np.interp(np.arange(length), seen, highest[seen])
    return DailyValues(
        values=filled,
        observed=observed,
        last_day=np.datetime64(last // _DAY_SECONDS, "D"),
        samples=len(amount),
        span_days=float(last - int(seconds[0])) / _DAY_SECONDS,
        spacing_days=max(1.0, float(np.median(np.diff(seen)))) if len(seen) > 1 else 1.0,
    )
