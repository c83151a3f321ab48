"""A host's answers as they are read, for tests that need no host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runbooks_lib.facts.deleted_files import DeletedFile, DeletedFiles, Holder
from runbooks_lib.facts.fact import Fact, State, absent, available
from runbooks_lib.facts.filesystems import Filesystem, Filesystems, Usage
from runbooks_lib.facts.lvm import LogicalVolume, Lvm, PhysicalVolume, VolumeGroup
from runbooks_lib.facts.postgres import Archiver, PostgresDetails, Slot
from runbooks_lib.procedures.storage.seen import Seen, Survey

GIB = 2**30
MIB = 2**20
EXTENT = 4 * MIB
TOOLS = frozenset(
    {"lvextend", "pvcreate", "resize2fs", "xfs_growfs", "btrfs", "tune2fs", "sfdisk", "partx", "fallocate", "gzip"}
    | {"journalctl", "apt-get", "systemctl", "psql"}
)
NOTHING_DELETED: Fact[DeletedFiles] = available(DeletedFiles((), complete=True))
NO_SERVER: Fact[tuple[PostgresDetails, ...]] = absent("no PostgreSQL server runs here")


def filesystem(mountpoint: str = "/srv/db", **changes: Any) -> Filesystem:
    made = Filesystem(
        mountpoint, "/dev/mapper/data-db", "ext4", "253:0", "/", ("rw",), ("rw",), State.AVAILABLE,
        Usage(100 * GIB, 6 * GIB, GIB),
    )  # fmt: skip
    return replace(made, **changes)


def lvm(*, free_extents: int = 10 * 256, kind: str = "linear", **changes: Any) -> Fact[Lvm]:
    made = Lvm(
        (PhysicalVolume("/dev/vdb", "data", 200 * GIB, free_extents * EXTENT, missing=False),),
        (VolumeGroup("data", 200 * GIB, free_extents * EXTENT, EXTENT, 200 * 256, free_extents, 0),),
        (LogicalVolume("db", "data", kind, "-wi-ao----", 100 * GIB, "", "", None, None, None, "/dev/data/db"),),
    )
    return available(replace(made, **changes))


def seen(**changes: Any) -> Seen:
    """`/srv/db`, 100 GiB of ext4 on data/db with 1 GiB left and 5 GiB kept for root; 10 GiB of free extents."""
    own = filesystem()
    root = filesystem("/", device_number="254:0", device="/dev/vda", usage=Usage(50 * GIB, 40 * GIB, 38 * GIB))
    survey = Survey(
        tools=TOOLS, source="/dev/mapper/data-db", kernel_name="dm-0", device_bytes=100 * GIB,
        filesystem_bytes=100 * GIB, reserve_bytes=5 * GIB, block_bytes=4096, behind_bytes=None,
    )  # fmt: skip
    made = Seen("tc-db-01", "/srv/db", own, Filesystems((root, own)), survey, lvm(), NOTHING_DELETED, NO_SERVER)
    surveyed = {name: changes.pop(name) for name in list(changes) if name in Survey.__dataclass_fields__}
    return replace(made, **changes, survey=replace(survey, **surveyed)) if surveyed else replace(made, **changes)


def server(*slots: Slot, archiver: Archiver | None = None) -> dict[str, Any]:
    """What `seen` takes for a PostgreSQL with 20 GiB of WAL on /srv/db."""
    details = PostgresDetails(
        1, "/srv/db/15", "/srv/db/15/pg_wal", wal_bytes=20 * GIB, wal_files=1280, slots=slots, archiver=archiver
    )
    settings = {"max_wal": GIB, "segment": 16 * MIB, "command": "false", "written": "cp %p /b/%f", "altered": "false"}
    return {"postgres": available((details,)), "servers": {"/srv/db/15": settings}}


def deleted(name: str, pid: int, size: int) -> DeletedFile:
    return DeletedFile("/srv/db/logs/app.log", size, size, "253:0", 7, (Holder(pid, 3, name),))


def thin(*, pool_free: int, free_extents: int = 2560, metadata: float = 0.1) -> Fact[Lvm]:
    """data/db as a thin volume of the pool data/thin of 100 GiB."""
    made = lvm(free_extents=free_extents).require()
    (volume,) = made.logical_volumes
    ratio = 1 - pool_free / (100 * GIB)
    volume = replace(volume, kind="thin", attributes="Vwi-aotz--", pool="thin", data_ratio=0.9)
    pool = LogicalVolume("thin", "data", "thin-pool", "twi-aotz--", 100 * GIB, "", "", ratio, metadata, 128 * MIB, "")
    return available(replace(made, logical_volumes=(pool, volume)))
