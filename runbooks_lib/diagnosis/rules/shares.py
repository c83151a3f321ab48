"""What takes the room on a file system.

It is found by adding up: WAL that a slot or the archiver keeps, temporary files of queries, deleted files that are
still open, the databases themselves, and of the rest the largest directory or file. The largest share is the cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runbooks_lib import words
from runbooks_lib.diagnosis.scene import Scene
from runbooks_lib.facts.filesystems import Filesystem
from runbooks_lib.facts.postgres import PostgresDetails

WAL_SEGMENT_BYTES = 16 * 1024**2  # PostgreSQL's default; a server needs room for two new ones to go on (docs/lab.md)


@dataclass(frozen=True)
class Share:
    """Something that takes `size` bytes of a tight file system. `grows`: nothing but a person stops it."""

    rule: str
    size: int
    cause: str
    sign: str
    confirm: str
    act: str
    grows: bool
    subject: str = ""
    weight: float = 0.6


def shares_of(scene: Scene, filesystem: Filesystem) -> list[Share]:
    """What takes room on that file system, the largest first."""
    place = filesystem.mountpoint
    found = [*_of_servers(scene, place), *_deleted(scene, filesystem)]
    directory = _directory(scene, place)
    if directory is not None:
        found.append(directory)
    return sorted(found, key=lambda share: -share.size)


def _of_servers(scene: Scene, place: str) -> Iterator[Share]:
    for server in scene.deeper.postgres_details.value or ():
        on_data, on_wal = (scene.mount_of(path) == place for path in (server.data_directory, server.wal_directory))
        if on_wal and server.wal_bytes:
            yield _wal(server)
        if on_data and server.size_bytes:
            name, size = max((server.databases or {}).items(), key=lambda each: each[1])
            yield Share(
                "database-grown",
                server.size_bytes,
                f"the database `{words.plain(name)}` has grown",
                f"the databases take {words.amount(server.size_bytes)}, `{words.plain(name)}` alone"
                f" {words.amount(size)}",
                f"psql's `\\dt+` in `{words.plain(name)}`: which table is largest, and is it data or bloat?",
                "give it room first; then see which table grows, and why",
                grows=False,
            )
    for activity in scene.activity():
        details = next((each for each in scene.deeper.postgres_details.value or () if each.pid == activity.pid), None)
        if details is None or scene.mount_of(details.data_directory) != place or not activity.temporary:
            continue
        pid, size = max(activity.temporary.items(), key=lambda each: each[1])
        session = next((each for each in activity.looks[-1].sessions if each.pid == pid), None)
        who = f"session {pid}" + (f" ({session.application or session.role})" if session else "")
        yield Share(
            "temporary-files",
            sum(activity.temporary.values()),
            f"temporary files of one query fill it, {words.plain(who)}",
            f"temporary files take {words.amount(sum(activity.temporary.values()))}, of {words.plain(who)}"
            f" {words.amount(size)}" + (f": `{words.plain(session.statement, 80)}`" if session else ""),
            f"pg_stat_activity, the row of pid {pid}, and `ls -l` in base/pgsql_tmp",
            f"end that query when its owner agrees (`SELECT pg_cancel_backend({pid})`); set temp_file_limit for its"
            f" role",
            grows=True,
            subject=str(pid),
        )


def _wal(server: PostgresDetails) -> Share:
    """Why the WAL is there: an inactive slot, a failing archiver, or neither."""
    size = server.wal_bytes or 0
    idle = [
        slot for slot in server.slots or () if not slot.active and (slot.retained_bytes or 0) > 4 * WAL_SEGMENT_BYTES
    ]
    slot = max(idle, key=lambda each: each.retained_bytes or 0, default=None)
    archiver = server.archiver
    failing = archiver is not None and archiver.failing and (archiver.waiting or 0) > 2
    kept_by_archiver = (archiver.waiting or 0) * WAL_SEGMENT_BYTES if archiver is not None and failing else 0
    if slot is not None and (slot.retained_bytes or 0) >= kept_by_archiver:
        return Share(
            "wal-kept-by-slot",
            size,
            f"WAL is kept for the replication slot `{words.plain(slot.name)}`, which nobody reads",
            f"pg_wal takes {words.amount(size)}; the inactive slot `{words.plain(slot.name)}` keeps"
            f" {words.amount(slot.retained_bytes or 0)} of it",
            "`SELECT slot_name, active, restart_lsn FROM pg_replication_slots`: does its standby still exist?",
            "bring that standby back, or drop the slot if it is gone for good; files in pg_wal are never removed by"
            " hand",
            grows=True,
            subject=slot.name,
            weight=0.85,
        )
    if archiver is not None and failing:
        return Share(
            "wal-kept-by-archiver",
            size,
            "WAL is kept because archiving fails",
            f"pg_wal takes {words.amount(size)}; {archiver.waiting} segments wait to be archived, {archiver.failed}"
            " tries have failed",
            "`SELECT * FROM pg_stat_archiver`, and the server's log: what does archive_command say?",
            "mend the archive's target or archive_command; WAL then goes by itself; files in pg_wal are never"
            " removed by hand",
            grows=True,
            weight=0.85,
        )
    return Share(
        "wal-large",
        size,
        "PostgreSQL's WAL is large",
        f"pg_wal takes {words.amount(size)}",
        "`SHOW max_wal_size; SHOW wal_keep_size`, long transactions, and pg_stat_replication",
        "see what keeps it (wal_keep_size, a slow standby, checkpoints far apart); never remove files in pg_wal",
        grows=False,
        weight=0.4,
    )


def _deleted(scene: Scene, filesystem: Filesystem) -> Iterator[Share]:
    found = scene.deeper.deleted_files.value
    files = [each for each in (found.files if found else ()) if each.device_number == filesystem.device_number]
    if not files:
        return
    size, largest = sum(each.allocated_bytes for each in files), files[0]
    holder = largest.holders[0] if largest.holders else None
    who = f"`{words.plain(holder.name)}` (pid {holder.pid})" if holder else "a process"
    yield Share(
        "deleted-open-files",
        size,
        f"deleted files are still held open by {who}",
        f"deleted and still open: {words.amount(size)}, the largest `{words.plain(largest.path)}` held by {who}",
        f"`lsof -nP +L1 {words.argument(filesystem.mountpoint)}`",
        "reload or restart the service that holds it; the room comes back when it closes the file",
        grows=True,
        subject=str(holder.pid) if holder else "",
        weight=0.85,
    )


def _directory(scene: Scene, place: str) -> Share | None:
    """The largest directory that holds no database's files."""
    fact = scene.deeper.directories.get(place)
    walked = fact.value if fact else None
    if walked is None:
        return None
    servers = [
        path
        for server in scene.deeper.postgres_details.value or ()
        for path in (server.data_directory, server.wal_directory)
    ]
    servers += [server.resolved_directory for server in (scene.snapshot.postgres.value or ())] if scene.snapshot else []
    known = [path for path in servers if path]
    rows = [
        row
        for row in walked.rows
        if row.path != place
        and not any(
            path == row.path or path.startswith(row.path + "/") or row.path.startswith(path + "/") for path in known
        )
        and not re.search(r"/(postgresql|pgsql|pg_wal|pgdata|mysql)(/|$)", row.path)
    ]
    # The deepest directory that still holds nearly all of the largest one.
    best = max(rows, key=lambda row: row.size_bytes, default=None)
    beside = [
        file
        for file in walked.files
        if file.path.rpartition("/")[0] == place.rstrip("/")
        and not any(file.path.startswith(path + "/") for path in known)
    ]
    loose = max(beside, key=lambda file: file.size_bytes, default=None)  # in no directory but the mount's own
    if loose is not None and (best is None or loose.size_bytes > best.size_bytes):
        name, argument = words.plain(loose.path), words.argument(loose.path)
        return Share(
            "file-grown",
            loose.size_bytes,
            f"the file `{name}` has grown",
            f"the file `{name}` takes {words.amount(loose.size_bytes)}",
            f"`ls -l --time-style=full-iso {argument}`, `lsof -nP {argument}`: how old is it, and who has it open?",
            "ask its owner what it is for; then move it to another file system",
            grows=False,
            subject=loose.path,
        )
    if best is None:
        return None
    inside = [row for row in rows if row.path.startswith(best.path + "/") and row.size_bytes > 0.8 * best.size_bytes]
    best = max(inside, key=lambda row: len(row.path), default=best)
    file = next((file for file in walked.files if file.path.startswith(best.path + "/")), None)
    least = "" if walked.complete else " at least"
    sign = f"`{words.plain(best.path)}` takes {words.amount(best.size_bytes)}{least}"
    if file is not None:
        sign += f", `{words.plain(file.path.removeprefix(best.path + '/'))}` in it {words.amount(file.size_bytes)}"
    return Share(
        "directory-grown",
        best.size_bytes,
        f"`{words.plain(best.path)}` has grown",
        sign,
        f"`ls -lS --time-style=full-iso {words.argument(best.path)} | head`: which file is new or grows?",
        "see who writes there and turn that off or down; then rotate and compress, or move it",
        grows=False,
        subject=best.path,
    )
