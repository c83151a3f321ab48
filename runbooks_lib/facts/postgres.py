"""PostgreSQL servers on a host: from their command lines without root; size, WAL, slots and archiver through psql
with it.

Sources: the PostgreSQL manual's pages on pg_stat_archiver, pg_replication_slots, pg_ls_waldir and postmaster.pid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from runbooks_lib.facts.fact import Damaged, excerpt

_MAJOR = re.compile(r"(?:^|/)(?:postgresql|pgsql|postgres)[/-]?([0-9]{1,2}(?:\.[0-9])?)(?:/|$)")
_VERSION = re.compile(r"[0-9]{1,2}(\.[0-9]{1,2})?\Z")


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server, as far as one sees without root. `data_directory` stands on its command line (a symlink,
    perhaps),
    `resolved_directory` is where it really lies; both are empty when not known. `mountpoint` holds the resolved
    directory. `wal_directory` and an exact `version` need access to the data directory; else `version` is a guess
    from the paths. `contained`: it runs in a container, its paths are not this host's."""

    pid: int
    arguments: tuple[str, ...]
    data_directory: str = ""
    resolved_directory: str = ""
    wal_directory: str = ""
    mountpoint: str = ""
    wal_mountpoint: str = ""
    version: str = ""
    port: int | None = None
    contained: bool = False
    detail: str = ""


def parse_servers(listed: str, sections: Mapping[str, str]) -> tuple[PostgresServer, ...]:
    """The postgres sections of a quick answer: the list of servers, and one to four sections for each. Raises
    Damaged."""
    servers = []
    pids = re.findall(r"^postgres ([0-9]{1,10})$", listed, re.MULTILINE)
    if len(pids) != len(listed.split()) / 2:
        raise Damaged("the list of PostgreSQL servers has a line that is none")
    for pid in pids[:8]:
        arguments = tuple(sections.get(f"postgres-{pid}", "").rstrip("\n").split("\n"))
        contained = f"postgres-contained-{pid}" in sections
        data = _option(arguments, "-D", "data_directory", "data-directory")
        resolved = _one_line(sections.get(f"postgres-data-{pid}", ""))
        said = sections.get(f"postgres-version-{pid}", "").strip()
        guess = _MAJOR.search(arguments[0]) or _MAJOR.search(data)
        port = _option(arguments, "-p", "port")
        detail = (
            "" if data else "its command line does not say where the data directory is: ask the slow script, as root"
        )
        if data and not resolved and not contained:
            detail = "the data directory was not resolved: no permission on the way to it, or a network mount is dead"
        servers.append(
            PostgresServer(
                int(pid),
                arguments,
                data,
                resolved,
                _one_line(sections.get(f"postgres-wal-{pid}", "")),
                version=said if _VERSION.match(said) else guess[1] if guess else "",
                port=int(port) if re.fullmatch(r"[0-9]{1,5}", port) else None,
                contained=contained,
                detail="it runs in a container: its paths are not this host's" if contained else detail,
            )
        )
    return tuple(servers)


def _option(arguments: tuple[str, ...], short: str, *long: str) -> str:
    """The last value given for an option, as postgres(1) reads `-D X`, `-DX`, `--name=X` and `-c name=X`."""
    value, take = "", False
    for argument in arguments[1:]:
        if take:
            value, take = argument, False
        elif argument == short:
            take = True
        elif argument.startswith(short) and not argument.startswith("--"):
            value = argument[2:]
        else:
            name, equals, rest = argument.partition("=")
            if equals and name.lstrip("-") in long:
                value = rest
    return value


def _one_line(text: str) -> str:
    return text.removesuffix("\n")


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot. `retained_bytes` of WAL cannot be removed for it; `wal_status` (PostgreSQL 13) is reserved,
    extended, unreserved or lost."""

    name: str
    kind: str
    active: bool
    retained_bytes: int | None
    wal_status: str = ""


@dataclass(frozen=True, slots=True)
class Archiver:
    """The archiver: `waiting` segments not yet archived (PostgreSQL 12), counts since the statistics' reset, and
    the last
    success and failure. It is failing when the last failure is later than the last success."""

    mode: str
    archived: int
    failed: int
    last_archived: datetime | None
    last_failed: datetime | None
    last_failed_wal: str
    waiting: int | None

    @property
    def failing(self) -> bool:
        """True when the newest attempt failed."""
        return self.last_failed is not None and (self.last_archived is None or self.last_failed > self.last_archived)


@dataclass(frozen=True, slots=True)
class PostgresDetails:
    """One server, from inside. None where a query had no answer (older than PostgreSQL 10, stopped after five
    seconds, or
    no psql); `detail` says which. Sizes in bytes; `size_bytes` is the sum of all databases."""

    pid: int
    data_directory: str
    wal_directory: str
    version: str = ""
    version_number: int | None = None
    in_recovery: bool | None = None
    started: datetime | None = None
    connections: int | None = None
    max_connections: int | None = None
    wal_level: str = ""
    databases: Mapping[str, int] | None = None
    wal_bytes: int | None = None
    wal_files: int | None = None
    archiver: Archiver | None = None
    slots: tuple[Slot, ...] | None = None
    tablespaces: Mapping[str, str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""

    @property
    def size_bytes(self) -> int | None:
        """Sum of all databases' sizes, without WAL."""
        return None if self.databases is None else sum(self.databases.values())


def parse_details(pid: str, place: str, sections: Mapping[str, str]) -> PostgresDetails:
    """The sections of one server in a slow answer. Raises Damaged when psql's lines are not the JSON that was asked
    for."""
    place = place.strip()
    if place == "contained":
        return PostgresDetails(
            int(pid), "", "", detail="it runs in a container: its paths and sockets are not this host's"
        )
    if place == "stale":
        return PostgresDetails(int(pid), "", "", detail="its data directory's mount does not answer")
    data, wal = (_one_line(sections.get(f"postgres-{part} {pid}", "")) for part in ("data", "wal"))
    said: dict[str, Any] = {}
    for line in sections.get(f"psql {pid}", "").split("\n"):  # JSON may hold what else ends a line
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise Damaged(f"psql said {excerpt(line)}") from None
            if not isinstance(row, dict):
                raise Damaged(f"psql said {excerpt(line)}")
            said.update(row)
    status = sections.get(f"psql-status {pid}", "").strip()
    try:
        return _details(int(pid), data, wal, said, status)
    except (TypeError, AttributeError):
        raise Damaged("a row of psql is not of the form that was asked for") from None


def _details(pid: int, data: str, wal: str, said: dict[str, Any], status: str) -> PostgresDetails:
    server, archiver, wal_row = said.get("server") or {}, said.get("archiver"), said.get("wal") or {}
    unanswered = [name for name in ("server", "wal", "archiver", "slots", "databases") if said.get(name) is None]
    detail = ""
    if unanswered:
        why = {"absent": "psql is not installed", "status 137": "psql was stopped after 30 s"}.get(
            status, f"psql ended with {status}"
        )
        detail = f"not answered: {', '.join(unanswered)} ({why})"
    slots = said.get("slots")
    databases, tablespaces = said.get("databases"), said.get("tablespaces")
    return PostgresDetails(
        pid,
        data,
        wal,
        version=str(server.get("version", "")),
        version_number=_whole(server.get("version_number")),
        in_recovery=server.get("in_recovery"),
        started=_time(server.get("started")),
        connections=_whole(server.get("connections")),
        max_connections=_whole(server.get("max_connections")),
        wal_level=str(server.get("wal_level", "")),
        databases=None if databases is None else {str(row["name"]): int(row["bytes"]) for row in databases},
        wal_bytes=_whole(wal_row.get("bytes")),
        wal_files=_whole(wal_row.get("files")),
        archiver=None
        if archiver is None
        else Archiver(
            str(server.get("archive_mode", "")),
            int(archiver["archived"]),
            int(archiver["failed"]),
            _time(archiver["last_archived"]),
            _time(archiver["last_failed"]),
            str(archiver["last_failed_wal"] or ""),
            _whole(said.get("ready")),
        ),
        slots=None
        if slots is None
        else tuple(
            Slot(
                str(row["name"]),
                str(row["type"]),
                bool(row["active"]),
                _whole(row["retained_bytes"]),
                str((row.get("row") or {}).get("wal_status") or ""),
            )
            for row in slots
        ),
        tablespaces=None if tablespaces is None else {str(row["name"]): str(row["location"]) for row in tablespaces},
        settings=server,
        detail=detail,
    )


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _time(value: Any) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(int(value), UTC)
