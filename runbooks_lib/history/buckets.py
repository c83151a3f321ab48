"""Samples gathered into hours and days: least, highest, last and how many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runbooks_lib.history.model import Floats, Ints
from runbooks_lib.history.packing import NO_BUCKETS, Buckets


def union(times: Ints, values: Floats, new_times: Ints, new_values: Floats) -> tuple[Ints, Floats]:
    """Both sets of samples, ascending, one value per second; where both have one, the new one."""
    return ascending(np.concatenate([times, new_times]), np.concatenate([values, new_values]))


def ascending(times: Ints, values: Floats) -> tuple[Ints, Floats]:
    """The samples in order of time; of several within one second the last one given."""
    if len(times) > 1 and not np.all(np.diff(times) > 0):
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
        latest = np.append(np.diff(times) > 0, True)
        times, values = times[latest], values[latest]
    return times, values


def gather(times: Ints, values: Floats, width: int) -> Buckets:
    """Buckets of `width` seconds over samples in order of time. What is not a number is left out."""
    return absorb(NO_BUCKETS, times, values, width)


def absorb(known: Buckets, times: Ints, values: Floats, width: int) -> Buckets:
    """The known buckets with more samples in them, in order of start; absorbing the same samples again changes nothing.

    Least, highest and last are exact whatever the order and however often. A sample later than all that its bucket has
    seen is counted as new; the others may have been counted before, so that the count is the larger of both: it can be
    too small after late pieces, and is never doubled.
    """
    numbers = ~np.isnan(values)
    if not numbers.all():
        times, values = times[numbers], values[numbers]
    if not len(times):
        return known
    starts = times - times % width
    first = np.flatnonzero(np.append(True, np.diff(starts) > 0))
    bucket_starts = starts[first]
    end = np.append(first[1:], len(times)) - 1
    fresh = Buckets(
        bucket_starts,
        times[end],
        np.diff(np.append(first, len(times))),
        np.minimum.reduceat(values, first),
        np.maximum.reduceat(values, first),
        values[end],
    )
    if not len(known):
        return fresh
    if known.start[-1] < fresh.start[0]:
        return _after(known, fresh)
    return _combine(known, fresh, times, first)


def join(known: Buckets, fresh: Buckets) -> Buckets:
    """Two sets of buckets as one, as `absorb` would have it; for reading."""
    if not len(known):
        return fresh
    if not len(fresh):
        return known
    if known.start[-1] < fresh.start[0]:
        return _after(known, fresh)
    starts = np.union1d(known.start, fresh.start)
    left, right = _spread(known, starts), _spread(fresh, starts)
    return _pick(starts, left, right, left.count + right.count)


def _after(known: Buckets, fresh: Buckets) -> Buckets:
    return Buckets(
        np.append(known.start, fresh.start),
        np.append(known.last_time, fresh.last_time),
        np.append(known.count, fresh.count),
        np.append(known.minimum, fresh.minimum),
        np.append(known.maximum, fresh.maximum),
        np.append(known.last, fresh.last),
    )


def _combine(known: Buckets, fresh: Buckets, times: Ints, first: npt.NDArray[np.int64]) -> Buckets:
    starts = np.union1d(known.start, fresh.start)
    left, right = _spread(known, starts), _spread(fresh, starts)
    # How many of each bucket's new samples lie after all that it has seen.
    seen = left.last_time[np.searchsorted(starts, fresh.start)]
    later = times > np.repeat(seen, fresh.count)
    certainly_new = np.zeros(len(starts), dtype=np.int64)
    certainly_new[np.searchsorted(starts, fresh.start)] = np.add.reduceat(later.astype(np.int64), first)
    count = np.maximum(left.count, right.count - certainly_new) + certainly_new
    return _pick(starts, left, right, count)


def _spread(buckets: Buckets, starts: Ints) -> Buckets:
    """The buckets at their places among `starts`; empty ones (never seen, count 0, nan) elsewhere."""
    at = np.searchsorted(starts, buckets.start)
    last_time = np.full(len(starts), -1, dtype=np.int64)
    count = np.zeros(len(starts), dtype=np.int64)
    minimum, maximum, last = (np.full(len(starts), np.nan) for _ in range(3))
    last_time[at], count[at] = buckets.last_time, buckets.count
    minimum[at], maximum[at], last[at] = buckets.minimum, buckets.maximum, buckets.last
    return Buckets(starts, last_time, count, minimum, maximum, last)


def _pick(starts: Ints, left: Buckets, right: Buckets, count: Ints) -> Buckets:
    newer = right.last_time >= left.last_time
    return Buckets(
        starts,
        np.maximum(left.last_time, right.last_time),
        count,
        np.fmin(left.minimum, right.minimum),
        np.fmax(left.maximum, right.maximum),
        np.where(newer, right.last, left.last),
    )
