"""Files that are deleted and still open: they fill a disk, and neither ls nor du sees them (/proc/PID/fd,
proc_pid_fd(5))."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_STAT = re.compile(
    r"/proc/([0-9]{1,10})/fd/([0-9]{1,10}) ([0-9]{1,10}) ([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,10})"
    r" ([0-9a-f]{1,16}) ([0-9]{1,20})\Z"
)
_NOT_FILES = ("/memfd:", "/SYSV", "/dev/zero", "/[aio]", "/drm", "/i915", "/anon_hugepage", "/dmabuf")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that keeps a deleted file open, and through which descriptor."""

    pid: int
    descriptor: int
    name: str


@dataclass(frozen=True, slots=True)
class DeletedFile:
    """A deleted file: its last name, its length, the disk space it holds until every holder closes it, and the
    holders."""

    path: str
    size_bytes: int
    allocated_bytes: int
    device_number: str  # major:minor
    inode: int
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class DeletedFiles:
    """The largest first. `complete` is False when only the user's own processes could be looked into."""

    files: tuple[DeletedFile, ...]
    complete: bool

    @property
    def allocated_bytes(self) -> int:
        """Disk space that closing all of them would free."""
        return sum(file.allocated_bytes for file in self.files)


def parse(stats: str, names: Mapping[str, str], processes: Mapping[str, str], complete: bool) -> DeletedFiles:
    """`stats`: rows `FD-PATH links size blocks blocksize device inode` of stat -L; `names`: FD path to link target;
    `processes`: pid to comm. One file that is open twice is one row. Raises Damaged."""
    found: dict[tuple[str, int], list[Holder]] = {}
    facts: dict[tuple[str, int], tuple[str, int, int]] = {}
    for line in stats.splitlines():
        if not line:
            continue
        match = _STAT.match(line)
        if match is None:
            raise Damaged("a row of the deleted files is not a descriptor and six numbers")
        pid, descriptor, links, size, blocks, block, device, inode = match.groups()
        name = names.get(f"/proc/{pid}/fd/{descriptor}", "").removesuffix("\n").removesuffix(" (deleted)")
        if int(links) > 0 or name.startswith(_NOT_FILES):
            continue  # another file of that name, or memory that is no file
        raw = int(device, 16)
        key = (f"{raw >> 8 & 0xFFF}:{raw & 0xFF | raw >> 12 & 0xFFF00}", int(inode))  # makedev(3) of glibc
        found.setdefault(key, []).append(Holder(int(pid), int(descriptor), processes.get(pid, "").strip("\n")))
        facts.setdefault(key, (name, int(size), int(blocks) * int(block)))
    files = [DeletedFile(*facts[key], *key, tuple(holders)) for key, holders in found.items()]
    return DeletedFiles(tuple(sorted(files, key=lambda file: -file.allocated_bytes)), complete)
