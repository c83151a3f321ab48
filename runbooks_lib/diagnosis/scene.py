"""Everything that is known of one host at one moment, as the rules look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runbooks_lib.config import HostEntry
from runbooks_lib.diagnosis.baseline import Baseline
from runbooks_lib.diagnosis.deviation import Deviation
from runbooks_lib.facts.connections import Connections
from runbooks_lib.facts.deleted_files import DeletedFiles
from runbooks_lib.facts.directories import Directories
from runbooks_lib.facts.fact import Fact, absent, available
from runbooks_lib.facts.filesystems import Filesystem
from runbooks_lib.facts.journal import JournalUse, LastBoot
from runbooks_lib.facts.kernel_log import KernelLog
from runbooks_lib.facts.postgres import PostgresDetails
from runbooks_lib.facts.postgres_activity import PostgresActivity
from runbooks_lib.facts.process_io import ProcessesIo
from runbooks_lib.facts.rates import Rates
from runbooks_lib.facts.services import ServiceAnswer
from runbooks_lib.facts.snapshot import Snapshot
from runbooks_lib.facts.waiting import Sleepers
from runbooks_lib.hosts.host import HostError

NOT_YET = "no answer yet"  # of a fact that is still waited for, in a scene that is told early
_NOT_ASKED: Fact[Any] = absent("it was not asked for")


@dataclass(frozen=True)
class Deeper:
    """The facts beyond the quick ones, each with its state; `directories` by mount point, only of those that are
    tight."""

    postgres_details: Fact[tuple[PostgresDetails, ...]] = _NOT_ASKED
    postgres_activity: Fact[tuple[PostgresActivity, ...]] = _NOT_ASKED
    waiting: Fact[Sleepers] = _NOT_ASKED
    connections: Fact[Connections] = _NOT_ASKED
    journal_use: Fact[JournalUse] = _NOT_ASKED
    last_boot: Fact[LastBoot] = _NOT_ASKED
    kernel_log: Fact[KernelLog] = _NOT_ASKED
    process_io: Fact[ProcessesIo] = _NOT_ASKED
    deleted_files: Fact[DeletedFiles] = _NOT_ASKED
    directories: Mapping[str, Fact[Directories]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """One host at `now` (UTC). `snapshot` is None when it was not reached, and `unreached` says how that failed.
    `pending`: what had been asked and not been answered when this was put together."""

    entry: HostEntry
    now: datetime
    snapshot: Snapshot | None
    unreached: HostError | None
    deeper: Deeper
    services: tuple[ServiceAnswer, ...]
    baseline: Baseline
    deviations: tuple[Deviation, ...]
    seconds: float
    pending: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """Its name in the inventory."""
        return self.entry.name

    def fact(self, name: str) -> Fact[Any]:
        """A fact by name: a quick one, a deeper one, or `services`. Of two of one name the one that is known."""
        if name == "services":
            return available(self.services) if self.services else absent("the inventory names no service of this host")
        found = [] if self.snapshot is None else [fact for key, fact in self.snapshot.facts().items() if key == name]
        if hasattr(self.deeper, name):
            found.append(getattr(self.deeper, name))
        if not found:
            return absent("the host was not reached")
        return next((fact for fact in found if fact.known), found[-1])

    # What several rules look at.

    @property
    def rates(self) -> Rates | None:
        """Rates over our own window."""
        return self.snapshot.rates.value if self.snapshot else None

    @property
    def cpus(self) -> int:
        """Online CPUs, at least 1."""
        return max(1, self.snapshot.cpu.value.count) if self.snapshot and self.snapshot.cpu.value else 1

    @property
    def uptime_seconds(self) -> float:
        """Since the host was booted."""
        return self.snapshot.uptime_seconds if self.snapshot else 0.0

    def filesystems(self) -> tuple[Filesystem, ...]:
        """All file systems, none when they are not known."""
        places = self.snapshot.filesystems.value if self.snapshot else None
        return places.rows if places else ()

    def mount_of(self, path: str) -> str:
        """The mount point that holds an absolute path, empty when that is not known."""
        places = self.snapshot.filesystems.value if self.snapshot else None
        found = places.holding(path) if places and path.startswith("/") else None
        return found.mountpoint if found else ""

    def database_mounts(self) -> frozenset[str]:
        """Mount points with a database on them: a running server's, and those that the inventory marks."""
        servers = (self.snapshot.postgres.value or ()) if self.snapshot else ()
        found = {place for server in servers for place in (server.mountpoint, server.wal_mountpoint) if place}
        found |= {self.mount_of(each.data_directory) for each in self.deeper.postgres_details.value or ()}
        found |= {place for place, settings in self.entry.partitions.items() if settings.database}
        return frozenset(found - {""})

    def disks_below(self, filesystem: Filesystem) -> frozenset[str]:
        """The kernel's names of the disks under a file system, through partitions, LVM and RAID."""
        devices = {each.name: each for each in (self.snapshot.block_devices.value or ())} if self.snapshot else {}
        start = [each.name for each in devices.values() if each.device_number == filesystem.device_number]
        found: set[str] = set()
        while start:
            device = devices.get(start.pop())
            if device is None:
                continue
            if device.below:
                start += device.below
            else:
                found.add(device.name)
        return frozenset(found)

    def mounts_on(self, disk: str) -> tuple[str, ...]:
        """The mount points whose file system stands on that disk."""
        return tuple(each.mountpoint for each in self.filesystems() if disk in self.disks_below(each))

    def activity(self) -> tuple[PostgresActivity, ...]:
        """What the PostgreSQL servers' sessions do, of servers that answered."""
        return tuple(each for each in self.deeper.postgres_activity.value or () if each.looks)
