"""What a service says of itself: TeamCity's queue and agents, the answer of a health address, a certificate's last day.

TeamCity's REST reference: Builds (`queuedDate`, `waitReason`), Agents, Server; its times are written
20261123T221500+0000.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from runbooks_lib.facts.fact import Damaged, Fact, absent

# Without `fields`, TeamCity leaves out when a build was queued. Oldest last is its order; 1,000 are looked through.
QUEUE_PATH = "/app/rest/buildQueue?locator=count:1000&fields=count,build(id,buildTypeId,state,queuedDate,waitReason)"
AGENTS_PATH = (
    "/app/rest/agents?locator=authorized:true,connected:any,enabled:any&fields=count,agent(name,connected,enabled)"
)
SERVER_PATH = "/app/rest/server?fields=version,startTime,currentTime"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer over HTTP: status, seconds until it was whole, and its beginning in bytes."""

    status: int
    seconds: float
    body: bytes


@dataclass(frozen=True, slots=True)
class BuildQueue:
    """Builds that wait, when the oldest of those that were told was queued (UTC), and reasons for waiting by number."""

    count: int
    oldest: datetime | None
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Agents:
    """Authorized agents, and how many of them are connected, enabled, and both."""

    count: int
    connected: int
    enabled: int
    ready: int


@dataclass(frozen=True, slots=True)
class TeamCityServer:
    """Version, start and present time by its own clock (UTC)."""

    version: str
    started: datetime | None
    now: datetime | None


_NO_HEALTH: Fact[Any] = absent("no health address is named")
_NO_TEAMCITY: Fact[Any] = absent("no TeamCity address is named")
_NO_TLS: Fact[Any] = absent("it speaks no TLS")


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """One named service, asked from the operator's machine, as its users do. What was not asked is absent.

    `health` is the reply of its health address. `certificate_until` (UTC) is the last moment of its certificate,
    `certificate_fault` why it is not trusted, empty when it is. `address` is where it was asked."""

    name: str
    address: str
    health: Fact[Reply] = _NO_HEALTH
    queue: Fact[BuildQueue] = _NO_TEAMCITY
    agents: Fact[Agents] = _NO_TEAMCITY
    server: Fact[TeamCityServer] = _NO_TEAMCITY
    certificate_until: Fact[datetime] = _NO_TLS
    certificate_fault: str = ""


def parse_queue(body: str) -> BuildQueue:
    """The answer of /app/rest/buildQueue. Raises Damaged."""
    row = _object(body)
    builds = row.get("build") or []
    try:
        times = [moment for build in builds if (moment := _moment(build.get("queuedDate"))) is not None]
        reasons: dict[str, int] = {}
        for build in builds:
            reason = str(build.get("waitReason") or "")[:200]
            if reason:
                reasons[reason] = reasons.get(reason, 0) + 1
        return BuildQueue(int(row["count"]), min(times, default=None), reasons)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Damaged("the build queue has no count, or a build that is none") from None


def parse_agents(body: str) -> Agents:
    """The answer of /app/rest/agents. Raises Damaged."""
    row = _object(body)
    try:
        agents = [(bool(each.get("connected")), bool(each.get("enabled", True))) for each in row.get("agent") or []]
        return Agents(
            int(row["count"]),
            sum(connected for connected, _ in agents),
            sum(enabled for _, enabled in agents),
            sum(connected and enabled for connected, enabled in agents),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Damaged("the agents have no count, or one of them is none") from None


def parse_server(body: str) -> TeamCityServer:
    """The answer of /app/rest/server. Raises Damaged."""
    row = _object(body)
    if "version" not in row:
        raise Damaged("the server does not tell its version: is this TeamCity's address?")
    return TeamCityServer(str(row["version"])[:100], _moment(row.get("startTime")), _moment(row.get("currentTime")))


def _object(body: str) -> dict[str, Any]:
    try:
        row = json.loads(body)
    except (ValueError, RecursionError):
        raise Damaged("the answer is not JSON") from None
    if not isinstance(row, dict):
        raise Damaged("the answer is not a JSON object")
    return row


def _moment(text: object) -> datetime | None:
    try:
        return datetime.strptime(str(text), "%Y%m%dT%H%M%S%z").astimezone(UTC) if text else None
    except (ValueError, OverflowError):
        raise Damaged(f"{str(text)[:40]!r} is not a time as TeamCity writes it") from None
