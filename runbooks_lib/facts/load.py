"""Load average: /proc/loadavg (proc_loadavg(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_LOAD = re.compile(
    r"([0-9]{1,9}\.[0-9]{2}) ([0-9]{1,9}\.[0-9]{2}) ([0-9]{1,9}\.[0-9]{2}) ([0-9]{1,9})/([0-9]{1,9}) [0-9]+\s*\Z"
)


@dataclass(frozen=True, slots=True)
class Load:
    """Mean number of runnable and uninterruptible tasks over 1, 5 and 15 minutes; tasks runnable and existing now."""

    one: float
    five: float
    fifteen: float
    runnable: int
    tasks: int


def parse(text: str) -> Load:
    """/proc/loadavg. Raises Damaged."""
    match = _LOAD.match(text)
    if match is None:
        raise Damaged("/proc/loadavg is not five numbers")
    return Load(float(match[1]), float(match[2]), float(match[3]), int(match[4]), int(match[5]))
