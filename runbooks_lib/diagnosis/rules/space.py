"""Rules about room: file systems that are tight, and what fills them; inodes; file systems that take no writes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runbooks_lib import words
from runbooks_lib.diagnosis.finding import Evidence, Finding, Mend, Severity
from runbooks_lib.diagnosis.rule import Rule
from runbooks_lib.diagnosis.rules.looking import SLOWNESS, messages
from runbooks_lib.diagnosis.rules.shares import WAL_SEGMENT_BYTES, Share, shares_of
from runbooks_lib.diagnosis.scene import Scene
from runbooks_lib.facts.fact import State
from runbooks_lib.facts.filesystems import Filesystem, Usage

_FULL_RATIO = 0.95
_PLENTY_BYTES = 10 * 1024**3  # 5 % of a large disk is no emergency
RELIEVE = "incident/relieve-disk-pressure.ipynb"
# What a full or broken file system explains: more when the database's files lie on it.
_STOPPED = SLOWNESS | {"failed-unit", "sleepers"}
_STOPPED_DATABASE = _STOPPED | {"database-down", "postgres-unanswered", "postgres-waits", "locks-held-up"}


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
# Full by nature: images, and an overlay shows the room of a file system that is told by itself.
_FULL_BY_NATURE = frozenset({"squashfs", "iso9660", "erofs", "overlay"})
_WRITTEN_BY_UPGRADES = frozenset({"/boot", "/boot/efi", "/efi"})  # a full one stops the next kernel, and no service
_MAKES_INODES = frozenset({"xfs", "zfs"})  # of the room that is left: without room there are none
_TINY_BYTES = 8 * 1024**2  # a tmpfs so small holds one thing on purpose: a secret, a lock, a container's sockets


def _watched(scene: Scene, filesystem: Filesystem, size_bytes: int, nothing_left: bool) -> bool:
    """Whether anybody here should be told of its room. A share of another machine counts where the inventory names it
    or a database lies on it; memory (tmpfs) also when it has nothing left, since /tmp and /run then stop services."""
    if filesystem.fstype in _FULL_BY_NATURE:
        return False
    place = filesystem.mountpoint
    wanted = scene.entry.partition(place).listed or place in scene.database_mounts()
    if filesystem.fstype not in _NEVER_GROW or wanted:
        return True
    return filesystem.fstype == "tmpfs" and nothing_left and size_bytes >= _TINY_BYTES and not filesystem.read_only


def full_ones(scene: Scene) -> Iterator[Finding]:
    """A finding for each file system that is full or nearly so, with what fills it; its subject is the mount point."""
    for filesystem in scene.filesystems():
        usage = filesystem.usage
        if usage is None or usage.used_ratio is None:
            continue
        if not _watched(scene, filesystem, usage.size_bytes, usage.avail_bytes == 0):
            continue
        settings = scene.entry.partition(filesystem.mountpoint)
        shares = shares_of(scene, filesystem)
        largest = shares[0] if shares else None
        unstoppable = largest is not None and largest.grows and largest.size >= 0.2 * usage.size_bytes
        if tight(filesystem) or (unstoppable and tight(filesystem, min(0.9, settings.threshold_ratio))):
            at_rest = filesystem.mountpoint in _WRITTEN_BY_UPGRADES
            yield _full(scene, filesystem, usage, shares, Severity.YELLOW if at_rest else Severity.RED)
        elif settings.listed and usage.used_ratio >= settings.threshold_ratio:
            yield _full(scene, filesystem, usage, shares, Severity.YELLOW)


def _full(scene: Scene, filesystem: Filesystem, usage: Usage, shares: list[Share], severity: Severity) -> Finding:
    place, argument = words.plain(filesystem.mountpoint), words.argument(filesystem.mountpoint)
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
        main.confirm if main else f"`du -xh -d2 {argument} | sort -h | tail`, `lsof +L1 {argument}`",
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


def _inodes(scene: Scene) -> Iterator[Finding]:
    for filesystem in scene.filesystems():
        usage = filesystem.usage
        ratio = usage.files_used_ratio if usage else None
        left = (usage.files_free or 0) if usage else 0
        if usage is None or ratio is None or usage.files is None:
            continue
        if not _watched(scene, filesystem, usage.size_bytes, left == 0):
            continue
        if filesystem.fstype in _MAKES_INODES and tight(filesystem):
            continue
        if ratio < 0.95 or left > 100_000:
            continue
        place, argument = words.plain(filesystem.mountpoint), words.argument(filesystem.mountpoint)
        gone = left < 100
        yield Finding(
            "inodes-exhausted",
            Severity.RED if ratio >= 0.99 else Severity.YELLOW,
            f"{place} has {'no' if not left else 'nearly no'} inodes left: no new file can be made, whatever df says"
            f" of bytes",
            (Evidence(f"{usage.files - left} of {usage.files} inodes are used, {left} free", 0.95 if gone else 0.8),),
            f"`df -i {argument}`; `du --inodes -x -d2 {argument} | sort -n | tail`: where are the many small files?",
            "find the directory with the many files and who makes them (sessions, caches, mail queues); remove by"
            " its owner's tool",
            subject=filesystem.mountpoint,
            mend=Mend(
                RELIEVE, {"host": scene.host, "mountpoint": filesystem.mountpoint}, "lists the safe ways to more room"
            ),
            explains=_explained(scene, filesystem.mountpoint),
        )


_NAMED = re.compile(r"\((?:device )?([^ :)]+)[:)]")  # EXT4-fs error (device dm-0): …, XFS (dm-0): …


def _takes_no_writes(scene: Scene) -> Iterator[Finding]:
    for filesystem in scene.filesystems():
        place, argument = words.plain(filesystem.mountpoint), words.argument(filesystem.mountpoint)
        device = filesystem.device.rpartition("/")[2]
        names = {device, *_kernel_names(scene, filesystem)}
        said = [
            text
            for text in messages(
                scene, r"(EXT[234]|XFS|BTRFS|F2FS)[ -].*(error|remount|shut|forced|abort)", scene.uptime_seconds
            )
            if (named := _NAMED.search(text)) and named[1] in names
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
        # An XFS that has shut down gives nothing to read: one that does has been mounted anew since it said so.
        now = bool(flip or unread or (said and filesystem.fstype != "xfs"))
        takes = "gives nothing to read and takes no writes" if unread else "takes no more writes"
        yield Finding(
            "filesystem-errors",
            Severity.RED if now else Severity.YELLOW,
            f"the file system on {place} has met an error" + (f" and {takes}" if now else " at some time"),
            tuple(signs),
            f"`ls {argument}` (does it read?), `touch {argument}/.probe` (does it write?), `dmesg -T |"
            " grep -i -e ext4 -e xfs -e i/o`",
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
            f"`stat -f {words.argument(filesystem.mountpoint)}` in a shell that you can spare; can its server be"
            " reached?",
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
        full_ones,
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
