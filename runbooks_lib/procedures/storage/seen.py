"""What a host says about one mount point, in one value: facts that others read, and the survey's own answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from runbooks_lib.facts.answer import parse_answer
from runbooks_lib.facts.deleted_files import DeletedFiles
from runbooks_lib.facts.fact import Fact
from runbooks_lib.facts.filesystems import Filesystem, Filesystems, Usage
from runbooks_lib.facts.lvm import Lvm, VolumeGroup, device_of
from runbooks_lib.facts.postgres import PostgresDetails
from runbooks_lib.runbook.quoting import text_of


@dataclass(frozen=True)
class Disk:
    """A disk or partition that is at least 64 MiB large. `why_not` says what speaks against its being empty; empty
    when nothing does."""

    name: str
    size_bytes: int
    why_not: str


@dataclass(frozen=True)
class Volume:
    """A physical volume: its device's size, its own, what lies free behind its partition, its group."""

    device: str
    device_bytes: int
    size_bytes: int
    behind_bytes: int
    group: str


@dataclass(frozen=True)
class JournalFile:
    """A file of systemd's journal on the surveyed filesystem. `archived`: nothing is written to it any more."""

    path: str
    allocated_bytes: int

    @property
    def archived(self) -> bool:
        """systemd-journald.service(8): archived files carry an `@`, or end in `~` after an unclean stop."""
        name = self.path.rpartition("/")[2]
        return "@" in name or name.endswith("~")


@dataclass(frozen=True)
class Log:
    """A log of at least 4 MiB. `of_database`: it lies in a database's directory."""

    path: str
    allocated_bytes: int
    size_bytes: int
    of_database: bool


@dataclass(frozen=True)
class Survey:
    """The survey script's answer. Sizes in bytes; None is what the host did not say. `packages`: directory to bytes
    of packages; `units`: process to its unit and whether that can be reloaded; `gone`: processes that held a deleted
    file and have ended since; `files`: what each named file takes on this filesystem, None for one that is not there;
    `servers`: PostgreSQL's data directory to its settings."""

    tools: frozenset[str]
    source: str
    kernel_name: str
    device_bytes: int | None
    filesystem_bytes: int | None
    reserve_bytes: int | None
    block_bytes: int | None
    behind_bytes: int | None
    disks: tuple[Disk, ...] = ()
    volumes: tuple[Volume, ...] = ()
    journal: tuple[JournalFile, ...] = ()
    packages: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[int, tuple[str, bool]] = field(default_factory=dict)
    gone: frozenset[int] = frozenset()
    logs: tuple[Log, ...] = ()
    files: tuple[int | None, ...] = ()
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """A thin pool (`name`: group/pool), how full it is, and its group. `metadata_ratio` (0..1) ends it as well."""

    name: str
    usage: Usage
    metadata_ratio: float | None
    group: VolumeGroup


@dataclass(frozen=True)
class Seen:
    """Everything that the ways go by. `filesystem.usage` is there."""

    host: str
    mountpoint: str
    filesystem: Filesystem
    filesystems: Filesystems
    survey: Survey
    lvm: Fact[Lvm]
    deleted: Fact[DeletedFiles]
    postgres: Fact[tuple[PostgresDetails, ...]]

    @property
    def usage(self) -> Usage:
        """Size, free and available bytes now."""
        assert self.filesystem.usage is not None  # noqa: S101 - the survey does not begin without
        return self.filesystem.usage

    @property
    def pool(self) -> Pool | None:
        """The active thin pool that the filesystem's volume draws from; None when it draws from none."""
        lvm = self.lvm.value
        volumes = lvm.logical_volumes if lvm else ()
        own = next((each for each in volumes if each.pool and device_of(each) == self.survey.source), None)
        for pool in volumes:
            if own and (pool.group, pool.name) == (own.group, own.pool) and pool.data_ratio is not None and lvm:
                free = pool.size_bytes - math.ceil(pool.size_bytes * pool.data_ratio)
                group = next(each for each in lvm.volume_groups if each.name == pool.group)
                usage = Usage(pool.size_bytes, free, free)
                return Pool(f"{pool.group}/{pool.name}", usage, pool.metadata_ratio, group)
        return None

    @property
    def pool_is_limit(self) -> bool:
        """Whether the pool is full before the filesystem is."""
        return self.pool is not None and self.pool.usage.free_bytes < self.usage.avail_bytes

    @property
    def writable_bytes(self) -> int:
        """What an ordinary user can still write: both the filesystem and the pool under it must have room."""
        return min(self.usage.avail_bytes, self.pool.usage.free_bytes) if self.pool else self.usage.avail_bytes

    @property
    def limit(self) -> Usage:
        """What fills up first, as bytes: the filesystem, or the thin pool under it."""
        return self.pool.usage if self.pool is not None and self.pool_is_limit else self.usage

    @property
    def yield_ratio(self) -> float:
        """What of each byte of device an ordinary user gets, by what this filesystem makes of its device: the rest is
        metadata and root's reserve."""
        whole = self.survey.filesystem_bytes or self.usage.size_bytes
        return min(1.0, (self.usage.used_bytes + self.usage.avail_bytes) / whole) if whole else 1.0

    @property
    def withheld_bytes(self) -> int:
        """What an ext4 takes for itself before an ordinary user gets a byte: root's reserve, and what the kernel sets
        aside (2 % of the blocks, at most 4096 of them: ext4_calculate_resv_clusters). 0 for others."""
        if self.survey.reserve_bytes is None:
            return 0
        return self.survey.reserve_bytes + self.set_aside_bytes

    @property
    def set_aside_bytes(self) -> int:
        """The kernel's own part of `withheld_bytes`."""
        block, size = self.survey.block_bytes, self.survey.filesystem_bytes
        return min(size // block // 50, 4096) * block if block and size else 0

    @property
    def owed_bytes(self) -> int:
        """What of the next free bytes goes to that first: root has written into it."""
        return max(0, self.withheld_bytes - self.usage.free_bytes)

    @property
    def store(self) -> tuple[str, int]:
        """Where things may be put aside: a directory on the local filesystem with the most room, and how many bytes
        it takes before it is four fifths full itself. An empty name when there is none."""
        best = ("", 0)
        for other in self.filesystems.rows:
            if other is self.filesystem or other.read_only or other.usage is None:
                continue
            if other.fstype not in ("ext4", "xfs", "btrfs") or other.mountpoint.startswith("/boot"):
                continue
            usable = other.usage.used_bytes + other.usage.avail_bytes
            room = usable * 4 // 5 - other.usage.used_bytes
            place = "/var/lib/runbooks-archive" if other.mountpoint == "/" else f"{other.mountpoint}/runbooks-archive"
            best = max(best, (place, room), key=lambda each: each[1])
        return best

    def holds(self, path: str) -> bool:
        """Whether an absolute path without symlinks lies on this filesystem."""
        return self.filesystems.holding(path) is self.filesystem


def parse(stdout: bytes, nonce: str, servers: Mapping[int, str] = MappingProxyType({})) -> Survey:
    """The answer of survey.sh; `servers`: the process of each PostgreSQL and its data directory. A row that is not
    understood is left out: what is not known is not offered. Raises answer.Incomplete."""
    sections = parse_answer(stdout, nonce).sections

    def rows(name: str, fields: int) -> list[list[str]]:
        split = (line.split(" ", fields - 1) for line in sections.get(name, "").splitlines())
        return [row for row in split if len(row) == fields]

    facts = dict(rows("filesystem", 2))
    device = facts.get("device_number", "")
    holders = [row for row in rows("units", 3) if row[0].isdigit()]
    return Survey(
        tools=frozenset(sections.get("tools", "").split()),
        source=facts.get("source", ""),
        kernel_name=facts.get("name", ""),
        device_bytes=_number(facts.get("device_bytes")),
        filesystem_bytes=_number(facts.get("filesystem_bytes")),
        reserve_bytes=_number(facts.get("reserve_bytes")),
        block_bytes=_number(facts.get("block_bytes")),
        behind_bytes=_number(facts.get("behind_bytes")),
        disks=tuple(
            Disk(name, int(size), "" if why == "empty" else why or "it could not be read within 90 seconds")
            for name, size, why in rows("disks", 3)
            if size.isdigit()
        ),
        volumes=tuple(
            Volume(name, int(numbers[0]), int(numbers[1]), int(numbers[2]), group.strip())
            for name, *numbers, group in rows("volumes", 5)
            if all(each.isdigit() for each in numbers)
        ),
        journal=tuple(
            JournalFile(path, int(blocks) * int(block))
            for on, blocks, block, path in rows("journal", 4)
            if on == device and blocks.isdigit() and block.isdigit()
        ),
        packages={path: int(size) for on, size, path in rows("packages", 3) if on == device and size.isdigit()},
        units={int(pid): (unit, can == "yes") for pid, can, unit in holders if unit.strip() and can != "gone"},
        gone=frozenset(int(pid) for pid, can, _ in holders if can == "gone"),
        logs=tuple(
            Log(text_of(bytes.fromhex(name)), int(blocks) * 512, int(size), of == "database")
            for blocks, size, of, name in rows("logs", 4)
            if blocks.isdigit() and size.isdigit() and _HEX.match(name)
        ),
        files=tuple(
            int(blocks) * 512 if on == device and blocks.isdigit() else None for on, blocks in rows("files", 2)
        ),
        servers={
            data: settings
            for pid, data in servers.items()
            if (settings := _settings(sections.get(f"server {pid}", ""))) is not None
        },
    )


_HEX = re.compile(r"([0-9a-f]{2})+\Z")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _settings(text: str) -> dict[str, Any] | None:
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    wanted = {"max_wal", "segment", "command", "written", "altered"}
    return said if isinstance(said, dict) and set(said) == wanted and isinstance(said["max_wal"], int) else None
