"""Memory, swap and paging: /proc/meminfo, /proc/swaps, /proc/vmstat (each in proc(5))."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged, number
from runbooks_lib.facts.mounts import unescape

_LINE = re.compile(r"^([A-Za-z0-9_()]+): +([0-9]{1,20})( kB)?$", re.MULTILINE)
_VMSTAT = re.compile(r"^([a-z0-9_]+) ([0-9]{1,20})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Memory:
    """`fields`: every line of /proc/meminfo under the kernel's own name, in bytes (HugePages_* are counts)."""

    fields: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        """MemTotal."""
        return self.fields["MemTotal"]

    @property
    def available_bytes(self) -> int | None:
        """MemAvailable: what programs could still get without swapping. None before Linux 3.14."""
        return self.fields.get("MemAvailable")

    @property
    def swap_total_bytes(self) -> int:
        """SwapTotal, 0 without swap."""
        return self.fields.get("SwapTotal", 0)

    @property
    def swap_used_bytes(self) -> int:
        """SwapTotal - SwapFree."""
        return self.swap_total_bytes - self.fields.get("SwapFree", 0)

    @property
    def used_ratio(self) -> float | None:
        """1 - available / total, in 0..1; None where the kernel does not estimate it."""
        available = self.available_bytes
        return None if available is None or not self.total_bytes else 1 - available / self.total_bytes


def parse(text: str) -> Memory:
    """/proc/meminfo. Raises Damaged when a line is not `Name: number [kB]` or MemTotal is missing."""
    found = _LINE.findall(text)
    if len(found) != len(text.splitlines()) - text.count("\n\n"):
        raise Damaged("/proc/meminfo has a line that is not a name and a number")
    fields = {name: int(value) * 1024 if unit else int(value) for name, value, unit in found}
    if "MemTotal" not in fields or "MemFree" not in fields:
        raise Damaged("/proc/meminfo has no MemTotal or no MemFree")
    return Memory(fields)


@dataclass(frozen=True, slots=True)
class SwapArea:
    """One swap partition or file: bytes, and the kernel's priority."""

    path: str
    kind: str
    size_bytes: int
    used_bytes: int
    priority: int


def parse_swaps(text: str) -> tuple[SwapArea, ...]:
    """/proc/swaps, one row an area; empty without swap. Raises Damaged."""
    lines = [line for line in text.split("\n") if line]
    if not lines or not lines[0].startswith("Filename"):
        raise Damaged("/proc/swaps has no heading")
    areas = []
    for line in lines[1:]:
        fields = re.split("[ \t]+", line.strip(" \t"))  # other white space stands in a name as it is
        if len(fields) != 5:
            raise Damaged("/proc/swaps has a row without five fields")
        path, kind, size, used, priority = fields
        sign = -1 if priority.startswith("-") else 1
        areas.append(
            SwapArea(
                unescape(path), kind, number(size) * 1024, number(used) * 1024, sign * number(priority.lstrip("-"))
            )
        )
    return tuple(areas)


@dataclass(frozen=True, slots=True)
class Paging:
    """`counters` since boot under the kernel's own names: pgpgin and pgpgout in KiB, pswpin and pswpout in pages,
    pgfault,
    pgmajfault, oom_kill (Linux 4.13), allocstall*, pgscan_* and pgsteal_* in events or pages."""

    counters: Mapping[str, int]


def parse_vmstat(text: str) -> Paging:
    """The paging counters of /proc/vmstat. Raises Damaged when pgfault is missing or a line is not a name and a
    number."""
    found = _VMSTAT.findall(text)
    counters = {name: int(value) for name, value in found}
    if "pgfault" not in counters or len(found) != len(text.split("\n")) - text.count("\n\n") - text.endswith("\n"):
        raise Damaged("/proc/vmstat has a line that is not a name and a number, or no pgfault")
    return Paging(counters)
