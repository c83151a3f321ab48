"""LVM: physical volumes, volume groups, logical volumes and thin pools (pvs(8), vgs(8), lvs(8) with --reportformat
json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runbooks_lib.facts.fact import Damaged, excerpt, number
from runbooks_lib.facts.samples import Sample

# What the history keeps of LVM. node_exporter has no such figures, so that the names are our own.
GROUP_SIZE_BYTES, GROUP_FREE_BYTES = "runbook_lvm_group_size_bytes", "runbook_lvm_group_free_bytes"  # group
VOLUME_SIZE_BYTES = "runbook_lvm_volume_size_bytes"  # group, volume, pool ("" outside one), device
POOL_SIZE_BYTES, POOL_USED_BYTES = "runbook_lvm_pool_size_bytes", "runbook_lvm_pool_used_bytes"  # group, pool
THIN_POOL = "thin-pool"  # a segment type; where a pool is looked at like a partition, in place of its file system's
POOL_METADATA_SIZE_BYTES = "runbook_lvm_pool_metadata_size_bytes"
POOL_METADATA_USED_BYTES = "runbook_lvm_pool_metadata_used_bytes"


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """A disk or partition in a volume group (`group` is empty when it is in none)."""

    device: str
    group: str
    size_bytes: int
    free_bytes: int
    missing: bool


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """`free_extents` x `extent_bytes` is what a logical volume can still grow by; `missing_volumes` PVs are not
    there."""

    name: str
    size_bytes: int
    free_bytes: int
    extent_bytes: int
    extents: int
    free_extents: int
    missing_volumes: int


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A logical volume, hidden ones (`[pool_tdata]`) included, without the brackets.

    For a thin pool `data_ratio` and `metadata_ratio` (0..1) are its real limits: at 1.0 of either, writing stops in
    every thin volume of it whatever df says. For a thin volume or a snapshot `data_ratio` is what it has allocated.
    None when the volume is inactive or has no such figure."""

    name: str
    group: str
    kind: str  # segment type: linear, striped, thin-pool, thin, raid1, …
    attributes: str  # lv_attr
    size_bytes: int
    pool: str
    origin: str
    data_ratio: float | None
    metadata_ratio: float | None
    metadata_bytes: int | None
    path: str

    @property
    def active(self) -> bool:
        """Fifth character of lv_attr, lvs(8)."""
        return self.attributes[4:5] == "a"

    @property
    def is_thin_pool(self) -> bool:
        """A pool that thin volumes take their blocks from."""
        return self.kind == THIN_POOL


@dataclass(frozen=True, slots=True)
class Lvm:
    """All that LVM reports, in its order."""

    physical_volumes: tuple[PhysicalVolume, ...]
    volume_groups: tuple[VolumeGroup, ...]
    logical_volumes: tuple[LogicalVolume, ...]

    @property
    def thin_pools(self) -> tuple[LogicalVolume, ...]:
        """The thin pools."""
        return tuple(volume for volume in self.logical_volumes if volume.is_thin_pool)


def parse(pvs: str, vgs: str, lvs: str) -> Lvm:
    """The three JSON reports. Raises Damaged when one is not LVM's JSON (before 2.02.158 there is none)."""
    physical = tuple(
        PhysicalVolume(
            row["pv_name"], row["vg_name"], number(row["pv_size"]), number(row["pv_free"]), bool(row.get("pv_missing"))
        )
        for row in _rows(pvs, "pv")
    )
    groups = tuple(
        VolumeGroup(
            row["vg_name"],
            number(row["vg_size"]),
            number(row["vg_free"]),
            number(row["vg_extent_size"]),
            number(row["vg_extent_count"]),
            number(row["vg_free_count"]),
            number(row.get("vg_missing_pv_count") or "0"),
        )
        for row in _rows(vgs, "vg")
    )
    volumes = tuple(
        LogicalVolume(
            row["lv_name"].strip("[]"),
            row["vg_name"],
            row["segtype"],
            row["lv_attr"],
            number(row["lv_size"]),
            row["pool_lv"].strip("[]"),
            row["origin"].strip("[]"),
            _percent(row["data_percent"]),
            _percent(row["metadata_percent"]),
            number(row["lv_metadata_size"]) if row.get("lv_metadata_size") else None,
            row.get("lv_path", ""),
        )
        for row in _rows(lvs, "lv")
    )
    return Lvm(physical, groups, volumes)


def samples(lvm: Lvm, time: datetime) -> list[Sample]:
    """What the history keeps of LVM: groups, volumes with a device of their own, and how full active thin pools are."""
    rows: list[Sample] = []
    for group in lvm.volume_groups:
        labels = {"group": group.name}
        rows.append(Sample(GROUP_SIZE_BYTES, group.size_bytes, time, labels))
        rows.append(Sample(GROUP_FREE_BYTES, group.free_extents * group.extent_bytes, time, labels))
    for volume in lvm.logical_volumes:
        if volume.is_thin_pool:
            rows += _pool_samples(volume, time)
        elif volume.path:
            labels = {"group": volume.group, "volume": volume.name, "pool": volume.pool, "device": device_of(volume)}
            rows.append(Sample(VOLUME_SIZE_BYTES, volume.size_bytes, time, labels))
    return rows


def device_of(volume: LogicalVolume) -> str:
    """The volume's name under /dev/mapper, as the mount table has it: hyphens within names are doubled (lvm(8))."""
    return device_name(volume.group, volume.name)


def device_name(group: str, volume: str) -> str:
    """The same, of a volume by its names."""
    return f"/dev/mapper/{group.replace('-', '--')}-{volume.replace('-', '--')}"


def _pool_samples(pool: LogicalVolume, time: datetime) -> list[Sample]:
    labels = {"group": pool.group, "pool": pool.name}
    figures = (
        (POOL_SIZE_BYTES, POOL_USED_BYTES, pool.size_bytes, pool.data_ratio),
        (POOL_METADATA_SIZE_BYTES, POOL_METADATA_USED_BYTES, pool.metadata_bytes, pool.metadata_ratio),
    )
    return [
        Sample(name, value, time, labels)
        for size_name, used_name, size, ratio in figures
        if size is not None and ratio is not None
        for name, value in ((size_name, float(size)), (used_name, size * ratio))
    ]


def _rows(text: str, kind: str) -> list[dict[str, str]]:
    try:
        report: Any = json.loads(text)
        rows = [row for part in report["report"] for row in part[kind]]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Damaged(f"{kind}s did not give a JSON report but {excerpt(text.strip())}") from None
    if not all(isinstance(row, dict) and all(isinstance(value, str) for value in row.values()) for row in rows):
        raise Damaged(f"{kind}s gave a report whose rows are not texts")
    return rows


def _percent(text: str) -> float | None:
    if text == "":
        return None
    try:
        value = float(text) / 100
    except ValueError:
        raise Damaged(f"{excerpt(text)} is no percentage") from None
    if not 0 <= value <= 1:
        raise Damaged(f"{excerpt(text)} is not between 0 and 100")
    return value
