"""Failed systemd units: `systemctl list-units --failed` (systemctl(1))."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_ROW = re.compile(r"(?:[●*×] +)?(\S+\.[a-z]+) +(\S+) +(\S+) +(\S+)(?: +(.*))?\Z")


class UnitsUnanswered(Damaged):
    """systemctl was killed after three seconds, or could not talk to systemd."""


@dataclass(frozen=True, slots=True)
class FailedUnit:
    """A unit in state failed: its load state, its sub state and its description."""

    name: str
    load: str
    sub: str
    description: str


def parse(text: str) -> tuple[FailedUnit, ...]:
    """The units section: systemctl's rows and its exit status. Empty when nothing failed.
    Raises UnitsUnanswered when systemctl failed, Damaged when a row is none."""
    lines = text.strip("\n").split("\n")
    status = lines.pop()
    if status != "status 0":
        killed = status == "status 137"
        raise UnitsUnanswered("no answer within 3 s" if killed else f"systemctl ended with {status}: is D-Bus running?")
    units = []
    for line in lines:
        if not line.strip():
            continue
        match = _ROW.match(line.strip())
        if match is None:
            raise Damaged("a row of systemctl is not unit, load, active, sub")
        units.append(FailedUnit(match[1], match[2], match[4], match[5] or ""))
    return tuple(units)
