"""Rules about the network: loss, slow links, errors of cards, refused connections."""

from __future__ import annotations

from collections.abc import Iterator

from runbooks_lib import words
from runbooks_lib.diagnosis.finding import Evidence, Finding, Severity
from runbooks_lib.diagnosis.rule import Rule
from runbooks_lib.diagnosis.rules.looking import SLOWNESS
from runbooks_lib.diagnosis.scene import Scene

_FEWEST_SEGMENTS = 60
# Mathis et al. 1997: throughput is about 1.2 MSS / (RTT sqrt(loss)); at 2 % and 20 ms that is 6 Mbit/s, whatever the
# card.
_LOSS, _MUCH_LOSS = 0.02, 0.05
_LINK_SECONDS = 0.020  # a host on the same link answers within 1 ms over a cable and within a few over radio


def _loss(scene: Scene) -> Iterator[Finding]:
    found = scene.deeper.connections.value
    outside = found.outside if found else ()
    sent, again = sum(row.segments for row in outside), sum(row.again for row in outside)
    signs = []
    loss = again / sent if sent >= _FEWEST_SEGMENTS else 0.0
    if loss >= _LOSS and again >= 4:
        signs.append(
            Evidence(
                f"{again} of {sent} segments of the {words.count(len(outside), 'connection')} to other"
                f" hosts"
                f" were sent again ({words.percent(loss)})",
                0.85 if loss >= _MUCH_LOSS else 0.6,
            )
        )
    rates = scene.rates
    if signs and rates and rates.retransmit_ratio and rates.retransmit_ratio >= _LOSS:
        signs.append(Evidence(f"in our few seconds {words.percent(rates.retransmit_ratio)} of all segments", 0.3))
    if signs:
        yield Finding(
            "packet-loss",
            Severity.RED if loss >= _MUCH_LOSS else Severity.YELLOW,
            f"packets that this host sends get lost: {words.percent(loss)} had to be sent again",
            tuple(signs),
            "`ss -ti` (retrans), `ip -s link` (errors, dropped), `tc -s qdisc`; `mtr` to a host beside it and to one"
            " far away",
            "if every peer is affected: card, cable, switch port or a queueing rule of this host; if some: the way"
            " to those",
            explains=SLOWNESS,
        )


def _delay(scene: Scene) -> Iterator[Finding]:
    found = scene.deeper.connections.value
    # Only our own connection is surely new enough: the kernel's least round trip is that of the last five minutes.
    near = [row for row in (found.outside if found else ()) if row.on_link and row.least_round_trip_seconds is not None]
    slow = [row for row in near if (row.least_round_trip_seconds or 0) >= _LINK_SECONDS]
    if not slow:
        return
    least = min(row.least_round_trip_seconds or 0 for row in slow)
    yield Finding(
        "slow-link",
        Severity.RED if least >= 0.1 else Severity.YELLOW,
        f"the network delays every packet: a host on the same link answers after {least * 1000:.0f} ms at best",
        (
            Evidence(f"least round trip to {slow[0].peer}, which no router lies before: {least * 1000:.0f} ms", 0.8),
            Evidence(
                f"{len(slow)} of {words.count(len(near), 'connection')} on the link", 0.3 if len(slow) > 1 else 0.1
            ),
        ),
        "`ping` to the gateway; `tc qdisc show`; `ip -s link`; is the link or a tunnel under it full?",
        "look for a queueing rule on this host, a full link, a tunnel or a duplex mismatch on the way",
        explains=SLOWNESS,
    )


def _cards(scene: Scene) -> Iterator[Finding]:
    rates = scene.rates
    for name, card in rates.interfaces.items() if rates else ():
        packets = (card.receive_packets_per_second or 0) + (card.transmit_packets_per_second or 0)
        bad = card.errors_per_second or 0
        if bad >= 1 and packets and bad / packets >= 0.001:
            yield Finding(
                "card-errors",
                Severity.YELLOW,
                f"the network card {words.plain(name)} counts errors",
                (Evidence(f"{bad:.0f} errors a second among {packets:.0f} packets", 0.8),),
                f"`ethtool -S {words.argument(name)}`, `ip -s link show {words.argument(name)}`",
                "cable, transceiver or switch port; a duplex mismatch shows here as well",
                subject=name,
                explains=SLOWNESS | {"packet-loss"},
            )
    if rates and (rates.listen_drops_per_second or 0) >= 0.5:
        yield Finding(
            "connections-refused",
            Severity.YELLOW,
            "a service does not take new connections fast enough: the kernel drops them",
            (Evidence(f"{rates.listen_drops_per_second:.1f} connections a second are dropped at a full queue", 0.8),),
            "`ss -ltn` (a Recv-Q near its Send-Q), `nstat -az TcpExtListenDrops`",
            "the service behind that port is slow or stuck: look at it before somaxconn is raised",
        )


_TCP = "tcp(7), TCP_INFO; ss(8)"
RULES = (
    Rule(
        "packet-loss",
        "Do packets get lost?",
        ("connections",),
        "TCP slows down with every loss",
        f"Mathis et al., The macroscopic behavior of the TCP congestion avoidance algorithm (1997); {_TCP}",
        _loss,
    ),
    Rule(
        "slow-link",
        "Is the way to its neighbours slow?",
        ("connections",),
        "every question and answer takes it once",
        f"tcp_min_rtt_wlen in the kernel's ip-sysctl.rst; {_TCP}",
        _delay,
    ),
    Rule(
        "card-errors",
        "Do cards or queues count errors?",
        ("rates",),
        "errors are never normal",
        "the USE method; ip-sysctl.rst",
        _cards,
    ),
)
