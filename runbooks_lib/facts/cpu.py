"""CPU time per state, and the kernel's event counters beside it: /proc/stat (proc_stat(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

# USER_HZ is 100 on every Linux architecture of today; the kernel shows its counters in it whatever HZ it runs at.
TICKS_PER_SECOND = 100
STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")

_CPU = re.compile(r"^cpu([0-9]{0,6})((?: +[0-9]{1,20}){4,12}) *$", re.MULTILINE)
_EVENTS = re.compile(r"^(intr|ctxt|btime|processes|procs_running|procs_blocked) ([0-9]{1,20})(?: |$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds in each state since boot. `user` holds `guest` already, `nice` holds `guest_nice` (proc_stat(5))."""

    user: float
    nice: float
    system: float
    idle: float
    iowait: float = 0.0
    irq: float = 0.0
    softirq: float = 0.0
    steal: float = 0.0
    guest: float = 0.0
    guest_nice: float = 0.0


@dataclass(frozen=True, slots=True)
class Cpu:
    """`total` over all CPUs, `each` per online CPU by number; counters since boot; processes running and blocked."""

    total: CpuTimes
    each: tuple[tuple[int, CpuTimes], ...]
    interrupts: int
    context_switches: int
    forks: int
    running: int
    blocked: int
    boot_seconds: int  # seconds since 1970 UTC, by the host's clock

    @property
    def count(self) -> int:
        """Online CPUs."""
        return len(self.each)


def parse(text: str) -> Cpu:
    """/proc/stat. Raises Damaged when a line is missing or no number."""
    total: CpuTimes | None = None
    each: list[tuple[int, CpuTimes]] = []
    for name, values in _CPU.findall(text):
        times = CpuTimes(*[int(value) / TICKS_PER_SECOND for value in values.split()[:10]])
        if name:
            each.append((int(name), times))
        else:
            total = times
    if total is None or not each or len(each) + 1 != text.count("\ncpu") + text.startswith("cpu"):
        raise Damaged("/proc/stat has a cpu line that is not numbers, or none")
    events = {name: int(value) for name, value in _EVENTS.findall(text)}
    try:
        return Cpu(
            total,
            tuple(each),
            events["intr"],
            events["ctxt"],
            events["processes"],
            events["procs_running"],
            events["procs_blocked"],
            events["btime"],
        )
    except KeyError as error:
        raise Damaged(f"/proc/stat has no {error.args[0]}") from None
