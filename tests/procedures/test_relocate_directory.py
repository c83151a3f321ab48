"""A real MariaDB under load moves between two real filesystems by hot passes and a short cold one."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.relocate.moving import Nobody
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures import relocate_directory
from runbooks_lib.procedures.relocate_postgres import fstab, lasting
from runbooks_lib.runbook import runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import carry_out, open_run, resume
from runbooks_lib.runbook.run import Options, Refused, Run, Stopped, Target, target
from runbooks_lib.runbook.undo import undo, undo_digest
from tests.procedures.mariadb import UNIT, MariaDb, Writers, mariadb, path_with
from tests.procedures.storage.disks import loop_disk, mounted

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MariaDb]:
    with tempfile.TemporaryDirectory(prefix="relocate-", dir="/tmp") as made:
        root = Path(made)
        root.chmod(0o755)
        monkeypatch.setenv("PATH", path_with(root))
        monkeypatch.setattr(fstab, "FSTAB", str(root / "fstab"))
        monkeypatch.setattr(lasting, "UNITS", str(root / "units"))
        (root / "fstab").write_text("# none\n")
        (root / "place").mkdir()
        (root / "place").chmod(0o1777)
        with (
            loop_disk(tmp_path, "old", 700) as old,
            loop_disk(tmp_path, "new", 700) as new,
            mounted(old.device, "ext4", root / "old"),
            mounted(new.device, "ext4", root / "new"),
        ):
            try:
                with mariadb(root, root / "old/my data") as running:
                    yield running
            finally:
                if os.path.ismount(root / "old/my data"):
                    subprocess.run(["umount", str(root / "old/my data")], check=True)


def aimed(server: MariaDb, **given: Any) -> Target:
    parameters = {"unit": UNIT, "directory": str(server.directory), "target": str(server.root / "new/my data")}
    return target(relocate_directory.RUNBOOK, LocalHost(), parameters | {"backup": "a test's"} | given)


def options(server: MariaDb, digest: str | None = None) -> Options:
    return Options(server.root / "runs", Places((str(server.root / "place"),)), Nobody(), digest)


def begun(server: MariaDb, aim: Target) -> Run:
    plan = aim.plan()
    assert not plan.blocked, plan.blocked[0].because
    run = open_run(aim, options(server, plan.digest), plan)
    assert isinstance(run, Run)
    return run


@pytest.mark.parametrize("way", ["symlink", "bind"])
def test_it_moves_and_no_acknowledged_commit_is_lost(way: str, server: MariaDb, capsys: Any) -> None:
    aim = aimed(server, place_by=way)
    with Writers(server) as writers:
        writers.wait(60)
        carry_out(begun(server, aim))
        writers.wait(60)
    lost, invented = writers.verdict()
    assert not lost
    assert not invented
    with capsys.disabled():
        print(f"\n{way}: longest gap {writers.longest_gap():.2f} s, {len(writers.acknowledged)} commits, none lost")
    to = server.root / "new/my data"
    assert (server.directory / "ibdata1").samefile(to / "ibdata1")
    assert server.directory.is_symlink() == (way == "symlink")
    assert os.path.ismount(server.directory) == (way == "bind")
    assert "it is now in" in (server.root / "old/my data.relocated/RELOCATED").read_text()
    server.systemctl("stop")
    server.systemctl("start")
    assert server.sql("select count(*) from app.filler") == "40000"
    assert server.sql("check table app.filler, app.acknowledged").count("OK") == 2
    assert aimed(server, place_by=way).plan().nothing_to_do
    with pytest.raises(Refused, match="has been passed"):
        taken_back(server, aim)


def taken_back(server: MariaDb, aim: Target) -> None:
    held = resume(runs.directories(server.root / "runs")[0], aim, options(server))
    undo(held, approve=undo_digest(relocate_directory.RUNBOOK, held.state))


def test_a_service_that_does_not_start_at_its_new_place_is_said_and_undo_before_the_switch_is_whole(
    server: MariaDb,
) -> None:
    before = (server.root / "fstab").read_text()
    earlier = server.root / f"units/{UNIT}.d/relocated.conf"  # of a move before this one
    earlier.parent.mkdir(parents=True)
    earlier.write_text('[Unit]\nRequiresMountsFor="/srv/earlier"\n')
    aim = aimed(server)
    run = begun(server, aim)
    for name in ("look", "copy", "lasting"):
        run.do(relocate_directory.RUNBOOK.step(name))
    run.close()
    taken_back(server, aim)
    assert not (server.root / "new/my data").exists()
    assert (server.root / "fstab").read_text() == before
    assert earlier.read_text() == '[Unit]\nRequiresMountsFor="/srv/earlier"\n'
    assert server.systemctl("is-active") == "active"


def test_a_directory_that_somebody_else_still_uses_shuts_the_gate(server: MariaDb) -> None:
    aim = aimed(server)
    run = begun(server, aim)
    for name in ("look", "copy", "lasting"):
        run.do(relocate_directory.RUNBOOK.step(name))
    with subprocess.Popen(["sleep", "600"], cwd=server.directory) as other:
        try:
            with pytest.raises(Stopped, match=f"process {other.pid} still uses"):
                run.do(relocate_directory.RUNBOOK.step("switch"))
        finally:
            other.kill()
    assert server.systemctl("is-active") == "active"
    assert not server.directory.is_symlink()
    run.close()
    taken_back(server, aim)


def test_a_target_that_fills_up_while_copying_stops_the_copy_and_the_service_works_on(server: MariaDb) -> None:
    aim = aimed(server)
    run = begun(server, aim)
    run.do(relocate_directory.RUNBOOK.step("look"))
    free = os.statvfs(server.root / "new")
    ballast = server.root / "new/ballast"
    subprocess.run(["fallocate", "-l", str(free.f_bavail * free.f_bsize - 30_000_000), str(ballast)], check=True)
    with pytest.raises(Exception, match=r"MB are needed|are left on the filesystem|rsync ended"):
        run.do(relocate_directory.RUNBOOK.step("copy"))
    run.close()
    assert server.systemctl("is-active") == "active"
    ballast.unlink()
    taken_back(server, aim)
