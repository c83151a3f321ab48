"""A made-up past of four partitions of different temper, so that the first report has something to say.

Nothing here was measured. Every mount point begins with `/example/`, every sample is stored with the origin "example",
and the report, its charts and its sentences say so wherever such a number stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from runbooks_lib.errors import UsageError
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import HistoryMissing, SqliteHistory
from runbooks_lib.history.model import EXAMPLE

DEFAULT_INSTANCE = "example-host"

_GIB = 2.0**30
_FILE_BYTES = 180e3  # mean size of a file, for the inodes
_RESERVED_RATIO = 0.05  # what mke2fs keeps for root unless told otherwise (mke2fs(8), -m)
_FINE_DAYS, _FINE_STEP, _COARSE_STEP = 14, timedelta(hours=1), timedelta(hours=6)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Temper:
    """One partition's made-up character. `used_gib(age_days, random)`: GiB used so many days ago."""

    mountpoint: str
    what: str
    days: float
    size_gib: float
    used_gib: Callable[[Floats, np.random.Generator], Floats]
    size_before_gib: float | None = None  # until it was resized
    resized_days_ago: float = 0.0


def _smooth(age: Floats, random: np.random.Generator) -> Floats:
    """A database that grows a little every day, more in some weeks than in others."""
    weekly = random.gamma(2.0, 0.5, 60)
    daily_gib = 0.22 + 0.30 * (365.0 - age) / 365.0
    grown = np.cumsum(daily_gib * weekly[(age / 7.0).astype(int)] * -np.diff(age, prepend=age[0] + 0.25))
    return np.asarray(404.5 - grown[-1] + grown)


def _bursty(age: Floats, random: np.random.Generator) -> Floats:
    """Logs that pile up for nine days and are cleaned up, each time to another height, slowly higher."""
    done = 365.0 - age
    cycle = np.floor(done / 9.0).astype(int)
    peaks = 46.0 + 9.0 * random.random(60)
    return np.asarray(62.0 + 38.0 * done / 365.0 + peaks[cycle] * np.mod(done, 9.0) / 9.0)


def _resized(age: Floats, random: np.random.Generator) -> Floats:
    """Home directories that nearly filled their disk, until the disk was made larger."""
    added = random.exponential(0.07, age.shape) * -np.diff(age, prepend=age[0] + 0.25)
    return np.asarray(142.0 + np.cumsum(added))


def _young(age: Floats, random: np.random.Generator) -> Floats:
    """A disk that was mounted half a day ago and is being copied to: too young to tell."""
    return np.asarray(3.0 + np.cumsum(random.exponential(0.25, age.shape)))


TEMPERS: tuple[Temper, ...] = (
    Temper("/example/db", "smooth", 365, 480, _smooth),
    Temper("/example/log", "bursty with clean-ups", 365, 195, _bursty),
    Temper("/example/home", "resized once", 365, 320, _resized, size_before_gib=200, resized_days_ago=75),
    Temper("/example/new", "too young to tell", 0.5, 80, _young),
)


def samples(instance: str = DEFAULT_INSTANCE, *, now: datetime, seed: int = 7) -> list[Sample]:
    """The samples of the four partitions up to `now`: six-hourly, hourly for the last fortnight, under node_exporter's
    names. Same `instance`, `now` (to the hour) and `seed`, same samples."""
    return [
        sample
        for index, temper in enumerate(TEMPERS)
        for sample in _samples_of(temper, instance, now, np.random.default_rng([seed, index]))
    ]


def write(history: SqliteHistory, instance: str = DEFAULT_INSTANCE, *, now: datetime, seed: int = 7) -> int:
    """Write the example past of `instance` into a history; returns the number of samples, each marked as example.

    Returns 0 and writes nothing where it stands already, less than a day old. Raises UsageError where an older one
    stands: two of them on top of each other would be a third that nobody meant.
    """
    last = _last_time(history, instance)
    if last is not None and now - last < timedelta(days=1):
        return 0
    if last is not None:
        raise UsageError(
            f"there is an example past of {last:%Y-%m-%d} already",
            where=str(history.path),
            true_now="nothing was written",
            next="remove that file (it is for examples only) and run this again",
        )
    made = samples(instance, now=now, seed=seed)
    history.import_samples(made, origin=EXAMPLE, now=now)
    return len(made)


def _last_time(history: SqliteHistory, instance: str) -> datetime | None:
    try:
        known = history.filesystem(instance, TEMPERS[0].mountpoint)
    except HistoryMissing:
        return None
    return None if known is None else known.last_time


def _samples_of(temper: Temper, instance: str, now: datetime, random: np.random.Generator) -> Iterator[Sample]:
    now = now.replace(minute=0, second=0, microsecond=0)
    times = _times(now, temper.days)
    age = np.array([(now - time) / timedelta(days=1) for time in times])
    used = temper.used_gib(age, random) * _GIB
    labels = {
        "instance": instance,
        "device": f"/dev/mapper/example-{temper.mountpoint.rsplit('/', 1)[1]}",
        "fstype": "ext4",
        "mountpoint": temper.mountpoint,
    }
    for time, days_ago, taken in zip(times, age, used, strict=True):
        before = temper.size_before_gib is not None and days_ago > temper.resized_days_ago
        size = (temper.size_before_gib if before and temper.size_before_gib else temper.size_gib) * _GIB
        free = size - min(float(taken), size)
        files = size / 16384.0  # mke2fs(8): one inode per 16 KiB
        for name, value in (
            ("size_bytes", size),
            ("free_bytes", free),
            ("avail_bytes", max(0.0, free - _RESERVED_RATIO * size)),
            ("files", files),
            ("files_free", files - taken / _FILE_BYTES),
            ("readonly", 0.0),
        ):
            yield Sample(f"node_filesystem_{name}", float(round(value)), time, labels)


def _times(now: datetime, days: float) -> list[datetime]:
    """Ascending times: coarse first, fine for the last fortnight; a past of hours has one every ten minutes."""
    if days < 1:
        step = timedelta(minutes=10)
        return [now - step * index for index in range(int(timedelta(days=days) / step), -1, -1)]
    fine = [now - _FINE_STEP * index for index in range(int(timedelta(days=_FINE_DAYS) / _FINE_STEP), -1, -1)]
    coarse_steps = int((timedelta(days=days) - timedelta(days=_FINE_DAYS)) / _COARSE_STEP)
    return [fine[0] - _COARSE_STEP * index for index in range(coarse_steps, 0, -1)] + fine
