"""Generated pasts of one partition, for the tests of this room."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt

from runbooks_lib.history import FilesystemHistory, Series

GIB = float(2**30)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TODAY = NOW.date()


def past(
    used: npt.ArrayLike,
    *,
    size: npt.ArrayLike = 100 * GIB,
    reserved: float = 0.0,
    inodes_used: npt.ArrayLike = np.nan,
    inodes_total: npt.ArrayLike = np.nan,
    last_day: date = TODAY,
    missing: npt.ArrayLike | None = None,
    recent: Series | None = None,
    fstype: str = "ext4",
    mountpoint: str = "/srv/db",
) -> FilesystemHistory:
    """The past of `/srv/db` on tc-db-01, a value a day up to `last_day`; `missing` is True on days without data."""
    used = np.asarray(used, dtype=np.float64)
    days = np.datetime64(last_day, "D") - np.arange(len(used))[::-1]

    def daily(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.broadcast_to(np.asarray(values, dtype=np.float64), used.shape).copy()

    columns = [used, daily(size), daily(reserved), daily(inodes_used), daily(inodes_total)]
    if missing is not None:
        kept = ~np.asarray(missing, dtype=bool)
        days, columns = days[kept], [column[kept] for column in columns]
    noon = days.astype("datetime64[s]") + np.timedelta64(43_200, "s")
    return FilesystemHistory(
        "tc-db-01",
        mountpoint,
        "/dev/vdb",
        fstype,
        days,
        *columns,
        recent=recent if recent is not None else samples(noon[-14:], columns[0][-14:]),
        last_time=NOW,
        samples=len(days),
        origins=("collected",),
    )


def samples(times: npt.ArrayLike, used: npt.ArrayLike) -> Series:
    """Used bytes as fine as kept."""
    return Series(
        "runbook_filesystem_used_bytes",
        {"instance": "tc-db-01", "mountpoint": "/srv/db"},
        np.asarray(times, dtype="datetime64[s]"),
        np.asarray(used, dtype=np.float64),
    )


def every_five_minutes(hours: float) -> npt.NDArray[np.datetime64]:
    """Times of the last `hours`, five minutes apart, ending now."""
    count = int(hours * 12) + 1
    return np.datetime64("2026-11-23T12:00:00", "s") - np.arange(count)[::-1] * np.timedelta64(300, "s")


def smooth(days: int = 365, *, end: float, seed: int = 0) -> npt.NDArray[np.float64]:
    """Steady growth with daily noise from near nothing to `end`."""
    grown = np.cumsum(np.random.default_rng(seed).gamma(4, 1, days))
    return np.asarray(grown / grown[-1] * end)
