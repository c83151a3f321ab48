"""What is compared with the past: each measure is data, its value now and its value then come from the same counters.

Throughput says how much work is done: far below normal is as much a sign as far above. Waiting says how much work does
not get done. The metric names are node_exporter's, so that every history can answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from runbooks_lib.facts.disk_io import is_whole_disk
from runbooks_lib.facts.rates import Rates
from runbooks_lib.facts.snapshot import Snapshot

Labels = Mapping[str, str]
Now = Callable[[Snapshot], float | None]


@dataclass(frozen=True)
class Part:
    """One metric of a measure, summed over its series for which `takes` is true. A counter is used as its rate."""

    metric: str
    counter: bool = True
    takes: Callable[[Labels], bool] = lambda _: True


@dataclass(frozen=True)
class Measure:
    """A quantity in `unit`: `numerator` / `denominator` (where there is one); `inverse` takes 1 less that ratio.

    `now` takes it from a snapshot, over the window between its two readings. `least` is the smallest normal value
    below which a fall says nothing: a host that is nearly idle always may be idle altogether.
    """

    name: str
    words: str
    unit: Literal["ratio", "bytes/s", "number", "number/s"]
    kind: Literal["throughput", "waiting"]
    least: float
    numerator: Part
    now: Now
    denominator: Part | None = None
    inverse: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """Numerator and denominator."""
        return (self.numerator,) if self.denominator is None else (self.numerator, self.denominator)


def _idle(labels: Labels) -> bool:
    return labels.get("mode") in ("idle", "iowait")


def _disk(labels: Labels) -> bool:
    """A disk itself: what stands on it (dm, md) would be counted twice."""
    return re.match(r"(dm-|md|loop|ram|zram|sr|fd)[0-9]", labels.get("device", "")) is None


def _card(labels: Labels) -> bool:
    return re.match(r"(lo|docker|veth|br-|virbr|cali|lxc|tap)", labels.get("device", "")) is None


def _interfaces(way: str) -> Now:
    def now(snapshot: Snapshot) -> float | None:
        rates = snapshot.rates.value
        cards = (
            {} if rates is None else {name: card for name, card in rates.interfaces.items() if _card({"device": name})}
        )
        return sum(getattr(card, f"{way}_bytes_per_second") or 0.0 for card in cards.values()) if cards else None

    return now


def _disks(what: str) -> Now:
    def now(snapshot: Snapshot) -> float | None:
        rates = snapshot.rates.value
        disks = (
            {} if rates is None else {n: d for n, d in rates.disks.items() if is_whole_disk(n) and _disk({"device": n})}
        )
        return sum(getattr(disk, f"{what}_bytes_per_second") or 0.0 for disk in disks.values()) if disks else None

    return now


def _rate(take: Callable[[Rates], float | None]) -> Now:
    return lambda snapshot: None if snapshot.rates.value is None else take(snapshot.rates.value)


def _stalled(resource: str) -> Now:
    return _rate(lambda rates: rates.pressure_ratio.get((resource, "some")))


_CPU = "node_cpu_seconds_total"
MEASURES = (
    Measure(
        "cpu",
        "CPU in use",
        "ratio",
        "throughput",
        0.05,
        Part(_CPU, takes=_idle),
        _rate(lambda rates: rates.cpu.busy if rates.cpu else None),
        Part(_CPU),
        inverse=True,
    ),
    Measure(
        "memory",
        "memory in use",
        "ratio",
        "throughput",
        0.2,
        Part("node_memory_MemAvailable_bytes", counter=False),
        lambda s: s.memory.value.used_ratio if s.memory.value else None,
        Part("node_memory_MemTotal_bytes", counter=False),
        inverse=True,
    ),
    Measure(
        "network in",
        "network received",
        "bytes/s",
        "throughput",
        20_000,
        Part("node_network_receive_bytes_total", takes=_card),
        _interfaces("receive"),
    ),
    Measure(
        "network out",
        "network sent",
        "bytes/s",
        "throughput",
        20_000,
        Part("node_network_transmit_bytes_total", takes=_card),
        _interfaces("transmit"),
    ),
    Measure(
        "disk read",
        "read from disks",
        "bytes/s",
        "throughput",
        200_000,
        Part("node_disk_read_bytes_total", takes=_disk),
        _disks("read"),
    ),
    Measure(
        "disk written",
        "written to disks",
        "bytes/s",
        "throughput",
        200_000,
        Part("node_disk_written_bytes_total", takes=_disk),
        _disks("written"),
    ),
    Measure(
        "switches",
        "context switches",
        "number/s",
        "throughput",
        500,
        Part("node_context_switches_total"),
        _rate(lambda rates: rates.context_switches_per_second),
    ),
    Measure(
        "connections",
        "TCP connections",
        "number",
        "throughput",
        5,
        Part("node_netstat_Tcp_CurrEstab", counter=False),
        lambda s: s.protocols.value.get("Tcp_CurrEstab") if s.protocols.value else None,
    ),
    Measure(
        "load",
        "load (1 minute)",
        "number",
        "waiting",
        0.5,
        Part("node_load1", counter=False),
        lambda s: s.load.value.one if s.load.value else None,
    ),
    Measure(
        "blocked",
        "processes blocked by I/O",
        "number",
        "waiting",
        1,
        Part("node_procs_blocked", counter=False),
        lambda s: float(s.cpu.value.blocked) if s.cpu.value else None,
    ),
    Measure(
        "io pressure",
        "time stalled by I/O",
        "ratio",
        "waiting",
        0.05,
        Part("node_pressure_io_waiting_seconds_total"),
        _stalled("io"),
    ),
    Measure(
        "memory pressure",
        "time stalled by memory",
        "ratio",
        "waiting",
        0.05,
        Part("node_pressure_memory_waiting_seconds_total"),
        _stalled("memory"),
    ),
    Measure(
        "cpu pressure",
        "time stalled by CPU",
        "ratio",
        "waiting",
        0.05,
        Part("node_pressure_cpu_waiting_seconds_total"),
        _stalled("cpu"),
    ),
    Measure(
        "retransmits",
        "TCP segments sent again",
        "number/s",
        "waiting",
        5,
        Part("node_netstat_Tcp_RetransSegs"),
        _rate(lambda rates: rates.retransmits_per_second),
    ),
)


def combined(measure: Measure, values: list[float]) -> float | None:
    """Numerator and denominator as one value; None where the denominator is 0."""
    if measure.denominator is None:
        return values[0]
    if values[1] <= 0:
        return None
    ratio = min(1.0, max(0.0, values[0] / values[1]))
    return 1 - ratio if measure.inverse else ratio
