"""The volume under a practice machine's database goes to another disk of its group and back, under load."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.relocate.moving import Nobody
from runbooks_lib.procedures import move_volume
from runbooks_lib.runbook import runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import carry_out, open_run, resume
from runbooks_lib.runbook.run import Options, Run, Stopped, target
from runbooks_lib.runbook.undo import undo, undo_digest
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine, connected

pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1800)]

MOUNTPOINT = "/srv/db"


@pytest.fixture
def with_a_second_disk(machine: Machine) -> Iterator[tuple[Machine, str]]:
    """The machine, whose spare disk is in the database's volume group; whatever is done to it is undone."""
    disk = machine.sh("readlink -f /dev/disk/by-id/virtio-spare", changes=False).strip()
    machine.sh(f"pvcreate -q {disk} && vgextend -q data {disk}", deadline_seconds=120)
    yield machine, disk
    machine.reset()


def lies_on(machine: Machine) -> str:
    return (
        machine.sh("lvs --noheadings -o devices data/db", deadline_seconds=120, changes=False).strip().partition("(")[0]
    )


def kill_pvmove(machine: Machine) -> None:
    """The program that waits for the kernel's copying, a moment after it has begun."""
    machine.sh("until p=$(pidof pvmove); do sleep 0.2; done; sleep 2; kill -9 $p", deadline_seconds=300)


def test_it_moves_under_load_with_no_downtime_killed_in_the_middle_and_back(
    with_a_second_disk: tuple[Machine, str], tmp_path: Path, capsys: Any
) -> None:
    machine, disk = with_a_second_disk
    lay = lies_on(machine)
    with connected(machine) as host, Load([machine.address("postgres")], timeout_seconds=60) as load:
        aim = target(move_volume.RUNBOOK, host, {"mountpoint": MOUNTPOINT, "disk": disk, "backup": "a test's"})
        plan = aim.plan()
        assert not plan.blocked, plan.blocked[0].because
        options = Options(tmp_path / "runs", Places(), Nobody(), plan.digest)
        load.wait_acknowledged(30, seconds=120)
        killer = threading.Thread(target=kill_pvmove, args=(machine,))
        killer.start()
        run = open_run(aim, options, plan)
        assert isinstance(run, Run)
        with pytest.raises(Stopped):
            carry_out(run)
        killer.join()
        again = open_run(aim, options)
        assert isinstance(again, Run)
        carry_out(again)
        assert lies_on(machine) == disk
        load.wait_acknowledged(30, seconds=120)
        assert aim.plan().nothing_to_do
        held = resume(runs.directories(tmp_path / "runs")[0], aim, Options(tmp_path / "runs", Places(), Nobody()))
        undo(held, approve=undo_digest(move_volume.RUNBOOK, held.state))
        load.wait_acknowledged(30, seconds=120)
    assert lies_on(machine) == lay
    assert load.verify().ok
    assert load.refusals == {}
    with capsys.disabled():
        print(f"\npvmove there and back: longest gap {load.longest_gap().seconds:.2f} s, no failure")
