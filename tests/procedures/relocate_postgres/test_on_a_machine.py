"""The database of a practice machine moves to its spare disk, under load, through reboots and power cuts."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.relocate.moving import by_runbook
from runbooks_lib.errors import RunbookError
from runbooks_lib.procedures import relocate_directory
from runbooks_lib.procedures.relocate_postgres import RUNBOOK
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.run import target
from runbooks_lib.training.lab import faults
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine, connected
from tests.procedures.relocate_postgres.crashing import Operator

pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1800)]

OLD, NEW, UNIT = "/srv/db/postgresql/15/main", "/srv/new/pg/main", "postgresql@15-main"
PARAMETERS = {"directory": OLD, "target": NEW, "backup": "a test's"}
CASES = "/run/cases"
MOST_PLACES = 100  # a place that no tool is called at cuts nothing: the move then goes through


@pytest.fixture
def two_disks(machine: Machine) -> Iterator[Machine]:
    """The machine with a file system on its spare disk; whatever is done to it is undone."""
    machine.sh(
        "mkfs.ext4 -q /dev/disk/by-id/virtio-spare && mkdir -p /srv/new && mount /dev/disk/by-id/virtio-spare /srv/new "
        "&& install -d -o postgres -g postgres /srv/new/pg",
        deadline_seconds=180,
    )
    yield machine
    machine.reset()


def answer(machine: Machine, text: str) -> str:
    return machine.sh(text, deadline_seconds=180, check=False).strip()


def placed(machine: Machine) -> str:
    return answer(machine, f"readlink -f {OLD}")


def writes(machine: Machine) -> None:
    with Load([machine.address("postgres")]) as load:
        load.wait_acknowledged(20, seconds=120)
    assert load.verify().ok


def test_it_moves_under_load_and_survives_a_restart_and_a_power_cut(two_disks: Machine, tmp_path: Path) -> None:
    machine = two_disks
    with Load([machine.address("postgres")]) as load, connected(machine) as host:
        load.wait_acknowledged(30, seconds=120)
        by_runbook(host, tmp_path / "runs", Places(), PARAMETERS)
        load.wait_acknowledged(30, seconds=120)
    assert load.verify().ok
    assert placed(machine) == NEW
    # Nothing of the switch is left in the unit: a plain restart goes the distribution's way.
    assert "zz-relocate" not in answer(machine, f"systemctl cat {UNIT}")
    machine.sh(f"systemctl restart {UNIT}", deadline_seconds=180)
    writes(machine)

    machine.power_cut()
    machine.wait_ready()
    assert placed(machine) == NEW
    assert answer(machine, "findmnt -n -o TARGET /srv/new") == "/srv/new"
    writes(machine)
    assert load.verify().ok
    without_its_mount(machine)
    assert load.verify().ok


def without_its_mount(machine: Machine) -> None:
    """A boot at which the new disk is not found: the server does not start, nothing is made in its place, and it is
    said. When the disk is back, so is the database."""
    line = answer(machine, "grep ' /srv/new ' /etc/fstab")
    lost = "UUID=00000000-0000-4000-8000-000000000000 /srv/new ext4 defaults,nofail,x-systemd.device-timeout=15s 0 2"
    machine.sh(f"cp /etc/fstab /root/fstab && sed -i 's|^{line}$|{lost}|' /etc/fstab && sync")
    machine.power_cut()
    machine.hang_up()
    end = time.monotonic() + 600
    while answered(machine, "systemctl is-system-running --wait") not in ("running", "degraded"):
        assert time.monotonic() < end
        time.sleep(2)
    assert answer(machine, "findmnt -n -o TARGET /srv/new") == ""
    assert answer(machine, f"systemctl is-active {UNIT}") != "active"
    assert "failed" in answer(machine, f"systemctl start {UNIT} 2>&1")
    assert answer(machine, "ls -A /srv/new") == ""
    with connected(machine) as host:
        plan = target(RUNBOOK, host, PARAMETERS).plan()
    assert "which is not there: is its partition mounted?" in plan.blocked[0].because
    machine.sh(f"cp /root/fstab /etc/fstab && systemctl daemon-reload && systemctl start {UNIT}", deadline_seconds=180)
    assert answer(machine, "findmnt -n -o TARGET /srv/new") == "/srv/new"
    writes(machine)


def answered(machine: Machine, text: str) -> str:
    """As `answer`; nothing while it boots."""
    try:
        return answer(machine, text)
    except RunbookError:
        return ""


def test_a_slow_disk_is_foretold(two_disks: Machine) -> None:
    """A thousand small files at twelve operations a second, of which the clients take their part."""
    machine = two_disks
    with Load([machine.address("postgres")], timeout_seconds=60) as load, connected(machine) as host:
        load.wait_acknowledged(20, seconds=120)
        faults.inject(machine, "slow-disk")
        plan = target(RUNBOOK, host, PARAMETERS).plan()
        faults.remove(machine, "slow-disk")
    assert not plan.blocked, plan.blocked
    said = plan.steps[0].because
    least, most = re.findall(r"copying takes about (\d+) to (\d+) s", said)[0]
    assert int(least) > 45, said
    assert int(most) > 100, said
    assert re.search(r"clients wait about \d+ to \d+ s \(the last checkpoint", said), said


def test_clients_of_pgbouncer_meet_no_error(two_disks: Machine, tmp_path: Path) -> None:
    machine = two_disks
    password = machine.record.passwords["buildserver"]
    with (
        Load([machine.address("pgbouncer")], timeout_seconds=120, password=password) as load,
        connected(machine) as host,
    ):
        load.wait_acknowledged(30, seconds=120)
        by_runbook(host, tmp_path / "runs", Places(), PARAMETERS | {"pgbouncer_port": 6432})
        load.wait_acknowledged(30, seconds=120)
    assert load.refusals == {}
    assert load.verify(machine.address("postgres")).ok
    assert placed(machine) == NEW


def test_a_cold_copy_of_a_service_s_directory_loses_nothing(two_disks: Machine, tmp_path: Path) -> None:
    machine = two_disks
    given = {"unit": f"{UNIT}.service", "directory": OLD, "target": NEW}
    with Load([machine.address("postgres")]) as load, connected(machine) as host:
        load.wait_acknowledged(30, seconds=120)
        by_runbook(host, tmp_path / "runs", Places(), given, relocate_directory.RUNBOOK)
        load.wait_acknowledged(30, seconds=120)
    assert load.verify().ok
    assert placed(machine) == NEW
    assert answer(machine, f"ls -d {OLD}.relocated {NEW}.relocation 2>/dev/null") == f"{OLD}.relocated"


# Each tool that the move's commands call has a place before and after it; RUNBOOKS_RELOCATE_CASES=0 takes them all.
EVERY_CUT = [(str(place), then) for place in range(1, MOST_PLACES + 1) for then in ("run", "undo")]
# Inside the switch: the old directory has been renamed, the old path leads nowhere, and nothing of it was synced.
SOME_CUTS = [("after?mv*-T*.relocated", "run")]


@pytest.mark.parametrize(
    ("place", "then"), SOME_CUTS if os.environ.get("RUNBOOKS_RELOCATE_CASES") != "0" else EVERY_CUT
)
def test_a_power_cut_anywhere_loses_nothing(place: str, then: str, two_disks: Machine, tmp_path: Path) -> None:
    """Cut at a tool that a command calls; then the run is carried on, or taken back where it still may be."""
    machine = two_disks
    begun = cut_power(machine, tmp_path, place, then)
    assert place.isdigit() or "switch" in begun


def cut_power(machine: Machine, kept: Path, place: str, then: str) -> tuple[str, ...]:
    """One case, from a database at its old place to its end; the steps that had begun when the power went."""
    operator = Operator(machine.ssh_config, machine.name, kept, CASES, PARAMETERS)
    machine.sh(f"mkdir -p {CASES} && chmod 1777 {CASES} && echo '{place} power' >{CASES}/case && echo 0 >{CASES}/count")
    boot = answer(machine, "cat /proc/sys/kernel/random/boot_id")
    with Load([machine.address("postgres")]) as load:
        load.wait_acknowledged(30, seconds=120)
        status = operator.run("run")
        begun = operator.begun()
        machine.hang_up()
        end = time.monotonic() + 300
        while time.monotonic() < end:
            try:
                machine.sh(f"mkdir -p {CASES} && chmod 1777 {CASES} && rm -f {CASES}/case")
                # Who resumes while the host boots is told so, and tries again; here it is waited for.
                answer(machine, "systemctl is-system-running --wait")
                break
            except Exception:  # it is booting
                time.sleep(2)
        assert (answer(machine, "cat /proc/sys/kernel/random/boot_id") != boot) == (status != 0), operator.said()
        ended = operator.run(then)
        if then == "undo" and ended == 1 and "has been passed" in operator.said():
            ended = operator.run("run")
        assert ended == 0, (status, operator.said())
        load.wait_acknowledged(20, seconds=120)
    verdict = load.verify()
    assert verdict.ok, verdict
    running = answer(machine, "for p in $(pgrep -x postgres); do readlink /proc/$p/cwd; done | sort -u").split()
    assert running == [placed(machine)]
    assert operator.outcome() in ("done", "undone", "not begun")
    return begun
