"""The other ways on a practice machine with its database running under load: measured, done, and nothing lost.

Not in the ordinary run: none of these has been seen to its end yet. RUNBOOKS_MORE_WAYS=1 runs them; what is a matter of
filesystems or of PostgreSQL alone is tested natively beside this file."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.procedures.storage.way import Way
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.resume import open_run
from runbooks_lib.runbook.run import Options, Refused, Run
from runbooks_lib.training.lab import faults
from runbooks_lib.training.lab.faults.sql import psql
from runbooks_lib.training.lab.machine import Machine
from tests.procedures.storage.work import (
    GIB,
    PATIENCE,
    aim_at,
    available,
    done,
    fill,
    oracle,
    plan_of,
    spare_disk,
    undone,
    ways_by_name,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.vm,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.environ.get("RUNBOOKS_MORE_WAYS") != "1", reason="RUNBOOKS_MORE_WAYS=1 runs it"),
]

DATABASE = "/srv/db"
DATA = "/srv/db/postgresql/15/main"
MIB = 2**20


def volume_bytes(machine: Machine) -> int:
    return int(machine.sh("lvs --noheadings --nosuffix --units b -o lv_size data/db", changes=False))


def assert_gained(way: Way, gained: int) -> None:
    """At least as foretold. On a small filesystem a little more: its journal does not grow with it."""
    assert way.gain_bytes is not None
    assert 0.99 <= gained / way.gain_bytes <= 1.08


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


def test_a_full_root_filesystem_is_no_hindrance_either(machine: Machine, host: SshHost, options: Options) -> None:
    fill(machine, "/var/tmp")
    assert "No space left" in machine.sh("cp /etc/services /root/more 2>&1", check=False)
    way = ways_by_name(host, DATABASE, GIB // 2)["extend-volume"]
    done(host, way.runbook, way.parameters, options)
    assert volume_bytes(machine) == way.parameters["to_mib"] * 2**20


def test_a_new_disk_joins_under_load_and_is_given_back_until_the_filesystem_is_grown(
    machine: Machine, host: SshHost, options: Options
) -> None:
    device = spare_disk(machine)
    way = ways_by_name(host, DATABASE, 3 * GIB)[f"add-disk:{device}"]
    assert way.offered
    before = volume_bytes(machine)
    aim = aim_at(host, way.runbook, way.parameters)
    plan = aim.plan()
    assert [step.verdict for step in plan.steps] == [Verdict.ALREADY_SO, *[Verdict.WOULD_RUN] * 3]
    run = open_run(aim, replace(options, approve=plan.digest), plan)
    assert isinstance(run, Run)
    with oracle(machine) as load:
        for name in ("partition", "add", "extend"):
            run.do(aim.runbook.step(name))
        assert volume_bytes(machine) > before
        run.close()
        undone(host, way.runbook, way.parameters, options)
        load.wait_acknowledged(5, seconds=PATIENCE)
    assert load.verify().ok
    assert volume_bytes(machine) == before
    assert machine.sh(f"pvs {device} 2>&1; blkid -p {device}; echo $?", check=False).strip().endswith("2")
    free = available(machine)
    with oracle(machine) as load:
        done(host, way.runbook, way.parameters, replace(options, again="for good"))
        load.wait_acknowledged(5, seconds=PATIENCE)
    assert load.verify().ok
    assert_gained(way, available(machine) - free)


def test_disks_that_hold_anything_are_refused_with_the_reason(machine: Machine, host: SshHost) -> None:
    device = spare_disk(machine)
    name = f"add-disk:{device}"
    machine.sh(f"echo precious | dd of={device} bs=64k seek=128 conv=notrunc 2>/dev/null")
    assert "data of a kind that is not known" in ways_by_name(host, DATABASE)[name].refused
    machine.sh(f"mkswap {device}")
    assert "it holds swap" in ways_by_name(host, DATABASE)[name].refused
    for wrong in (device, "/dev/vda", "/dev/vdd", "/dev/data/scratch", "/dev/null"):
        plan = plan_of(host, "extend-volume", {"mountpoint": DATABASE, "to_mib": 900, "device": wrong})
        assert plan.blocked, wrong
    machine.sh(f"dd if=/dev/zero of={device} bs=1M count=40 conv=notrunc 2>/dev/null; pvcreate -q {device}")
    assert ways_by_name(host, DATABASE)[f"add-volume:{device}"].offered
