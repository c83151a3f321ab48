"""One partition's past put together from what stood behind its mount point, one device after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runbooks_lib.history.buckets import ascending
from runbooks_lib.history.model import (
    DAY_SECONDS,
    USED_BYTES,
    FilesystemHistory,
    Floats,
    Ints,
    Series,
    from_seconds,
    to_times,
)

RECENT_DAYS = 14


@dataclass(frozen=True, eq=False)
class DevicePast:
    """What one device behind a mount point said: a row per UTC day (`start`, seconds), and its youngest samples of used
    bytes (`recent_times`, `recent_used`)."""

    device: str
    fstype: str
    start: Ints
    last_time: Ints
    count: Ints
    used_bytes_max: Floats
    size_bytes: Floats
    reserved_bytes: Floats
    inodes_used_max: Floats
    inodes_total: Floats
    recent_times: Ints
    recent_used: Floats


def assemble(
    instance: str, mountpoint: str, devices: Sequence[DevicePast], origins: tuple[str, ...]
) -> FilesystemHistory | None:
    """The partition's past. On a day with several devices the one that was seen last that day speaks for all of it, so
    that a size never stands beside the use of another device. None when no device has a day."""
    devices = [device for device in devices if len(device.start)]
    if not devices:
        return None
    start = np.concatenate([device.start for device in devices])
    last_time = np.concatenate([device.last_time for device in devices])
    order = np.lexsort((last_time, start))
    chosen = order[np.append(np.diff(start[order]) > 0, True)]

    def column(name: str) -> Floats:
        values: Floats = np.concatenate([getattr(device, name) for device in devices])[chosen]
        return values

    named = np.concatenate([np.full(len(device.start), device.device != "") for device in devices])[chosen]
    days = (start[chosen] // DAY_SECONDS).astype("datetime64[D]")
    present = max(devices, key=lambda device: int(device.last_time[-1]))
    # Of two devices seen in the same second the present one counts: `ascending` keeps the last given.
    behind = sorted(devices, key=lambda device: device is present)
    times, used = ascending(
        np.concatenate([device.recent_times for device in behind]),
        np.concatenate([device.recent_used for device in behind]),
    )
    labels = {"instance": instance, "device": present.device, "fstype": present.fstype, "mountpoint": mountpoint}
    return FilesystemHistory(
        instance=instance,
        mountpoint=mountpoint,
        device=present.device,
        fstype=present.fstype,
        days=days,
        used_bytes_max=column("used_bytes_max"),
        size_bytes=column("size_bytes"),
        reserved_bytes=column("reserved_bytes"),
        inodes_used_max=column("inodes_used_max"),
        inodes_total=column("inodes_total"),
        recent=Series(USED_BYTES, labels, to_times(times), used, origins),
        last_time=from_seconds(int(last_time.max())),
        samples=int(np.concatenate([device.count for device in devices])[chosen].sum()),
        origins=origins,
        source_changed=days[1:][named[1:] != named[:-1]],
    )


def on_days(days: Ints, start: Ints, values: Floats) -> Floats:
    """Values that stand on `start` at their places among `days` (both ascending); nan elsewhere."""
    placed = np.full(len(days), np.nan)
    if len(start):
        at = np.searchsorted(days, start)
        inside = (at < len(days)) & (days[np.minimum(at, len(days) - 1)] == start)
        placed[at[inside]] = values[inside]
    return placed
