"""How fast a partition grew in its last hours: scenarios where the past is too short for a probability."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from runbooks_lib.capacity.daily import Floats, Times

_HOUR = 3600.0
_DAY = 86_400.0
_RUNAWAY_WINDOWS_HOURS = (1.0, 3.0, 6.0)


class Rates(NamedTuple):
    """Growth in bytes a day: the slowest and the fastest quarter of the time measured, and all of it."""

    slowest: float
    whole: float
    fastest: float


class Runaway(NamedTuple):
    """A rise that would fill the partition within a day and that is not this partition's habit: bytes an hour."""

    now_per_hour: float
    usual_per_hour: float
    since_hours: float


def observed(times: Times, values: Floats) -> Rates | None:
    """Slowest, whole and fastest rate in `values` (bytes), each over a quarter of the time or more; None below two
    samples.

    The quarters overlap; the rate of each is the difference of its ends (interpolated), since a fitted line misreads a
    burst that has just ended.
    """
    seconds, values = _clean(times, values)
    if len(seconds) < 2:
        return None
    length = seconds[-1] - seconds[0]
    whole = float((values[-1] - values[0]) / length * _DAY)
    if len(seconds) < 4:
        return Rates(min(whole, 0.0) if whole < 0 else whole, whole, whole)
    ends = np.linspace(seconds[0] + length / 4, seconds[-1], 13)
    rates = (np.interp(ends, seconds, values) - np.interp(ends - length / 4, seconds, values)) / (length / 4) * _DAY
    return Rates(min(float(rates.min()), whole), whole, max(float(rates.max()), whole))


def flat_now(times: Times, values: Floats) -> bool:
    """Whether the last quarter of the time measured moved by at most a hundredth of the whole movement."""
    seconds, values = _clean(times, values)
    if len(seconds) < 2:
        return False
    quarter = float(np.interp(seconds[-1] - (seconds[-1] - seconds[0]) / 4, seconds, values))
    movement = float(np.abs(np.diff(values)).sum())
    return abs(float(values[-1]) - quarter) <= 0.01 * movement


def runaway(times: Times, values: Floats, usable: float) -> Runaway | None:
    """A rise over the last 1, 3 or 6 hours that fills `usable` bytes within 24 hours at its rate, or None.

    A rise that happened at half that rate or more at any time before (nightly backups, log sawteeth) is a habit and is
    not returned; nor is one that has already stopped, or one of less than a hundredth of the partition.
    """
    seconds, values = _clean(times, values)
    if len(seconds) < 4 or not usable > 0:
        return None
    last = float(values[-1])
    for hours in _RUNAWAY_WINDOWS_HOURS:
        window = hours * _HOUR
        start = seconds[-1] - window
        inside = seconds >= start
        if seconds[0] > start or inside.sum() < 3:
            continue
        rise = last - float(np.interp(start, seconds, values))
        half = last - float(np.interp(seconds[-1] - window / 2, seconds, values))
        if rise < 0.01 * usable or half < 0.25 * rise or last + rise / hours * 24 < usable:
            continue
        earlier = seconds[(seconds <= start) & (seconds - seconds[0] >= window)]
        usual = 0.0
        if len(earlier):
            before = np.interp(earlier, seconds, values) - np.interp(earlier - window, seconds, values)
            usual = max(0.0, float(before.max()))
        if rise > 2 * usual:
            return Runaway(rise / hours, usual / hours, hours)
    return None


def _clean(times: Times, values: Floats) -> tuple[Floats, Floats]:
    """Seconds and values, ascending, one value a second, without what is not a number."""
    seconds = np.asarray(times).astype("datetime64[s]").astype(np.int64).astype(np.float64)
    values = np.asarray(values, dtype=np.float64)
    good = np.isfinite(values)
    seconds, first = np.unique(seconds[good], return_index=True)
    return seconds, values[good][first]
