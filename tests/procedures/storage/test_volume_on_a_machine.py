"""A logical volume is extended under a running database, which loses nothing; it is taken back until it is in use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.procedures.storage.way import Way
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.resume import open_run
from runbooks_lib.runbook.run import Options, Refused, Run
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

pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1200)]

DATABASE = "/srv/db"


def volume_bytes(machine: Machine) -> int:
    return int(machine.sh("lvs --noheadings --nosuffix --units b -o lv_size data/db", changes=False))


def assert_gained(way: Way, gained: int) -> None:
    """At least as foretold. On a small filesystem a little more: its journal does not grow with it."""
    assert way.gain_bytes is not None
    assert 0.99 <= gained / way.gain_bytes <= 1.08


def test_a_disk_that_is_full_to_the_last_block_is_extended_and_the_database_gets_on(
    machine: Machine, host: SshHost, options: Options
) -> None:
    with oracle(machine) as load:
        load.wait_acknowledged(5, seconds=PATIENCE)
        fill(machine, DATABASE)
        assert available(machine) == 0
        way = ways_by_name(host, DATABASE, GIB // 2)["extend-volume"]
        done(host, way.runbook, way.parameters, options)
        machine.sh("pg_lsclusters -h | grep -q online || systemctl restart postgresql@15-main", check=False)
        load.wait_acknowledged(5, seconds=PATIENCE)
    assert load.verify().ok
    assert available(machine) >= GIB // 2
    with pytest.raises(Refused, match="not made smaller while it is used"):
        undone(host, way.runbook, way.parameters, options)


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
