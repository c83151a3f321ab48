"""Protocol counters and sockets: /proc/net/snmp, netstat, sockstat (RFC 1213 and RFC 4022 for the names in snmp)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_INTEGER = re.compile(r"-?[0-9]{1,20}\Z")
_NUMBERS = re.compile(r"[A-Za-z0-9]+:(?: -?[0-9]{1,20})+ *\Z")


@dataclass(frozen=True, slots=True)
class Protocols:
    """`counters`: `Tcp_RetransSegs`, `TcpExt_ListenOverflows`, `IpExt_InOctets`, … since boot, as node_exporter joins
    the names."""

    counters: Mapping[str, int]

    def get(self, name: str) -> int | None:
        """One counter, None where this kernel does not have it."""
        return self.counters.get(name)


def parse(snmp: str, netstat: str) -> Protocols:
    """/proc/net/snmp and /proc/net/netstat: pairs of lines, names and numbers, matched by name. Raises Damaged."""
    counters: dict[str, int] = {}
    for text in (snmp, netstat):
        lines = [line for line in text.split("\n") if line]
        for heading, values in zip(lines[::2], lines[1::2], strict=False):
            names, numbers = heading.split(), values.split()
            if len(names) != len(numbers) or names[0] != numbers[0] or not names[0].endswith(":"):
                raise Damaged("a line of names in /proc/net is not followed by as many numbers")
            if _NUMBERS.match(values) is None:
                raise Damaged("a counter in /proc/net is not a number")
            prefix = names[0][:-1] + "_"
            counters.update(zip([prefix + name for name in names[1:]], map(int, numbers[1:]), strict=True))
        if len(lines) % 2:
            raise Damaged("a line of names in /proc/net has no numbers")
    if "Tcp_RetransSegs" not in counters:
        raise Damaged("/proc/net/snmp has no Tcp RetransSegs")
    return Protocols(counters)


@dataclass(frozen=True, slots=True)
class Sockets:
    """`counts`: `sockets_used`, `TCP_inuse`, `TCP_orphan`, `TCP_tw`, `TCP_alloc`, `TCP_mem` (pages), `UDP_inuse`,
    `TCP6_inuse`, … now."""

    counts: Mapping[str, int]


def parse_sockstat(text: str, text6: str = "") -> Sockets:
    """/proc/net/sockstat and sockstat6. Raises Damaged."""
    counts: dict[str, int] = {}
    for line in (text + "\n" + text6).splitlines():
        fields = line.split()
        if not fields:
            continue
        if len(fields) % 2 == 0 or not fields[0].endswith(":"):
            raise Damaged("a line of sockstat is not names with numbers")
        prefix = fields[0][:-1]
        for name, value in zip(fields[1::2], fields[2::2], strict=True):
            if _INTEGER.match(value) is None:
                raise Damaged("a count in sockstat is not a number")
            counts[f"{prefix}_{name}"] = int(value)
    if "sockets_used" not in counts:
        raise Damaged("sockstat does not say how many sockets are used")
    return Sockets(counts)
