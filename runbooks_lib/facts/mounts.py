"""The mount table: /proc/self/mountinfo (proc_pid_mountinfo(5)) and /etc/fstab (fstab(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged, number

_OCTAL = re.compile(r"\\([0-7]{3})")
_READ_ONLY = frozenset({"ro", "emergency_ro", "shutdown"})
# Fields end at a blank and nowhere else: any other white space stands in a name as it is.
_LINE = re.compile(
    r"([0-9]{1,10}) ([0-9]{1,10}) ([0-9]{1,10}:[0-9]{1,10}) ([^ ]+) ([^ ]+) ([^ ]+) (?:[^ ]+ )*?"
    r"- ([^ ]+) ([^ ]*) ([^ ]+)\Z"
)


def unescape(text: str) -> str:
    r"""A name as the kernel writes it in /proc, with \040 \011 \012 \134 (and any other three octal digits) decoded
    once."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. `device_number` (major:minor) tells file systems apart, `root` is what of it is
    mounted here:
    not `/` for a bind mount or a btrfs subvolume. `options` are this mount's, `super_options` the file system's."""

    id: int
    parent: int
    device_number: str
    root: str
    mountpoint: str
    options: tuple[str, ...]
    fstype: str
    device: str
    super_options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """True when nothing can be written through this mount. ext4 of newer kernels (seen on 6.18) says `emergency_ro`
        after an error and goes on showing `rw`; a file system that was shut down says `shutdown`."""
        return self.options[0] == "ro" or not _READ_ONLY.isdisjoint(self.super_options)


@dataclass(frozen=True, slots=True)
class MountTable:
    """The mounts worth asking, in the kernel's order; `left_out` more were beyond the script's limit, `damaged` more
    are not in the kernel's format.

    `hidepid`: /proc shows only the user's own processes.
    """

    mounts: tuple[Mount, ...]
    left_out: int = 0
    hidepid: bool = False
    damaged: int = 0

    def visible(self) -> tuple[Mount, ...]:
        """The mounts that a path leads to: neither covered at their own mount point nor hidden by a mount above it."""
        by_id = {mount.id: mount for mount in self.mounts}
        top: dict[str, Mount] = {}
        for mount in self.mounts:
            top[mount.mountpoint] = mount
        if len(top) == len(self.mounts) and all(
            mount.parent in by_id or mount.mountpoint == "/" for mount in self.mounts
        ):
            candidates: Iterable[Mount] = self.mounts
        else:
            candidates = [mount for mount in self.mounts if top[mount.mountpoint] is mount]
        return tuple(mount for mount in candidates if not _hidden(mount, by_id, top))


def _hidden(mount: Mount, by_id: dict[int, Mount], top: dict[str, Mount]) -> bool:
    """True when a mount lies on a directory on the way and is no ancestor of this one. Ancestors that are not in
    the table
    (pseudo file systems) end the search: then nothing is called hidden."""
    if mount.parent in by_id and by_id[mount.parent].mountpoint == "/" and "/" not in mount.mountpoint[1:]:
        return False
    ancestors: set[int] = set()
    current: Mount | None = mount
    while current is not None and current.id not in ancestors:
        ancestors.add(current.id)
        if current.mountpoint == "/":
            break
        current = by_id.get(current.parent)
    if current is None:
        return False
    path = mount.mountpoint
    while (path := path[: path.rfind("/")]) != "":
        over = top.get(path)
        if over is not None and over.id not in ancestors:
            return True
    return False


def parse(text: str) -> MountTable:
    """The mountinfo section of an answer. A line that is not in the kernel's format costs its own mount. Raises Damaged
    when every line is such a one."""
    mounts: list[Mount] = []
    left_out, hidepid, damaged = 0, False, 0
    for line in text.split("\n"):
        if not line:
            continue
        match = _LINE.match(line)
        if match is None:
            if line.startswith("left-out "):
                left_out = number(line[9:])
                continue
            damaged += 1
            continue
        identifier, parent, device_number, root, point, options, fstype, device, super_options = match.groups()
        if fstype == "proc":
            hidepid = hidepid or re.search(r"hidepid=(1|2|4|noaccess|invisible|ptraceable)", super_options) is not None
            continue
        mounts.append(
            Mount(
                int(identifier),
                int(parent),
                device_number,
                unescape(root),
                unescape(point),
                tuple(options.split(",")),
                fstype,
                unescape(device),
                tuple(super_options.split(",")),
            )
        )
    if damaged and not mounts:
        raise Damaged("mountinfo has no line in the kernel's format")
    return MountTable(tuple(mounts), left_out, hidepid, damaged)


@dataclass(frozen=True, slots=True)
class FstabEntry:
    """What /etc/fstab wants: source, mount point, type, options."""

    device: str
    mountpoint: str
    fstype: str
    options: tuple[str, ...]


def parse_fstab(text: str) -> tuple[FstabEntry, ...]:
    """/etc/fstab. Lines that are no entry are skipped: a person writes this file."""
    entries = []
    for line in text.split("\n"):
        fields = re.split("[ \t]+", line.strip(" \t"))
        if len(fields) < 4 or fields[0].startswith("#"):
            continue
        entries.append(FstabEntry(unescape(fields[0]), unescape(fields[1]), fields[2], tuple(fields[3].split(","))))
    return tuple(entries)
