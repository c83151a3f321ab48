"""Pressure stall information: /proc/pressure/* (the kernel's Documentation/accounting/psi.rst)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_LINE = re.compile(
    r"(some|full) avg10=([0-9]{1,3}\.[0-9]{2}) avg60=([0-9]{1,3}\.[0-9]{2}) avg300=([0-9]{1,3}\.[0-9]{2})"
    r" total=([0-9]{1,20})\Z"
)


@dataclass(frozen=True, slots=True)
class Stall:
    """Share of time (0..1) stalled over the last 10, 60 and 300 s, and the seconds stalled since boot."""

    ratio_10s: float
    ratio_60s: float
    ratio_300s: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Pressure:
    """`some`: at least one task waited for the resource; `full`: all of them did. `full` of cpu is None before Linux
    5.13."""

    some: Stall
    full: Stall | None


def parse(text: str) -> Pressure:
    """One file of /proc/pressure. Raises Damaged."""
    stalls: dict[str, Stall] = {}
    for line in text.splitlines():
        if not line:
            continue
        match = _LINE.match(line)
        if match is None:
            raise Damaged("a line of /proc/pressure is not in the kernel's format")
        kind, ten, sixty, three_hundred, total = match.groups()
        stalls[kind] = Stall(float(ten) / 100, float(sixty) / 100, float(three_hundred) / 100, int(total) / 1e6)
    if "some" not in stalls:
        raise Damaged("/proc/pressure has no line `some`")
    return Pressure(stalls["some"], stalls.get("full"))
