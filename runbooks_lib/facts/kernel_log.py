"""Kernel messages about disks and memory (dmesg(1)), and error counters of ext4 and of memory controllers (EDAC)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged, excerpt, number
from runbooks_lib.facts.journal import row_of

_ROW = re.compile(r"<([0-9]{1,4})>(?:\[ *([0-9]{1,10}\.[0-9]{1,9})\](?:\[[^]]*\])? ?)?(.*)\Z")
_MATCHED = re.compile(r"matched ([0-9]{1,9}) lines ([0-9]{1,9})\Z")
# Looked for in lower case: plain words cost a tenth of one expression that ignores case.
_DISK_WORDS = (
    *("i/o error", "ext2-fs", "ext3-fs", "ext4-fs", "xfs", "btrfs", "jbd2", "f2fs", "blk_update_request", "scsi"),
    *("device-mapper", "journal on device", "read-only", "blocked for more than", "nfs:", "cifs"),
)
_DISK_NAME = re.compile(r"\b(?:ata[0-9]|sd[a-z]+\b|nvme|vd[a-z]\b|md[0-9/]|dm-[0-9])")
_MEMORY_WORDS = (
    *("out of memory", "oom", "killed process", "page allocation failure", "memory failure"),
    *("edac", "hardware error", "mce:", "machine check"),
)
SUBJECTS = ("memory", "disk", "other")


@dataclass(frozen=True, slots=True)
class Message:
    """One message: syslog level (0 emergency … 3 error … 6 information), seconds after boot (None without time
    stamps), text,
    and what it is about: memory, disk, or other. The text may quote what a process or a disk said: do not trust it."""

    level: int
    seconds: float | None
    text: str
    subject: str


@dataclass(frozen=True, slots=True)
class KernelLog:
    """The last 40 errors (level ≤ 3, and what tells of OOM kills, I/O errors or read-only remounts). `matched`
    counts all of
    them in the ring buffer, `lines` the buffer's lines; older ones have been overwritten."""

    messages: tuple[Message, ...]
    matched: int
    lines: int


def parse(text: str) -> KernelLog:
    """The dmesg section. Raises Damaged when its closing count is missing or nothing could be read."""
    lines = [line for line in text.split("\n") if line]
    closing = _MATCHED.match(lines.pop()) if lines else None
    if closing is None:
        raise Damaged("the kernel's messages do not end with their count")
    if int(closing[2]) == 0:
        raise Damaged("dmesg gave no line")
    messages = []
    for line in lines:
        match = _ROW.match(line)
        if match is None:
            raise Damaged("a kernel message has no level")
        said = match[3]
        subject = subject_of(said)
        messages.append(Message(int(match[1]) % 8, float(match[2]) if match[2] else None, said, subject))
    return KernelLog(tuple(messages), int(closing[1]), int(closing[2]))


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """`ext4`: device to errors recorded in its superblock until the next fsck. `memory_corrected` and
    `memory_uncorrected`:
    memory controller (mc0) to ECC errors since boot."""

    ext4: Mapping[str, int]
    memory_corrected: Mapping[str, int]
    memory_uncorrected: Mapping[str, int]


def parse_error_counts(files: Mapping[str, str]) -> ErrorCounts:
    """The files /sys/fs/ext4/*/errors_count and /sys/devices/system/edac/mc/*/{ce,ue}_count by path. Raises Damaged."""
    ext4: dict[str, int] = {}
    corrected: dict[str, int] = {}
    uncorrected: dict[str, int] = {}
    for path, text in files.items():
        pieces = path.split("/")
        into = ext4 if pieces[-1] == "errors_count" else corrected if pieces[-1] == "ce_count" else uncorrected
        into[pieces[-2]] = number(text.strip())
    return ErrorCounts(ext4, corrected, uncorrected)


@dataclass(frozen=True, slots=True)
class JournalMessage:
    """A kernel message of level ≤ 3 from the journal, of earlier boots too: seconds since 1970 UTC by the host's
    clock."""

    seconds: float
    text: str
    subject: str


def parse_journal(text: str) -> tuple[JournalMessage, ...]:
    """`journalctl -k -p 3 -o short-unix` (or short-iso) and its exit status. Raises Damaged when journalctl failed or
    a line is none.

    Lines of one message that begin with blanks belong to the one before (journalctl(1))."""
    lines = [line for line in text.split("\n") if line]
    status = lines.pop() if lines else ""
    if status != "status 0":
        raise Damaged(f"journalctl ended with {excerpt(status)}")
    messages: list[JournalMessage] = []
    for line in lines:
        row = row_of(line)
        if row is None or not row[1].startswith("kernel: "):
            if line.startswith(("-- ", " ")):
                continue
            raise Damaged("a line of journalctl is not a time, a host and a message")
        said = row[1].removeprefix("kernel: ")
        messages.append(JournalMessage(row[0], said, subject_of(said)))
    return tuple(messages)


def subject_of(text: str) -> str:
    """memory, disk or other."""
    said = text.lower()
    if any(word in said for word in _MEMORY_WORDS):
        return "memory"
    return "disk" if any(word in said for word in _DISK_WORDS) or _DISK_NAME.search(said) else "other"
