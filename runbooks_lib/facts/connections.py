"""Established TCP connections with what the kernel measured on each: `ss -tin` (ss(8), tcp(7) TCP_INFO)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_ENDS = re.compile(r"(?:ESTAB +)?([0-9]{1,12}) +([0-9]{1,12}) +(\S+):([0-9]{1,5}) +(\S+):([0-9]{1,5})")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection. `round_trip_seconds` is the kernel's smoothed one, `least_round_trip_seconds` the least of the
    last five minutes (tcp_min_rtt_wlen); `segments` with data were sent, `again` of them more than once."""

    local: str
    local_port: int
    peer: str
    peer_port: int
    unread_bytes: int
    unsent_bytes: int
    round_trip_seconds: float | None
    least_round_trip_seconds: float | None
    segments: int
    again: int
    on_link: bool  # the peer is on a network of the host's own cards: no router in between
    local_only: bool  # both ends are on this host


@dataclass(frozen=True, slots=True)
class Connections:
    """At most 400 connections, as they were at one moment."""

    rows: tuple[Connection, ...]

    @property
    def outside(self) -> tuple[Connection, ...]:
        """Those that leave the host."""
        return tuple(row for row in self.rows if not row.local_only)


def parse(text: str, routes: str) -> Connections:
    """The output of `ss -tinH state established`, two lines a connection, and /proc/net/route. Raises Damaged."""
    networks = on_link(routes)
    rows: list[Connection] = []
    lines = [line for line in text.split("\n") if line.strip()]
    position = 0
    while position < len(lines):
        ends = _ENDS.match(lines[position].strip())
        if ends is None:
            raise Damaged("a line of ss is not two queues and two ends")
        position += 1
        about = ""
        while position < len(lines) and lines[position][:1] in " \t" and _ENDS.match(lines[position].strip()) is None:
            about += lines[position]
            position += 1
        unread, unsent, local, local_port, peer, peer_port = ends.groups()
        ours, theirs = _address(local), _address(peer)
        rtt = re.search(r"\brtt:([0-9.]{1,12})/", about)
        least = re.search(r"\bminrtt:([0-9.]{1,12})", about)
        sent = re.search(r"\bdata_segs_out:([0-9]{1,12})", about)
        again = re.search(r"\bretrans:[0-9]{1,9}/([0-9]{1,9})", about)
        rows.append(
            Connection(
                str(ours),
                int(local_port),
                str(theirs),
                int(peer_port),
                int(unread),
                int(unsent),
                float(rtt[1]) / 1000 if rtt else None,
                float(least[1]) / 1000 if least else None,
                int(sent[1]) if sent else 0,
                int(again[1]) if again else 0,
                any(theirs in network for network in networks if network.version == theirs.version),
                ours == theirs or theirs.is_loopback,
            )
        )
    return Connections(tuple(rows))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        # Both [fe80::1%eth0] and [fe80::1]%eth0, which is iproute2's way.
        found = ipaddress.ip_address(text.replace("[", "").replace("]", "").partition("%")[0])
    except ValueError:
        raise Damaged(f"ss names an end {text[:60]!r}") from None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def on_link(routes: str) -> tuple[Network, ...]:
    """The IPv4 networks that /proc/net/route reaches without a gateway (proc_pid_net(5)), link-local ones for IPv6.

    Its addresses are hexadecimal in the host's byte order; only little-endian hosts are understood, others give none.
    """
    found: list[Network] = [ipaddress.ip_network("fe80::/10")]
    for line in routes.split("\n")[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[2] != "00000000" or fields[7] in ("00000000", "FFFFFFFF"):
            continue
        try:
            address, mask = (ipaddress.IPv4Address(bytes.fromhex(fields[place])[::-1]) for place in (1, 7))
            found.append(ipaddress.ip_network(f"{address}/{mask}"))
        except ValueError:
            continue
    return tuple(found)
