"""What differs on a host between the beginning and the end of a run: what it is, not how busy it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from runbooks_lib.facts.snapshot import Snapshot
from runbooks_lib.words import amount

# Free space moves by itself on a living host.
_SMALLEST_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Difference:
    """One thing that differs, in words for a person; `change` is the amount, where there is one."""

    what: str
    before: str
    after: str
    change: str = ""


def states(snapshot: Snapshot) -> dict[str, Any]:
    """What the quick facts say of the host's make-up, by what a person would call it: text, true or false, or a number
    of bytes or inodes (names that end in `space`, `size` and `inodes free`)."""
    found: dict[str, Any] = {"the boot": snapshot.boot_id}
    if snapshot.identity.value is not None:
        found["the kernel"] = snapshot.identity.value.kernel
    for place in snapshot.filesystems.value.rows if snapshot.filesystems.value is not None else ():
        name = place.mountpoint
        found[f"{name}: device"] = f"{place.device} ({place.fstype})"
        found[f"{name}: read-only"] = place.read_only
        if place.usage is not None:
            found[f"{name}: size"] = place.usage.size_bytes
            found[f"{name}: free space"] = place.usage.avail_bytes
            found[f"{name}: inodes free"] = place.usage.files_free
    for device in snapshot.block_devices.value or ():
        found[f"{device.mapper_name or device.name}: size"] = device.size_bytes
    for unit in snapshot.failed_units.value or ():
        found[f"failed unit {unit.name}"] = unit.description
    for server in snapshot.postgres.value or ():
        found[f"PostgreSQL in {server.data_directory}: really in"] = server.resolved_directory
        found[f"PostgreSQL in {server.data_directory}: on"] = server.mountpoint
        found[f"PostgreSQL in {server.data_directory}: process"] = str(server.pid)
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What two `states` differ in, by name; free space that moved by less than 1 MiB is not worth a line."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        moved = new - old if _is_number(old) and _is_number(new) else None
        if old == new or (moved is not None and abs(moved) < _least(name)):
            continue
        change = "" if moved is None else ("+" if moved > 0 else "−") + _told(name, abs(moved))
        found.append(Difference(name, _told(name, old), _told(name, new), change))
    return found


def _least(name: str) -> int:
    return _SMALLEST_BYTES if name.endswith("space") else 1000 if name.endswith("inodes free") else 1


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _told(name: str, value: Any) -> str:
    if value is None:
        return "not there"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_number(value) and name.endswith(("space", "size")):
        return amount(value)
    return f"{value:,}".replace(",", " ") if _is_number(value) else str(value)
