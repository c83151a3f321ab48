"""A real PostgreSQL under load on a real btrfs, whose disk is replaced while it works; and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.relocate.here import Here, here
from benchmarks.relocate.moving import Nobody
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures import replace_btrfs_disk
from runbooks_lib.procedures.relocate_postgres import RUNBOOK as RELOCATE
from runbooks_lib.runbook import runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.plan import Plan
from runbooks_lib.runbook.resume import carry_out, open_run, resume
from runbooks_lib.runbook.run import Options, Run, Target, target
from runbooks_lib.runbook.undo import undo, undo_digest
from runbooks_lib.training.lab.load import Load
from tests.procedures.storage.disks import loop_disk, mounted, run

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Standing:
    """A database on the btrfs at `mountpoint`, which lies on `old`; `new` is an empty disk."""

    cluster: Here
    mountpoint: Path
    old: str
    new: str
    small: str


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    with tempfile.TemporaryDirectory(prefix="btrfs-", dir="/tmp") as made:
        root = Path(made)
        root.chmod(0o755)
        with (
            loop_disk(tmp_path, "old", 1200) as old,
            loop_disk(tmp_path, "new", 1200) as new,
            loop_disk(tmp_path, "small", 200) as small,
            here(5) as cluster,
        ):
            run("mkfs.btrfs", "-q", old.device)
            mountpoint = root / "disk"
            mountpoint.mkdir()
            run("mount", old.device, str(mountpoint))
            try:
                cluster.stop()
                data = mountpoint / "main"
                subprocess.run(["cp", "-a", str(cluster.directory), str(data)], check=True)
                shutil.rmtree(cluster.directory)
                cluster.directory = data
                cluster.started = ["-D", str(data)]
                cluster.start()
                try:
                    yield Standing(cluster, mountpoint, old.device, new.device, small.device)
                finally:
                    cluster.stop()
            finally:
                run("umount", str(mountpoint))


def aimed(standing: Standing, disk: str) -> Target:
    given = {"mountpoint": str(standing.mountpoint), "disk": disk, "backup": "a test's"}
    return target(replace_btrfs_disk.RUNBOOK, LocalHost(), given)


def options(standing: Standing, digest: str | None = None) -> Options:
    place = standing.cluster.root / "place"
    place.mkdir(exist_ok=True)
    place.chmod(0o1777)
    return Options(standing.cluster.root / "runs", Places((str(place),)), Nobody(), digest)


def blocked(plan: Plan) -> str:
    assert plan.blocked
    return plan.blocked[0].because


def devices(standing: Standing) -> str:
    return run("findmnt", "-n", "-o", "SOURCE", str(standing.mountpoint)).strip()


def test_it_is_offered_first_and_moves_with_no_downtime_and_back(standing: Standing, capsys: Any) -> None:
    cluster = standing.cluster
    move = {"directory": str(cluster.directory), "target": str(cluster.root / "new/main"), "backup": "a test's"}
    said = target(RELOCATE, LocalHost(), move).plan().steps[0].because
    assert said.startswith("first choice, no downtime at all: the filesystem on")
    assert f"-p mountpoint={standing.mountpoint} -p disk={standing.new} " in said
    assert f"(btrfs replace start {standing.old} {standing.new} {standing.mountpoint})" in said

    aim = aimed(standing, standing.new)
    plan = aim.plan()
    assert not plan.blocked, plan.blocked[0].because
    with Load([cluster.address], password="unused") as load:
        load.wait_acknowledged(50)
        begun = open_run(aim, options(standing, plan.digest), plan)
        assert isinstance(begun, Run)
        carry_out(begun)
        assert devices(standing) == standing.new
        load.wait_acknowledged(50)
        held = resume(runs.directories(cluster.root / "runs")[0], aim, options(standing))
        undo(held, approve=undo_digest(replace_btrfs_disk.RUNBOOK, held.state))
        load.wait_acknowledged(50)
    assert devices(standing) == standing.old
    assert load.verify().ok
    assert load.refusals == {}
    with capsys.disabled():
        print(f"\nlongest gap there and back: {load.longest_gap().seconds:.2f} s")
    run("btrfs", "scrub", "start", "-B", str(standing.mountpoint))


def test_a_replace_that_was_begun_and_killed_is_carried_on(standing: Standing) -> None:
    """Its program is killed; the kernel goes on, or nothing has begun."""
    line = ["btrfs", "replace", "start", "-B", standing.old, standing.new, str(standing.mountpoint)]
    aim = aimed(standing, standing.new)
    plan = aim.plan()
    assert not plan.blocked, plan.blocked[0].because
    with subprocess.Popen(line) as begun:
        begun.kill()
    again = open_run(aim, options(standing, plan.digest), plan)
    assert isinstance(again, Run)
    carry_out(again)
    assert devices(standing) == standing.new
    assert aimed(standing, standing.new).plan().nothing_to_do


def test_a_disk_that_will_not_do_is_refused(standing: Standing, tmp_path: Path) -> None:
    assert "has 209 MB" in blocked(aimed(standing, standing.small).plan())
    with loop_disk(tmp_path, "full", 1300) as full, mounted(full.device, "ext4", tmp_path / "full"):
        assert f"{full.device} is not empty" in blocked(aimed(standing, full.device).plan())
    assert "is no block device" in blocked(aimed(standing, "/dev/none").plan())
    other = {"mountpoint": "/proc", "disk": standing.new, "backup": "x"}
    assert "no btrfs is mounted" in blocked(target(replace_btrfs_disk.RUNBOOK, LocalHost(), other).plan())
