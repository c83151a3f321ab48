"""What a PostgreSQL server's sessions do and wait for, in three looks 0.7 s apart.

Sources: the PostgreSQL manual's chapters 28.2.3 (pg_stat_activity, wait events), 9.27.2 (pg_blocking_pids: a prepared
transaction is number 0), 9.27.9 (pg_ls_tmpdir), 25.1.5 (transaction numbers).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runbooks_lib.facts.fact import Damaged, excerpt


@dataclass(frozen=True, slots=True)
class Session:
    """One session at one moment; idle ones are there only when they block another. Ages are in seconds, None where
    there is none. `statement` is the beginning of the running or last one, without what stood in quotes; it,
    `application` and `role` are the client's own words."""

    pid: int
    database: str
    role: str
    application: str
    client: str
    state: str
    kind: str
    wait_type: str
    wait: str
    blocked_by: tuple[int, ...]
    transaction_seconds: float | None
    query_seconds: float | None
    state_seconds: float | None
    statement: str


@dataclass(frozen=True, slots=True)
class Look:
    """Sessions and counters at one moment (`at`, seconds since 1970 by the host's clock)."""

    at: float
    commits: int
    rollbacks: int
    temporary_bytes: int
    deadlocks: int
    clients: int
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session in front of a queue: `pid` waits for nobody and `victims` wait for it, directly or behind each other;
    the longest of them has waited `longest_seconds`. `session` is None for a prepared transaction (pid 0)."""

    pid: int
    session: Session | None
    victims: tuple[Session, ...]
    longest_seconds: float


@dataclass(frozen=True, slots=True)
class PostgresActivity:
    """One server's looks, oldest first; empty when it did not answer, and `messages` (its own) or `detail` say why.
    `temporary` maps a session to the bytes of its temporary files. What is None was not answered."""

    pid: int
    looks: tuple[Look, ...]
    max_connections: int | None = None
    reserved_connections: int | None = None
    in_recovery: bool | None = None
    synchronous_standbys: str = ""
    standbys: int = 0
    transaction_number_age: int | None = None
    prepared: int = 0
    prepared_seconds: float | None = None
    temporary: Mapping[int, int] | None = None
    messages: tuple[str, ...] = ()
    detail: str = ""

    @property
    def now(self) -> Look | None:
        """The last look."""
        return self.looks[-1] if self.looks else None

    @property
    def window_seconds(self) -> float:
        """From the first look to the last."""
        return self.looks[-1].at - self.looks[0].at if len(self.looks) > 1 else 0.0

    @property
    def commits_per_second(self) -> float | None:
        """Committed transactions per second of all databases, our own two or three with them; None without two looks,
        or when the counters were reset."""
        if self.window_seconds <= 0 or self.looks[-1].commits < self.looks[0].commits:
            return None
        return (self.looks[-1].commits - self.looks[0].commits) / self.window_seconds

    def lasting(self) -> tuple[Session, ...]:
        """Sessions of the last look that wait for the same kind of thing in every look: not a moment's wait."""
        if len(self.looks) < 2:
            return ()
        before = [{each.pid: each.wait_type for each in look.sessions} for look in self.looks[:-1]]
        return tuple(
            each
            for each in self.looks[-1].sessions
            if each.wait_type and all(types.get(each.pid) == each.wait_type for types in before)
        )

    def blockers(self) -> tuple[Blocker, ...]:
        """The heads of the queues of the last look, the one with most behind it first. In a circle (a deadlock not yet
        found) the lowest number is the head."""
        if self.now is None:
            return ()
        sessions = {each.pid: each for each in self.now.sessions}
        edges = {each.pid: each.blocked_by for each in sessions.values() if each.blocked_by}
        heads: dict[int, set[int]] = {}
        for victim in edges:
            for head in _heads(victim, edges):
                heads.setdefault(head, set()).add(victim)
        rows = [
            Blocker(
                head,
                sessions.get(head),
                tuple(sessions[victim] for victim in sorted(victims - {head})),
                max((sessions[victim].query_seconds or 0.0 for victim in victims), default=0.0),
            )
            for head, victims in heads.items()
        ]
        return tuple(sorted(rows, key=lambda row: (-len(row.victims), -row.longest_seconds)))


def _heads(victim: int, edges: Mapping[int, tuple[int, ...]]) -> Iterator[int]:
    seen, open_ends = {victim}, list(edges[victim])
    found = False
    while open_ends:
        pid = open_ends.pop()
        if pid in seen:
            continue
        seen.add(pid)
        if pid in edges:
            open_ends += edges[pid]
        else:
            found = True
            yield pid
    if not found:
        yield min(seen)


def parse(pid: str, sections: Mapping[str, str]) -> PostgresActivity:
    """The activity sections of one server. Lines that are no JSON are psql's messages. Raises Damaged."""
    looks: list[Look] = []
    said: dict[str, Any] = {}
    messages: list[str] = []
    for line in sections.get(f"activity {pid}", "").split("\n"):  # JSON may hold what else ends a line
        if not line.startswith("{"):
            if line.strip():
                messages.append(line.strip()[:300])
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise Damaged(f"psql said {excerpt(line)}") from None
        if "sample" in row:
            looks.append(_look(row["sample"]))
        said.update(row)
    status = sections.get(f"activity-status {pid}", "").strip()
    limits = said.get("limits") or {}
    temporary = said.get("temporary")
    detail = ""
    if not looks:
        why = {"absent": "psql is not installed", "status 137": "psql was stopped after 20 s", "": "it was not asked"}
        detail = why.get(status, messages[0] if messages else f"psql ended with {status}")
    try:
        return PostgresActivity(
            int(pid),
            tuple(looks),
            limits.get("max_connections"),
            limits.get("reserved"),
            limits.get("in_recovery"),
            str(limits.get("synchronous_standbys") or ""),
            int(limits.get("standbys") or 0),
            limits.get("xid_age"),
            int(limits.get("prepared") or 0),
            limits.get("prepared_seconds"),
            None if temporary is None else {int(row["pid"] or 0): int(row["bytes"]) for row in temporary},
            tuple(messages),
            detail,
        )
    except (TypeError, KeyError, AttributeError):
        raise Damaged("a row of psql is not of the form that was asked for") from None


def _look(row: Any) -> Look:
    try:
        return Look(
            float(row["at"]),
            int(row["commits"]),
            int(row["rollbacks"]),
            int(row["temp_bytes"]),
            int(row["deadlocks"]),
            int(row["clients"]),
            tuple(Session(**{**each, "blocked_by": tuple(each["blocked_by"])}) for each in row["sessions"]),
        )
    except (TypeError, KeyError, AttributeError):
        raise Damaged("a look of psql is not of the form that was asked for") from None
