"""Rates from two readings of counters of one boot. A reset gives no rate, a 32-bit wrap is added up only where the
field has 32 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.facts.cpu import Cpu, CpuTimes
from runbooks_lib.facts.disk_io import DiskCounters
from runbooks_lib.facts.fact import Fact, State, absent, available
from runbooks_lib.facts.memory import Paging
from runbooks_lib.facts.network import InterfaceCounters
from runbooks_lib.facts.pressure import Pressure
from runbooks_lib.facts.tcp import Protocols

_WRAP_SECONDS = 2**32 / 1000  # the four times of diskstats are 32-bit milliseconds
# idle and iowait can go back a little (proc_stat(5)); node_exporter too takes less than 3 s for that.
_IDLE_JUMP_SECONDS = 3.0


def increase(before: float, after: float) -> float | None:
    """How much a 64-bit counter grew; None when it is smaller than before: it was reset, its growth is not known."""
    return after - before if after >= before else None


def increase_32bit(before: float, after: float, at_most: float, wrap: float = 2**32) -> float | None:
    """How much a counter grew that wraps at `wrap`; None when neither growth nor one wrap explains it within
    `at_most`."""
    grown = after - before if after >= before else after + wrap - before
    return grown if max(before, after) < wrap and grown <= at_most else None


@dataclass(frozen=True, slots=True)
class CpuShares:
    """Shares of all CPUs' time, 0..1, that add up to 1. `user` and `nice` are without guests, which are `guest`."""

    user: float
    nice: float
    system: float
    idle: float
    iowait: float
    irq: float
    softirq: float
    steal: float
    guest: float

    @property
    def busy(self) -> float:
        """1 - idle - iowait."""
        return 1 - self.idle - self.iowait


@dataclass(frozen=True, slots=True)
class DiskRates:
    """Per second; `busy_ratio` is the share of time with a request in flight (no measure of saturation for SSDs and
    arrays),
    `queue` the mean number in flight, `*_wait_seconds` the mean time of one request (None without requests)."""

    reads_per_second: float | None
    writes_per_second: float | None
    read_bytes_per_second: float | None
    written_bytes_per_second: float | None
    busy_ratio: float | None
    queue: float | None
    read_wait_seconds: float | None
    write_wait_seconds: float | None


@dataclass(frozen=True, slots=True)
class InterfaceRates:
    """Per second, each way; `errors_per_second` and `dropped_per_second` are both ways together."""

    receive_bytes_per_second: float | None
    transmit_bytes_per_second: float | None
    receive_packets_per_second: float | None
    transmit_packets_per_second: float | None
    errors_per_second: float | None
    dropped_per_second: float | None


@dataclass(frozen=True, slots=True)
class Rates:
    """What changed between two readings, `window_seconds` of the host's uptime apart. A None was reset or is not there.

    `cpu_each`: CPU number to shares. `pressure_ratio`: (resource, some or full) to the share of time stalled.
    `retransmit_ratio`: TCP segments sent again / sent. `paging`: vmstat counters per second.
    """

    window_seconds: float
    cpu: CpuShares | None
    cpu_each: Mapping[int, CpuShares]
    context_switches_per_second: float | None
    forks_per_second: float | None
    disks: Mapping[str, DiskRates]
    interfaces: Mapping[str, InterfaceRates]
    retransmits_per_second: float | None
    retransmit_ratio: float | None
    listen_drops_per_second: float | None
    paging: Mapping[str, float]
    pressure_ratio: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading of everything that counts. What is None was not read."""

    boot_id: str
    uptime_seconds: float
    cpu: Cpu | None = None
    disks: Mapping[str, DiskCounters] | None = None
    interfaces: Mapping[str, InterfaceCounters] | None = None
    protocols: Protocols | None = None
    paging: Paging | None = None
    pressure: Mapping[str, Pressure] | None = None


def rates(before: Counters, after: Counters) -> Fact[Rates]:
    """The rates between two readings. Absent when they are not of one boot, or not in this order."""
    if not before.boot_id or before.boot_id != after.boot_id:
        return absent("the host was booted between the two readings, or its boot_id is not known")
    window = after.uptime_seconds - before.uptime_seconds
    if window < 0.01:
        return Fact(State.ABSENT, None, "the readings are not one after the other")

    def per_second(first: float | None, second: float | None) -> float | None:
        grown = increase(first, second) if first is not None and second is not None else None
        return None if grown is None else grown / window

    a, b = before.cpu, after.cpu
    old_each = dict(a.each) if a else {}
    each = {
        cpu: shares
        for cpu, times in (b.each if b else ())
        if cpu in old_each and (shares := cpu_shares(old_each[cpu], times))
    }
    old, new = before.protocols, after.protocols
    again, sent, drops = (
        increase(x, y)
        if old and new and (x := old.get(name)) is not None and (y := new.get(name)) is not None
        else None
        for name in ("Tcp_RetransSegs", "Tcp_OutSegs", "TcpExt_ListenDrops")
    )
    pages_old = before.paging.counters if before.paging else {}
    pages = {
        name: value
        for name, count in (after.paging.counters if after.paging else {}).items()
        if (value := per_second(pages_old.get(name), count)) is not None
    }
    return available(
        Rates(
            window,
            cpu_shares(a.total, b.total) if a and b else None,
            each,
            per_second(a.context_switches, b.context_switches) if a and b else None,
            per_second(a.forks, b.forks) if a and b else None,
            {
                name: disk_rates(was, disk, window)
                for name, disk in (after.disks or {}).items()
                if (was := (before.disks or {}).get(name)) is not None
            },
            {
                name: interface_rates(was_there, card, window)
                for name, card in (after.interfaces or {}).items()
                if (was_there := (before.interfaces or {}).get(name)) is not None
            },
            None if again is None else again / window,
            again / sent if again is not None and sent else None,
            None if drops is None else drops / window,
            pages,
            _pressure(before.pressure or {}, after.pressure or {}, window),
        )
    )


def cpu_shares(before: CpuTimes, after: CpuTimes) -> CpuShares | None:
    """Shares of the time between two readings; None after a reset or without any time."""

    def grown(state: str, forgiven: float = 0.0) -> float:
        difference: float = getattr(after, state) - getattr(before, state)
        if difference < 0:
            if -difference > forgiven:
                raise ArithmeticError
            return 0.0
        return difference

    try:
        guest, guest_nice = grown("guest"), grown("guest_nice")
        user, nice = max(0.0, grown("user") - guest), max(0.0, grown("nice") - guest_nice)
        idle, iowait = grown("idle", _IDLE_JUMP_SECONDS), grown("iowait", _IDLE_JUMP_SECONDS)
        rest = [grown(state) for state in ("system", "irq", "softirq", "steal")]
    except ArithmeticError:
        return None
    total = user + nice + guest + guest_nice + idle + iowait + sum(rest)
    if total <= 0:
        return None
    system, irq, softirq, steal = (value / total for value in rest)
    return CpuShares(
        user / total,
        nice / total,
        system,
        idle / total,
        iowait / total,
        irq,
        softirq,
        steal,
        (guest + guest_nice) / total,
    )


def disk_rates(before: DiskCounters, after: DiskCounters, window: float) -> DiskRates:
    """Rates of one disk. The bytes and requests do not wrap; of the times one wrap is believed when it is possible in
    the window."""

    def per_second(grown: float | None) -> float | None:
        return None if grown is None else grown / window

    reads, writes = increase(before.reads, after.reads), increase(before.writes, after.writes)
    # More than 1024 requests at once, or a window of weeks, is taken for a reset.
    most = min(window * 1024 + 60, _WRAP_SECONDS / 2)
    read_time, write_time, weighted = (
        increase_32bit(x, y, most, _WRAP_SECONDS)
        for x, y in (
            (before.read_seconds, after.read_seconds),
            (before.write_seconds, after.write_seconds),
            (before.weighted_seconds, after.weighted_seconds),
        )
    )
    busy = increase_32bit(before.busy_seconds, after.busy_seconds, min(window * 1.1 + 0.1, most), _WRAP_SECONDS)
    if window > most:  # weeks: it may have wrapped more than once
        busy = read_time = write_time = weighted = None
    return DiskRates(
        per_second(reads),
        per_second(writes),
        per_second(increase(before.read_bytes, after.read_bytes)),
        per_second(increase(before.written_bytes, after.written_bytes)),
        None if busy is None else min(1.0, busy / window),
        per_second(weighted),
        read_time / reads if reads and read_time is not None else None,
        write_time / writes if writes and write_time is not None else None,
    )


def interface_rates(before: InterfaceCounters, after: InterfaceCounters, window: float) -> InterfaceRates:
    """Rates of one interface; an interface that was made anew has smaller counters and no rates."""

    def per_second(*names: str) -> float | None:
        total = 0.0
        for name in names:
            grown = increase(getattr(before, name), getattr(after, name))
            if grown is None:
                return None
            total += grown
        return total / window

    return InterfaceRates(
        per_second("receive_bytes"),
        per_second("transmit_bytes"),
        per_second("receive_packets"),
        per_second("transmit_packets"),
        per_second("receive_errors", "transmit_errors"),
        per_second("receive_dropped", "transmit_dropped"),
    )


def _pressure(
    before: Mapping[str, Pressure], after: Mapping[str, Pressure], window: float
) -> dict[tuple[str, str], float]:
    shares: dict[tuple[str, str], float] = {}
    for resource, now in after.items():
        was = before.get(resource)
        if was is None:
            continue
        for kind, first, second in (("some", was.some, now.some), ("full", was.full, now.full)):
            grown = increase(first.total_seconds, second.total_seconds) if first and second else None
            if grown is not None:
                shares[resource, kind] = min(1.0, grown / window)
    return shares
