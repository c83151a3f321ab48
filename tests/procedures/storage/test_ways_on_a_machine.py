"""Every other way on a practice machine with its database running under load: measured, done, and nothing lost."""

from __future__ import annotations

import pytest

from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook.run import Options, Refused
from runbooks_lib.training.lab import faults
from runbooks_lib.training.lab.faults.sql import psql
from runbooks_lib.training.lab.machine import Machine
from tests.procedures.storage.work import PATIENCE, available, done, fill, oracle, undone, ways_by_name

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
