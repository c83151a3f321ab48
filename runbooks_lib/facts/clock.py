"""How far the host's clock is from the operator's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_CLOCK = re.compile(r"uptime ([0-9]{1,12}\.[0-9]{1,4})\ndate ([0-9]{1,12})(?:\.([0-9]{1,9}))?")
_END = re.compile(r"uptime ([0-9]{1,12}\.[0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Clock:
    """`offset_seconds` is the host's clock minus the operator's: positive when the host is ahead. The truth lies within
    ± `uncertainty_seconds`. `host_seconds` is the host's clock, in seconds since 1970 UTC, when it was asked."""

    offset_seconds: float
    uncertainty_seconds: float
    host_seconds: float


def parse(begin: str, end: str, sent_seconds: float, received_seconds: float) -> Clock:
    """The offset from the host's stamps and the operator's: sent before the script began, received after it ended.

    As in NTP (RFC 5905, section 8): with d1 the host's time at the beginning, d2 = d1 plus the uptime that passed,
    the offset lies between d2 - received and d1 - sent; half of that interval is the uncertainty, which is half the
    round trip. busybox without %N gives whole seconds, and up to one more second of uncertainty. Raises Damaged."""
    first, last = _CLOCK.match(begin), _END.match(end)
    if first is None or last is None:
        raise Damaged("no date and uptime")
    fraction = first[3]
    whole = float(first[2])
    d1 = whole + float(f"0.{fraction}") if fraction else whole
    passed = max(0.0, float(last[1]) - float(first[1]))
    low = d1 + passed - received_seconds - 0.02  # uptime has steps of 10 ms, read twice
    high = d1 - sent_seconds + (0.0 if fraction else 1.0)
    if high < low:
        raise Damaged("one of the two clocks was set, or runs unevenly, while the host was asked")
    return Clock((low + high) / 2, (high - low) / 2, d1)
