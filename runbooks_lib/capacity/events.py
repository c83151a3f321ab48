"""What happened to a partition: resized, jumped once, emptied, not measured, cleaned up again and again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import numpy.typing as npt

from runbooks_lib.capacity.daily import DailyValues, Floats

Days = npt.NDArray[np.datetime64]
Places = npt.NDArray[np.int64]

# A size that wobbles by less (metadata of btrfs, ZFS datasets that share a pool) is no resize.
_RESIZE_RATIO = 0.005
# One day that makes up this share of all movement of the year is an event, not a habit.
STEP_SHARE = 0.40
_EMPTIED_TO = 0.10
_CLEAN_UP_SHARE = 0.25
_FEWEST_CLEAN_UPS = 3
_RESTLESS = 0.4


@dataclass(frozen=True)
class Event:
    """Something that happened to the partition.

    `kind` and what `before` and `after` then are, in bytes (or inodes):
    resize: usable size before and after; source: the same where the numbers come from elsewhere; step and reset: used
    on the day before and on `day`; gap: nan, no data from `day` to `until`; clean-ups: mean use after and before a
    clean-up, `every_days` the usual distance; runaway: bytes an hour usual and now, since `since_hours`.
    """

    kind: Literal["resize", "source", "step", "reset", "gap", "clean-ups", "runaway"]
    day: date
    before: float = float("nan")
    after: float = float("nan")
    until: date | None = None
    every_days: float | None = None
    since_hours: float | None = None

    @property
    def change(self) -> float:
        """`after - before`: what was added (positive) or taken away."""
        return self.after - self.before


def to_date(day: np.datetime64) -> date:
    """A numpy day as a Python date."""
    return day.astype("datetime64[D]").astype(date)  # type: ignore[no-any-return]


def resizes(days: Days, usable: Floats, source_changed: Days | None = None) -> list[Event]:
    """One event for each day whose usable size differs from that of the last day before it that has one.

    On a day of `source_changed` that is no resize: whoever counted before may have counted otherwise (a disk's GB, a
    reserve left out).
    """
    known = np.isfinite(usable) & (usable > 0)
    days, usable = days[known], usable[known]
    changed = np.flatnonzero(np.abs(np.diff(usable)) > _RESIZE_RATIO * usable[:-1]) + 1
    seams = () if source_changed is None else source_changed
    return [
        Event("source" if days[i] in seams else "resize", to_date(days[i]), float(usable[i - 1]), float(usable[i]))
        for i in changed
    ]


def gaps(days: Days, longer_than_days: int = 2) -> list[Event]:
    """Stretches of more than `longer_than_days` days without data, seen against the usual distance of the days."""
    if len(days) < 2:
        return []
    distance = np.diff(days).astype(np.int64)
    usual = int(np.median(distance))
    one = np.timedelta64(1, "D")
    return [
        Event("gap", to_date(days[i] + one), until=to_date(days[i + 1] - one))
        for i in np.flatnonzero(distance > longer_than_days + usual)
    ]


def resets(days: Days, used: Floats) -> list[Event]:
    """Days on which the partition was found nearly empty (a tenth of the day before or less): made anew, or its content
    moved away. Three or more in the record are a habit (a spool that is emptied), and then none is returned.
    """
    before, after = used[:-1], used[1:]
    emptied = np.flatnonzero((after <= _EMPTIED_TO * before) & (before > 0))
    if len(emptied) >= _FEWEST_CLEAN_UPS:
        return []
    return [Event("reset", to_date(days[i + 1]), float(before[i]), float(after[i])) for i in emptied]


def steps(days: Days, used: Floats, *, at_least: float) -> list[Event]:
    """The one day, if any, whose rise is more than 40 % of all movement (up and down) and more than `at_least`."""
    change = np.diff(used)
    total = float(np.abs(change).sum())
    # Below a month, a quiet disk's first file is more than 40 % of what it ever did.
    if len(change) < 30 or total <= 0:
        return []
    largest = int(np.argmax(change))
    rise = float(change[largest])
    if rise <= STEP_SHARE * total or rise < at_least:
        return []
    return [Event("step", to_date(days[largest + 1]), float(used[largest]), float(used[largest + 1]))]


def clean_ups(days: Days, used: Floats) -> Event | None:
    """The habit of being cleaned up: at least three drops of a quarter of the range each, at distances that are alike
    (the longest at most three times the median); else None. Monthly and weekly jobs are found; one-off deletions are
    not, nor is a level that goes up and down all the time.
    """
    starts, ends = _drops(used)
    if len(used) < 14 or len(starts) < _FEWEST_CLEAN_UPS:
        return None
    distance = np.diff(starts)
    every = float(np.median(distance))
    if every < 2 or distance.max() > 3 * every or len(used) - 1 - starts[-1] > 3 * every:
        return None
    # A level that is only restless falls on every other day, and its large falls come at any distance.
    if (np.diff(used) < 0).mean() > _RESTLESS and distance.std() > 0.25 * distance.mean():
        return None
    before, after = float(used[starts].mean()), float(used[ends].mean())
    return Event("clean-ups", to_date(days[ends[-1]]), after, before, every_days=every)


def _drops(used: Floats) -> tuple[Places, Places]:
    """Where the large drops of the record begin and end. A clean-up may take two days as seen in daily maxima, so
    each is measured down to its foot; the range of a disk that also grows is mostly growth, so the largest drop
    counts as well.
    """
    falling = np.diff(used) < 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], falling, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    heights = used[starts] - used[ends]
    span = float(np.ptp(used)) if len(used) else 0.0
    large = heights >= _CLEAN_UP_SHARE * min(span, 2.0 * float(np.max(heights, initial=0.0)))
    return starts[large], ends[large]


def crests(used: Floats) -> Floats:
    """The line through the highest points before each large drop, from the last of them on held or raised by what is
    used now: where clean-ups are a habit, this is what must fit, and between them the present level says little about
    it.
    """
    starts, _ = _drops(used)
    if not len(starts):
        return used
    line = np.interp(np.arange(len(used)), starts, used[starts])
    since = starts[-1]
    line[since:] = np.maximum.accumulate(np.maximum(used[since:], used[since]))
    return np.asarray(line, dtype=np.float64)


def without(daily: DailyValues, taken_out: Collection[date]) -> Floats:
    """The daily values as if nothing had changed on the days `taken_out`; the present value stays, so that values
    before a day on which much was deleted may become negative: only their differences mean something.
    """
    change = np.diff(daily.values)
    last = to_date(daily.last_day)
    for day in taken_out:
        place = len(change) - 1 - (last - day).days
        if 0 <= place < len(change):
            change[place] = 0.0
    past = np.concatenate([[0.0], np.cumsum(change)])
    return np.asarray(past - past[-1] + daily.values[-1], dtype=np.float64)
