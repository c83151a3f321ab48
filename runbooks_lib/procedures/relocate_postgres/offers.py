"""Ways that need no downtime at all, offered before any other: the disk under the filesystem is changed in use (lvm's
pvmove(8), btrfs-replace(8)). Whether there is such a way is told by what LVM, btrfs and lsblk report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runbooks_lib.facts.lvm import device_name
from runbooks_lib.runbook.quoting import text_of, word, words
from runbooks_lib.runbook.step import Known, Read

_READ = """PATH=$PATH:/usr/sbin:/sbin LC_ALL=C LVM_SUPPRESS_FD_WARNINGS=1; export PATH LC_ALL LVM_SUPPRESS_FD_WARNINGS
say() { printf '%s ' "$1"; printf %s "$2" | od -An -v -tx1 | tr -d ' \\n'; echo; }
mount=$(findmnt -n -o TARGET -T "$R")
say mount "$mount"; say source "$(findmnt -n -o SOURCE -T "$R")"; kind=$(findmnt -n -o FSTYPE -T "$R"); say kind "$kind"
say target "$(findmnt -n -o SOURCE -T "${T%/*}/" 2>/dev/null)"
say blocks "$(lsblk --json -b -p -o NAME,TYPE,SIZE,FSTYPE,MOUNTPOINT,RO 2>/dev/null)"
if command -v lvs >/dev/null; then
  say lvs "$(timeout 20 lvs --segments --reportformat json --units b --nosuffix \\
    -o vg_name,lv_name,lv_attr,segtype,seg_size,devices 2>/dev/null)"
  say pvs "$(timeout 20 pvs --reportformat json --units b --nosuffix -o pv_name,vg_name,pv_free,pv_missing 2>/dev/null)"
fi
[ "$kind" != btrfs ] || say btrfs "$(timeout 20 btrfs filesystem show --raw "$mount" 2>/dev/null)"
exit 0
"""
_BTRFS_DEVICE = re.compile(r"devid\s+\d+ size (\d+) used \d+ path (\S+)")


def read_disks(real: Callable[[Known], str]) -> Read:
    """The read `disks`; `real` gives the directory that is to be moved."""

    def script(known: Known) -> str:
        return f"R={word(real(known))}\nT={word(known.parameters['target'])}\n{_READ}"

    return Read("disks", script, parse_disks, root=True, deadline_seconds=60)


def parse_disks(answer: bytes) -> dict[str, Any]:
    """`mount`, `source` and `kind` of the filesystem, the `target`'s source, the rows of `lvs` and `pvs`, the `btrfs`
    devices by path with their bytes, and `empty` disks with theirs. Raises ValueError."""
    said = dict.fromkeys(("mount", "source", "kind", "target", "blocks", "lvs", "pvs", "btrfs"), "")
    for line in answer.decode("ascii").splitlines():
        name, _, value = line.partition(" ")
        said[name] = text_of(bytes.fromhex(value))
    return {
        **{name: said[name] for name in ("mount", "source", "kind", "target")},
        "lvs": _rows(said["lvs"], "seg"),
        "pvs": _rows(said["pvs"], "pv"),
        "btrfs": {path: int(size) for size, path in _BTRFS_DEVICE.findall(said["btrfs"])},
        "empty": dict(_empty_disks(said["blocks"])),
    }


def _rows(report: str, kind: str) -> list[dict[str, str]]:
    return [dict(row) for part in json.loads(report)["report"] for row in part[kind]] if report else []


def _empty_disks(report: str) -> Iterator[tuple[str, int]]:
    """Disks with no partition, no signature and no mount."""
    for each in json.loads(report)["blockdevices"] if report else []:
        used = each.get("children") or each["fstype"] or each["mountpoint"] or each["ro"]
        if each["type"] in ("disk", "loop") and not used and int(each["size"] or 0):
            yield each["name"], int(each["size"])


def offers(disks: Mapping[str, Any]) -> list[str]:
    """A sentence for each such way, with the commands; [] when there is none."""
    return [*_by_pvmove(disks), *_by_replace(disks)]


def _by_pvmove(disks: Mapping[str, Any]) -> Iterator[str]:
    mine, devices = _volume(disks, disks["source"])
    if len(devices) != 1 or {row["segtype"] for row in mine} != {"linear"}:
        return
    (lies,), group, volume = devices, mine[0]["vg_name"], mine[0]["lv_name"]
    size = sum(int(row["seg_size"]) for row in mine)
    _, wanted = _volume(disks, disks["target"])
    others = [row for row in disks["pvs"] if row["vg_name"] == group and not row["pv_missing"]]
    for row in sorted(others, key=lambda row: row["pv_name"] not in wanted):
        disk, free = row["pv_name"], int(row["pv_free"])
        said = f"the volume {group}/{volume} lies on {lies} alone, and {disk} is in its group"
        if disk == lies:
            continue
        if free >= size:
            parameters = f"-p {word('mountpoint=' + disks['mount'])} -p {word('disk=' + disk)}"
            yield (
                f"first choice, no downtime at all: {said} with room for it: "
                f"runbook run move-volume {parameters} (pvmove {words('-n', volume, lies, disk)})"
            )
        elif disk in wanted:
            yield (
                f"{said}: pvmove would move it with no downtime at all if {disk} had {size / 1e6:.0f} MB of free "
                f"extents; it has {free / 1e6:.0f} MB: make the volume there smaller, or do without it"
            )


def _volume(disks: Mapping[str, Any], source: str) -> tuple[list[Mapping[str, str]], set[str]]:
    """The segments of a volume, and the devices under them."""
    rows = [row for row in disks["lvs"] if device_name(row["vg_name"], row["lv_name"]) == source]
    return rows, {device for row in rows for device in _devices(row)}


def _devices(row: Mapping[str, str]) -> list[str]:
    """`/dev/vda(0),/dev/vdb(12)` without the extents."""
    return [each.partition("(")[0] for each in row["devices"].split(",") if each]


def _by_replace(disks: Mapping[str, Any]) -> Iterator[str]:
    if disks["kind"] != "btrfs" or len(disks["btrfs"]) != 1:
        return
    ((lies, size),) = disks["btrfs"].items()
    fit = [disk for disk, bytes_ in sorted(disks["empty"].items()) if bytes_ >= size]
    for disk in fit:
        parameters = f"-p {word('mountpoint=' + disks['mount'])} -p {word('disk=' + disk)}"
        yield (
            f"first choice, no downtime at all: the filesystem on {disks['mount']} is btrfs on {lies}, and {disk} is "
            f"empty and large enough: runbook run replace-btrfs-disk {parameters} "
            f"(btrfs replace start {words(lies, disk, disks['mount'])})"
        )
    if not fit:
        yield (
            f"the filesystem on {disks['mount']} is btrfs on {lies}: with an empty disk of {size / 1e6:.0f} MB or more "
            "'btrfs replace' would move it with no downtime at all"
        )
