"""Network interfaces: /proc/net/dev (proc_pid_net(5)) and /sys/class/net."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

# A name ends at the last colon before the numbers: an alias is `eth0:1`, and old kernels write no blank after it.
_LINE = re.compile(r"^ *([^ \n]+?): *((?:[0-9]{1,20} +){15}[0-9]{1,20}) *$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Since boot, or since the interface was made: bytes, packets, errors, and packets dropped, each way."""

    receive_bytes: int
    receive_packets: int
    receive_errors: int
    receive_dropped: int
    transmit_bytes: int
    transmit_packets: int
    transmit_errors: int
    transmit_dropped: int
    receive_fifo: int
    receive_frame: int
    transmit_fifo: int
    collisions: int
    carrier_errors: int


def parse(text: str) -> Mapping[str, InterfaceCounters]:
    """/proc/net/dev: interface name to counters. Containers' interfaces (veth, cali, lxc, tap) were left out on the
    host.
    Raises Damaged when a row has not its sixteen numbers."""
    lines = [line for line in text.split("\n") if line and "|" not in line]
    found = _LINE.findall("\n".join(lines))
    if len(found) != len(lines):
        raise Damaged("/proc/net/dev has a row without its sixteen numbers")
    interfaces: dict[str, InterfaceCounters] = {}
    for name, rest in found:
        n = [int(field) for field in rest.split()]
        interfaces[name] = InterfaceCounters(
            n[0], n[1], n[2], n[3], n[8], n[9], n[10], n[11], n[4], n[5], n[12], n[13], n[14]
        )
    return interfaces


# -1 in 16 and in 32 bits, as older kernels show a speed that is not known (ethtool(8) calls both unknown).
_UNKNOWN_SPEEDS = ("65535", "4294967295")


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface's state. `speed_bits_per_second` is None where it is down or virtual. `kind`: physical, virtual, or
    member (of a bond or bridge, whose traffic is then counted there as well)."""

    name: str
    operstate: str
    speed_bits_per_second: int | None
    mtu_bytes: int | None
    kind: str


def parse_interfaces(text: str) -> tuple[Interface, ...]:
    """The interfaces section, one row an interface. Raises Damaged."""
    rows = []
    for line in text.split("\n"):
        if not line:
            continue
        fields = line.split(" ")
        if len(fields) != 5:
            raise Damaged("a row of the interfaces has not five fields")
        name, operstate, speed, mtu, kind = fields
        known = re.fullmatch(r"[0-9]{1,9}", speed) and speed not in _UNKNOWN_SPEEDS
        mbit = int(speed) if known else 0
        rows.append(
            Interface(
                name, operstate, mbit * 1_000_000 or None, int(mtu) if re.fullmatch(r"[0-9]{1,9}", mtu) else None, kind
            )
        )
    return tuple(rows)
