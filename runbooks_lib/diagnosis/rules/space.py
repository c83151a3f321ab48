"""Rules about room: file systems that are tight, and what of all things fills them; inodes; file systems that take no
writes.

What fills a file system is found by adding up: WAL that a slot or the archiver keeps, temporary files of queries,
deleted files that are still open, the databases themselves, and of the rest the largest directory. The largest share
is the cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runbooks_lib import words
from runbooks_lib.diagnosis.finding import Evidence, Finding, Mend, Severity
from runbooks_lib.diagnosis.rule import Rule
from runbooks_lib.diagnosis.rules.looking import SLOWNESS, messages
from runbooks_lib.diagnosis.scene import Scene
from runbooks_lib.facts.fact import State
from runbooks_lib.facts.filesystems import Filesystem, Usage
from runbooks_lib.facts.postgres import PostgresDetails

WAL_SEGMENT_BYTES = 16 * 1024**2  # PostgreSQL's default; a server needs room for two new ones to go on (docs/lab.md)
_FULL_RATIO = 0.95
_PLENTY_BYTES = 10 * 1024**3  # 5 % of a large disk is no emergency
RELIEVE = "incident/relieve-disk-pressure.ipynb"
# What a full or broken file system explains: more when the database's files lie on it.
_STOPPED = SLOWNESS | {"failed-unit", "sleepers"}
_STOPPED_DATABASE = _STOPPED | {"database-down", "postgres-unanswered", "postgres-waits", "locks-held-up"}


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


def tight(filesystem: Filesystem, threshold: float = _FULL_RATIO) -> bool:
    """Whether so little is left that work may stop: at least `threshold` used by df's count and less than 10 GiB
    left, or no room for two WAL segments (of a file system that is larger than a few of them)."""
    usage = filesystem.usage
    if usage is None or usage.size_bytes == 0 or filesystem.read_only or usage.used_ratio is None:
        return False
    small = usage.avail_bytes < 2 * WAL_SEGMENT_BYTES and usage.size_bytes > 16 * WAL_SEGMENT_BYTES
    return small or (usage.used_ratio >= threshold and usage.avail_bytes < _PLENTY_BYTES)


def worth_walking(filesystem: Filesystem) -> bool:
    """Whether one wants to know what is on it: nearly full, of bytes or of inodes, and local."""
    usage = filesystem.usage
    if usage is None or usage.size_bytes == 0 or filesystem.read_only or filesystem.fstype in _NEVER_GROW:
        return False
    inodes = usage.files_used_ratio or 0.0
    return tight(filesystem, 0.9) or inodes >= 0.9


_NEVER_GROW = frozenset({"tmpfs", "squashfs", "iso9660", "erofs", "overlay", "vfat", "nfs", "nfs4", "cifs", "efivarfs"})


def _space(scene: Scene) -> Iterator[Finding]:
    for filesystem in scene.filesystems():
        usage = filesystem.usage
        if usage is None or filesystem.fstype in _NEVER_GROW or usage.used_ratio is None:
            continue
        settings = scene.entry.partition(filesystem.mountpoint)
        shares = _shares(scene, filesystem)
        largest = shares[0] if shares else None
        unstoppable = largest is not None and largest.grows and largest.size >= 0.2 * usage.size_bytes
        if tight(filesystem) or (unstoppable and tight(filesystem, min(0.9, settings.threshold_ratio))):
            yield _full(scene, filesystem, usage, shares, Severity.RED)
        elif settings.listed and usage.used_ratio >= settings.threshold_ratio:
            yield _full(scene, filesystem, usage, shares, Severity.YELLOW)


def _full(scene: Scene, filesystem: Filesystem, usage: Usage, shares: list[Share], severity: Severity) -> Finding:
    place = words.plain(filesystem.mountpoint)
    left = f"{words.amount(usage.avail_bytes)} of {words.amount(usage.size_bytes)} are left on {place}"
    red = severity is Severity.RED
    signs = [Evidence(f"{left} ({words.percent(usage.used_ratio or 0)} used, as df counts)", 0.7 if red else 0.3)]
    signs += [
        Evidence(f"the kernel or the database says so: {words.plain(text, 140)}", 0.5)
        for text in _no_space_messages(scene)[-1:]
    ]
    holds = filesystem.mountpoint in scene.database_mounts()
    if holds:
        signs.append(
            Evidence(f"the database's files lie on {place}: without room for WAL it stops", 0.3 if red else 0.0)
        )
    main = shares[0] if shares and shares[0].size >= 0.25 * max(1, usage.used_bytes) else None
    if main is not None:
        signs.append(
            Evidence(
                f"{main.sign} ({words.percent(main.size / max(1, usage.used_bytes))} of what is used there)",
                main.weight,
            )
        )
        signs += [Evidence(f"besides: {share.sign}") for share in shares[1:4] if share.size >= 0.1 * usage.used_bytes]
    unknown = "what fills it is not known" + (" yet" if scene.pending else "")
    what = "is full" if usage.avail_bytes < WAL_SEGMENT_BYTES else "is nearly full"
    return Finding(
        main.rule if main else "filesystem-full",
        severity,
        f"{place} {what}: {main.cause if main else unknown}",
        tuple(signs),
        main.confirm if main else f"`du -xh -d2 {place} | sort -h | tail`, `lsof +L1 {place}`",
        main.act if main else "find what has grown; never remove anything under pg_wal",
        subject=filesystem.mountpoint,
        mend=_mend(scene, filesystem, main),
        explains=_explained(scene, filesystem.mountpoint) if holds or red else frozenset(),
    )


def _explained(scene: Scene, mountpoint: str) -> frozenset[str]:
    return _STOPPED_DATABASE if mountpoint in scene.database_mounts() else _STOPPED


def _mend(scene: Scene, filesystem: Filesystem, main: Share | None) -> Mend:
    if main is not None and main.rule == "directory-grown" and re.search(r"(^|[/._-])logs?([/._-]|$)", main.subject):
        return Mend(
            "incident/clean-log-directory.ipynb",
            {"host": scene.host, "directory": main.subject},
            "rotates and compresses the logs there, and can undo it",
        )
    return Mend(
        RELIEVE,
        {"host": scene.host, "mountpoint": filesystem.mountpoint},
        "lists every safe way to more room on this host, measured, safest first",
    )


def _no_space_messages(scene: Scene) -> list[str]:
    said = messages(scene, r"no space left|disk full", 3600)
    for server in scene.deeper.postgres_activity.value or ():
        said += [text for text in (*server.messages, server.detail) if "No space left" in text]
    for service in scene.services:
        for fact in (service.queue, service.agents, service.server):
            if "No space left" in fact.detail:
                said.append(fact.detail)
    return said


def _shares(scene: Scene, filesystem: Filesystem) -> list[Share]:
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
        f"`lsof -nP +L1 {words.plain(filesystem.mountpoint)}`",
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
        name = words.plain(loose.path)
        return Share(
            "file-grown",
            loose.size_bytes,
            f"the file `{name}` has grown",
            f"the file `{name}` takes {words.amount(loose.size_bytes)}",
            f"`ls -l --time-style=full-iso {name}`, `lsof -nP {name}`: how old is it, and who has it open?",
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
        f"`ls -lS --time-style=full-iso {words.plain(best.path)} | head`: which file is new or grows?",
        "see who writes there and turn that off or down; then rotate and compress, or move it",
        grows=False,
        subject=best.path,
    )


def _inodes(scene: Scene) -> Iterator[Finding]:
    for filesystem in scene.filesystems():
        usage = filesystem.usage
        ratio = usage.files_used_ratio if usage else None
        if usage is None or ratio is None or usage.files is None or filesystem.fstype in _NEVER_GROW:
            continue
        left = usage.files_free or 0
        if ratio < 0.95 or left > 100_000:
            continue
        place = words.plain(filesystem.mountpoint)
        gone = left < 100
        yield Finding(
            "inodes-exhausted",
            Severity.RED if ratio >= 0.99 else Severity.YELLOW,
            f"{place} has {'no' if not left else 'nearly no'} inodes left: no new file can be made, whatever df says"
            f" of bytes",
            (Evidence(f"{usage.files - left} of {usage.files} inodes are used, {left} free", 0.95 if gone else 0.8),),
            f"`df -i {place}`; `du --inodes -x -d2 {place} | sort -n | tail`: where are the many small files?",
            "find the directory with the many files and who makes them (sessions, caches, mail queues); remove by"
            " its owner's tool",
            subject=filesystem.mountpoint,
            mend=Mend(
                RELIEVE, {"host": scene.host, "mountpoint": filesystem.mountpoint}, "lists the safe ways to more room"
            ),
            explains=_explained(scene, filesystem.mountpoint),
        )


def _takes_no_writes(scene: Scene) -> Iterator[Finding]:
    for filesystem in scene.filesystems():
        place = words.plain(filesystem.mountpoint)
        device = filesystem.device.rpartition("/")[2]
        names = {device, *_kernel_names(scene, filesystem)}
        said = [
            text
            for text in messages(
                scene, r"(EXT[234]|XFS|BTRFS|F2FS)[ -].*(error|remount|shut|forced|abort)", scene.uptime_seconds
            )
            if any(re.search(rf"\b{re.escape(name)}\b", text) for name in names)
        ]
        counted = re.match(r"([0-9]+) ext4 errors", filesystem.detail)
        flip, unread = filesystem.read_only_flip, filesystem.read_error
        # Kernel messages name a device, and a loop device is given to one file after another. ext4 counts its errors.
        if not flip and (device.startswith("loop") or (filesystem.fstype.startswith("ext") and not counted)):
            said = []
        if not flip and not unread and not said and not counted:
            continue
        signs = []
        if unread:
            signs.append(Evidence(f"stat of its mount point says: {words.plain(unread, 80)}", 0.9))
        if flip:
            signs.append(Evidence(flip, 0.9))
        if said:
            signs.append(Evidence(f"the kernel, in this boot: {words.plain(said[-1], 160)}", 0.85))
        if counted:
            signs.append(Evidence(f"its superblock counts {counted[1]} errors since the last fsck", 0.4))
        now = bool(flip or unread or said)
        takes = "gives nothing to read and takes no writes" if unread else "takes no more writes"
        yield Finding(
            "filesystem-errors",
            Severity.RED if now else Severity.YELLOW,
            f"the file system on {place} has met an error" + (f" and {takes}" if now else " at some time"),
            tuple(signs),
            f"`ls {place}` (does it read?), `touch {place}/.probe` (does it write?), `dmesg -T | grep -i -e ext4 -e xfs"
            " -e i/o`",
            "stop what writes there, look at the disk first (SMART, kernel log), then unmount and fsck; a backup"
            " before it",
            subject=filesystem.mountpoint,
            explains=_explained(scene, filesystem.mountpoint),
        )


def _kernel_names(scene: Scene, filesystem: Filesystem) -> set[str]:
    devices = scene.snapshot.block_devices.value if scene.snapshot else None
    return {each.name for each in devices or () if each.device_number == filesystem.device_number}


def _dead_mounts(scene: Scene) -> Iterator[Finding]:
    for filesystem in scene.filesystems():
        if filesystem.state is not State.TIMED_OUT:
            continue
        yield Finding(
            "mount-dead",
            Severity.RED,
            f"the network mount {words.plain(filesystem.mountpoint)} does not answer: whoever touches it hangs",
            (Evidence(filesystem.detail, 0.8),),
            f"`stat -f {words.plain(filesystem.mountpoint)}` in a shell that you can spare; can its server be reached?",
            "bring its server or the way to it back; a lazy unmount (`umount -l`) frees new callers, not those that"
            " hang",
            subject=filesystem.mountpoint,
            explains=SLOWNESS | {"sleepers", "kernel-hung"},
        )


RULES = (
    Rule(
        "filesystem-full",
        "Is a file system full, and of what?",
        ("filesystems",),
        "a full disk stops writes; an almost full one was not slower in itself when measured, so the cause is"
        " named, not the percentage",
        "PostgreSQL manual 29.1 (disk full), 26.5 (slots), 25.3 (archiving); measured in this project's notes on"
        " databases",
        _space,
    ),
    Rule(
        "inodes-exhausted",
        "Are there inodes left?",
        ("filesystems",),
        "no new file without one, with bytes to spare",
        "statfs(2), df(1) -i; ext4(5)",
        _inodes,
    ),
    Rule(
        "filesystem-errors",
        "Can every file system be read, and does it take writes?",
        ("filesystems", "error_counts"),
        "after an error the kernel stops writing, and mounts may go on saying rw; an XFS that has shut down answers"
        " statfs as before",
        "the kernel's ext4.rst (errors=), xfs.rst; seen on 6.18",
        _takes_no_writes,
    ),
    Rule(
        "mount-dead",
        "Does every network mount answer?",
        ("filesystems",),
        "a process that touches a dead one hangs in the kernel",
        "nfs(5), hard mounts",
        _dead_mounts,
    ),
)
