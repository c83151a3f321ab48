"""Every other way on a practice machine with its database running under load: measured, done, and nothing lost."""

from __future__ import annotations

import pytest

from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook.run import Options, Refused
from runbooks_lib.training.lab import faults
from runbooks_lib.training.lab.faults.sql import psql
from runbooks_lib.training.lab.machine import Machine
from tests.procedures.storage.work import PATIENCE, available, done, fill, oracle, plan_of, undone, ways_by_name

pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1200)]

DATABASE = "/srv/db"
DATA = "/srv/db/postgresql/15/main"
MIB = 2**20


def wal_bytes(machine: Machine) -> int:
    return int(psql(machine, "select sum(size) from pg_ls_waldir()"))


def test_an_inactive_slot_is_dropped_and_postgresql_itself_removes_the_wal(
    machine: Machine, host: SshHost, options: Options
) -> None:
    faults.inject(machine, "disk-full-wal-slot")
    before, wal = available(machine), wal_bytes(machine)
    way = ways_by_name(host, DATABASE)["drop-slot:standby_02"]
    assert way.offered, way
    with oracle(machine) as load:
        load.wait_acknowledged(5, seconds=PATIENCE)
        done(host, way.runbook, way.parameters, options)
        load.wait_acknowledged(5, seconds=PATIENCE)
    assert load.verify().ok
    assert way.gain_bytes is not None
    assert available(machine) - before >= 0.9 * way.gain_bytes > 100 * MIB
    assert wal_bytes(machine) < wal / 2
    assert psql(machine, "select count(*) from pg_replication_slots").strip() == "0"
    with pytest.raises(Refused, match="cannot be brought back"):
        undone(host, way.runbook, way.parameters, options)


def test_a_slot_that_is_used_is_not_dropped(machine: Machine, host: SshHost) -> None:
    psql(machine, "select pg_create_physical_replication_slot('used', true)")
    machine.sh(
        "systemd-run --quiet --collect --unit=receiver --uid=postgres /usr/lib/postgresql/15/bin/pg_receivewal"
        " --directory=/tmp --slot=used\n"
        "for n in $(seq 40); do cd /; runuser -u postgres -- psql -Atc 'select active from pg_replication_slots'"
        " | grep -q t && exit 0; sleep 0.5; done; exit 1"
    )
    plan = plan_of(host, "drop-slot", {"mountpoint": DATABASE, "data_directory": DATA, "slot": "used"})
    assert "it is active or temporary" in plan.steps[0].because
    assert "drop-slot:used" not in ways_by_name(host, DATABASE)


def test_a_failing_archiver_is_mended_and_the_old_command_comes_back_with_undo(
    machine: Machine, host: SshHost, options: Options
) -> None:
    faults.inject(machine, "disk-full-wal-archive")
    before, wal = available(machine), wal_bytes(machine)
    way = ways_by_name(host, DATABASE)[f"mend-archiver:{DATA}"]
    assert way.offered, way
    with oracle(machine) as load:
        load.wait_acknowledged(5, seconds=PATIENCE)
        done(host, way.runbook, way.parameters, options)
        load.wait_acknowledged(5, seconds=PATIENCE)
    assert load.verify().ok
    assert way.gain_bytes is not None
    assert available(machine) - before >= 0.9 * way.gain_bytes > 100 * MIB
    assert wal_bytes(machine) < wal / 2
    undone(host, way.runbook, way.parameters, options)
    assert "connection refused" in psql(machine, "show archive_command")


def test_an_archive_command_of_ones_own_is_taken_and_one_that_archives_nothing_is_not(
    machine: Machine, host: SshHost, options: Options
) -> None:
    machine.sh(
        "echo \"archive_command = 'false %p'\" >>/etc/postgresql/15/main/conf.d/lab.conf\n"
        "install -d -o postgres /srv/scratch/wal; cd /; runuser -u postgres -- psql -qAtc 'select pg_reload_conf()'"
        " -c 'select pg_switch_wal()' -c 'create table t()' -c 'select pg_switch_wal()' >/dev/null; sleep 5"
    )
    way = ways_by_name(host, DATABASE)[f"mend-archiver:{DATA}"]
    assert "mend what it calls (false %p)" in way.refused
    given = {"mountpoint": DATABASE, "data_directory": DATA}
    assert "the command that fails" in plan_of(host, "mend-archiver", given).steps[0].because
    with pytest.raises(Exception, match="archives nothing"):
        plan_of(host, "mend-archiver", {**given, "archive_command": "/bin/true"})
    command = "test ! -f '/srv/scratch/wal/%f' && cp %p '/srv/scratch/wal/%f'"
    done(host, "mend-archiver", {**given, "archive_command": command}, options)
    assert machine.sh("ls /srv/scratch/wal", changes=False).strip()


def test_a_service_that_can_be_reloaded_closes_its_deleted_log(
    machine: Machine, host: SshHost, options: Options
) -> None:
    machine.sh(
        f"""cat >/usr/local/bin/chatter <<'END'
#!/bin/bash
open() {{ exec 3>>{DATABASE}/build-server-logs/chatter.log; }}
trap open HUP
open
while :; do sleep 0.2; done
END
chmod +x /usr/local/bin/chatter
printf '[Service]\\nUser=buildserver\\nExecStart=/usr/local/bin/chatter\\nExecReload=kill -HUP $MAINPID\\n' \\
    >/etc/systemd/system/chatter.service
systemctl daemon-reload; systemctl start chatter; sleep 1
cd {DATABASE}/build-server-logs; runuser -u buildserver -- fallocate -l 200M chatter.log; rm chatter.log"""
    )
    before = available(machine)
    way = ways_by_name(host, DATABASE)["reload-service:chatter.service"]
    assert way.offered, way
    done(host, way.runbook, way.parameters, options)
    assert available(machine) - before == way.gain_bytes == 200 * MIB


def test_who_cannot_be_reloaded_is_named_and_not_restarted(machine: Machine, host: SshHost) -> None:
    faults.inject(machine, "disk-full-deleted")
    way = ways_by_name(host, DATABASE)["reload-service:lab-fault-deleted-open.service"]
    assert "a restart would give the space back" in way.refused
    plan = plan_of(host, "reload-service", {"mountpoint": DATABASE, "unit": "lab-fault-deleted-open.service"})
    assert "cannot be reloaded" in plan.steps[0].because


def test_a_log_that_runs_away_is_archived_while_it_is_written_and_comes_back(
    machine: Machine, host: SshHost, options: Options
) -> None:
    log = f"{DATABASE}/build-server-logs/debug.log"
    machine.sh(f"yes '2026-01-01 00:00:00 DEBUG the queue is as before' | head -c 40000000 >{log}; chmod 666 {log}")
    machine.sh(f"systemd-run --quiet --collect --unit=writer sh -c 'while :; do echo line >>{log}; sleep 0.1; done'")
    before = available(machine)
    way = ways_by_name(host, DATABASE)[f"archive-log:{log}"]
    assert way.offered, way
    with oracle(machine) as load:
        done(host, way.runbook, way.parameters, options)
        load.wait_acknowledged(5, seconds=PATIENCE)
    assert load.verify().ok
    assert way.gain_bytes is not None
    assert available(machine) - before >= way.gain_bytes - 2 * MIB
    undone(host, way.runbook, way.parameters, options)
    assert machine.sh(f"tr -d '\\000' <{log} | cmp - {log} && head -c 40 {log}", changes=False).startswith("2026-01-01")


def test_the_reserve_of_the_databases_volume_is_lowered_and_raised_again(
    machine: Machine, host: SshHost, options: Options
) -> None:
    before = available(machine)
    way = ways_by_name(host, DATABASE)["lower-reserve"]
    with oracle(machine) as load:
        done(host, way.runbook, way.parameters, options)
        assert way.gain_bytes is not None
        assert available(machine) - before == pytest.approx(way.gain_bytes, rel=0.05)
        undone(host, way.runbook, way.parameters, options)
        load.wait_acknowledged(5, seconds=PATIENCE)
    assert load.verify().ok


def test_packages_and_the_journal_of_a_full_root_filesystem(machine: Machine, host: SshHost, options: Options) -> None:
    machine.sh("cp /usr/bin/python3.11 /var/cache/apt/archives/python3_1_amd64.deb")
    faults.inject(machine, "journal-full")
    machine.sh("journalctl --rotate")
    fill(machine, "/var/tmp")
    ways = ways_by_name(host, "/")
    for name in ("clean-packages", "vacuum-journal"):
        before = int(machine.sh("stat -f -c %f /", changes=False))
        assert ways[name].offered, ways[name]
        done(host, ways[name].runbook, ways[name].parameters, options)
        assert int(machine.sh("stat -f -c %f /", changes=False)) > before
    assert machine.sh("ls /var/cache/apt/archives/*.deb 2>/dev/null", check=False, changes=False) == ""
    machine.sh("logger still here; sleep 1; journalctl -n 5 | grep -q 'still here'")


def test_a_partition_under_a_database_volume_grows_with_its_disk(
    machine: Machine, host: SshHost, options: Options
) -> None:
    disk = machine.sh("readlink -f /dev/disk/by-id/virtio-spare", changes=False).strip()
    machine.sh(
        f"echo ', 600M' | sfdisk -q --label gpt {disk} && udevadm settle && mkfs.ext4 -q {disk}1 && mkdir -p /srv/more"
        f" && mount {disk}1 /srv/more"
    )
    before = available(machine, "/srv/more")
    way = ways_by_name(host, "/srv/more")["grow-filesystem"]
    assert way.offered, way
    assert way.gain_bytes is not None
    done(host, way.runbook, way.parameters, options)
    assert 0.98 <= (available(machine, "/srv/more") - before) / way.gain_bytes <= 1.06
    assert machine.sh(f"sfdisk --verify {disk} 2>&1", changes=False)


def test_a_partition_that_is_a_physical_volume_grows_and_is_given_back_until_it_is_used(
    machine: Machine, host: SshHost, options: Options
) -> None:
    disk = machine.sh("readlink -f /dev/disk/by-id/virtio-spare", changes=False).strip()
    machine.sh(
        f"echo ', 600M' | sfdisk -q --label dos {disk} && udevadm settle && pvcreate -q {disk}1"
        f" && vgextend -q data {disk}1"
    )
    before = available(machine)
    way = ways_by_name(host, DATABASE, 4 * 2**30)[f"grow-volume:{disk}1"]
    assert way.offered, way
    with oracle(machine) as load:
        done(host, way.runbook, way.parameters, options)
        load.wait_acknowledged(5, seconds=PATIENCE)
    assert load.verify().ok
    assert way.gain_bytes is not None
    assert available(machine) - before >= 0.99 * way.gain_bytes
