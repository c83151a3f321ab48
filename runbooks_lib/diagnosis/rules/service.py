"""Rules about the service itself: does it answer, does work wait, are there agents, how long is its certificate good;
and the signature of a blocked resource: work waits while the host does less than usual."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

from runbooks_lib import words
from runbooks_lib.diagnosis.finding import Evidence, Finding, Severity
from runbooks_lib.diagnosis.rule import Rule
from runbooks_lib.diagnosis.rules.looking import ago
from runbooks_lib.diagnosis.scene import Scene
from runbooks_lib.facts.fact import State
from runbooks_lib.facts.services import ServiceAnswer

_QUEUE_SECONDS = 60.0
_SLOW_SECONDS = 3.0
_CERTIFICATE_DAYS = 14
_IDLE_CPU = 0.25
_NO_ANSWER = {State.TIMED_OUT, State.UNREADABLE}
_WAITS = ("Lock", "IO", "LWLock", "IPC")


def _oldest_wait(scene: Scene, service: ServiceAnswer) -> float | None:
    queue, server = service.queue.value, service.server.value
    if queue is None or not queue.count or queue.oldest is None:
        return None
    now = server.now if server and server.now else scene.now  # by its own clock where it tells it
    return max(0.0, (now - queue.oldest).total_seconds())


def _answers(scene: Scene) -> Iterator[Finding]:
    for service in scene.services:
        name = words.plain(service.name)
        facts = [
            fact
            for fact in (service.health, service.server, service.queue, service.agents)
            if fact.known or fact.state in _NO_ANSWER
        ]
        bad = [fact for fact in facts if not fact.known]
        status = service.health.value.status if service.health.value else 0
        if bad or status >= 400:
            said = f"it answered HTTP {status}" if status >= 400 else bad[0].detail
            yield Finding(
                "service-down",
                Severity.RED,
                f"the service {name} does not answer as it should",
                (
                    Evidence(f"{words.plain(service.address)}: {words.plain(said, 200)}", 0.7),
                    Evidence(f"{len(bad)} of {len(facts)} questions without an answer", 0.3 if len(bad) > 1 else 0.0),
                ),
                f"`curl -v {words.argument(service.address)}` from here and on the host",
                "look at what it waits for: its database, its disk, its own log",
                subject=service.name,
                symptom=True,
            )
        elif service.health.value and service.health.value.seconds > _SLOW_SECONDS:
            yield Finding(
                "service-slow",
                Severity.YELLOW,
                f"the service {name} answers slowly",
                (Evidence(f"its health address took {service.health.value.seconds:.1f} s", 0.6),),
                f"`curl -w '%{{time_total}}' {words.argument(service.address)}`, from here and on the host",
                "compare both: the network between, or the service itself",
                subject=service.name,
                symptom=True,
            )


def _queue(scene: Scene) -> Iterator[Finding]:
    for service in scene.services:
        wait, queue = _oldest_wait(scene, service), service.queue.value
        if queue is None or wait is None or wait < _QUEUE_SECONDS:
            continue
        agents = service.agents.value
        ready = f"; {agents.ready} of {words.count(agents.count, 'agent')} are ready" if agents else ""
        signs = [Evidence(f"{words.count(queue.count, 'build')} wait, the oldest for {ago(wait)}{ready}", 0.6)]
        signs += [
            Evidence(f"{number} because: {words.plain(reason, 120)}") for reason, number in queue.reasons.items()
        ][:3]
        yield Finding(
            "queue-waits",
            Severity.YELLOW,
            f"work waits in {words.plain(service.name)}: {words.count(queue.count, 'build')}, the oldest for"
            f" {ago(wait)}",
            tuple(signs),
            "the queue's page, and whether its agents are busy or wait for the server",
            "with busy agents there is simply much to do; with idle ones the server is held up: see the findings above",
            subject=service.name,
            symptom=True,
        )


def _agents(scene: Scene) -> Iterator[Finding]:
    for service in scene.services:
        agents = service.agents.value
        if agents is None or not agents.count or agents.connected > agents.count / 2:
            continue
        none = agents.connected == 0
        yield Finding(
            "agents-missing",
            Severity.RED if none else Severity.YELLOW,
            f"{'no agent' if none else f'only {agents.connected} of {agents.count} agents'} of"
            f" {words.plain(service.name)}"
            f" {'is' if none else 'are'} connected",
            (Evidence(f"{agents.count} authorized, {agents.connected} connected, {agents.enabled} enabled", 0.6),),
            "the agents' page; an agent's own log; can an agent's host reach the server?",
            "a server that is held up loses its agents as well: look at the server's findings first, then at the"
            " agents' hosts",
            subject=service.name,
            symptom=True,
            explains=frozenset({"queue-waits"}),
        )


def _certificates(scene: Scene) -> Iterator[Finding]:
    for service in scene.services:
        until = service.certificate_until.value
        if until is None:
            continue
        left = until - scene.now
        name, last = words.plain(service.name), words.moment(until)
        if left < timedelta(days=_CERTIFICATE_DAYS) or service.certificate_fault:
            gone = left < timedelta(0)
            days = f"{abs(left.days)} days"
            cause = (
                f"the certificate of {name} has expired"
                if gone
                else f"the certificate of {name} expires in {days}"
                if left < timedelta(days=_CERTIFICATE_DAYS)
                else f"the certificate of {name} is not trusted from here"
            )
            signs = [Evidence(f"it is good until {last}", 0.9 if left < timedelta(days=_CERTIFICATE_DAYS) else 0.0)]
            if service.certificate_fault:
                signs.append(Evidence(words.plain(service.certificate_fault, 160), 0.6))
            yield Finding(
                "certificate",
                Severity.RED if gone or left < timedelta(days=2) else Severity.YELLOW,
                cause,
                tuple(signs),
                f"`openssl s_client {_tls_place(scene, service)} </dev/null | openssl x509 -noout -dates`",
                "renew it and reload the service; see why the renewal did not happen by itself",
                subject=service.name,
                explains=frozenset({f"service-down:{service.name}"} if gone else ()),
            )


def _tls_place(scene: Scene, service: ServiceAnswer) -> str:
    """Where its certificate was looked at, as openssl-s_client(1) wants it: host:port, and a name for the server."""
    named = next((each for each in scene.entry.services if each.name == service.name), None)
    addresses = (named.certificate, named.teamcity, named.health) if named else ()
    address = next((each for each in addresses if each and not each.startswith("http://")), service.address)
    parts = urlsplit(address if "//" in address else f"//{address}")
    host, port = parts.hostname or "", parts.port or 443
    if ":" in host:
        return f"-connect {words.argument(f'[{host}]:{port}')}"
    name = "" if re.fullmatch(r"[0-9.]+", host) else f" -servername {words.argument(host)}"
    return f"-connect {words.argument(f'{host}:{port}')}{name}"


def waiting_signs(scene: Scene) -> list[Evidence]:
    """That work waits: in the service's queue, in the database, in the kernel."""
    signs = []
    for service in scene.services:
        wait, queue = _oldest_wait(scene, service), service.queue.value
        if queue is not None and wait is not None and wait >= _QUEUE_SECONDS:
            signs.append(
                Evidence(
                    f"{words.count(queue.count, 'build')} wait in {words.plain(service.name)}, the oldest for"
                    f" {ago(wait)}",
                    0.5,
                )
            )
        if {service.queue.state, service.health.state} & _NO_ANSWER:
            signs.append(Evidence(f"the service {words.plain(service.name)} does not answer", 0.4))
    for activity in scene.activity():
        kept = [each for each in activity.lasting() if each.wait_type in _WAITS and each.state == "active"
                and (each.query_seconds or 0) >= 2]  # fmt: skip
        if kept:
            signs.append(Evidence(f"{words.count(len(kept), 'session')} of PostgreSQL wait all the while", 0.4))
    sleepers = scene.deeper.waiting.value
    if sleepers and sleepers.lasting:
        signs.append(Evidence(f"{words.count(len(sleepers.lasting), 'thread')} hang in the kernel", 0.4))
    return signs


def _blocked(scene: Scene) -> Iterator[Finding]:
    """Less is done than usual, and work waits: something blocks. Without a baseline: the CPU idles, and work waits."""
    waits = waiting_signs(scene)
    below = [each for each in scene.deviations if each.direction == "below"]
    saturated = [each for each in scene.deviations if each.direction == "above" and each.measure.kind == "waiting"]
    if not waits:
        return
    names = words.listing([each.measure.words for each in below])
    if len(below) >= 2:
        cause = (
            f"{names} are far below their usual level while work waits: not too much is asked of this host,"
            " something blocks it"
        )
        signs = [Evidence(each.sentence, 0.3) for each in below]
    elif (
        scene.rates
        and scene.rates.cpu
        and scene.rates.cpu.busy < _IDLE_CPU
        and not any(past.band for past in scene.baseline.pasts.values())
    ):
        cause = (
            "the CPUs are nearly idle while work waits: not too much is asked of this host, something blocks it"
            " (no baseline to compare with)"
        )
        signs = [Evidence(f"{words.percent(scene.rates.cpu.busy)} of the CPU in use", 0.2)]
    else:
        return
    signs += waits + [Evidence(each.sentence, 0.3) for each in saturated]
    yield Finding(
        "blocked-resource",
        Severity.YELLOW,
        cause,
        tuple(signs),
        "the findings beside this one name the resource; if none does: `ps -eo pid,stat,wchan:30,comm | grep ' D'`,"
        " pg_stat_activity",
        "when a resource below is full, slow or locked, it is that; when nothing is, look upstream: agents, network"
        " path, scheduler, licence",
        symptom=True,
        explains=frozenset({"queue-waits", "agents-missing"}),
    )


def _unusual(scene: Scene) -> Iterator[Finding]:
    for each in scene.deviations:
        if each.direction == "above" and each.measure.kind == "throughput" and each.measure.name != "memory":
            yield Finding(
                "more-than-usual",
                Severity.INFO,
                f"{each.measure.words} is far above its usual level",
                (Evidence(each.sentence, 0.3),),
                "what has changed: a deployment, a timer, a new client?",
                "nothing by itself: more work than usual may be meant",
                subject=each.measure.name,
                symptom=True,
            )


RULES = (
    Rule(
        "service-down",
        "Does the service answer?",
        ("services",),
        "it is what users see",
        "HTTP status codes, RFC 9110",
        _answers,
    ),
    Rule(
        "queue-waits",
        "Does work wait in its queue?",
        ("services",),
        "a queue that grows is what users call slow",
        "TeamCity REST reference: Builds; Little's law (1961)",
        _queue,
    ),
    Rule(
        "agents-missing",
        "Are its agents there?",
        ("services",),
        "no agent, no work",
        "TeamCity REST reference: Agents",
        _agents,
    ),
    Rule(
        "certificate",
        "Is its certificate good?",
        ("services",),
        "clients turn away on its last day",
        "RFC 5280, 4.1.2.5",
        _certificates,
    ),
    Rule(
        "blocked-resource",
        "Does work wait while less is done than usual?",
        ("rates",),
        "CPU, memory and network far below normal with work waiting is the signature of a blocked resource",
        "this project's founding incident; notes on databases, section 5",
        _blocked,
    ),
    Rule(
        "more-than-usual",
        "Is more done than usual?",
        ("rates",),
        "load that comes from outside looks so",
        "the USE method",
        _unusual,
    ),
)
