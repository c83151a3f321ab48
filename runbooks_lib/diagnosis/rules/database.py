"""Rules about PostgreSQL: up or not, who blocks whom, forgotten transactions, connections, waits, WAL that is kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from runbooks_lib import words
from runbooks_lib.diagnosis.finding import Evidence, Finding, Mend, Severity
from runbooks_lib.diagnosis.rule import Rule
from runbooks_lib.diagnosis.rules.looking import SLOWNESS, ago
from runbooks_lib.diagnosis.rules.shares import WAL_SEGMENT_BYTES
from runbooks_lib.diagnosis.rules.space import RELIEVE, full_ones
from runbooks_lib.diagnosis.scene import Scene
from runbooks_lib.facts.postgres_activity import PostgresActivity, Session

_LOCK_SECONDS = 5.0  # deadlock_timeout is 1 s: who waits longer waits for somebody's work or lunch
_SYNC_SECONDS = 2.0  # a standby that answers takes one round trip
_IDLE_SECONDS = 60.0
_LONG_SECONDS = 3600.0
_SERVERS = re.compile(r"(postgres|mysql|mariadb|mongod|redis|oracle|mssql).*\.service\Z", re.IGNORECASE)
# Units that go by a server's name and are none; one that is not found was left behind by a package that is gone.
_HELPERS = re.compile(r"export|backup|dump|archiv|vacuum|check|monitor|metric|agent|clean|maint|rotat", re.IGNORECASE)

# The server turned our login away, or it was never asked: that is no silence of the server.
_NOT_ASKED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects|not permitted to log in"
    r"|(role|user|database) .* does not exist|(password|terminal) is required|sudoers|may not run|not allowed to"
    r"|failed to execute|psql is not installed|it was not asked|^(?!could not change directory).*permission denied",
    re.IGNORECASE,
)


def not_asked(scene: Scene, activity: PostgresActivity) -> str:
    """Why a server that need not be unwell did not tell what its sessions do; empty when it did, or gives no answer."""
    if activity.looks:
        return ""
    said = next((text for text in (activity.detail, *activity.messages) if _NOT_ASKED.search(text)), "")
    if said == "it was not asked":  # a container's, or one whose directory does not answer: the other question says so
        details = scene.deeper.postgres_details.value or ()
        said = next((each.detail for each in details if each.pid == activity.pid and each.detail), said)
    return said


def _who(session: Session | None) -> str:
    if session is None:
        return "a prepared transaction"
    name = session.application or session.role or session.kind
    return f"session {session.pid} ({words.plain(name)}{f' from {session.client}' if session.client else ''})"


def _down(scene: Scene) -> Iterator[Finding]:
    if scene.snapshot is None:
        return
    running = scene.snapshot.postgres.value or ()
    failed = [
        unit
        for unit in scene.snapshot.failed_units.value or ()
        if unit.load != "not-found"
        and _SERVERS.search(unit.name)
        and not _HELPERS.search(unit.name.partition("@")[0])  # what follows is a cluster's own name
    ]
    if failed:
        yield Finding(
            "database-down",
            Severity.RED,
            f"the database's unit `{words.plain(failed[0].name)}` has failed",
            (
                Evidence(f"systemd says {failed[0].sub}", 0.7),
                Evidence(
                    "no PostgreSQL server runs here" if not running else "another server runs here",
                    0.3 if not running else 0.0,
                ),
            ),
            f"`journalctl -u {words.argument(failed[0].name)} -e` and the server's own log: the last PANIC or FATAL"
            f" says why",
            "mend the cause first (room, disk, memory), then start it; it recovers by itself from its WAL",
            subject=failed[0].name,
            symptom=True,
            explains=frozenset({"failed-unit:" + unit.name for unit in failed}) | SLOWNESS,
        )
    for activity in scene.deeper.postgres_activity.value or ():
        if not activity.looks and activity.detail and not not_asked(scene, activity):
            crowded = "too many clients" in activity.detail or "remaining connection slots" in activity.detail
            yield Finding(
                "connections-exhausted" if crowded else "postgres-unanswered",
                Severity.RED,
                "PostgreSQL has no connection left" if crowded else "PostgreSQL runs and does not answer",
                (Evidence(f"psql: {words.plain(activity.detail, 200)}", 0.9 if crowded else 0.7),),
                "the server's own log; `ps -o stat,wchan,cmd -C postgres`",
                "see who holds the connections, and why they do not end"
                if crowded
                else "if it is starting up or recovering, wait and watch its log; if it hangs, look at what it waits"
                " for",
                subject=str(activity.pid),
                symptom=not crowded,
                explains=SLOWNESS | {"postgres-unanswered"},
            )


def _locks(scene: Scene) -> Iterator[Finding]:
    for activity in scene.activity():
        lasting = {each.pid for each in activity.lasting()}
        for blocker in activity.blockers():
            # A statement of hours may wait for a lock of a moment: who waits in every look (of several) is held up.
            victims = [each for each in blocker.victims if each.pid in lasting or len(activity.looks) < 2]
            longest = max((each.query_seconds or 0.0 for each in victims), default=0.0)
            if not victims or longest < _LOCK_SECONDS:
                continue
            session = blocker.session
            idle = session is not None and session.state.startswith("idle in transaction")
            number = len(victims)
            signs = [
                Evidence(
                    f"{words.count(number, 'session')} wait for it (pg_blocking_pids), the longest for {ago(longest)}",
                    0.9,
                ),
            ]
            if session is not None:
                waits = f", waits for {session.wait_type} {session.wait}" if session.wait else ""
                signs.append(
                    Evidence(
                        f"it is"
                        f" {session.state or 'at work'}{waits}, its"
                        f" transaction is {ago(session.transaction_seconds)} old:"
                        f" `{words.plain(session.statement, 100)}`",
                        0.4,
                    )
                )
            victim = max(victims, key=lambda each: each.query_seconds or 0)
            signs.append(Evidence(f"for example {_who(victim)}: `{words.plain(victim.statement, 80)}`"))
            # One that itself waits for a disk or a standby holds its lock because of that.
            held_up = session is not None and (
                session.wait_type == "IO" or session.wait in ("SyncRep", "WALWrite", "WALSync")
            )
            severe = longest >= 10 or number >= 5
            yield Finding(
                "locks-held-up" if held_up else "lock-queue",
                Severity.RED if severe else Severity.YELLOW,
                f"{_who(session)} holds a lock for which {words.count(number, 'session')} wait"
                + (": it is idle inside its transaction" if idle else ""),
                tuple(signs),
                "`SELECT pid, pg_blocking_pids(pid), state, query FROM pg_stat_activity WHERE"
                " cardinality(pg_blocking_pids(pid)) > 0`",
                f"ask its owner, then end it: `SELECT pg_terminate_backend({blocker.pid})`; set lock_timeout for"
                f" schema changes",
                subject=str(blocker.pid),
                symptom=held_up,
                explains=SLOWNESS
                | {
                    "postgres-waits",
                    "connections-exhausted",
                    "idle-transaction:" + str(blocker.pid),
                    "long-transaction:" + str(blocker.pid),
                },
            )


def _transactions(scene: Scene) -> Iterator[Finding]:
    for activity in scene.activity():
        for session in activity.looks[-1].sessions:
            age, idle = session.transaction_seconds or 0.0, session.state_seconds or 0.0
            if session.state.startswith("idle in transaction") and idle >= _IDLE_SECONDS:
                yield Finding(
                    "idle-transaction",
                    Severity.YELLOW,
                    f"{_who(session)} has been idle inside a transaction for {ago(idle)}",
                    (
                        Evidence(f"state `{session.state}` for {ago(idle)}, the transaction is {ago(age)} old", 0.85),
                        Evidence(f"its last statement: `{words.plain(session.statement, 100)}`"),
                    ),
                    f"pg_stat_activity and pg_locks, the rows of pid {session.pid}",
                    f"ask its owner, then `SELECT pg_terminate_backend({session.pid})`; set"
                    f" idle_in_transaction_session_timeout",
                    subject=str(session.pid),
                )
            elif session.kind == "client backend" and session.state == "active" and age >= _LONG_SECONDS:
                yield Finding(
                    "long-transaction",
                    Severity.YELLOW,
                    f"{_who(session)} has been in one transaction for {ago(age)}: nothing it might see can be"
                    f" cleaned up",
                    (Evidence(f"`{words.plain(session.statement, 100)}`", 0.6),),
                    f"pg_stat_activity, the row of pid {session.pid}: xact_start and query",
                    "a report or a dump may be meant to last; else end it with its owner's consent",
                    subject=str(session.pid),
                )
        if activity.prepared and (activity.prepared_seconds or 0) >= 600:
            yield Finding(
                "prepared-transaction",
                Severity.YELLOW,
                f"{words.count(activity.prepared, 'prepared transaction')} waits to be finished, the oldest for"
                f" {ago(activity.prepared_seconds)}",
                (Evidence("pg_prepared_xacts; it holds its locks over restarts", 0.8),),
                "`SELECT * FROM pg_prepared_xacts`",
                "its transaction manager must COMMIT PREPARED or ROLLBACK PREPARED it",
                subject=str(activity.pid),
            )


def _connections(scene: Scene) -> Iterator[Finding]:
    for activity in scene.activity():
        limit = (activity.max_connections or 0) - (activity.reserved_connections or 0)
        clients = activity.looks[-1].clients
        if limit <= 0 or clients / limit < 0.9:
            continue
        yield Finding(
            "connections-exhausted",
            Severity.RED if clients >= limit else Severity.YELLOW,
            f"PostgreSQL has {'no' if clients >= limit else 'hardly any'} connection left for ordinary users",
            (Evidence(f"{clients} of {limit} are used", 0.9),),
            "`SELECT state, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC`",
            "find who opens them and does not let go; a pool in front helps, a higher max_connections costs memory",
            subject=str(activity.pid),
            explains=SLOWNESS,
        )


def _standby(scene: Scene) -> Iterator[Finding]:
    for activity in scene.activity():
        # Whoever commits often is seen in SyncRep in every look, where all is well: each of these waits is short.
        waiting = [
            each
            for each in activity.lasting()
            if each.wait == "SyncRep" and (each.query_seconds or 0.0) >= _SYNC_SECONDS
        ]
        if waiting:
            yield Finding(
                "standby-missing",
                Severity.RED,
                "commits wait for a synchronous standby that does not answer",
                (
                    Evidence(f"{words.count(len(waiting), 'session')} wait in SyncRep all the while", 0.8),
                    Evidence(
                        f"synchronous_standby_names is `{words.plain(activity.synchronous_standbys)}`,"
                        f" {activity.standbys} such standbys stream",
                        0.6 if not activity.standbys else 0.2,
                    ),
                ),
                "`SELECT application_name, state, sync_state FROM pg_stat_replication`",
                "bring the standby back; or take it out of synchronous_standby_names and reload, knowing that a"
                " failover may then lose commits",
                subject=str(activity.pid),
                explains=SLOWNESS | {"postgres-waits", "locks-held-up"},
            )


def _waits(scene: Scene) -> Iterator[Finding]:
    for activity in scene.activity():
        lasting = [
            each
            for each in activity.lasting()
            if each.kind == "client backend"
            and each.state == "active"
            and each.wait_type in ("IO", "LWLock", "IPC", "BufferPin")
        ]
        if not lasting:
            continue
        kinds = Counter(f"{each.wait_type} {each.wait}" for each in lasting)
        yield Finding(
            "postgres-waits",
            Severity.YELLOW if len(lasting) > 1 else Severity.INFO,
            f"{words.count(len(lasting), 'session')} of PostgreSQL wait in all three looks",
            tuple(Evidence(f"{number} for {words.plain(kind)}", 0.5) for kind, number in kinds.most_common(3)),
            "`SELECT wait_event_type, wait_event, count(*) FROM pg_stat_activity WHERE state = 'active' GROUP BY 1, 2`",
            "IO points at the disk, LWLock at contention inside the server, IPC at another process",
            subject=str(activity.pid),
            symptom=True,
        )


def _kept_wal(scene: Scene) -> Iterator[Finding]:
    """Slots and archivers while there still is room; when there is none, the rule about space tells it."""
    full = {finding.subject for finding in full_ones(scene) if finding.severity is Severity.RED}
    for server in scene.deeper.postgres_details.value or ():
        place = scene.mount_of(server.wal_directory)
        filesystem = next((each for each in scene.filesystems() if each.mountpoint == place), None)
        if filesystem is None or place in full:
            continue
        mend = Mend(RELIEVE, {"host": scene.host, "mountpoint": place}, "shows what keeps the WAL, and frees it")
        size = filesystem.usage.size_bytes if filesystem.usage else 0
        for slot in server.slots or ():
            kept = slot.retained_bytes or 0
            if not slot.active and kept >= max(8 * WAL_SEGMENT_BYTES, 0.05 * size):
                yield Finding(
                    "slot-inactive",
                    Severity.YELLOW,
                    f"the replication slot `{words.plain(slot.name)}` is read by nobody and keeps"
                    f" {words.amount(kept)} of WAL",
                    (Evidence(f"pg_replication_slots: inactive, {words.amount(kept)} behind", 0.85),),
                    "`SELECT * FROM pg_replication_slots`: does its standby still exist?",
                    "bring that standby back, or drop the slot if it is gone for good",
                    subject=slot.name,
                    mend=mend,
                )
        archiver = server.archiver
        if archiver is not None and archiver.failing and (archiver.waiting or 0) > 2:
            yield Finding(
                "archiver-failing",
                Severity.YELLOW,
                f"archiving of WAL fails: {archiver.waiting} segments wait, and backups are not complete",
                (
                    Evidence(
                        f"pg_stat_archiver: {archiver.failed} failed, the last one {archiver.last_failed_wal}", 0.85
                    ),
                ),
                "`SELECT * FROM pg_stat_archiver`, and what archive_command says in the server's log",
                "mend the archive's target; WAL then goes by itself",
                subject=str(server.pid),
                mend=mend,
            )


def _wraparound(scene: Scene) -> Iterator[Finding]:
    for activity in scene.activity():
        age = activity.transaction_number_age or 0
        if age < 1_000_000_000:
            continue
        yield Finding(
            "wraparound",
            Severity.RED if age >= 1_600_000_000 else Severity.YELLOW,
            f"transaction numbers run out: the oldest is {age / 1e9:.1f} thousand million old, at 2.1 PostgreSQL"
            f" stops taking writes",
            (Evidence(f"max(age(datfrozenxid)) = {age}", 0.95),),
            "`SELECT datname, age(datfrozenxid) FROM pg_database ORDER BY 2 DESC`",
            "find what holds vacuum back (old transactions, slots, prepared ones), then VACUUM that database",
            subject=str(activity.pid),
        )


_MANUAL = "PostgreSQL manual"
RULES = (
    Rule(
        "database-down",
        "Does the database answer?",
        ("postgres",),
        "without it nothing else matters",
        f"{_MANUAL} 19.3",
        _down,
    ),
    Rule(
        "lock-queue",
        "Does somebody hold a lock for which others wait?",
        ("postgres_activity",),
        "one forgotten lock stops everybody behind it, and the host looks idle",
        f"{_MANUAL} 13.3, 9.27.2 pg_blocking_pids",
        _locks,
    ),
    Rule(
        "idle-transaction",
        "Are transactions forgotten?",
        ("postgres_activity",),
        "they hold locks and keep dead rows",
        f"{_MANUAL} 20.11 idle_in_transaction_session_timeout, 25.1",
        _transactions,
    ),
    Rule(
        "connections-exhausted",
        "Are connections left?",
        ("postgres_activity",),
        "the next user is turned away",
        f"{_MANUAL} 20.3.1 max_connections",
        _connections,
    ),
    Rule(
        "standby-missing",
        "Do commits wait for a standby?",
        ("postgres_activity",),
        "without it no commit returns",
        f"{_MANUAL} 27.2.8 synchronous replication",
        _standby,
    ),
    Rule(
        "postgres-waits",
        "What do sessions wait for?",
        ("postgres_activity",),
        "the kind of wait points at the resource",
        f"{_MANUAL} 28.2.3 wait events",
        _waits,
    ),
    Rule(
        "kept-wal",
        "Is WAL kept that nobody reads?",
        ("postgres_details", "filesystems"),
        "it fills the disk in time",
        f"{_MANUAL} 27.2.6 slots, 25.3 archiving",
        _kept_wal,
    ),
    Rule(
        "wraparound",
        "Do transaction numbers run out?",
        ("postgres_activity",),
        "the server then refuses writes",
        f"{_MANUAL} 25.1.5; vacuum_failsafe_age is 1.6 thousand million",
        _wraparound,
    ),
)
