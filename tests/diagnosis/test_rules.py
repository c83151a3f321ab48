"""Each rule on the case it is for, and on the healthy case beside it: this machine's real scene with one thing
changed."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runbooks_lib import config as inventory
from runbooks_lib.config import HostEntry, PartitionSettings, ServiceSettings
from runbooks_lib.diagnosis.baseline import Band, Baseline
from runbooks_lib.diagnosis.deviation import Deviation
from runbooks_lib.diagnosis.diagnosis import Diagnosis, diagnose
from runbooks_lib.diagnosis.finding import Finding, Severity
from runbooks_lib.diagnosis.measures import MEASURES
from runbooks_lib.diagnosis.scene import Deeper, Scene
from runbooks_lib.diagnosis.triage import read_scene
from runbooks_lib.facts import directories, mounts
from runbooks_lib.facts.blocks import BlockDevice
from runbooks_lib.facts.connections import Connection, Connections
from runbooks_lib.facts.fact import Fact, State, absent, available
from runbooks_lib.facts.filesystems import Filesystem, Filesystems, Usage, assemble
from runbooks_lib.facts.journal import JournalUse, JournalWriter, LastBoot
from runbooks_lib.facts.kernel_log import KernelLog, Message
from runbooks_lib.facts.memory import Memory
from runbooks_lib.facts.postgres import Archiver, PostgresDetails, Slot
from runbooks_lib.facts.postgres_activity import Look, PostgresActivity, Session
from runbooks_lib.facts.process_io import ProcessesIo, ProcessIo
from runbooks_lib.facts.rates import DiskRates, InterfaceRates
from runbooks_lib.facts.services import Agents, BuildQueue, ServiceAnswer
from runbooks_lib.facts.slow import parse_slow
from runbooks_lib.facts.units import FailedUnit
from runbooks_lib.facts.waiting import Sleeper, Sleepers

MIB, GIB = 1024**2, 1024**3
NOW = datetime(2026, 11, 27, 10, tzinfo=UTC)
DATA = "/srv/db/postgresql/15/main"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    file = tmp_path_factory.mktemp("here") / "runbooks.toml"
    file.write_text("[hosts.here]\nlocal = true\n")
    config = inventory.load(file)
    return read_scene(config, config.hosts["here"])


@pytest.fixture
def quiet(real: Scene) -> Scene:
    """The same with what may be wrong on whatever machine runs the tests taken out."""
    assert real.snapshot is not None
    assert real.rates is not None
    entry = HostEntry("builds-01", "builds-01", partitions={"/srv/db": PartitionSettings("/srv/db", database=True)})
    rates = replace(
        real.rates, cpu=replace(real.rates.cpu, user=0.1, nice=0, system=0.1, irq=0, softirq=0, steal=0, guest=0,
                                idle=0.8, iowait=0) if real.rates.cpu else None,
        disks={}, interfaces={}, paging={}, listen_drops_per_second=0.0, retransmit_ratio=0.0,
    )  # fmt: skip
    snapshot = replace(
        real.snapshot, rates=available(rates), filesystems=available(Filesystems((filesystem(),))),
        failed_units=available(()), kernel_log=absent(""), clock=absent(""), postgres=absent(""),
        block_devices=available(DEVICES), uptime_seconds=90_000.0,
        pressure={name: absent("") for name in ("cpu", "memory", "io")},
        memory=absent(""),
    )  # fmt: skip
    return replace(real, entry=entry, now=NOW, snapshot=snapshot, deeper=Deeper(), deviations=(), baseline=Baseline({}))


DEVICES = (BlockDevice("vdb", "254:16", 4 * GIB, "disk"), BlockDevice("dm-0", "253:0", GIB, "mapper", below=("vdb",)))


def filesystem(used: int = 300 * MIB, size: int = 640 * MIB, **more: Any) -> Filesystem:
    usage = Usage(size, size - used, max(0, size - used), 40_000, 20_000)
    return Filesystem(
        "/srv/db", "/dev/mapper/data-db", more.pop("fstype", "ext4"), "253:0", "/", ("rw",), ("rw",), State.AVAILABLE,
        **{"usage": usage, **more},
    )  # fmt: skip


def server(**more: Any) -> PostgresDetails:
    return PostgresDetails(7, DATA, f"{DATA}/pg_wal", **more)


def session(pid: int, **more: Any) -> Session:
    said: dict[str, Any] = {
        "database": "b", "role": "app", "application": "app", "client": "", "state": "active",
        "kind": "client backend", "wait_type": "", "wait": "", "blocked_by": (), "transaction_seconds": 1.0,
        "query_seconds": 1.0, "state_seconds": 1.0, "statement": "select ?", **more,
    }  # fmt: skip
    return Session(pid, **said)


def activity(*sessions: Session, clients: int = 5, **more: Any) -> Fact[Any]:
    looks = tuple(Look(at, 100, 0, 0, 0, clients, sessions) for at in (0.0, 0.7, 1.4))
    return available((PostgresActivity(7, looks, **{"max_connections": 60, "reserved_connections": 3, **more}),))


def with_(
    scene: Scene, *, snapshot: dict[str, Any] | None = None, deeper: dict[str, Any] | None = None, **more: Any
) -> Diagnosis:
    assert scene.snapshot is not None
    return diagnose(
        replace(
            scene, snapshot=replace(scene.snapshot, **(snapshot or {})), deeper=replace(scene.deeper, **(deeper or {})),
            **more,
        )
    )  # fmt: skip


def only(told: Diagnosis) -> Finding:
    (finding,) = (each for each in told.findings if not each.because)
    return finding


def test_a_host_with_nothing_wrong_has_no_finding(quiet: Scene) -> None:
    told = diagnose(quiet)
    assert told.findings == ()
    assert told.headline.startswith("nothing wrong was found on builds-01")


# Room


def full(**more: Any) -> dict[str, Any]:
    return {"filesystems": available(Filesystems((filesystem(used=620 * MIB),))), **more}


def test_wal_kept_for_an_inactive_slot_is_named_as_what_fills_the_disk(quiet: Scene) -> None:
    slot = Slot("standby_02", "physical", False, 480 * MIB)
    found = only(
        with_(
            quiet,
            snapshot=full(),
            deeper={"postgres_details": available((server(wal_bytes=500 * MIB, slots=(slot,)),))},
        )
    )
    assert (found.rule, found.severity) == ("wal-kept-by-slot", Severity.RED)
    assert "standby_02" in found.cause
    assert found.mend is not None
    assert found.mend.parameters == {"host": "builds-01", "mountpoint": "/srv/db"}
    assert "never removed by hand" in found.act


def test_wal_kept_because_archiving_fails_is_named(quiet: Scene) -> None:
    archiver = Archiver("on", 5, 30, None, NOW, "0001", 30)
    details = server(wal_bytes=500 * MIB, slots=(), archiver=archiver, databases={"b": 40 * MIB})
    found = only(with_(quiet, snapshot=full(), deeper={"postgres_details": available((details,))}))
    assert found.rule == "wal-kept-by-archiver"


@pytest.mark.parametrize(
    ("path", "rule"), [("/srv/db/a; reboot", "file-grown"), ("/srv/db/kept/old; reboot/x", "directory-grown")]
)
def test_a_hostile_name_stays_one_word_in_the_command_that_confirms(quiet: Scene, path: str, rule: str) -> None:
    walked = directories.parse("status 137", "/srv/db", f"{400 * 1024}\t{path}")
    found = only(with_(quiet, snapshot=full(), deeper={"directories": {"/srv/db": available(walked)}}))
    assert found.rule == rule
    assert any("; reboot" in word for word in shlex.split(found.confirm.split("`")[1]))


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("inodes-exhausted", {"usage": Usage(640 * MIB, 640 * MIB, 640 * MIB, 40_000, 50)}),
        ("filesystem-errors", {"read_error": "Input/output error"}),
        ("mount-dead", {"state": State.TIMED_OUT}),
        ("filesystem-full", {"usage": Usage(640 * MIB, 0, 0, 40_000, 20_000)}),
    ],
)
def test_a_hostile_mount_point_stays_one_word_in_every_command(quiet: Scene, rule: str, change: dict[str, Any]) -> None:
    mounted = replace(filesystem(), mountpoint="/srv/a b; reboot", **change)
    found = only(with_(quiet, snapshot={"filesystems": available(Filesystems((mounted,)))}))
    assert found.rule == rule
    commands = [part for part in found.confirm.split("`")[1::2] if "reboot" in part]
    assert commands
    for command in commands:
        assert any(word.startswith("/srv/a b; reboot") for word in shlex.split(command)), command


def test_the_largest_share_is_the_cause_and_the_others_are_told_besides(quiet: Scene) -> None:
    slot = Slot("s", "physical", False, 80 * MIB)
    details = server(wal_bytes=100 * MIB, slots=(slot,), databases={"b": 450 * MIB, "postgres": 7 * MIB})
    found = only(with_(quiet, snapshot=full(), deeper={"postgres_details": available((details,))}))
    assert found.rule == "database-grown"
    assert "`b` has grown" in found.cause
    assert any("besides" in sign.text and "slot" in sign.text for sign in found.evidence)


def test_a_slot_that_keeps_wal_while_there_is_room_is_yellow(quiet: Scene) -> None:
    details = server(wal_bytes=200 * MIB, slots=(Slot("s", "physical", False, 190 * MIB),))
    found = only(with_(quiet, deeper={"postgres_details": available((details,))}))
    assert (found.rule, found.severity) == ("slot-inactive", Severity.YELLOW)


def test_a_slot_is_told_where_the_room_is_short_and_not_yet_told_as_such(quiet: Scene) -> None:
    short = replace(filesystem(used=600 * MIB), mountpoint="/var")
    slot = Slot("s", "physical", False, 190 * MIB)
    details = replace(server(wal_bytes=200 * MIB, slots=(slot,), databases={"b": 350 * MIB}),
                      data_directory="/var/lib/pg", wal_directory="/var/lib/pg/pg_wal")  # fmt: skip
    told = with_(
        quiet, snapshot={"filesystems": available(Filesystems((short,)))},
        deeper={"postgres_details": available((details,))},
    )  # fmt: skip
    assert only(told).rule == "slot-inactive"


def test_five_percent_of_a_large_disk_is_no_emergency(quiet: Scene) -> None:
    large = filesystem(used=9600 * GIB, size=10_000 * GIB)
    told = with_(quiet, snapshot={"filesystems": available(Filesystems((large,)))})
    assert not told.red
    assert only(told).severity is Severity.YELLOW  # over the threshold that the inventory gives


@pytest.mark.parametrize("fstype", ["nfs4", "cifs", "tmpfs", "vfat"])
def test_a_full_share_is_told_where_the_inventory_lists_it_and_else_is_its_servers_affair(
    quiet: Scene, fstype: str
) -> None:
    crowded = filesystem(used=639 * MIB, fstype=fstype)
    found = only(with_(quiet, snapshot={"filesystems": available(Filesystems((crowded,)))}))
    assert (found.rule, found.subject, found.severity) == ("filesystem-full", "/srv/db", Severity.RED)
    elsewhere = replace(crowded, mountpoint="/mnt/archive")
    assert with_(quiet, snapshot={"filesystems": available(Filesystems((elsewhere,)))}).findings == ()


def memory(place: str, usage: Usage, **more: Any) -> dict[str, Any]:
    row = replace(filesystem(fstype="tmpfs"), mountpoint=place, device="tmpfs", device_number="0:40", usage=usage)
    return {"filesystems": available(Filesystems((filesystem(), replace(row, **more))))}


def test_memory_with_nothing_left_is_red_and_what_is_full_by_nature_is_not(quiet: Scene) -> None:
    full, roomy = Usage(96 * MIB, 0, 0, 40_000, 20_000), Usage(96 * MIB, MIB, MIB, 40_000, 20_000)
    found = only(with_(quiet, snapshot=memory("/run", full)))
    assert (found.rule, found.subject, found.severity) == ("filesystem-full", "/run", Severity.RED)
    assert found.cause.startswith("/run is full")
    assert with_(quiet, snapshot=memory("/run", roomy)).findings == ()
    assert with_(quiet, snapshot=memory("/run/credentials/a.service", replace(full, size_bytes=MIB))).findings == ()
    assert with_(quiet, snapshot=memory("/tmp", full, read_only=True)).findings == ()
    assert with_(quiet, snapshot=memory("/snap/core/1", full, fstype="squashfs")).findings == ()
    assert with_(quiet, snapshot=memory("/merged", full, fstype="overlay")).findings == ()


def test_memory_without_inodes_is_red(quiet: Scene) -> None:
    found = only(with_(quiet, snapshot=memory("/run", Usage(96 * MIB, 48 * MIB, 48 * MIB, 20_000, 0))))
    assert (found.rule, found.subject, found.severity) == ("inodes-exhausted", "/run", Severity.RED)


def test_temporary_files_name_the_session_that_makes_them(quiet: Scene) -> None:
    found = only(
        with_(
            quiet, snapshot=full(),
            deeper={"postgres_details": available((server(databases={"b": 30 * MIB}),)),
                    "postgres_activity": activity(session(42), temporary={42: 500 * MIB})},
        )
    )  # fmt: skip
    assert (found.rule, found.severity) == ("temporary-files", Severity.RED)
    assert "session 42" in found.cause


def test_no_inodes_is_red_with_bytes_to_spare(quiet: Scene) -> None:
    none = filesystem(usage=Usage(640 * MIB, 300 * MIB, 300 * MIB, 40_000, 0))
    found = only(with_(quiet, snapshot={"filesystems": available(Filesystems((none,)))}))
    assert (found.rule, found.severity) == ("inodes-exhausted", Severity.RED)


def test_an_error_of_this_boot_is_red_and_one_of_long_ago_is_yellow(quiet: Scene) -> None:
    broken = {"filesystems": available(Filesystems((filesystem(detail="1 ext4 errors recorded: run fsck"),)))}
    log = KernelLog((Message(2, 80_000.0, "EXT4-fs error (device dm-0): comm sh: no", "disk"),), 1, 500)
    assert only(with_(quiet, snapshot=broken, deeper={"kernel_log": available(log)})).severity is Severity.RED
    assert only(with_(quiet, snapshot=broken)).severity is Severity.YELLOW


def test_an_error_is_told_of_the_file_system_that_the_kernel_names(quiet: Scene) -> None:
    said = kernel("XFS (dm-9): log I/O error -5", "XFS (dm-9): Filesystem has been shut down due to log error (0x2).")
    share = replace(filesystem(fstype="nfs4"), device="nas:/", device_number="0:55")
    assert with_(quiet, snapshot={"filesystems": available(Filesystems((share,)))}, deeper=said).findings == ()


def test_an_xfs_that_was_mounted_anew_after_its_end_is_not_red(quiet: Scene) -> None:
    said = kernel("XFS (dm-0): Filesystem has been shut down due to log error (0x2).")
    for error, severity in (("Input/output error", Severity.RED), ("", Severity.YELLOW)):
        place = filesystem(fstype="xfs", read_error=error)
        found = only(with_(quiet, snapshot={"filesystems": available(Filesystems((place,)))}, deeper=said))
        assert (found.rule, found.severity) == ("filesystem-errors", severity)


def test_a_full_xfs_is_told_once_and_not_as_one_without_inodes(quiet: Scene) -> None:
    crowded = filesystem(fstype="xfs", usage=Usage(640 * MIB, 0, 0, 5_000, 0))
    assert only(with_(quiet, snapshot={"filesystems": available(Filesystems((crowded,)))})).rule == "filesystem-full"


def test_a_full_boot_partition_stops_no_service(quiet: Scene) -> None:
    unit = FailedUnit("app.service", "loaded", "failed", "")
    boot = replace(filesystem(used=630 * MIB), mountpoint="/boot")
    told = with_(quiet, snapshot={"filesystems": available(Filesystems((boot,))), "failed_units": available((unit,))})
    assert [(each.rule, each.severity, each.because) for each in told.findings] == [
        ("filesystem-full", Severity.YELLOW, ""), ("failed-unit", Severity.YELLOW, ""),
    ]  # fmt: skip


def test_a_file_system_that_cannot_be_read_is_red_without_the_kernels_log(quiet: Scene) -> None:
    shut = Filesystems((filesystem(fstype="xfs", read_error="Input/output error"),))
    found = only(with_(quiet, snapshot={"filesystems": available(shut)}))
    assert (found.rule, found.subject, found.severity) == ("filesystem-errors", "/srv/db", Severity.RED)
    assert "Input/output error" in found.evidence[0].text


def test_a_database_that_stopped_on_a_full_disk_is_a_consequence(quiet: Scene) -> None:
    unit = FailedUnit("postgresql@15-main.service", "loaded", "failed", "PostgreSQL Cluster 15-main")
    told = with_(quiet, snapshot=full(failed_units=available((unit,))))
    assert [finding.rule for finding in told.findings] == ["filesystem-full", "database-down", "failed-unit"]
    assert told.findings[1].because.startswith("filesystem-full")


# Disks


def kernel(*texts: str) -> dict[str, Any]:
    said = tuple(Message(3, 89_000.0, text, "other") for text in texts)
    return {"kernel_log": available(KernelLog(said, len(said), 500))}


def disk(requests: float, busy: float, megabytes: float) -> DiskRates:
    return DiskRates(0, requests, 0, megabytes * 1e6, busy, 2.0, None, 0.2)


def rated(scene: Scene, **more: Any) -> dict[str, Any]:
    assert scene.rates is not None
    return {"rates": available(replace(scene.rates, **more))}


def test_a_disk_that_is_busy_with_little_is_slow_and_lies_under_the_database(quiet: Scene) -> None:
    found = only(with_(quiet, snapshot=rated(quiet, disks={"vdb": disk(12, 0.98, 0.1), "dm-0": disk(12, 0.98, 0.1)})))
    assert (found.rule, found.subject, found.severity) == ("disk-slow", "vdb", Severity.RED)
    assert found.mend is not None
    assert found.mend.notebook == "incident/relocate-database.ipynb"


def test_a_disk_that_is_busy_with_much_names_who_keeps_it_busy(quiet: Scene) -> None:
    io = ProcessesIo((ProcessIo(99, "dd", 0, 2e7, 0, 0), ProcessIo(7, "postgres", 0, 1e5, 0, 0)), 1.0, True)
    found = only(
        with_(quiet, snapshot=rated(quiet, disks={"vdb": disk(300, 0.9, 20)}), deeper={"process_io": available(io)})
    )
    assert (found.rule, found.severity) == ("disk-busy", Severity.YELLOW)
    assert "`dd` (pid 99)" in found.cause


@pytest.mark.parametrize("healthy", [disk(400, 0.5, 10), disk(20, 0.1, 0.2), disk(0, 0.0, 0)])
def test_a_disk_that_does_its_work_is_no_finding(quiet: Scene, healthy: DiskRates) -> None:
    assert with_(quiet, snapshot=rated(quiet, disks={"vdb": healthy})).findings == ()


def test_threads_that_hang_say_what_they_wait_for(quiet: Scene) -> None:
    held = Sleepers((Sleeper(7, 7, "postgres", "/", "rpc_wait_bit_killable", 5),), 5, 1.5)
    found = only(with_(quiet, deeper={"waiting": available(held)}))
    assert "a network file system's server" in found.cause


@pytest.mark.parametrize(
    "said",
    [
        "blk_update_request: I/O error, dev sda, sector 81920 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
        "critical medium error, dev sdb, sector 512 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2",
        "ata1.00: failed command: READ FPDMA QUEUED",
        "ata1.00: error: { UNC }",
        "nvme nvme0: I/O 22 QID 3 timeout, aborting",
    ],
)
def test_a_disk_that_reports_errors_is_red(quiet: Scene, said: str) -> None:
    found = only(with_(quiet, deeper=kernel(said)))
    assert (found.rule, found.severity) == ("disk-errors", Severity.RED)


@pytest.mark.parametrize(
    "said",
    [
        "blk_update_request: I/O error, dev fd0, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
        "Buffer I/O error on dev sr0, logical block 0, async page read",
        "I/O error, dev loop3, sector 0 op 0x1:(WRITE) flags 0x800 phys_seg 0 prio class 2",
        "critical target error, dev sda, sector 2048 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 2",
        "ata2.00: failed command: PACKET",
        "ata3: softreset failed (device not ready)",
        "ata1.00: Read log 0x00 page 0x00 failed, Emask 0x1",
    ],
)
def test_an_empty_drive_and_what_a_healthy_disk_does_not_know_are_no_errors_of_a_disk(quiet: Scene, said: str) -> None:
    assert with_(quiet, deeper=kernel(said)).findings == ()


# The database


def test_the_head_of_a_queue_of_locks_is_named_and_not_its_victims(quiet: Scene) -> None:
    victims = [
        session(pid, wait_type="Lock", wait="relation", blocked_by=(10,), query_seconds=20.0) for pid in (11, 12)
    ]
    found = only(with_(quiet, deeper={"postgres_activity": activity(session(10, application="psql"), *victims)}))
    assert (found.rule, found.subject, found.severity) == ("lock-queue", "10", Severity.RED)
    assert "pg_terminate_backend(10)" in found.act


def test_a_lock_of_a_moment_is_no_finding(quiet: Scene) -> None:
    victim = session(11, wait_type="Lock", wait="tuple", blocked_by=(10,), query_seconds=0.2)
    assert with_(quiet, deeper={"postgres_activity": activity(session(10), victim)}).findings == ()


def test_a_long_statement_that_waits_in_one_look_only_is_not_held_up(quiet: Scene) -> None:
    moment = session(11, wait_type="Lock", wait="tuple", blocked_by=(10,), query_seconds=3600.0)
    looks = [Look(at, 100, 0, 0, 0, 5, (session(10), each)) for at, each in enumerate((session(11), moment))]
    told = with_(quiet, deeper={"postgres_activity": available((PostgresActivity(7, tuple(looks)),))})
    assert told.findings == ()


def test_two_that_wait_for_each_other_are_one_queue(quiet: Scene) -> None:
    pair = [session(one, wait_type="Lock", blocked_by=(other,), query_seconds=9.0) for one, other in ((1, 2), (2, 1))]
    found = only(with_(quiet, deeper={"postgres_activity": activity(*pair)}))
    assert found.subject == "1"


def test_a_forgotten_transaction_is_told_after_a_minute(quiet: Scene) -> None:
    def told(seconds: float) -> tuple[Finding, ...]:
        idle = session(5, state="idle in transaction", state_seconds=seconds, transaction_seconds=seconds)
        return with_(quiet, deeper={"postgres_activity": activity(idle)}).findings

    assert told(20) == ()
    assert told(70)[0].rule == "idle-transaction"


def test_one_that_blocks_is_told_once(quiet: Scene) -> None:
    idle = session(5, state="idle in transaction", state_seconds=300, transaction_seconds=300)
    victim = session(6, wait_type="Lock", blocked_by=(5,), query_seconds=100.0)
    assert only(with_(quiet, deeper={"postgres_activity": activity(idle, victim)})).rule == "lock-queue"


def test_no_connection_left_is_red(quiet: Scene) -> None:
    assert only(with_(quiet, deeper={"postgres_activity": activity(clients=57)})).severity is Severity.RED
    assert only(with_(quiet, deeper={"postgres_activity": activity(clients=53)})).severity is Severity.YELLOW


def test_commits_that_wait_for_a_lost_standby_are_red(quiet: Scene) -> None:
    waits = session(5, wait_type="IPC", wait="SyncRep", query_seconds=30.0)
    told = with_(quiet, deeper={"postgres_activity": activity(waits, synchronous_standbys="standby_01")})
    assert told.findings[0].rule == "standby-missing"


def test_commits_that_each_wait_a_moment_for_their_standby_are_well(quiet: Scene) -> None:
    busy = session(5, wait_type="IPC", wait="SyncRep", query_seconds=0.02)
    told = with_(quiet, deeper={"postgres_activity": activity(busy, synchronous_standbys="standby_01", standbys=1)})
    assert not any(finding.rule == "standby-missing" for finding in told.findings)


@pytest.mark.parametrize(
    ("name", "load", "down"),
    [
        ("postgresql@15-main.service", "loaded", True),
        ("tc-mysql.service", "loaded", True),
        ("postgresql@15-metrics.service", "loaded", True),
        ("prometheus-postgres-exporter.service", "loaded", False),
        ("mysql-backup.service", "loaded", False),
        ("srv-postgres.mount", "loaded", False),
        ("postgresql@13-main.service", "not-found", False),
    ],
)
def test_only_a_servers_own_unit_says_that_the_database_is_down(quiet: Scene, name: str, load: str, down: bool) -> None:
    told = with_(quiet, snapshot={"failed_units": available((FailedUnit(name, load, "failed", ""),))})
    assert told.red is down
    assert [finding.rule for finding in told.findings] == ["database-down"] * down + ["failed-unit"]


_SOCKET = 'psql: error: connection to server on socket "/run/postgresql/.s.PGSQL.5432" failed: '


@pytest.mark.parametrize(
    "said",
    [
        f"{_SOCKET}fe_sendauth: no password supplied",
        f'{_SOCKET}FATAL:  role "postgres" does not exist',
        f'{_SOCKET}FATAL:  Peer authentication failed for user "postgres"',
        f'{_SOCKET}FATAL:  no pg_hba.conf entry for host "[local]", user "postgres", no encryption',
        f'{_SOCKET}FATAL:  permission denied for database "postgres"',
        f"{_SOCKET}Permission denied",
        "sudo: a password is required",
        "psql is not installed",
    ],
)
def test_a_login_that_is_turned_away_is_listed_and_no_silence(quiet: Scene, said: str) -> None:
    told = with_(quiet, deeper={"postgres_activity": available((PostgresActivity(7, (), detail=said),))})
    assert told.findings == ()
    (gap,) = (gap for gap in told.untold if "lock-queue" in gap.rules)
    assert said.rpartition("failed: ")[2][:40] in gap.why


def test_a_server_in_a_container_is_listed_and_no_silence(quiet: Scene) -> None:
    sections = b"\n@@ab begin 1\n\n@@ab postgres 7\ncontained\n\n@@ab missing\n\n@@ab end\n"
    slow = parse_slow("a", sections, "ab", ask=("postgres", "postgres-activity"), time=NOW)
    facts = {"postgres_activity": slow.postgres_activity, "postgres_details": slow.postgres}
    told = with_(quiet, deeper=facts)
    assert told.findings == ()
    assert any("lock-queue" in gap.rules and "it runs in a container" in gap.why for gap in told.untold)


@pytest.mark.parametrize(
    "said",
    [
        "psql was stopped after 20 s",
        f"{_SOCKET}FATAL:  the database system is starting up",
        'could not change directory to "/root": Permission denied',
    ],
)
def test_a_server_that_gives_no_answer_is_red(quiet: Scene, said: str) -> None:
    told = with_(quiet, deeper={"postgres_activity": available((PostgresActivity(7, (), detail=said),))})
    assert (only(told).rule, only(told).severity) == ("postgres-unanswered", Severity.RED)


# Network, host


def link(again: int = 0, least: float = 0.0004, on_link: bool = True) -> dict[str, Any]:
    row = Connection("10.0.2.15", 22, "10.0.2.2", 5000, 0, 0, least, least, 200, again, on_link, False)
    return {"connections": available(Connections((row,)))}


def test_loss_and_delay_are_told_and_a_far_peer_is_no_delay(quiet: Scene) -> None:
    assert only(with_(quiet, deeper=link(again=25))).rule == "packet-loss"
    assert only(with_(quiet, deeper=link(least=0.12))).rule == "slow-link"
    assert with_(quiet, deeper=link(least=0.12, on_link=False)).findings == ()
    assert with_(quiet, deeper=link(again=1)).findings == ()


def test_a_cards_hostile_name_stays_one_word_in_every_command(quiet: Scene) -> None:
    card = InterfaceRates(1e6, 1e6, 500.0, 500.0, 20.0, 0.0)
    found = only(with_(quiet, snapshot=rated(quiet, interfaces={"eth0;reboot": card})))
    assert found.rule == "card-errors"
    for command in found.confirm.split("`")[1::2]:
        assert list(shlex.shlex(command, posix=True, punctuation_chars=True))[-1] == "eth0;reboot"


def test_a_crash_is_told_and_a_reboot_on_purpose_is_not(quiet: Scene) -> None:
    crashed = available(LastBoot(False, 1.0, "sshd: Accepted", ("EXT4-fs (vda): recovery complete",)))
    clean = available(LastBoot(True, 1.0, "Journal stopped", ()))
    assert only(with_(quiet, snapshot={"uptime_seconds": 100.0}, deeper={"last_boot": crashed})).rule == "crashed"
    assert with_(quiet, snapshot={"uptime_seconds": 100.0}, deeper={"last_boot": clean}).findings == ()
    assert with_(quiet, deeper={"last_boot": crashed}).findings == ()  # a day ago


def free(gib: int) -> dict[str, Any]:
    return {"memory": available(Memory({"MemTotal": 62 * GIB, "MemAvailable": gib * GIB}))}


_INVOKED = "java invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"


def test_a_unit_at_its_own_memory_limit_is_no_want_of_the_host(quiet: Scene) -> None:
    group = "/system.slice/app.service"
    said = kernel(
        _INVOKED,
        f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg={group},"
        f"task_memcg={group},task=java,pid=812,uid=0",
        "Memory cgroup out of memory: Killed process 812 (java) total-vm:9kB, anon-rss:9kB, UID:0 oom_score_adj:0",
    )
    failed = [FailedUnit(name, "loaded", "failed", "") for name in ("app.service", "other.service")]
    told = with_(quiet, snapshot={**free(55), "failed_units": available(tuple(failed))}, deeper=said)
    first = told.findings[0]
    assert (first.rule, first.subject, first.severity) == ("memory-limit", group, Severity.YELLOW)
    assert f"`{group}` reached its memory limit: the kernel killed `java` (pid 812)" in first.cause
    assert [(each.subject, bool(each.because)) for each in told.findings[1:]] == [
        ("other.service", False), ("app.service", True),
    ]  # fmt: skip


def test_an_older_kernel_tells_a_limit_in_two_messages(quiet: Scene) -> None:
    said = kernel(
        _INVOKED,
        "Memory cgroup out of memory: Kill process 812 ((sd-pam)) score 999 or sacrifice child",
        "Killed process 812 ((sd-pam)) total-vm:9kB, anon-rss:9kB, file-rss:0kB, shmem-rss:0kB",
    )
    found = only(with_(quiet, snapshot=free(55), deeper=said))
    assert (found.rule, found.severity) == ("memory-limit", Severity.YELLOW)
    assert "`(sd-pam)` (pid 812)" in found.cause


def test_a_process_that_the_kernel_killed_for_the_host_is_red(quiet: Scene) -> None:
    said = kernel(
        _INVOKED,
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
        "task_memcg=/system.slice/app.service,task=java,pid=812,uid=0",
        "Out of memory: Killed process 812 (java) total-vm:9kB, anon-rss:9kB, UID:0 oom_score_adj:0",
    )
    found = only(with_(quiet, snapshot=free(55), deeper=said))
    assert (found.rule, found.severity) == ("memory-exhausted", Severity.RED)
    driver = kernel("TCP: out of memory -- consider tuning tcp_mem")
    assert with_(quiet, snapshot=free(55), deeper=driver).findings == ()


def test_memory_that_is_set_apart_as_huge_pages_is_not_missed(quiet: Scene) -> None:
    fields = {"MemTotal": 62 * GIB, "MemAvailable": 3 * GIB}
    assert only(with_(quiet, snapshot={"memory": available(Memory(fields))})).rule == "memory-exhausted"
    for apart in ({"Hugetlb": 56 * GIB}, {"HugePages_Total": 56 * 512, "Hugepagesize": 2 * MIB}):
        assert with_(quiet, snapshot={"memory": available(Memory({**fields, **apart}))}).findings == ()


@pytest.mark.parametrize(
    ("said", "severity"),
    [
        ("mce: [Hardware Error]: Machine check events logged", Severity.YELLOW),
        ("[Hardware Error]: Corrected error, no action required.", Severity.YELLOW),
        ("{1}[Hardware Error]: event severity: corrected", Severity.YELLOW),
        ("{1}[Hardware Error]: event severity: fatal", Severity.RED),
        ("[Hardware Error]: Uncorrected, software restartable error.", Severity.RED),
        ("mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 6: be00000000800400", Severity.RED),
        ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0", Severity.RED),
    ],
)
def test_what_the_hardware_has_corrected_is_a_warning(quiet: Scene, said: str, severity: Severity) -> None:
    found = only(with_(quiet, deeper=kernel(said)))
    assert (found.rule, found.severity) == ("hardware-errors", severity)


def test_a_writer_that_floods_the_journal_is_named(quiet: Scene) -> None:
    loud = (JournalWriter("chatty", 900_000, 1900), JournalWriter("sshd", 1000, 10))
    full = JournalUse("/var/log/journal", 28 * MIB, 32 * MIB, 600.0, loud)
    assert "`chatty` floods" in only(with_(quiet, deeper={"journal_use": available(full)})).cause
    roomy = replace(full, used_bytes=8 * MIB)
    assert with_(quiet, deeper={"journal_use": available(roomy)}).findings == ()


# The service, and the signature of a blocked resource


def service(wait_seconds: float, **more: Any) -> tuple[ServiceAnswer, ...]:
    queue = BuildQueue(12, NOW - timedelta(seconds=wait_seconds), {})
    return (ServiceAnswer("builds", "http://x", queue=available(queue), agents=available(Agents(3, 3, 3, 3)), **more),)


def below(name: str) -> Deviation:
    measure = next(each for each in MEASURES if each.name == name)
    return Deviation(measure, 0.01, 0.01, Band(0.5, 0.4, 0.6, 100, "this hour of the week, over 5 weeks"), "below")


def test_less_than_usual_while_work_waits_is_said_in_that_sentence(quiet: Scene) -> None:
    found = only(with_(quiet, services=service(600), deviations=(below("cpu"), below("network in"))))
    assert found.rule == "blocked-resource"
    assert found.cause.startswith("CPU in use and network received are far below their usual level while work waits")
    assert found.cause.endswith("something blocks it")


def test_less_than_usual_without_waiting_work_is_a_quiet_day(quiet: Scene) -> None:
    assert with_(quiet, services=service(1), deviations=(below("cpu"), below("network in"))).findings == ()


def test_a_lock_explains_the_queue_and_the_idle_host(quiet: Scene) -> None:
    victims = [session(pid, wait_type="Lock", blocked_by=(10,), query_seconds=20.0) for pid in (11, 12)]
    told = with_(
        quiet, services=service(600), deviations=(below("cpu"), below("network in")),
        deeper={"postgres_activity": activity(session(10), *victims)},
    )  # fmt: skip
    assert [finding.rule for finding in told.findings if not finding.because] == ["lock-queue"]
    assert {finding.rule for finding in told.findings if finding.because} == {"queue-waits", "blocked-resource"}


@pytest.mark.parametrize(("days", "severity"), [(-1, Severity.RED), (1, Severity.RED), (10, Severity.YELLOW)])
def test_a_certificate_is_told_in_time(quiet: Scene, days: int, severity: Severity) -> None:
    answers = (ServiceAnswer("shop", "x", certificate_until=available(NOW + timedelta(days=days))),)
    assert only(with_(quiet, services=answers)).severity is severity


def test_a_certificate_for_months_is_none(quiet: Scene) -> None:
    answers = (ServiceAnswer("shop", "x", certificate_until=available(NOW + timedelta(days=60))),)
    assert with_(quiet, services=answers).findings == ()


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        (
            {"teamcity": "https://ci.example.com/tc"},
            ["-connect", "ci.example.com:443", "-servername", "ci.example.com"],
        ),
        ({"health": "https://10.0.0.7:8443/up"}, ["-connect", "10.0.0.7:8443"]),
        ({"health": "https://[fd00::7]/up"}, ["-connect", "[fd00::7]:443"]),
        ({"certificate": "ldap:636", "health": "https://x"}, ["-connect", "ldap:636", "-servername", "ldap"]),
        ({"teamcity": "http://x", "health": "https://y"}, ["-connect", "y:443", "-servername", "y"]),
    ],
)
def test_the_look_at_a_certificate_that_is_proposed_can_be_run(
    quiet: Scene, addresses: dict[str, str], words: list[str]
) -> None:
    asked = ServiceSettings("shop", **addresses)
    answer = ServiceAnswer("shop", next(iter(addresses.values())), certificate_until=available(NOW))
    found = only(with_(quiet, entry=replace(quiet.entry, services=(asked,)), services=(answer,)))
    command = shlex.split(found.confirm.split("`")[1].partition(" </dev/null")[0])
    assert command == ["openssl", "s_client", *words]


# What cannot be told


def test_what_needs_root_or_timed_out_is_listed_and_never_well(quiet: Scene) -> None:
    denied: Fact[Any] = Fact(State.NOT_ALLOWED, None, "it needs root")
    late: Fact[Any] = Fact(State.TIMED_OUT, None, "no answer within 45 s")
    told = with_(quiet, deeper={"postgres_activity": denied, "waiting": late})
    whys = {gap.why: gap.rules for gap in told.untold}
    assert "lock-queue" in whys["postgres activity is not allowed: it needs root"]
    assert whys["waiting is timed out: no answer within 45 s"] == ("sleepers",)
    assert "could not be answered" in told.headline


def test_a_service_that_refuses_the_token_or_shows_no_certificate_is_listed(quiet: Scene) -> None:
    refused: Fact[Any] = Fact(State.NOT_ALLOWED, None, "it refused the login (HTTP 401): check the token")
    mute: Fact[Any] = Fact(State.UNREADABLE, None, "no answer: Connection refused")
    answers = (
        ServiceAnswer("builds", "http://x", queue=refused, agents=refused, server=refused),
        ServiceAnswer("ldap", "ldap:636", certificate_until=mute),
    )
    rules = {gap.why: gap.rules for gap in with_(quiet, services=answers).untold}
    assert set(rules["the service builds: it refused the login (HTTP 401): check the token"]) == {
        "service-down", "queue-waits", "agents-missing",
    }  # fmt: skip
    assert rules["the service ldap: no answer: Connection refused"] == ("certificate",)


def test_a_host_without_a_database_has_nothing_untold_about_one(quiet: Scene) -> None:
    told = with_(quiet, deeper={"postgres_activity": absent("no PostgreSQL server runs here")})
    assert not any("lock-queue" in gap.rules for gap in told.untold)


def test_a_mount_that_was_not_asked_is_listed_and_is_not_dead(quiet: Scene) -> None:
    table = mounts.parse("28 1 253:0 / / rw - ext4 /dev/vda1 rw\n90 28 0:55 / /mnt/65 rw - nfs4 nas:/65 rw\n")
    usage = Usage(640 * MIB, 340 * MIB, 340 * MIB, 40_000, 20_000)
    told = with_(quiet, snapshot={"filesystems": available(assemble(table, {"/": usage}, {90: "unasked"}))})
    assert told.findings == ()
    rules = {gap.why: gap.rules for gap in told.untold}
    assert "mount-dead" in rules["1 file system (/mnt/65): not asked: more than 64 network mounts"]


def test_a_lock_is_a_consequence_only_when_its_holder_waits_for_the_disk(quiet: Scene) -> None:
    victims = [session(pid, wait_type="Lock", blocked_by=(10,), query_seconds=20.0) for pid in (11, 12)]
    details = {"postgres_details": available((server(databases={"b": 500 * MIB}),))}

    def causes(holder: Session) -> list[str]:
        told = with_(quiet, snapshot=full(), deeper={"postgres_activity": activity(holder, *victims), **details})
        return [finding.rule for finding in told.findings if not finding.because]

    assert set(causes(session(10))) == {"lock-queue", "database-grown"}
    assert causes(session(10, wait_type="IO", wait="WALSync")) == ["database-grown"]
