"""What the library's own facts say about each fault of the lab, and the whole way of a fault with both witnesses."""

from __future__ import annotations

import time
from collections.abc import Callable

from runbooks_lib.facts.collect import read_slow, read_snapshot
from runbooks_lib.facts.filesystems import Filesystem
from runbooks_lib.facts.postgres import PostgresDetails
from runbooks_lib.facts.postgres_activity import PostgresActivity
from runbooks_lib.facts.snapshot import Snapshot
from runbooks_lib.hosts.host import DeadlineExceeded, Host, HostUnreachable
from runbooks_lib.training.lab import faults, world
from runbooks_lib.training.lab.faults.postgres import WAITERS
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine, connected

DEADLINE_SECONDS = 60.0


def snapshot(host: Host) -> Snapshot:
    return read_snapshot(host, deadline_seconds=DEADLINE_SECONDS)


def partition(host: Host) -> Filesystem:
    rows = snapshot(host).filesystems.value
    assert rows is not None
    return next(row for row in rows.rows if row.mountpoint == "/srv/db")


def database(host: Host) -> PostgresDetails:
    servers = read_slow(host, ("postgres",), deadline_seconds=DEADLINE_SECONDS).postgres
    assert servers is not None
    assert servers.value, servers
    return servers.value[0]


def activity(host: Host) -> PostgresActivity:
    servers = read_slow(host, ("postgres-activity",), deadline_seconds=DEADLINE_SECONDS).postgres_activity
    assert servers is not None
    assert servers.value, servers
    return servers.value[0]


def full(host: Host) -> str:
    usage = partition(host).usage
    assert usage is not None
    used = usage.size_bytes - usage.free_bytes
    ratio = used / (used + usage.avail_bytes)
    return "" if ratio >= 0.90 else f"the partition is {ratio:.0%} full"


def full_of_data(host: Host, _: Machine) -> str:
    size = database(host).size_bytes or 0
    return full(host) or ("" if size > 100e6 else f"the databases hold {size} bytes")


def full_of_wal_for_a_slot(host: Host, _: Machine) -> str:
    slots = database(host).slots or ()
    held = [slot for slot in slots if not slot.active and (slot.retained_bytes or 0) > 100e6]
    return full(host) or ("" if held else f"no inactive slot holds much: {slots}")


def full_of_wal_not_archived(host: Host, _: Machine) -> str:
    archiver = database(host).archiver
    assert archiver is not None
    return full(host) or ("" if archiver.failing and (archiver.waiting or 0) > 5 else f"{archiver}")


def big_directory(name: str, mountpoint: str = "/srv/db", least_bytes: float = 100e6) -> Callable[[Host, Machine], str]:
    def check(host: Host, _: Machine) -> str:
        said = read_slow(host, ("directories",), mountpoint=mountpoint, deadline_seconds=DEADLINE_SECONDS).directories
        assert said is not None
        assert said.value is not None, said
        sizes = {row.path: row.size_bytes for row in said.value.rows}
        found = [size for path, size in sizes.items() if path.endswith(name)]
        return "" if found and max(found) > least_bytes else f"{name} is not big in {sizes}"

    return check


def full_of_log(host: Host, machine: Machine) -> str:
    return full(host) or big_directory("build-server-logs")(host, machine)


def full_of_temporary_files(host: Host, _: Machine) -> str:
    temporary = activity(host).temporary or {}
    return full(host) or ("" if max(temporary.values(), default=0) > 400e6 else f"temporary files: {temporary}")


def full_of_deleted_files(host: Host, _: Machine) -> str:
    said = read_slow(host, ("deleted-files",), deadline_seconds=DEADLINE_SECONDS).deleted_files
    assert said is not None
    assert said.value is not None, said
    held = [file for file in said.value.files if "old.log" in file.path and file.allocated_bytes > 100e6]
    return full(host) or ("" if held else f"no big deleted file: {said.value.files}")


def no_inodes(host: Host, _: Machine) -> str:
    usage = partition(host).usage
    assert usage is not None
    return "" if usage.files_free == 0 else f"{usage.files_free} inodes free"


def slow(host: Host, machine: Machine) -> str:
    with Load([machine.address("postgres")], clients=2, timeout_seconds=20) as load:
        time.sleep(1)
        rates = read_snapshot(host, sample_seconds=4, deadline_seconds=DEADLINE_SECONDS).rates.value
    assert rates is not None
    disk = rates.disks["vdb"]
    wait, queue = disk.write_wait_seconds or 0, disk.busy_ratio or 0
    return "" if wait > 0.03 or queue > 0.8 else f"{disk}; {load.acknowledged} commits"


def read_only(host: Host, _: Machine) -> str:
    # Since 6.12, and in the stable kernels that took the change, ext4 takes no writes after an error while the mount
    # table goes on saying rw: what tells is the count of its errors. An XFS shuts down, and cannot be read either.
    row = partition(host)
    return "" if row.read_only or row.read_error or "errors recorded" in row.detail else f"{row}"


def busy(host: Host, _: Machine) -> str:
    rates = read_snapshot(host, sample_seconds=2, deadline_seconds=DEADLINE_SECONDS).rates.value
    assert rates is not None
    assert rates.cpu is not None
    return "" if rates.cpu.idle < 0.15 else f"{rates.cpu}"


def swapping(host: Host, _: Machine) -> str:
    areas = snapshot(host).swaps.value or ()
    used = sum(area.used_bytes for area in areas)
    return "" if used > 64e6 else f"{used} bytes are swapped"


def neighbour(host: Host, _: Machine) -> str:
    rates = read_snapshot(host, sample_seconds=2, deadline_seconds=DEADLINE_SECONDS).rates.value
    assert rates is not None
    written = rates.disks["vdb"].written_bytes_per_second or 0
    return "" if written > 200e3 else f"{written} bytes a second"


def loss(host: Host, machine: Machine) -> str:
    before = snapshot(host)
    machine.sh("head -c 1000000 /dev/zero", changes=False, deadline_seconds=DEADLINE_SECONDS)
    rates = snapshot(host).rates_since(before).value
    assert rates is not None
    return "" if (rates.retransmits_per_second or 0) > 0 else f"{rates}"


def delay(host: Host, _: Machine) -> str:
    """The least that a packet of an SSH connection ever took: an emulated host is late often, a long way always."""
    found = read_slow(host, ("connections",), deadline_seconds=DEADLINE_SECONDS).connections
    assert found is not None
    assert found.value, found
    least = [row.least_round_trip_seconds or 0.0 for row in found.value.outside if row.local_port == 22]
    return "" if max(least, default=0.0) > 0.1 else f"{least}"


def no_answer(host: Host, _: Machine) -> str:
    try:
        read_snapshot(host, deadline_seconds=8)
    except (HostUnreachable, DeadlineExceeded):
        return ""
    return "it answered"


def another_boot(host: Host, machine: Machine) -> str:
    machine.wait_ready()
    said = machine.sh("cat /var/tmp/lab-boot", changes=False).strip()
    return "" if snapshot(host).boot_id != said else "the same boot"


def many_wait_for_one(host: Host, _: Machine) -> str:
    blockers = activity(host).blockers()
    victims = max((len(blocker.victims) for blocker in blockers), default=0)
    return "" if victims >= WAITERS else f"at most {victims} wait for one: {blockers}"


def idle_in_a_transaction(host: Host, _: Machine) -> str:
    now = activity(host).now
    assert now is not None
    idle = [session for session in now.sessions if session.state == "idle in transaction"]
    lasting = [session for session in idle if session.application == "psql" and (session.transaction_seconds or 0) > 1]
    return "" if lasting else f"none is idle for longer: {now.sessions}"


# What our facts say about each: no words when they see it, else what they see. A missing entry is a failure.
SEEN: dict[str, Callable[[Host, Machine], str]] = {
    "disk-full-data": full_of_data,
    "disk-full-wal-slot": full_of_wal_for_a_slot,
    "disk-full-wal-archive": full_of_wal_not_archived,
    "disk-full-log": full_of_log,
    "disk-full-deleted": full_of_deleted_files,
    "disk-full-temp": full_of_temporary_files,
    "inodes": no_inodes,
    "slow-disk": slow,
    "read-only": read_only,
    "cpu-hog": busy,
    "memory-hog": swapping,
    "neighbour": neighbour,
    "journal-full": big_directory("/var/log", "/", 20e6),
    "network-loss": loss,
    "network-delay": delay,
    "connection-cut": no_answer,
    "power-cut": another_boot,
    "lock-pile-up": many_wait_for_one,
    "idle-transaction": idle_in_a_transaction,
}


# Its own witness is the boot that was written down when the power was cut, and removing it removes the note.
_NO_SECOND_LOOK = ("power-cut",)


def inject_see_and_remove(machine: Machine, before: world.World, name: str) -> None:
    """Inject a fault; it is seen by its own command and by our facts. Remove it; it is seen by neither, and the world
    is as before."""
    fault = faults.fault(name)
    begin = time.monotonic()
    injected = faults.inject(machine, name)
    seconds = time.monotonic() - begin
    assert injected.present, injected
    assert name in machine.record.faults
    with connected(machine) as host:
        assert SEEN[name](host, machine) == ""
        begin = time.monotonic()
        faults.remove(machine, name)
        print(f"{name}: {seconds:.1f} s in, {time.monotonic() - begin:.1f} s out; {injected.words}")
        removed = fault.observe(machine)
        assert not removed.present, removed
        if name not in _NO_SECOND_LOOK:
            assert SEEN[name](host, machine) != "", "our facts see it still, or would see it without the fault"
    assert world.differences(before, world.look(machine)) == []
    assert machine.record.faults == ()
