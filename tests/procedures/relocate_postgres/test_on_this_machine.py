"""A real PostgreSQL on this machine moves between two real filesystems, or is refused with a reason."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.relocate.here import Here, as_owner, here, unmount
from benchmarks.relocate.moving import by_runbook
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures.relocate_postgres import RUNBOOK, prechecks, switching
from runbooks_lib.runbook import detached, runs
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.resume import resume
from runbooks_lib.runbook.run import Options, Refused, Stopped, target
from runbooks_lib.runbook.step import Command, Known, Runbook
from runbooks_lib.training.lab.load import Load
from tests.procedures.relocate_postgres.moves import (
    aimed,
    before_in,
    begun,
    blocked,
    places,
    room_for_runs,
    servers,
    taken_back,
)
from tests.runbook.operators import Scripted

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def standing() -> Iterator[Here]:
    with here(20) as cluster:
        yield cluster


@pytest.fixture
def cluster(standing: Here) -> Iterator[Here]:
    """The one cluster of these tests, without what the test before it left."""
    with room_for_runs(standing):
        yield standing


def test_it_moves_and_no_acknowledged_commit_is_lost(cluster: Here) -> None:
    with Load([cluster.address], password="unused") as load:
        load.wait_acknowledged(30)
        to = cluster.free("a place with blanks")
        parameters = {"directory": str(cluster.directory), "target": str(to)}
        by_runbook(
            LocalHost(), cluster.root / "runs", places(cluster), parameters | {"tables": ["buildserver.public.filler"]}
        )
        load.wait_acknowledged(30)
    verdict = load.verify()
    assert verdict.ok, verdict
    assert servers(cluster) == [str(to)]
    assert cluster.directory.resolve() == to
    (kept,) = [path for path in (cluster.root / "old", cluster.root / "new") for path in path.glob("*.relocated")]
    assert "it is now in" in (kept / "RELOCATED").read_text()
    with pytest.raises(RuntimeError, match="is not a valid data directory"):
        as_owner("postgres", "--single", "-D", str(kept), "postgres")
    assert f"{to.parent} ext4 defaults,nofail" in (cluster.root / "fstab").read_text()
    assert [path.name for path in to.parent.iterdir() if path.name.endswith(".relocation")] == []
    again = target(RUNBOOK, LocalHost(), {**parameters, "backup": "a test's"}).plan()
    assert again.nothing_to_do, again


def test_undo_before_the_switch_leaves_everything_as_it_was(cluster: Here) -> None:
    fstab = (cluster.root / "fstab").read_text()
    lies, aim = cluster.directory.resolve(), aimed(cluster)
    run = begun(cluster, aim)
    for name in ("look", "copy", "follow", "lasting"):
        run.do(RUNBOOK.step(name))
    assert len(servers(cluster)) == 2
    run.close()
    taken_back(cluster, aim)
    assert servers(cluster) == [str(lies)]
    assert not cluster.free("moved").exists()
    assert (cluster.root / "fstab").read_text() == fstab
    assert cluster.sql("select count(*) from pg_replication_slots") == "0"


def test_the_copy_tells_its_bytes_its_rate_and_the_time_left(cluster: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "SAY_SECONDS", 0.3)
    aim = aimed(cluster, throttle_mb=10)
    run = begun(cluster, aim)
    for name in ("look", "copy"):
        run.do(RUNBOOK.step(name))
    run.close()
    taken_back(cluster, aim)
    assert isinstance(run.options.operator, Scripted)
    said = run.options.operator.text
    told = re.findall(r"copy: running, ([^;\n]*left)", said)
    assert told, said
    for each in told:
        assert re.match(r"[0-9.]+ [KM]?i?B of [0-9.]+ MiB \([0-9.]+ %\), [0-9.]+ [KM]iB/s, about [0-9.]+ s left", each)
    assert "0 of 0" not in said


@pytest.mark.parametrize(("side", "reason"), [("target", "are left on the filesystem of"), ("source", "are left in")])
def test_a_disk_that_fills_up_while_it_is_copied_stops_the_copy(side: str, reason: str, cluster: Here) -> None:
    """Before it is full: the database writes on."""
    aim = aimed(cluster, throttle_mb=1)
    lies, to = cluster.directory.resolve(), cluster.free("moved")
    place = to.parent if side == "target" else lies.parent
    ballast = place / "ballast"

    def fill() -> None:
        while not (to / "base").exists():
            time.sleep(0.2)
        free = os.statvfs(place)
        subprocess.run(["fallocate", "-l", str(free.f_bavail * free.f_bsize - 25_000_000), str(ballast)], check=True)

    with Load([cluster.address], password="unused") as load:
        load.wait_acknowledged(20)
        run = begun(cluster, aim)
        run.do(RUNBOOK.step("look"))
        filling = threading.Thread(target=fill)
        filling.start()
        try:
            more = "keeps WAL there from now on: undo now" if side == "source" else ""
            with pytest.raises(Stopped, match=f"{reason}(?s:.*){more}"):
                run.do(RUNBOOK.step("copy"))
        finally:
            filling.join()
            run.close()
            ballast.unlink(missing_ok=True)
        load.wait_acknowledged(20)
        taken_back(cluster, aim)
    assert load.verify().ok
    assert load.refusals == {}
    assert servers(cluster) == [str(lies)]
    assert not to.exists()


def test_a_standby_that_was_killed_is_started_again(cluster: Here) -> None:
    run = begun(cluster, aimed(cluster))
    for name in ("look", "copy", "follow"):
        run.do(RUNBOOK.step(name))
    os.kill(int((cluster.free("moved") / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    run.do(RUNBOOK.step("follow"))
    for name in ("lasting", "switch", "prove", "tidy"):
        run.do(RUNBOOK.step(name))
    run.finish("done")
    run.close()
    assert servers(cluster) == [str(cluster.directory.resolve())]


def test_after_the_first_write_at_the_new_place_undo_refuses(cluster: Here) -> None:
    aim = aimed(cluster)
    run = begun(cluster, aim)
    for name in ("look", "copy", "follow", "lasting", "switch"):
        run.do(RUNBOOK.step(name))
    run.close()
    with pytest.raises(Refused, match="point of no return, and it has been passed: the server on"):
        taken_back(cluster, aim)
    assert cluster.sql("select pg_is_in_recovery()") == "f"


@pytest.mark.parametrize("way", ["symlink", "bind", "data_directory"])
def test_a_switch_that_was_cut_off_before_the_start_is_taken_back_or_carried_on(way: str) -> None:
    with here(1) as cluster:
        (cluster.root / "place").mkdir()
        (cluster.root / "place").chmod(0o1777)
        mark, to = cluster.root / "cut", cluster.free("moved")
        conf = cluster.root / "conf/postgresql.conf"
        if way == "data_directory":
            cluster.configured_in(conf.parent, debian=True)
        before = conf.read_text() if conf.exists() else ""
        runbook = cut_before_the_start(mark)
        aim = replace(aimed(cluster, place_by=way), runbook=runbook)
        for ending in ("taken back", "carried on"):
            run = begun(cluster, aim)
            for name in ("look", "copy", "follow", "lasting"):
                run.do(runbook.step(name))
            mark.touch()
            with pytest.raises(Stopped, match="status 77"):
                run.do(runbook.step("switch"))
            mark.unlink()
            assert servers(cluster) == []
            assert not (cluster.directory / "PG_VERSION.relocated").exists()
            run.close()
            if ending == "taken back":
                taken_back(cluster, aim)
                assert servers(cluster) == [str(cluster.directory)]
                assert not cluster.directory.is_symlink()
                assert not os.path.ismount(cluster.directory)
                assert not to.exists()
                assert (cluster.root / "fstab").read_text() == "# none\n"
                assert not before or conf.read_text() == before
                continue
            found = runs.directories(cluster.root / "runs")[0]
            operator = Options(cluster.root / "runs", places(cluster), Scripted([aim.host.name]))
            again = resume(found, aim, operator)
            for step in runbook.steps[:-2]:
                again.do(step)
            again.finish("done")
            again.close()
            if way == "data_directory":
                assert conf.read_text() == f"{before}data_directory = '{to}'\n"
                assert not cluster.directory.exists()
                assert cluster.lies() == str(to)
                continue
            assert (cluster.directory / "PG_VERSION").samefile(to / "PG_VERSION")
            assert os.path.ismount(cluster.directory) == (way == "bind")
            assert cluster.sql("select pg_is_in_recovery()") == "f"
            if way == "bind":
                assert f"{to} {cluster.directory} none bind" in (cluster.root / "fstab").read_text()


def cut_before_the_start(mark: Path) -> Runbook:
    """The runbook, whose switch ends before it starts the server as long as a file is there."""
    switch = RUNBOOK.step("switch")

    def commands(known: Known) -> list[Command]:
        (command,) = switch.commands(known)
        before, start, after = command.text.partition('start "$AT" ||')
        assert start
        return [replace(command, text=f"{before}[ ! -e {mark} ] || exit 77\n{start}{after}")]

    cut = replace(switch, commands=commands)
    return replace(RUNBOOK, steps=tuple(cut if step is switch else step for step in RUNBOOK.steps))


def test_a_switch_whose_gate_is_shut_leaves_the_database_where_it_is(cluster: Here) -> None:
    """The standby's replay stands still: what the old server wrote last is not there."""
    aim = aimed(cluster)
    lies = cluster.directory.resolve()
    short = replace(RUNBOOK.step("switch"), verify_seconds=0)
    run = begun(cluster, aim)
    for name in ("look", "copy", "follow", "lasting"):
        run.do(RUNBOOK.step(name))
    standby = cluster.free("moved")
    os.kill(int((standby / "postmaster.pid").read_text().split()[0]), signal.SIGINT)
    with pytest.raises(Exception, match=r"no standby runs|the standby does not run"):
        run.do(short)
    run.close()
    assert servers(cluster) == [str(lies)]
    taken_back(cluster, aim)
    assert cluster.sql("select pg_is_in_recovery()") == "f"


def test_another_server_on_the_host_is_left_alone(cluster: Here) -> None:
    other = cluster.root / "old/other"
    other.mkdir()
    shutil.chown(other, "postgres", "postgres")
    as_owner("initdb", "-D", str(other), "-U", "postgres", "-A", "trust", "-N")
    options = f"-p 54321 -k {cluster.root} -c listen_addresses=''"
    as_owner("pg_ctl", "-D", str(other), "-s", "-w", "-l", str(cluster.root / "log2"), "-o", options, "start")
    pid = (other / "postmaster.pid").read_text().split()[0]
    try:
        run = begun(cluster, aimed(cluster))
        for step in RUNBOOK.steps:
            run.do(step)
        run.finish("done")
        run.close()
        assert (other / "postmaster.pid").read_text().split()[0] == pid
        assert sorted(servers(cluster)) == sorted([str(other), str(cluster.directory.resolve())])
    finally:
        as_owner("pg_ctl", "-D", str(other), "-s", "-w", "-m", "immediate", "stop")
        shutil.rmtree(other)


# -- refused -----------------------------------------------------------------------------------------------------------


@contextmanager
def remounted(cluster: Here, options: str) -> Iterator[None]:
    place = str(cluster.free("x").parent)
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw,exec,suid", place], check=True)


@contextmanager
def said(cluster: Here, before: str, after: str, database: str = "postgres") -> Iterator[None]:
    cluster.sql(before, database)
    try:
        yield
    finally:
        cluster.sql(after, database)


@contextmanager
def made(path: Path, owner: str, file: str = "") -> Iterator[None]:
    path.mkdir(parents=True)
    if file:
        (path / file).touch()
    shutil.chown(path, owner, owner)
    try:
        yield
    finally:
        shutil.rmtree(path)


def in_a_slot(cluster: Here) -> Any:
    return said(
        cluster, "select pg_create_physical_replication_slot('other')", "select pg_drop_replication_slot('other')"
    )


@contextmanager
def of_inodes(cluster: Here) -> Iterator[None]:
    """All but a few inodes of the new partition are taken."""
    place = cluster.free("x").parent / "many"
    place.mkdir()
    left = os.statvfs(place).f_favail
    try:
        subprocess.run(["sh", "-c", f"cd {place} && seq {left - 500} | xargs touch"], check=True)
        yield
    finally:
        shutil.rmtree(place)


@contextmanager
def a_transaction(cluster: Here) -> Iterator[None]:
    """One that has been open for longer than is allowed here: a second."""
    line = ["psql", "-XAtq", "-h", str(cluster.root), "-p", str(cluster.port), "-U", "postgres", "-d", "postgres"]
    usual, prechecks.LONGEST_TRANSACTION_SECONDS = prechecks.LONGEST_TRANSACTION_SECONDS, 1
    with subprocess.Popen([*line, "-c", "begin; select pg_sleep(60)"]) as session:
        time.sleep(3)
        try:
            yield
        finally:
            session.terminate()
            prechecks.LONGEST_TRANSACTION_SECONDS = usual


@contextmanager
def mounted_inside(cluster: Here) -> Iterator[None]:
    place = cluster.directory.resolve() / "pg_tblspc/mounted here"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
    try:
        yield
    finally:
        unmount(place)
        place.rmdir()


@contextmanager
def linked(cluster: Here) -> Iterator[None]:
    link = cluster.directory.resolve() / "server.crt"
    link.symlink_to("/etc/hosts")
    try:
        yield
    finally:
        link.unlink()


@contextmanager
def configured(cluster: Here, line: str, *, reload: bool = True) -> Iterator[None]:
    """A line in postgresql.conf that the running server does not go by."""
    conf = cluster.directory / "postgresql.conf"
    before = conf.read_text()
    conf.write_text(f"{before}{line}\n")
    load = "select pg_reload_conf(); select pg_sleep(0.5)"
    if reload:
        cluster.sql(load)
    try:
        yield
    finally:
        conf.write_text(before)
        cluster.sql(load)


REFUSED: dict[str, tuple[Callable[[Here], Any], str]] = {
    "read-only": (lambda cluster: remounted(cluster, "ro"), "is mounted read-only"),
    "noexec": (lambda cluster: remounted(cluster, "noexec"), "noexec or nosuid breaks"),
    "nosuid": (lambda cluster: remounted(cluster, "nosuid"), "noexec or nosuid breaks"),
    "not empty": (lambda cluster: made(cluster.free("moved"), "postgres", "a file"), "is not empty"),
    "wrong owner": (lambda cluster: made(cluster.free("moved"), "root"), "belongs to root:root: chown postgres"),
    "a slot": (in_a_slot, "replication slots would stay behind: other"),
    "out of inodes": (of_inodes, "inodes free, and"),
    "an old transaction": (a_transaction, "a transaction has been open for"),
    "unlogged": (
        lambda cluster: said(cluster, "create unlogged table u (x int)", "drop table u"),
        "unlogged tables",
    ),
    "failing archiver": (
        lambda cluster: said(
            cluster,
            "alter system set archive_command to '/bin/false'; select pg_reload_conf(); select pg_switch_wal(); "
            "select pg_sleep(3)",
            "alter system reset archive_command; select pg_reload_conf(); select pg_switch_wal(); select pg_sleep(3)",
        ),
        "archive_command fails",
    ),
    "archived by nothing": (
        lambda cluster: said(
            cluster,
            "alter system set archive_command to ''; select pg_reload_conf(); select pg_sleep(0.5)",
            "alter system reset archive_command; select pg_reload_conf(); select pg_switch_wal(); select pg_sleep(1)",
        ),
        "neither archive_command nor archive_library says how",
    ),
    "a mount inside": (mounted_inside, "a file system is mounted inside"),
    "a symlink": (linked, "are not copied: ./server.crt"),
    "a pending restart": (
        lambda cluster: configured(cluster, "shared_buffers = '8000GB'"), "shared_buffers waits for a restart"
    ),
    "a wrong line": (lambda cluster: configured(cluster, "work_mem = 'much'"), "work_mem: "),
    "not read yet": (
        lambda cluster: configured(cluster, "work_mem = '5MB'", reload=False),
        "postgresql.conf was changed after it was read: reload it",
    ),
    "any standby": (
        lambda cluster: said(
            cluster,
            "alter system set synchronous_commit to local; alter system set synchronous_standby_names to '*'; "
            "select pg_reload_conf(); select pg_sleep(0.5)",
            "alter system reset all; select pg_reload_conf(); select pg_sleep(0.5)",
        ),
        "the copy would be taken for one of its standbys",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_with_a_reason(what: str, cluster: Here) -> None:
    make, reason = REFUSED[what]
    with make(cluster):
        assert reason in blocked(aimed(cluster).plan())
    plan = aimed(cluster).plan()
    assert not plan.blocked, plan.blocked[0].because


def test_a_recovery_target_that_was_left_is_refused(cluster: Here) -> None:
    """It is read at every start, and means something only at that of a standby."""
    cluster.stop()
    conf = cluster.directory / "postgresql.auto.conf"
    before = conf.read_text()
    conf.write_text(f"{before}recovery_target_xid = '700'\nrecovery_target_timeline = 'latest'\n")
    cluster.start()
    try:
        said = blocked(aimed(cluster).plan())
        assert "recovery_target_xid is set" in said
        assert "recovery_target_timeline" not in said
    finally:
        cluster.stop()
        conf.write_text(before)
        cluster.start()


def test_a_path_by_which_the_server_does_not_know_its_directory_is_refused(cluster: Here) -> None:
    """What is behind it would be renamed away, and the unit would not find it again."""
    link = cluster.root / "link"
    link.symlink_to(cluster.directory.resolve())
    assert f"say directory={cluster.directory}" in blocked(aimed(cluster, directory=str(link)).plan())
    link.unlink()


LEFT_BEHIND = {  # SQL that makes what a standby does not have, and that takes it away
    "a slot": ("select pg_create_physical_replication_slot('late')", "select pg_drop_replication_slot('late')"),
    "an unlogged table": ("create unlogged table late (x int)", "drop table late"),
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
@pytest.mark.parametrize("when", ["before it is asked", "before the stop", "as it stops"])
def test_what_a_standby_does_not_have_is_not_left_behind_when_it_was_made_meanwhile(
    when: str, what: str, cluster: Here
) -> None:
    """At the last moment too: the gate is shut, and the database goes on where it was."""
    make, drop = LEFT_BEHIND[what]
    lies = cluster.directory.resolve()
    line = f"psql -XAtq -h {cluster.root} -p {cluster.port} -U postgres -d postgres -c {word(make)} >/dev/null\n"
    where = {"before the stop": "! behind || fail", "as it stops": 'kill -INT "$pid"; gone "$R"'}
    runbook = before_in("switch", where[when], line) if when in where else RUNBOOK
    aim = replace(aimed(cluster), runbook=runbook)
    run = begun(cluster, aim)
    for name in ("look", "copy", "follow", "lasting"):
        run.do(runbook.step(name))
    if when == "before it is asked":
        cluster.sql(make)
    with pytest.raises(Exception, match=r"would stay behind|unlogged table|a slot was made"):
        run.do(runbook.step("switch"))
    run.close()
    assert str(lies) in servers(cluster)
    assert cluster.sql("select pg_is_in_recovery()") == "f"
    taken_back(cluster, aim)
    cluster.sql(drop)
    assert servers(cluster) == [str(lies)]


def test_wal_that_the_archiver_could_not_take_shuts_the_gate(cluster: Here) -> None:
    """A segment that is not archived when the old server ends would be a hole in the archive for good."""
    lies, fails = cluster.directory.resolve(), cluster.root / "archiver fails"
    cluster.sql(f"alter system set archive_command to 'test ! -e \"{fails}\"'; select pg_reload_conf()")
    runbook = before_in("switch", 'kill -INT "$pid"; gone "$R"', f"touch {word(str(fails))}\n")
    aim = replace(aimed(cluster), runbook=runbook)
    try:
        run = begun(cluster, aim)
        for name in ("look", "copy", "follow", "lasting"):
            run.do(runbook.step(name))
        with pytest.raises(Stopped, match="WAL is not archived yet"):
            run.do(runbook.step("switch"))
        run.close()
        assert str(lies) in servers(cluster)
        assert cluster.sql("select pg_is_in_recovery()") == "f"
        fails.unlink()
        taken_back(cluster, aim)
    finally:
        fails.unlink(missing_ok=True)
        cluster.sql("alter system reset archive_command; select pg_reload_conf(); select pg_switch_wal()")
        cluster.sql("select pg_sleep(2)")
    assert servers(cluster) == [str(lies)]


def test_an_archiver_that_is_behind_is_waited_for_before_the_stop(
    cluster: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server waits for it when it ends, and clients would wait with it."""
    monkeypatch.setattr(switching, "ARCHIVE_SECONDS", 1)
    slow, aim = cluster.root / "archiver is slow", aimed(cluster)
    slow.touch()
    command = f'while test -e "{slow}"; do sleep 0.1; done'
    cluster.sql(f"alter system set archive_command to '{command}'; select pg_reload_conf(); select pg_sleep(0.5)")
    try:
        run = begun(cluster, aim)
        for name in ("look", "copy", "follow", "lasting"):
            run.do(RUNBOOK.step(name))
        for _ in range(3):
            cluster.sql("select pg_logical_emit_message(true, 'x', 'y')")
            cluster.sql("select pg_switch_wal()")
        with pytest.raises(Stopped, match=r"WAL is not archived yet: \d+ segments; nothing was changed"):
            run.do(RUNBOOK.step("switch"))
        slow.unlink()
        for name in ("switch", "prove", "tidy"):
            run.do(RUNBOOK.step(name))
        run.finish("done")
        run.close()
    finally:
        slow.unlink(missing_ok=True)
        cluster.sql("alter system reset archive_command; select pg_reload_conf(); select pg_sleep(0.5)")
    assert list((cluster.directory / "pg_wal/archive_status").glob("*.ready")) == []


def test_a_server_that_ends_before_it_is_promoted_is_said_at_once_and_taken_back(cluster: Here) -> None:
    lies = cluster.directory.resolve()
    text = 'runs "$T"; kill -QUIT "$pid"; while runs "$T"; do sleep 0.1; done\n'
    runbook = before_in("switch", 'i=0; while [ -e "$T/standby.signal" ]', text)
    aim = replace(aimed(cluster), runbook=runbook)
    run = begun(cluster, aim)
    for name in ("look", "copy", "follow", "lasting"):
        run.do(runbook.step(name))
    with pytest.raises(Stopped, match="has ended; see its log; take it back"):
        run.do(runbook.step("switch"))
    run.close()
    taken_back(cluster, aim)
    assert servers(cluster) == [str(lies)]


def test_a_target_on_the_same_filesystem_is_refused(cluster: Here) -> None:
    beside = cluster.directory.resolve().with_name("beside")
    assert "on the same filesystem" in blocked(aimed(cluster, target=str(beside)).plan())


def test_a_target_in_memory_or_too_small_is_refused(cluster: Here, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "none", str(place)], check=True)
    try:
        assert "is tmpfs" in blocked(aimed(cluster, target=str(place / "main")).plan())
    finally:
        unmount(place)
    ballast = cluster.free("x").parent / "ballast"
    free = os.statvfs(ballast.parent)
    subprocess.run(["fallocate", "-l", str(free.f_bavail * free.f_bsize - 50_000_000), str(ballast)], check=True)
    try:
        assert "MB are needed: the data, a tenth" in blocked(aimed(cluster).plan())
    finally:
        ballast.unlink()


def test_a_mount_point_or_a_directory_without_its_parent_is_refused(cluster: Here) -> None:
    place = cluster.free("x").parent
    assert "is the mount point itself" in blocked(aimed(cluster, target=str(place)).plan())
    assert "is not there; make it" in blocked(aimed(cluster, target=str(place / "no/main")).plan())


def test_a_server_that_does_not_run_cannot_be_looked_at(cluster: Here) -> None:
    cluster.stop()
    try:
        plan = aimed(cluster).plan()
    finally:
        cluster.start()
    assert plan.steps[0].verdict is Verdict.BLOCKED
    assert "no PostgreSQL server runs on" in plan.steps[0].because
