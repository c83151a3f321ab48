"""LVM's past out of a history: thin pools as if each were a partition, volume groups, and which device is whose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from runbooks_lib.facts import lvm
from runbooks_lib.facts.lvm import THIN_POOL
from runbooks_lib.history.model import FilesystemHistory, Floats, History, Series, Times, from_seconds

_RECENT = np.timedelta64(14, "D")
_AGO_DAYS = 400


@dataclass(frozen=True)
class Volume:
    """A logical volume that can hold a file system; `pool` is empty when it is in no thin pool."""

    group: str
    name: str
    pool: str
    device: str  # as the mount table has it
    size_bytes: float


@dataclass(frozen=True)
class VolumeGroup:
    """What a volume group still has to give, when LVM was last read (`time`), and the volumes in it."""

    name: str
    size_bytes: float
    free_bytes: float
    time: datetime
    volumes: tuple[Volume, ...]


def groups_of(history: History, instance: str, *, now: datetime) -> list[VolumeGroup]:
    """The volume groups of a host as LVM was last read, by name; none where it never was (`lvm = true`)."""
    asked = {"instance": instance}
    begin = now - timedelta(days=_AGO_DAYS)
    free = history.series(lvm.GROUP_FREE_BYTES, asked, start=begin, end=now)
    if not free:
        return []
    # What was removed from the host keeps its series: only the last reading counts.
    last = max(one.times[-1] for one in free)
    sizes = _latest(history.series(lvm.GROUP_SIZE_BYTES, asked, start=begin, end=now), last)
    volumes = [
        Volume(labels["group"], labels["volume"], labels["pool"], labels["device"], value)
        for labels, value in _latest(history.series(lvm.VOLUME_SIZE_BYTES, asked, start=begin, end=now), last)
    ]
    size_of = {labels["group"]: value for labels, value in sizes}
    time = from_seconds(int(last.astype("datetime64[s]").astype(np.int64)))
    return [
        VolumeGroup(
            labels["group"],
            size_of.get(labels["group"], np.nan),
            value,
            time,
            tuple(one for one in volumes if one.group == labels["group"]),
        )
        for labels, value in sorted(_latest(free, last), key=lambda found: found[0]["group"])
    ]


def pools_of(history: History, instance: str, *, now: datetime) -> list[tuple[str, str]]:
    """Sorted (instance, `group/pool`) of the thin pools that the last reading of LVM has."""
    begin = now - timedelta(days=_AGO_DAYS)
    groups = history.series(lvm.GROUP_FREE_BYTES, {"instance": instance}, start=begin, end=now)
    if not groups:
        return []
    used = history.series(lvm.POOL_USED_BYTES, {"instance": instance}, start=begin, end=now)
    found = _latest(used, max(one.times[-1] for one in groups))
    return sorted((instance, f"{labels['group']}/{labels['pool']}") for labels, _ in found)


def past_of(history: History, instance: str, place: str, *, end: datetime) -> FilesystemHistory | None:
    """The past of a partition (`/srv/db`) or of a thin pool (`vg0/pool0`)."""
    if place.startswith("/"):
        return history.filesystem(instance, place, end=end)
    return pool_past(history, instance, place, end=end)


def pool_past(
    history: History, instance: str, name: str, *, end: datetime, days: int = _AGO_DAYS
) -> FilesystemHistory | None:
    """The past of the thin pool `group/pool` in the shape of a partition's: `mountpoint` and `device` are its name,
    `fstype` is THIN_POOL, and the columns of inodes hold bytes of its metadata, which ends like inodes do. None when
    there is none.
    """
    group, _, pool = name.partition("/")
    asked = {"instance": instance, "group": group, "pool": pool}
    begin = end - timedelta(days=days)

    def series(metric: str) -> Series | None:
        found = history.series(metric, asked, start=begin, end=end)
        return found[0] if found else None

    used = series(lvm.POOL_USED_BYTES)
    if used is None or not len(used.times):
        return None
    day_of = used.times.astype("datetime64[D]")
    listed = np.unique(day_of)
    recent = used.times >= used.times[-1] - _RECENT
    return FilesystemHistory(
        instance=instance,
        mountpoint=name,
        device=name,
        fstype=THIN_POOL,
        days=listed,
        used_bytes_max=_by_day(used, listed, highest=True),
        size_bytes=_by_day(series(lvm.POOL_SIZE_BYTES), listed),
        reserved_bytes=np.zeros(len(listed)),
        inodes_used_max=_by_day(series(lvm.POOL_METADATA_USED_BYTES), listed, highest=True),
        inodes_total=_by_day(series(lvm.POOL_METADATA_SIZE_BYTES), listed),
        recent=replace(used, times=used.times[recent], values=used.values[recent]),
        last_time=from_seconds(int(used.times[-1].astype("datetime64[s]").astype(np.int64))),
        samples=len(used.times),
        origins=used.origins,
    )


def _by_day(series: Series | None, days: Times, *, highest: bool = False) -> Floats:
    """The last (or the highest) value of each of `days`; nan on days without one."""
    column = np.full(len(days), np.nan)
    if series is not None:
        at = np.searchsorted(days, series.times.astype("datetime64[D]"))
        for place, value in zip(at, series.values, strict=True):
            if place < len(days):
                column[place] = max(value, column[place]) if highest and np.isfinite(column[place]) else value
    return column


def _latest(found: list[Series], last: np.datetime64) -> list[tuple[Mapping[str, str], float]]:
    """Labels and last value of the series that reach to `last`."""
    return [(one.labels, float(one.values[-1])) for one in found if len(one.times) and one.times[-1] == last]
