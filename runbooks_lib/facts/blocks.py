"""Block devices and how they stand on each other: /proc/partitions and /sys/block (the kernel's
ABI/testing/sysfs-block)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_ROW = re.compile(r" *([0-9]{1,6}) +([0-9]{1,8}) +([0-9]{1,20}) ([^ ]+)\Z")


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """One disk, partition, device-mapper or md device. `below` are the devices that it stands on (a partition's
    disk, an LV's
    PVs). `mapper_name` is the name under /dev/mapper; `mapper_uuid` begins with `LVM-`, `CRYPT-`, `mpath-`, …

    None and empty mean that the kernel does not say.
    """

    name: str
    device_number: str
    size_bytes: int
    kind: str  # disk, partition, mapper, raid
    below: tuple[str, ...] = ()
    read_only: bool | None = None
    rotational: bool | None = None
    removable: bool | None = None
    model: str = ""
    mapper_name: str = ""
    mapper_uuid: str = ""


def parse(partitions: str, tree: str, attributes: Mapping[str, str]) -> tuple[BlockDevice, ...]:
    """/proc/partitions, the paths below /sys/block, and the attribute files by path. Raises Damaged."""
    below: dict[str, list[str]] = {}
    parts: set[str] = set()
    for line in tree.split("\n"):
        pieces = line.split("/")
        if "*" in line or len(pieces) != 6 or pieces[1:3] != ["sys", "block"]:
            continue  # an unmatched pattern stays as it is
        if pieces[4] == "slaves":
            below.setdefault(pieces[3], []).append(pieces[5])
        elif pieces[5] == "partition":
            below.setdefault(pieces[4], []).append(pieces[3])
            parts.add(pieces[4])
    devices = []
    for line in partitions.split("\n"):
        if not line or line.startswith("major"):
            continue
        match = _ROW.match(line)
        if match is None:
            raise Damaged("/proc/partitions has a row that is not three numbers and a name")
        major, minor, blocks, name = match.groups()
        base = f"/sys/block/{name}/"
        kind = (
            "partition"
            if name in parts
            else "mapper"
            if name.startswith("dm-")
            else "raid"
            if re.match(r"md[0-9_]", name)
            else "disk"
        )
        devices.append(
            BlockDevice(
                name,
                f"{major}:{minor}",
                int(blocks) * 1024,
                kind,
                tuple(below.get(name, ())),
                _flag(attributes.get(base + "ro")),
                _flag(attributes.get(base + "queue/rotational")),
                _flag(attributes.get(base + "removable")),
                attributes.get(base + "device/model", "").strip(),
                attributes.get(base + "dm/name", "").strip(),
                attributes.get(base + "dm/uuid", "").strip(),
            )
        )
    return tuple(devices)


def _flag(text: str | None) -> bool | None:
    return {"0": False, "1": True}.get((text or "").strip())
