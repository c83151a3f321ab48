"""Faults of the partition under the database: what fills it, and what makes it slow or read-only."""

from __future__ import annotations

import time

from runbooks_lib.errors import RunbookError
from runbooks_lib.training.lab.faults.fault import Fault, Observation, held, hold, let_go, until
from runbooks_lib.training.lab.faults.sql import psql
from runbooks_lib.training.lab.machine import Machine

MOUNTPOINT = "/srv/db"
FULL_RATIO = 0.90  # used / (used + available), as df shows it: the usual threshold
LEAVE_BYTES = 12 * 1024**2
SLOW_OPERATIONS_PER_SECOND = 12
_LOG = f"{MOUNTPOINT}/build-server-logs/debug.log"
_HIDDEN = f"{MOUNTPOINT}/build-server-logs/old.log"
_INODES = f"{MOUNTPOINT}/build-server-logs/sessions"

# Prints how many bytes an ordinary user may still write.
_AVAILABLE = (
    f"available() {{ stat -f -c '%a %S' {MOUNTPOINT} | {{ read -r blocks size; echo $((blocks * size)); }}; }}\n"
)
# Fills a file until LEAVE_BYTES are left, as an ordinary user: root would eat into the blocks kept for root.
_FILL = f"""
room=$(( $(available) - {LEAVE_BYTES} ))
[ "$room" -le 0 ] || runuser -u buildserver -- fallocate --length "$room" """


def _used_ratio(machine: Machine) -> tuple[float, str]:
    said = machine.sh(f"df --block-size=1 --output=used,avail {MOUNTPOINT} | tail -n 1", changes=False)
    used, available = (int(word) for word in said.split())
    return used / (used + available), f"df: {used} bytes used, {available} available on {MOUNTPOINT}"


def _full_and(machine: Machine, found: bool, words: str) -> Observation:
    ratio, said = _used_ratio(machine)
    return Observation(found and ratio >= FULL_RATIO, f"{said}; {words}")


# The database itself has grown.


# One row to a page of 8 KiB, as in a table that is all bloat: much disk for little WAL, so it goes quickly.
_DATA_FILL = f"""{_AVAILABLE}
while room=$(available); [ "$room" -gt {LEAVE_BYTES + 8 * 1024**2} ]; do
    rows=$(( (room - {LEAVE_BYTES}) / 8192 )); [ "$rows" -le 24000 ] || rows=$((rows * 4 / 5))
    runuser -u postgres -- psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 buildserver \\
        -c "insert into build_artifacts select repeat('x', 700) from generate_series(1, $rows)" -c checkpoint
done"""  # noqa: S608 - our own numbers


def _data_in(machine: Machine) -> None:
    psql(
        machine,
        "create table if not exists build_artifacts (body text) with (fillfactor = 10, autovacuum_enabled = off)",
        "alter table build_artifacts alter column body set storage plain",
    )
    machine.sh(_DATA_FILL, deadline_seconds=300)


def _data_seen(machine: Machine) -> Observation:
    size = psql(machine, "select coalesce(pg_total_relation_size(to_regclass('build_artifacts')), 0)").strip()
    return _full_and(machine, int(size) > 100 * 1024**2, f"pg_total_relation_size: {size}")


def _data_out(machine: Machine) -> None:
    psql(machine, "drop table if exists build_artifacts", "checkpoint")


# WAL that nobody may remove.

# The room of two segments stays free: when a new one is due, two sessions at once may each make one, and the one that
# finds no room for it takes the whole server down (PANIC).
_SEGMENT = 16 * 1024**2
_WAL_STOP = 3 * _SEGMENT + 1024**2  # so that between two and three segments fit at the end
_WAL_FILL = f"""{_AVAILABLE}
while [ "$(available)" -gt {_WAL_STOP} ]; do
    segments=$(( ($(available) - {_WAL_STOP}) / {_SEGMENT} + 1 ))
    runuser -u postgres -- psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --output /dev/null -c \\
        "select pg_switch_wal(), pg_logical_emit_message(false, 'lab', n::text) from generate_series(1, $segments) n" \\
        -c checkpoint
done
"""  # noqa: S608 - our own numbers


def _slot_in(machine: Machine) -> None:
    psql(
        machine,
        "select pg_create_physical_replication_slot('standby_02', true) where not exists"
        " (select from pg_replication_slots where slot_name = 'standby_02')",
    )
    machine.sh(_WAL_FILL, deadline_seconds=240)


def _slot_seen(machine: Machine) -> Observation:
    said = psql(
        machine,
        "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) from pg_replication_slots"
        " where slot_name = 'standby_02' and not active",
    ).strip()
    return _full_and(machine, bool(said) and float(said) > 100 * 1024**2, f"WAL held by the slot: {said or 0} bytes")


def _slot_out(machine: Machine) -> None:
    psql(
        machine,
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 'standby_02'",
        "checkpoint",
    )
    _wait_wal_small(machine)


def _archive_in(machine: Machine) -> None:
    psql(
        machine,
        "alter system set archive_command = 'echo backup-01: connection refused >&2; exit 1'",
        "select pg_reload_conf()",
    )
    machine.sh(_WAL_FILL, deadline_seconds=240)


def _archive_seen(machine: Machine) -> Observation:
    waiting = machine.sh("ls /srv/db/postgresql/15/main/pg_wal/archive_status | grep -c ready || true", changes=False)
    failed = psql(machine, "select failed_count from pg_stat_archiver").strip()
    return _full_and(
        machine, int(waiting) > 5 and int(failed) > 0, f"{waiting.strip()} segments wait, {failed} failed tries"
    )


def _archive_out(machine: Machine) -> None:
    psql(machine, "alter system reset archive_command", "select pg_reload_conf()")
    _wait_wal_small(machine)
    psql(machine, "select pg_stat_reset_shared('archiver')")


def _wait_wal_small(machine: Machine) -> None:
    """Until PostgreSQL has removed the WAL that is free again: it does so segment by segment, at checkpoints."""
    end = time.monotonic() + 120
    while True:
        psql(machine, "checkpoint")
        said = machine.sh(
            "cd /srv/db/postgresql/15/main/pg_wal; ls archive_status | grep -c ready; ls | grep -c '^[0-9A-F]*$'",
            check=False,
            changes=False,
        ).split()
        if int(said[0]) <= 1 and int(said[1]) <= 6:
            return
        if time.monotonic() > end:
            raise RunbookError(f"WAL is still held: {said[1]} segments, {said[0]} to be archived", where=machine.name)
        time.sleep(0.5)


# Things beside the database.


def _log_in(machine: Machine) -> None:
    line = "2026-01-01 00:00:00 DEBUG scheduler looked at the queue and found it as before"
    # It writes to the very end: this is the one after which the database cannot write either.
    command = f'while :; do yes "{line}" >> {_LOG}; sleep 1; done'
    machine.sh(hold("runaway-log", command, user="buildserver"))
    until(machine, _log_seen, "the log has not filled the partition", 120)


def _log_seen(machine: Machine) -> Observation:
    said = machine.sh(f"stat -c %s {_LOG} 2>/dev/null || echo 0; {held('runaway-log')}", changes=False).split()
    return _full_and(machine, "active" in said and int(said[0]) > 100 * 1024**2, f"debug.log: {said[0]} bytes")


def _log_out(machine: Machine) -> None:
    machine.sh(f"{let_go('runaway-log')} rm -f {_LOG}")
    _start_database(machine)


def _start_database(machine: Machine) -> None:
    """A PostgreSQL that could not write WAL has ended itself; nobody restarts it until there is room."""
    machine.sh(
        "systemctl --quiet is-active postgresql@15-main && pg_lsclusters --no-header | grep -q online"
        " || { systemctl reset-failed postgresql@15-main; systemctl restart postgresql@15-main; }",
        deadline_seconds=120,
    )
    machine.wait_ready(seconds=300)


def _deleted_in(machine: Machine) -> None:
    machine.sh(
        f"{_AVAILABLE}{_FILL} {_HIDDEN}\n"
        + hold("deleted-open", f"exec 3<>{_HIDDEN}; rm {_HIDDEN}; exec sleep infinity", user="buildserver")
        + f"while [ -e {_HIDDEN} ]; do sleep 0.1; done"
    )


def _deleted_seen(machine: Machine) -> Observation:
    said = machine.sh(f"lsof -nP +L1 {MOUNTPOINT} 2>/dev/null | grep old.log || true", changes=False).strip()
    return _full_and(machine, "(deleted)" in said, f"lsof: {said or 'nothing'}")


def _deleted_out(machine: Machine) -> None:
    machine.sh(f"{let_go('deleted-open')} rm -f {_HIDDEN}")


def _temp_in(machine: Machine) -> None:
    # A common table that does not fit into memory, in rows of 32 KiB, as many as fill the partition up to what is left
    # free: its files stay until the query ends. It is written once; a sort would write it several times.
    statement = (
        "set work_mem = '64kB'; with report as materialized"
        " (select repeat(md5(n::text), 1024) as line from generate_series(1, $1) n)"
        " select (select count(*) from report), pg_sleep(3600)"
    )
    command = f'exec psql --quiet --no-psqlrc buildserver -c "{statement}"'
    machine.sh(
        f"{_AVAILABLE}set -- $(( ($(available) - {LEAVE_BYTES}) / 32900 ))\n"
        + hold("temp-files", command, user="postgres").replace("$1", "'$1'")
    )
    until(machine, _temp_seen, "the temporary files are not there", 300)


def _temp_seen(machine: Machine) -> Observation:
    said = machine.sh(
        "du -sb /srv/db/postgresql/15/main/base/pgsql_tmp 2>/dev/null | cut -f 1 || echo 0", changes=False
    ).strip()
    return _full_and(machine, int(said or 0) > 100 * 1024**2, f"pgsql_tmp: {said or 0} bytes")


def _temp_out(machine: Machine) -> None:
    psql(
        machine,
        "select pg_terminate_backend(pid) from pg_stat_activity where query like '%report as materialized%'"
        " and pid <> pg_backend_pid()",
    )
    machine.sh(let_go("temp-files"))


def _inodes_in(machine: Machine) -> None:
    machine.sh(
        f"""runuser -u buildserver -- python3 - <<'END'
import os
os.makedirs('{_INODES}', exist_ok=True)
number = 0
try:
    while True:
        os.close(os.open(f'{_INODES}/sess_{{number:06}}', os.O_CREAT | os.O_WRONLY))
        number += 1
except OSError as error:
    print(number, error)
END""",
        deadline_seconds=180,
    )


def _inodes_seen(machine: Machine) -> Observation:
    said = machine.sh(f"df --output=iavail,iused {MOUNTPOINT} | tail -n 1", changes=False).split()
    return Observation(int(said[0]) == 0, f"df -i: {said[0]} inodes free, {said[1]} used")


def _inodes_out(machine: Machine) -> None:
    machine.sh(f"rm -rf {_INODES}", deadline_seconds=120)


# The disk itself.


def _slow_in(machine: Machine) -> None:
    machine.throttle(operations_per_second=SLOW_OPERATIONS_PER_SECOND)


def _slow_seen(machine: Machine) -> Observation:
    """How long five small synchronous writes take, measured with dd."""
    said = machine.sh(
        "begin=$(date +%s%N); dd if=/dev/zero of=/srv/db/build-server-logs/probe bs=4k count=5 oflag=dsync 2>/dev/null;"
        " end=$(date +%s%N); rm -f /srv/db/build-server-logs/probe; echo $(( (end - begin) / 1000000 ))",
        changes=True,
    )
    milliseconds = int(said)
    return Observation(milliseconds > 600, f"dd: five synchronous writes took {milliseconds} ms")


def _slow_out(machine: Machine) -> None:
    machine.throttle()


def _read_only_in(machine: Machine) -> None:
    machine.sh("sync")  # what is not yet in the journal's last commit would be undone, removed files come back
    if machine.record.filesystem == "ext4":
        # The kernel's own way of testing it: ext4 meets an error and, as its superblock says, remounts read-only.
        machine.sh("echo lab > /sys/fs/ext4/$(basename $(readlink -f /dev/mapper/data-db))/trigger_fs_error")
    else:
        machine.sh(f"xfs_io -x -c 'shutdown -f' {MOUNTPOINT}")


def _read_only_seen(machine: Machine) -> Observation:
    said = machine.sh(f"touch {MOUNTPOINT}/probe 2>&1 && rm {MOUNTPOINT}/probe && echo written", check=False)
    return Observation("Read-only" in said or "Input/output error" in said, f"touch: {said.strip()}")


def _read_only_out(machine: Machine) -> None:
    machine.sh(
        f"""systemctl stop build-server postgresql@15-main || true
umount {MOUNTPOINT}
case $(blkid -o value -s TYPE /dev/mapper/data-db) in
    ext4) fsck.ext4 -fp /dev/mapper/data-db || [ $? -eq 1 ] ;;
    xfs) mount {MOUNTPOINT}; umount {MOUNTPOINT} ;;  # mounting replays the log
esac
mount {MOUNTPOINT}
systemctl reset-failed postgresql@15-main build-server 2>/dev/null || true
systemctl start postgresql@15-main build-server""",
        deadline_seconds=180,
    )
    machine.wait_ready(seconds=300)


FAULTS = (
    Fault("disk-full-data", "a table has grown until the partition is full", _data_in, _data_seen, _data_out),
    Fault("disk-full-wal-slot", "WAL is kept for a standby that is gone", _slot_in, _slot_seen, _slot_out),
    Fault("disk-full-wal-archive", "WAL is kept because archiving fails", _archive_in, _archive_seen, _archive_out),
    Fault("disk-full-log", "a debug log was left on and fills the partition", _log_in, _log_seen, _log_out),
    Fault("disk-full-deleted", "a deleted file is still open", _deleted_in, _deleted_seen, _deleted_out),
    Fault("disk-full-temp", "one query's temporary files fill the partition", _temp_in, _temp_seen, _temp_out),
    Fault(
        "inodes", "there are no inodes left: no new file", _inodes_in, _inodes_seen, _inodes_out, filesystems=("ext4",)
    ),
    Fault("slow-disk", "the database's disk answers slowly", _slow_in, _slow_seen, _slow_out),
    Fault(
        "read-only", "the filesystem met an error and takes no writes", _read_only_in, _read_only_seen, _read_only_out
    ),
)
