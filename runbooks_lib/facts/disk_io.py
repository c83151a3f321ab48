"""Disk I/O counters: /proc/diskstats (the kernel's Documentation/admin-guide/iostats.rst)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

SECTOR_BYTES = 512  # in diskstats always, whatever the device's own sector
_LINE = re.compile(r"^ *([0-9]{1,6}) +([0-9]{1,8}) ([^ \n]+)((?: [0-9]{1,20}){11,20})$", re.MULTILINE)
# node_exporter's default --collector.diskstats.device-exclude, widened by what is never a disk.
_NOT_WHOLE = re.compile(
    r"(?:(?:z?ram|loop|fd|sr|(?:h|s|v|xv)d[a-z]+|(?:nvme[0-9]+n|mmcblk|nbd)[0-9]+p)[0-9]+|mmcblk[0-9]+boot[0-9])\Z"
)


@dataclass(frozen=True, slots=True)
class DiskCounters:
    """Since boot. Times are seconds summed over requests; `busy_seconds` is time with any request in flight. The
    kernel keeps
    the four times as 32-bit milliseconds: they wrap every 49.7 days. Discards come with Linux 4.18, flushes with
    5.5."""

    reads: int
    reads_merged: int
    read_bytes: int
    read_seconds: float
    writes: int
    writes_merged: int
    written_bytes: int
    write_seconds: float
    in_flight: int
    busy_seconds: float
    weighted_seconds: float
    discards: int | None = None
    discarded_bytes: int | None = None
    flushes: int | None = None
    flush_seconds: float | None = None


def parse(text: str) -> Mapping[str, DiskCounters]:
    """/proc/diskstats: device name to counters, in the kernel's order. Raises Damaged when a line has not its 11 to
    20 numbers."""
    disks: dict[str, DiskCounters] = {}
    found = _LINE.findall(text)
    if len(found) != sum(1 for line in text.split("\n") if line):
        raise Damaged("/proc/diskstats has a line without its eleven numbers")
    for _, _, name, rest in found:
        n = [int(field) for field in rest.split()]
        count = len(n)
        disks[name] = DiskCounters(
            n[0],
            n[1],
            n[2] * SECTOR_BYTES,
            n[3] / 1000,
            n[4],
            n[5],
            n[6] * SECTOR_BYTES,
            n[7] / 1000,
            n[8],
            n[9] / 1000,
            n[10] / 1000,
            n[11] if count >= 15 else None,
            n[13] * SECTOR_BYTES if count >= 15 else None,
            n[15] if count >= 17 else None,
            n[16] / 1000 if count >= 17 else None,
        )
    return disks


def is_whole_disk(name: str) -> bool:
    """False for partitions and for loop, ram, floppy and optical devices; true for disks, dm and md devices."""
    return _NOT_WHOLE.match(name) is None
