"""The ways in which the old path leads to the new place, each gone to its end by a real database, and what comes after:
a start without the mount, and the old data removed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.relocate.here import BIN, Here, as_owner, here, unmount
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures import remove_relocated
from runbooks_lib.procedures.relocate_postgres import RUNBOOK
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.resume import carry_out, open_run
from runbooks_lib.runbook.run import Options, Run, Stopped, target
from runbooks_lib.training.lab.load import Load
from tests.procedures.relocate_postgres.moves import (
    aimed,
    before_in,
    begun,
    blocked,
    done,
    places,
    room_for_runs,
    taken_back,
)
from tests.runbook.operators import Scripted

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture
def cluster() -> Iterator[Here]:
    with here(5, data="data with blanks") as standing, room_for_runs(standing):
        yield standing


def moved(cluster: Here, **given: object) -> Path:
    """Under load, to its end; the new directory."""
    aim = aimed(cluster, **given)
    with Load([cluster.address], password="unused") as load:
        load.wait_acknowledged(30)
        done(cluster, aim)
        load.wait_acknowledged(30)
    verdict = load.verify()
    assert verdict.ok, verdict
    assert len(blocked_or_nothing(cluster, given)) == 0
    return Path(aim.parameters["target"])


def blocked_or_nothing(cluster: Here, given: dict[str, object]) -> str:
    """The same asked once more: there is nothing to do, or why not."""
    plan = aimed(cluster, **given, target=str(cluster.root / "new/moved")).plan()
    return "" if plan.nothing_to_do else "; ".join(step.because for step in plan.steps)


@pytest.mark.parametrize("debian", [True, False])
def test_the_configuration_can_name_the_new_place(cluster: Here, debian: bool) -> None:
    cluster.configured_in(cluster.root / "conf", debian=debian)
    old = cluster.directory
    aim = aimed(cluster, place_by="data_directory")
    plan = aim.plan()
    assert not plan.blocked, plan.blocked[0].because
    copy = next(step for step in plan.steps if step.name == "copy")
    assert any("the old path is gone" in seen.evidence for seen in copy.observations)
    with Load([cluster.address], password="unused") as load:
        load.wait_acknowledged(30)
        done(cluster, aim)
        load.wait_acknowledged(30)
    assert load.verify().ok
    to = Path(aim.parameters["target"])
    assert cluster.lies() == str(to)
    assert not old.exists()
    assert (old.parent / f"{old.name}.relocated/RELOCATED").exists()
    assert (cluster.root / "conf/postgresql.conf").read_text().endswith(f"data_directory = '{to}'\n")
    # As it was started, but for the directory that is no more: what a distribution reads from the configuration.
    cluster.stop()
    cluster.started = [str(to) if word == str(old) else word for word in cluster.started]
    cluster.directory = to
    cluster.start()
    assert cluster.lies() == str(to)


@pytest.mark.skipif(not shutil.which("pg_createcluster"), reason="no Debian")
def test_debian_s_own_tools_find_the_new_place(cluster: Here) -> None:
    """What they know of a cluster is `data_directory` in its configuration."""
    name, old, to = f"moved{os.getpid()}", cluster.root / "old/debian", cluster.root / "new/debian"
    version = Path(BIN).parent.name
    create = ["pg_createcluster", "--datadir", str(old), "--socketdir", str(cluster.root), version, name]

    def ctl(action: str) -> None:
        log = (cluster.root / "ctl.log").open("a")
        subprocess.run(["pg_ctlcluster", version, name, action], check=True, stdout=log, stderr=log)

    subprocess.run([*create, "--logfile", str(cluster.root / "debian.log")], check=True, capture_output=True)
    try:
        ctl("start")
        done(cluster, aimed(cluster, directory=str(old), target=str(to), place_by="data_directory"))
        assert not old.exists()
        for _ in range(2):
            ctl("restart")
            said = subprocess.run(["pg_lsclusters", "-h"], check=True, capture_output=True, text=True).stdout
            (line,) = [line.split() for line in said.splitlines() if name in line]
            assert line[3] == "online"
            assert line[5] == str(to)
            assert (to / "postmaster.pid").exists()
    finally:
        subprocess.run(["pg_dropcluster", "--stop", version, name], check=True)
    assert not to.exists()


def test_a_configuration_that_names_the_new_place_is_taken_back(cluster: Here) -> None:
    cluster.configured_in(cluster.root / "conf", debian=True)
    before = (cluster.root / "conf/postgresql.conf").read_text()
    aim = aimed(cluster, place_by="data_directory")
    done(cluster, aim, ("look", "copy", "follow", "lasting"))
    taken_back(cluster, aim)
    assert (cluster.root / "conf/postgresql.conf").read_text() == before
    assert cluster.lies() == str(cluster.directory)


def test_a_bind_mount_holds_at_the_old_path(cluster: Here) -> None:
    old = cluster.directory
    to = moved(cluster, place_by="bind")
    assert os.path.ismount(old)
    assert not old.is_symlink()
    assert (old / "PG_VERSION").samefile(to / "PG_VERSION")
    line = (cluster.root / "fstab").read_text().splitlines()[-1]
    named = str(old).replace(" ", "\\040")
    assert line.startswith(f"{to} {named} none bind,nofail,x-systemd.requires-mounts-for=")
    cluster.stop()
    unmount(old)

    # After a boot at which it did not come: nothing is there to start on, and nothing is made there.
    with pytest.raises(RuntimeError):
        cluster.start()
    assert list(old.iterdir()) == []
    assert "is empty: is its partition mounted? Never run initdb there" in blocked(aimed(cluster, target="/x/y").plan())
    subprocess.run(["mount", "-T", str(cluster.root / "fstab"), str(old)], check=True)
    cluster.start()
    assert f"{old} is itself a mount point and cannot be renamed" in blocked(aimed(cluster, target="/x/y").plan())

    # As docs/relocate.md says, it can be moved on.
    cluster.stop()
    unmount(old)
    (cluster.root / "fstab").write_text((cluster.root / "fstab").read_text().replace(line, ""))
    old.rmdir()
    old.symlink_to(to)
    cluster.start()
    shutil.rmtree(old.with_name(f"{old.name}.relocated"))
    done(cluster, aimed(cluster))
    assert old.resolve() == cluster.root / "old/moved"


def test_a_partition_that_is_missing_after_a_reboot_stops_the_server_and_is_named(cluster: Here) -> None:
    to = moved(cluster)
    cluster.stop()
    unmount(to.parent)
    with pytest.raises(RuntimeError):
        cluster.start()
    assert list(to.parent.iterdir()) == []
    said = blocked(aimed(cluster, target="/x/y").plan())
    assert f"leads to {to}, which is not there: is its partition mounted?" in said
    subprocess.run(["mount", "-T", str(cluster.root / "fstab"), str(to.parent)], check=True)  # as a boot would
    cluster.start()
    assert cluster.sql("select count(*) > 0 from acknowledged", "buildserver") == "t"


def test_the_old_data_is_removed_when_nobody_needs_it(cluster: Here) -> None:
    lay = cluster.directory
    moved(cluster)
    kept = lay.with_name(f"{lay.name}.relocated")
    given = {"kept": str(kept), "backup": "a test's", "without_reboot": False}
    plan = target(remove_relocated.RUNBOOK, LocalHost(), given).plan()
    assert "the host has not been restarted since the move" in plan.steps[0].because
    note = kept / "RELOCATED"
    os.utime(note, (1, 1))  # a clock that was stepped is no reboot
    plan = target(remove_relocated.RUNBOOK, LocalHost(), given).plan()
    assert "the host has not been restarted since the move" in plan.steps[0].because
    head, _, boot = note.read_text().partition("boot: ")
    note.write_text(f"{head}boot: of another time\n")
    assert not target(remove_relocated.RUNBOOK, LocalHost(), given).plan().blocked
    note.write_text(f"{head}boot: {boot}")
    given["without_reboot"] = True
    with (kept / "postgresql.conf").open():
        plan = target(remove_relocated.RUNBOOK, LocalHost(), given).plan()
        assert "uses it" in plan.steps[0].because or "uses" in plan.steps[0].because
    aim = target(remove_relocated.RUNBOOK, LocalHost(), given)
    plan = aim.plan()
    run = open_run(
        aim, Options(cluster.root / "runs", places(cluster), Scripted(present=False), plan.digest), plan
    )  # fmt: skip
    assert isinstance(run, Run)
    carry_out(run)
    assert not kept.exists()
    cluster.stop()
    cluster.start()
    assert target(remove_relocated.RUNBOOK, LocalHost(), given).plan().steps[0].verdict is Verdict.ALREADY_SO


def test_the_last_copy_is_not_removed_while_the_new_place_is_not_there_and_in_use(cluster: Here) -> None:
    lay = cluster.directory
    to = moved(cluster)
    given = {"kept": f"{lay}.relocated", "backup": "a test's", "without_reboot": True}

    def why() -> str:
        plan = target(remove_relocated.RUNBOOK, LocalHost(), given).plan()
        return plan.steps[0].because if plan.blocked else ""

    assert why() == ""
    cluster.stop()
    assert f"no server runs in {to}" in why()
    unmount(to.parent)
    assert f"it should be in {to}, and that is not there: is its partition mounted?" in why()
    other = made_by_somebody(to)
    assert f"{to} does not hold this database" in why()
    shutil.rmtree(other)
    subprocess.run(["mount", "-T", str(cluster.root / "fstab"), str(to.parent)], check=True)
    cluster.start()
    assert why() == ""

    # Moved on, the note at the place between leads further.
    on = cluster.free("further")
    done(cluster, aimed(cluster, target=str(on)))
    assert not to.exists()
    assert why() == ""
    cluster.stop()
    assert f"no server runs in {on}" in why()
    cluster.start()


def made_by_somebody(directory: Path) -> Path:
    """Another cluster."""
    directory.mkdir()
    shutil.chown(directory, "postgres", "postgres")
    as_owner("initdb", "-D", str(directory), "-U", "postgres", "-A", "trust", "-N")
    return directory


@pytest.mark.parametrize("was_a_link", [False, True])
def test_a_moved_directory_is_the_last_copy_until_the_old_path_leads_to_the_new_one(
    was_a_link: bool, tmp_path: Path
) -> None:
    kept, to = tmp_path / "data.relocated", tmp_path / "new"
    kept.mkdir()
    (kept / "RELOCATED").write_text(f"This was the directory until 2026-11-27T10:00:00Z; it is now in {to}.\n")
    given = {"kept": str(kept), "backup": "x", "without_reboot": True}

    def why() -> str:
        plan = target(remove_relocated.RUNBOOK, LocalHost(), given).plan()
        return plan.steps[0].because if plan.blocked else ""

    assert "is not there: is its partition mounted?" in why()
    to.mkdir()
    assert "that is empty" in why()
    (to / "file").touch()
    if was_a_link:
        assert "no process uses" in why()
        with (to / "file").open():
            assert why() == ""
    else:
        (tmp_path / "data").mkdir()
        assert "does not lead to" in why()
        (tmp_path / "data").rmdir()
        (tmp_path / "data").symlink_to(to)
        assert why() == ""


def test_a_directory_that_no_move_has_left_is_not_removed(cluster: Here) -> None:
    other = cluster.root / "old/other.relocated"
    other.mkdir()
    plan = target(remove_relocated.RUNBOOK, LocalHost(), {"kept": str(other), "backup": "x"}).plan()
    assert "no move has left its note" in plan.steps[0].because


# -- what the account may write, and root must not follow -------------------------------------------------------------


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "of root"
    file.write_text("as it was")
    return file


def unharmed(victim: Path) -> bool:
    return victim.read_text() == "as it was" and victim.stat().st_uid == 0


def test_a_link_in_the_copy_is_not_followed(cluster: Here, victim: Path) -> None:
    runbook = before_in("copy", "as touch --", f'ln -s {word(str(victim))} "$T/standby.signal"\n')
    aim = replace(aimed(cluster), runbook=runbook)
    run = begun(cluster, aim)
    run.do(runbook.step("look"))
    with pytest.raises(Stopped, match="cannot write in"):
        run.do(runbook.step("copy"))
    run.close()
    taken_back(cluster, aim)
    assert unharmed(victim)


def test_a_link_in_the_old_data_gets_no_note(cluster: Here, victim: Path) -> None:
    lay = cluster.directory
    run = begun(cluster, aimed(cluster))
    for name in ("look", "copy", "follow", "lasting"):
        run.do(RUNBOOK.step(name))
    (lay / "RELOCATED").symlink_to(victim)
    run.do(RUNBOOK.step("switch"))
    run.close()
    assert unharmed(victim)
    note = lay.with_name(f"{lay.name}.relocated") / "RELOCATED"
    assert not note.is_symlink()
    assert "it is now in" in note.read_text()


def test_a_link_beside_the_configuration_is_not_followed(cluster: Here, victim: Path) -> None:
    """The directory of the configuration belongs to the account, as Debian's does."""
    cluster.configured_in(cluster.root / "conf", debian=True)
    (cluster.root / "conf/postgresql.conf.relocate").symlink_to(victim)
    aim = aimed(cluster, place_by="data_directory")
    run = begun(cluster, aim)
    for name in ("look", "copy", "follow", "lasting"):
        run.do(RUNBOOK.step(name))
    with pytest.raises(Stopped, match="the old path could not be led to"):
        run.do(RUNBOOK.step("switch"))
    run.close()
    assert unharmed(victim)
    taken_back(cluster, aim)
    assert unharmed(victim)
    assert cluster.lies() == str(cluster.directory)


def test_a_directory_of_marks_that_root_has_not_made_is_not_used(cluster: Here) -> None:
    marks = cluster.free("moved.relocation")
    marks.mkdir()
    shutil.chown(marks, "postgres", "postgres")
    assert "root has not made it" in blocked(aimed(cluster).plan())


# -- what the journal must not keep, and what must be as it was --------------------------------------------------------


def test_no_setting_s_secret_gets_into_the_journal_and_one_that_differs_is_named(cluster: Here) -> None:
    cluster.sql("alter system set archive_command to 'AWS_SECRET_ACCESS_KEY=hunter2 true'")
    cluster.sql("alter system set primary_conninfo to 'host=/x user=y password=hunter2'")
    cluster.sql("select pg_reload_conf(); select pg_sleep(0.5)")
    run = begun(cluster, aimed(cluster))
    for name in ("look", "copy", "follow", "lasting", "switch"):
        run.do(RUNBOOK.step(name))
    cluster.sql("alter system set archive_command to 'AWS_SECRET_ACCESS_KEY=hunter3 true'")
    cluster.sql("select pg_reload_conf(); select pg_sleep(0.5)")
    with pytest.raises(Stopped, match="settings are others than before: archive_command"):
        run.do(replace(RUNBOOK.step("prove"), verify_seconds=0))
    run.close()
    kept = [path for path in (cluster.root / "runs").rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if b"hunter" in path.read_bytes()] == []


def test_a_cluster_that_its_group_may_read_stays_so(cluster: Here) -> None:
    cluster.stop()
    cluster.directory.chmod(0o750)
    cluster.start()
    to = moved(cluster)
    assert stat.S_IMODE(to.stat().st_mode) == 0o750
    assert cluster.sql("show data_directory_mode") == "0750"


def test_what_the_switch_starts_the_server_without_is_named_and_not_shown(
    cluster: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.stop()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2\nSECOND=line")
    cluster.start()
    said = aimed(cluster).plan().steps[0].because
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert "hunter2" not in said
    assert "SECOND" not in said


def test_a_line_of_fstab_for_another_file_system_is_refused(cluster: Here) -> None:
    fstab = cluster.root / "fstab"
    fstab.write_text(f"UUID=0d1c9ef4-7a2c-4d7f-9f0e-6a0c8f8f1c11 {cluster.root}/new ext4 defaults 0 2\n")
    assert "correct its line" in blocked(aimed(cluster).plan())
    device = subprocess.run(
        ["findmnt", "-no", "SOURCE", f"{cluster.root}/new"], check=True, capture_output=True, text=True
    ).stdout.strip()
    fstab.write_text(f"{device} {cluster.root}/new ext4 defaults 0 2\n")
    assert not aimed(cluster).plan().blocked


def test_a_bind_mount_that_fstab_does_not_name_is_refused(cluster: Here) -> None:
    """A line by its UUID would mount the whole file system there after a reboot."""
    within, bound = cluster.root / "new/within", cluster.root / "bound"
    for each in (within, bound):
        each.mkdir()
    subprocess.run(["mount", "--bind", str(within), str(bound)], check=True)
    try:
        assert "write its line into /etc/fstab first" in blocked(aimed(cluster, target=str(bound / "moved")).plan())
    finally:
        unmount(bound)


def test_old_data_of_an_earlier_move_is_met_before_anything_is_copied(cluster: Here) -> None:
    """The same partition once more: what the first move has left there has the name that this one needs."""
    kept = cluster.directory.with_name(f"{cluster.directory.name}.relocated")
    kept.mkdir()
    (kept / "RELOCATED").write_text("This was the database until once; it is now in /elsewhere.\n")
    plan = aimed(cluster).plan()
    assert "the old data of an earlier move; remove it, or rename it" in blocked(plan)
    assert next(step for step in plan.steps if step.verdict is Verdict.BLOCKED).name == "copy"
    shutil.rmtree(kept)


# -- damaged data ------------------------------------------------------------------------------------------------------


def damage(cluster: Here, relation: str) -> None:
    """A page of a relation, while the server is down; its checksum is then wrong."""
    path = cluster.directory / cluster.sql(f"select pg_relation_filepath('{relation}')", "buildserver")
    cluster.stop()
    with path.open("r+b") as file:
        file.seek(8192 * 2 + 4000)
        file.write(b"\xff" * 64)
    cluster.start()


def test_pg_amcheck_looks_before_and_after_by_choice(cluster: Here) -> None:
    moved(cluster, amcheck=True)
    assert cluster.sql("select extname from pg_extension where extname = 'amcheck'", "buildserver") == "amcheck"


def test_damaged_pages_are_found_before_they_are_copied(cluster: Here) -> None:
    damage(cluster, "filler_pkey")
    lies = cluster.directory.resolve()
    for given, reason in (
        ({"amcheck": True}, "pg_amcheck found something before the move"),
        ({}, "pg_basebackup: .*checksum"),
    ):
        aim = aimed(cluster, **given)
        run = begun(cluster, aim)
        run.do(RUNBOOK.step("look"))
        with pytest.raises(Stopped, match=reason):
            run.do(RUNBOOK.step("copy"))
        run.close()
        assert cluster.sql("select count(*) from pg_replication_slots") == "0"  # a slot would fill the disk from now on
        taken_back(cluster, aim)
        assert cluster.directory.resolve() == lies


def test_pg_amcheck_finds_what_is_damaged_at_the_new_place(cluster: Here) -> None:
    run = begun(cluster, aimed(cluster, amcheck=True))
    for name in ("look", "copy", "follow", "lasting", "switch"):
        run.do(RUNBOOK.step(name))
    damage(cluster, "filler_pkey")
    with pytest.raises(Stopped, match="pg_amcheck found something; the old data is in"):
        run.do(RUNBOOK.step("prove"))
    run.close()


def test_a_damaged_table_that_was_summed_before_is_not_the_same(cluster: Here) -> None:
    run = begun(cluster, aimed(cluster, tables=["buildserver.public.filler"]))
    for name in ("look", "copy", "follow", "lasting", "switch"):
        run.do(RUNBOOK.step(name))
    cluster.sql("update filler set text = 'other' where id = 1", "buildserver")
    with pytest.raises(Stopped, match="not as before"):
        run.do(RUNBOOK.step("prove"))
    run.close()


def test_the_copy_keeps_to_its_rate_and_says_how_long_it_took(cluster: Here) -> None:
    run = begun(cluster, aimed(cluster, throttle_mb=8))
    run.do(RUNBOOK.step("look"))
    said = run.do(RUNBOOK.step("copy"))
    (took,) = cluster.root.glob("new/*.relocation/took")
    seconds = int(took.read_text().split()[3])
    assert seconds >= 2, (said, took.read_text())
    run.close()
    assert as_owner("pg_controldata", "-D", str(cluster.free("moved")))
