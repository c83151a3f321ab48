"""The slow facts of a host, each there only when it was asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from runbooks_lib.facts import (
    connections,
    deleted_files,
    directories,
    journal,
    kernel_log,
    lvm,
    postgres,
    postgres_activity,
    process_io,
    waiting,
)
from runbooks_lib.facts.answer import Answer, parse_answer
from runbooks_lib.facts.connections import Connections
from runbooks_lib.facts.deleted_files import DeletedFiles
from runbooks_lib.facts.directories import Directories
from runbooks_lib.facts.fact import Fact, State, absent, attempt, available
from runbooks_lib.facts.journal import JournalUse, LastBoot
from runbooks_lib.facts.kernel_log import JournalMessage, KernelLog
from runbooks_lib.facts.lvm import Lvm
from runbooks_lib.facts.postgres import PostgresDetails
from runbooks_lib.facts.postgres_activity import PostgresActivity
from runbooks_lib.facts.process_io import ProcessesIo
from runbooks_lib.facts.waiting import Sleepers

SLOW_FACTS = (
    "lvm",
    "deleted-files",
    "process-io",
    "kernel-log",
    "directories",
    "postgres",
    "postgres-activity",
    "waiting",
    "connections",
    "journal-use",
    "boots",
)
T = TypeVar("T")


@dataclass(frozen=True)
class SlowSnapshot:
    """What one slow answer says. None is what was not asked for. `as_root`: the script ran as root."""

    host: str
    time: datetime
    script_sha256: str
    as_root: bool
    lvm: Fact[Lvm] | None = None
    deleted_files: Fact[DeletedFiles] | None = None
    process_io: Fact[ProcessesIo] | None = None
    kernel_log: Fact[KernelLog] | None = None
    journal: Fact[tuple[JournalMessage, ...]] | None = None
    directories: Fact[Directories] | None = None
    postgres: Fact[tuple[PostgresDetails, ...]] | None = None
    postgres_activity: Fact[tuple[PostgresActivity, ...]] | None = None
    waiting: Fact[Sleepers] | None = None
    connections: Fact[Connections] | None = None
    journal_use: Fact[JournalUse] | None = None
    last_boot: Fact[LastBoot] | None = None


def parse_slow(
    host: str,
    stdout: bytes,
    nonce: str,
    *,
    ask: Collection[str],
    time: datetime,
    mountpoint: str = "",
    script_sha256: str = "",
) -> SlowSnapshot:
    """A slow answer as facts. Raises answer.Incomplete when it is not whole."""
    answer = parse_answer(stdout, nonce)
    as_root = answer.sections.get("uid", "").strip() == "0"

    def fact(name: str, read: Callable[[Answer, bool], Fact[T]]) -> Fact[T] | None:
        if name not in ask:
            return None
        why = answer.not_read.get(name)
        if why == "denied":
            return Fact(
                State.NOT_ALLOWED, None, _DENIED.get(name, "it needs root, and sudo was refused or not asked for")
            )
        if why == "stale":
            return Fact(State.TIMED_OUT, None, "the mount did not answer within two seconds")
        if why == "long-ago":
            return absent("it was booted more than four hours ago")
        if why == "absent":
            return absent(_ABSENT[name])
        return read(answer, as_root)

    return SlowSnapshot(
        host,
        time,
        script_sha256,
        as_root,
        lvm=fact("lvm", _lvm),
        deleted_files=fact("deleted-files", _deleted),
        process_io=fact("process-io", _process_io),
        kernel_log=fact("kernel-log", lambda answer, _: answer.fact(kernel_log.parse, "dmesg")),
        journal=_journal(answer) if "kernel-log" in ask else None,
        directories=fact(
            "directories",
            lambda answer, _: answer.fact(
                lambda text: directories.parse(text, mountpoint, answer.sections.get("large-files", "")), "directories"
            ),
        ),
        postgres=fact("postgres", _postgres),
        postgres_activity=_activity(answer) if "postgres-activity" in ask else None,
        waiting=fact("waiting", lambda answer, as_root: _partly(answer.fact(waiting.parse, "waiting"), as_root)),
        connections=fact("connections", lambda answer, _: answer.fact(connections.parse, "connections", "routes")),
        journal_use=fact("journal-use", lambda answer, _: answer.fact(journal.parse_use, "journal-use")),
        last_boot=fact("boots", lambda answer, _: answer.fact(journal.parse_boots, "boots", "recovery")),
    )


_ABSENT = {
    "lvm": "LVM's tools are not installed",
    "deleted-files": "nothing to look into",
    "process-io": "this kernel does not count I/O per process",
    "kernel-log": "no kernel log",
    "directories": "no such directory",
    "postgres": "no PostgreSQL server runs here",
    "connections": "ss, of iproute2, is not installed",
    "journal-use": "the host keeps no systemd journal",
    "boots": "the host keeps no systemd journal",
}
_JOURNAL = "the journal needs root, or the group adm or systemd-journal"
_DENIED = {"journal-use": _JOURNAL, "boots": _JOURNAL}


def _lvm(answer: Answer, _: bool) -> Fact[lvm.Lvm]:
    if "137" in answer.sections.get("lvm-status", "").split():
        return Fact(State.TIMED_OUT, None, "a report of LVM did not end within 20 s: is a device suspended?")
    return answer.fact(lvm.parse, "pvs", "vgs", "lvs")


def _named(answer: Answer, prefix: str) -> dict[str, str]:
    return {name[len(prefix) :]: text for name, text in answer.sections.items() if name.startswith(prefix)}


def _deleted(answer: Answer, as_root: bool) -> Fact[deleted_files.DeletedFiles]:
    names, processes = _named(answer, "name "), _named(answer, "comm ")
    return _partly(
        answer.fact(lambda text: deleted_files.parse(text, names, processes, as_root), "deleted-stat"), as_root
    )


def _process_io(answer: Answer, as_root: bool) -> Fact[process_io.ProcessesIo]:
    names = _named(answer, "io-comm ")
    return _partly(answer.fact(lambda text: process_io.parse(text, names, as_root), "process-io"), as_root)


def _partly(fact: Fact[T], as_root: bool) -> Fact[T]:
    if fact.value is None or as_root:
        return fact
    return available(fact.value, "without root only the user's own processes could be looked into")


def _journal(answer: Answer) -> Fact[tuple[kernel_log.JournalMessage, ...]]:
    if answer.not_read.get("journal") == "absent":
        return absent("the host keeps no systemd journal")
    if answer.not_read.get("journal") == "denied":
        return Fact(State.NOT_ALLOWED, None, _JOURNAL)
    return answer.fact(kernel_log.parse_journal, "journal")


def _postgres(answer: Answer, _: bool) -> Fact[tuple[postgres.PostgresDetails, ...]]:
    return _servers(answer, lambda pid, place: postgres.parse_details(pid, place, answer.sections))


def _activity(answer: Answer) -> Fact[tuple[postgres_activity.PostgresActivity, ...]]:
    if answer.not_read.get("postgres") == "absent":
        return absent(_ABSENT["postgres"])
    return _servers(answer, lambda pid, _: postgres_activity.parse(pid, answer.sections))


def _servers(answer: Answer, parse: Callable[[str, str], T]) -> Fact[tuple[T, ...]]:
    """What `parse` (of a server's number and where it is) makes of each server that could be looked into."""
    denied = [name for name, why in answer.not_read.items() if name.startswith("postgres-") and why == "denied"]
    servers = [
        attempt(lambda pid=pid, place=text: parse(pid, place))
        for pid, text in _named(answer, "postgres ").items()
        if re.fullmatch(r"[0-9]{1,10}", pid)
    ]
    damaged = [server for server in servers if server.value is None]
    if damaged:
        return Fact(State.UNREADABLE, None, damaged[0].detail)
    if not servers and denied:
        return Fact(
            State.NOT_ALLOWED, None, f"{len(denied)} servers run here; to look into them needs root or their own user"
        )
    if not servers:
        return Fact(State.UNREADABLE, None, "the answer has no section for PostgreSQL")
    detail = f"{len(denied)} more servers need root" if denied else ""
    return available(tuple(server.value for server in servers if server.value is not None), detail)
