"""Filesystems with bytes and inodes, reserve, options and read-only flips: mountinfo with statfs(2), or POSIX df."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from runbooks_lib.facts.fact import Damaged, State, excerpt, number
from runbooks_lib.facts.mounts import FstabEntry, Mount, MountTable

_STAT = re.compile(r"([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,20}) ")
_DF = re.compile(
    r"(?P<device>\S.*?)\s+(\d{1,20})\s+(-?\d{1,20}|-)\s+(-?\d{1,20}|-)\s+(?:\d{1,4}%|-)\s+(/.*)\Z", re.ASCII
)
# What a probe of a network mount came to, in words and as a state.
_PROBES = {
    "stale": (State.TIMED_OUT, "the server did not answer within two seconds: the mount is dead or very slow"),
    "error": (State.NOT_ALLOWED, "statfs failed: no permission, or the mount is broken"),
    "unasked": (State.UNREADABLE, "not asked: more than 64 network mounts"),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """statfs(2) in bytes and inodes. `files` is None where inodes are not counted (btrfs, vfat, most network
    servers)."""

    size_bytes: int
    free_bytes: int
    avail_bytes: int
    files: int | None = None
    files_free: int | None = None

    @property
    def used_bytes(self) -> int:
        """size - free."""
        return self.size_bytes - self.free_bytes

    @property
    def reserved_bytes(self) -> int:
        """free - available: what only root may still fill (ext4's 5 %)."""
        return max(0, self.free_bytes - self.avail_bytes)

    @property
    def used_ratio(self) -> float | None:
        """df's meaning, used / (used + available), in 0..1: 1.0 when an ordinary user can write nothing more. None
        for size 0."""
        usable = self.used_bytes + self.avail_bytes
        return self.used_bytes / usable if usable > 0 else None

    @property
    def files_used_ratio(self) -> float | None:
        """Used inodes / all inodes, 0..1; None where they are not counted."""
        if self.files is None or self.files_free is None or self.files == 0:
            return None
        return 1 - self.files_free / self.files


@dataclass(frozen=True, slots=True)
class Filesystem:
    """One file system at the place where it is best seen; `also_at` are its further mounts (binds, btrfs subvolumes).

    `usage` is set exactly when `state` is available; `detail` says why not. `root` is what of the file system is
    mounted: `/`, a bound directory, or a btrfs subvolume. `read_only_flip` says, when it is read-only, why that is
    not as wanted; empty when it is writable or read-only on purpose. `read_error` is what stat(2) of the mount point
    said, such as `Input/output error`; empty when it could be read. An XFS that has shut down answers statfs(2) as
    before, and every read and write of it with that error."""

    mountpoint: str
    device: str
    fstype: str
    device_number: str
    root: str
    options: tuple[str, ...]
    super_options: tuple[str, ...]
    state: State
    usage: Usage | None
    detail: str = ""
    also_at: tuple[str, ...] = ()
    read_only: bool = False
    read_only_flip: str = ""
    read_error: str = ""


@dataclass(frozen=True, slots=True)
class Filesystems:
    """All file systems but pseudo ones, each once, in the kernel's order. `left_out` more were beyond the script's
    limit."""

    rows: tuple[Filesystem, ...]
    left_out: int = 0

    def at(self, mountpoint: str) -> Filesystem | None:
        """The file system mounted exactly there."""
        for row in self.rows:
            if row.mountpoint == mountpoint or mountpoint in row.also_at:
                return row
        return None

    def holding(self, path: str) -> Filesystem | None:
        """The file system that holds an absolute path without symlinks: the longest fitting mount point."""
        best, length = None, -1
        for row in self.rows:
            for point in (row.mountpoint, *row.also_at):
                inside = point == "/" or path == point or path.startswith(point + "/")
                if inside and len(point) > length:
                    best, length = row, len(point)
        return best


def parse_statfs(text: str, names: Sequence[str | None]) -> dict[str, Usage | Damaged]:
    r"""Rows `%S %b %f %a %c %d %n` of stat -f (GNU, busybox) for `names`, in their order.

    A name may hold newlines and what looks like a row: each row must continue with one of the names still expected,
    so no name can stand for another's row. None is the name of a mount that could not be read: its row ends with the
    line. A mount that failed has no row, one whose numbers make no sense the reason. Raises Damaged at the first text
    that fits no row."""
    rows: dict[str, Usage | Damaged] = {}
    position, index = 0, 0
    while position < len(text):
        match = _STAT.match(text, position)
        if match is None:
            if not text[position:].strip("\n"):
                break
            raise Damaged(f"statfs row {len(rows) + 1} is not six numbers and a name")
        for place in range(index, len(names)):
            name = names[place]
            if name is not None and text.startswith(name + "\n", match.end()):
                index = place + 1
                position = match.end() + len(name) + 1
                try:
                    rows[name] = usage(*map(int, match.groups()))
                except Damaged as error:
                    rows[name] = error
                break
        else:
            if None not in names[index:]:
                raise Damaged(f"statfs row {len(rows) + 1} names no mount that was asked for")
            position = (text.find("\n", match.end()) + 1) or len(text)
    return rows


def usage(block: int, blocks: int, free: int, avail: int, files: int, files_free: int) -> Usage:
    """Blocks as bytes. An `avail` beyond 2^63 is a negative number that the kernel passed on: nothing is available.
    Raises Damaged when more is free than there is."""
    if avail >= 2**63:
        avail = 0
    if free > blocks or files_free > files:
        raise Damaged("more blocks or inodes are free than there are")
    counted = files > 0
    return Usage(
        blocks * block, free * block, avail * block, files if counted else None, files_free if counted else None
    )


def parse_df(kib: str, inodes: str, names: Sequence[str]) -> dict[str, Usage]:
    """`df -P -k` and `df -P -i` for `names`, where stat -f cannot be had. The heading is skipped, whatever its
    language.

    A row counts only when its last column is one of the names (GNU df shows control characters as `?`); other rows are
    dropped, so that mount then has no figures. Nothing is guessed.
    """
    shown = {re.sub(r"[\x00-\x1f\x7f]", "?", name): name for name in names}
    space, counts = _df_rows(kib), _df_rows(inodes)
    rows: dict[str, Usage] = {}
    for label, name in shown.items():
        if label not in space or space[label] is None:
            continue
        size, used, avail = space[label] or (0, 0, 0)
        files, files_used, files_free = counts.get(label) or (0, 0, 0)
        known = files > 0 and files_used + files_free <= files + 1
        if used > size:
            continue
        rows[name] = Usage(
            size * 1024,
            (size - used) * 1024,
            max(0, avail) * 1024,
            files if known else None,
            files_free if known else None,
        )
    return rows


def _df_rows(text: str) -> dict[str, tuple[int, int, int] | None]:
    """Last column to three numbers; None for a row that came twice with different numbers, which then says nothing."""
    rows: dict[str, tuple[int, int, int] | None] = {}
    for line in text.split("\n")[1:]:
        match = _DF.match(line) if len(line) <= 8192 else None
        if match is None:
            continue
        numbers = tuple(int(field) if field != "-" else 0 for field in match.groups()[1:4])
        row = (numbers[0], numbers[1], numbers[2])
        name = match[5]
        rows[name] = row if rows.get(name, row) == row and numbers[1] >= 0 else None
    return rows


def parse_probes(text: str) -> dict[int, str]:
    """Mount id to live, stale, error or unasked. Raises Damaged."""
    probes: dict[int, str] = {}
    for line in text.splitlines():
        if not line:
            continue
        identifier, _, word = line.partition(" ")
        if word != "live" and word not in _PROBES:
            raise Damaged(f"{excerpt(line)} is no probe")
        probes[number(identifier)] = word
    return probes


def parse_read_errors(text: str) -> dict[int, str]:
    """Mount id to the words with which stat(2) of its mount point failed. Raises Damaged."""
    errors: dict[int, str] = {}
    for line in text.split("\n"):
        if not line:
            continue
        identifier, _, said = line.partition(" ")
        errors[number(identifier)] = said.strip() or "it cannot be read"
    return errors


def parse_ids(text: str) -> tuple[int, ...]:
    """The mount ids whose names were given to stat, in order. Raises Damaged."""
    return tuple(number(word) for word in text.split())


def assemble(
    table: MountTable,
    figures: Mapping[str, Usage | Damaged],
    probes: Mapping[int, str],
    fstab: Sequence[FstabEntry] = (),
    *,
    failed: str = "",
    read_errors: Mapping[int, str] = MappingProxyType({}),
) -> Filesystems:
    """Join mounts and figures into one row per file system. `failed` says why there are no figures at all;
    `read_errors` has the mounts that cannot be read."""
    groups: dict[str, list[Mount]] = {}
    for mount in table.visible():
        groups.setdefault(mount.device_number, []).append(mount)
    wanted = {entry.mountpoint: entry for entry in fstab} if fstab else {}
    rows = []
    for mounts in groups.values():
        best = mounts[0] if len(mounts) == 1 else min(enumerate(mounts), key=_precedence)[1]
        figure = next((figures[mount.mountpoint] for mount in mounts if mount.mountpoint in figures), None)
        state, detail = State.AVAILABLE, ""
        if isinstance(figure, Damaged):
            figure, state, detail = None, State.UNREADABLE, f"its figures are damaged: {figure}"
        elif figure is None:
            word = next((probes[mount.id] for mount in mounts if probes.get(mount.id) in _PROBES), "")
            state, detail = _PROBES.get(word, (State.UNREADABLE, failed or "stat -f gave no figures for this mount"))
        unread = next((read_errors[mount.id] for mount in mounts if mount.id in read_errors), "") if read_errors else ""
        read_only = best.read_only
        rows.append(
            Filesystem(
                best.mountpoint,
                best.device,
                best.fstype,
                best.device_number,
                best.root,
                best.options,
                best.super_options,
                state,
                figure,
                detail,
                tuple([mount.mountpoint for mount in mounts if mount is not best]) if len(mounts) > 1 else (),
                read_only,
                read_only_flip(best, wanted.get(best.mountpoint)) if read_only else "",
                unread,
            )
        )
    return Filesystems(tuple(rows), table.left_out)


def _precedence(numbered: tuple[int, Mount]) -> tuple[bool, bool, int, str]:
    """Where a file system is best seen: at `/`; else where it was mounted whole first, as a bind mount comes after what
    it binds; else, of subvolumes and bound directories, at the shortest place, which is the same after every boot."""
    index, mount = numbered
    part = mount.root != "/"
    return mount.mountpoint != "/", part, len(mount.mountpoint) if part else index, mount.mountpoint


def read_only_flip(mount: Mount, entry: FstabEntry | None) -> str:
    """Why a read-only mount is probably not meant so; empty when nothing speaks for a flip.

    ext4 after an error under errors=remount-ro sets the file system read-only and leaves the mount's own option `rw`
    (Documentation/admin-guide/ext4.rst); newer kernels say `emergency_ro`. mount(8) with `-o ro` sets both.
    """
    if "emergency_ro" in mount.super_options or "shutdown" in mount.super_options:
        return "the kernel made it read-only after an error"
    if mount.options[0] == "rw" and "ro" in mount.super_options:
        if "errors=remount-ro" in mount.super_options:
            return "the kernel made it read-only: errors=remount-ro is set and the mount itself was rw"
        return "the mount was rw and the file system has turned read-only"
    if entry is not None and "ro" not in entry.options:
        return f"/etc/fstab wants it {'rw' if 'rw' in entry.options else 'writable'} and it is read-only"
    return ""


def with_errors(filesystems: Filesystems, errors: Mapping[str, int], names: Mapping[str, str]) -> Filesystems:
    """Add the ext4 error counts (the kernel's device name to count) to the rows' `detail`. `names` gives the kernel's
    name for major:minor: a mount of `/dev/mapper/vg-lv` is counted under `dm-0`."""
    if not any(errors.values()):
        return filesystems
    rows = []
    for row in filesystems.rows:
        name = names.get(row.device_number, row.device.rpartition("/")[2])
        count = errors.get(name, 0) if row.fstype.startswith("ext") else 0
        rows.append(replace(row, detail=f"{count} ext4 errors recorded: run fsck") if count else row)
    return Filesystems(tuple(rows), filesystems.left_out)
