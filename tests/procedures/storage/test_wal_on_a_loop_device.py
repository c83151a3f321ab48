"""WAL that a slot or an archiver keeps, on a real PostgreSQL: the cause is mended and the server removes its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.host import Script
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures.storage import slot, survey
from runbooks_lib.procedures.storage.shell import LOOK
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.run import Options, Refused
from runbooks_lib.runbook.step import Known
from tests.procedures.storage.disks import run
from tests.procedures.storage.postgres import PORT, PROGRAMS, Cluster, cluster
from tests.procedures.storage.work import done, plan_of, quiet_options, undone

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for loop devices")]

HOST = LocalHost()
MIB = 2**20


@pytest.fixture
def server() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def options(tmp_path: Path) -> Options:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o1777)
    return replace(quiet_options(tmp_path / "runs"), places=Places((str(place),)))


def ways(server: Cluster) -> dict[str, survey.Way]:
    return {way.name: way for way in survey.ways(survey.look(HOST, str(server.mountpoint)), 0)}


def available(server: Cluster) -> int:
    said = os.statvfs(server.mountpoint)
    return said.f_bavail * said.f_frsize


def test_an_inactive_slot_is_dropped_and_the_server_removes_the_wal(server: Cluster, options: Options) -> None:
    server.sql("select pg_create_physical_replication_slot('gone', true)", "create table kept as select 1")
    server.write_wal(20)
    way = ways(server)["drop-slot:gone"]
    assert way.offered, way
    before = available(server)
    done(HOST, way.runbook, way.parameters, options)
    assert way.gain_bytes is not None
    assert way.gain_bytes > 200 * MIB
    assert available(server) - before >= 0.9 * way.gain_bytes
    assert server.sql("select count(*) from kept") == "1"
    with pytest.raises(Refused, match="cannot be brought back"):
        undone(HOST, way.runbook, way.parameters, options)
    assert not any(name.startswith("drop-slot") for name in ways(server))


def test_a_slot_that_frees_nothing_alone_is_not_offered(server: Cluster) -> None:
    for name in ("one", "two"):
        server.sql(f"select pg_create_physical_replication_slot('{name}', true)")
    server.write_wal(8)
    assert "it would free nothing: the slot two" in ways(server)["drop-slot:one"].refused


def test_a_failing_archiver_is_mended_and_undo_sets_the_old_command(server: Cluster, options: Options) -> None:
    server.sql("alter system set archive_command = 'echo full >&2; exit 1'", "select pg_reload_conf()")
    server.write_wal(20)
    way = ways(server)[f"mend-archiver:{server.data}"]
    assert way.offered, way
    before = available(server)
    done(HOST, way.runbook, way.parameters, options)
    assert way.gain_bytes is not None
    assert way.gain_bytes > 200 * MIB
    assert available(server) - before >= 0.9 * way.gain_bytes
    assert server.sql("show archive_command") == "test %p"
    undone(HOST, way.runbook, way.parameters, options)
    assert server.sql("show archive_command") == "echo full >&2; exit 1"


def test_a_command_of_ones_own_is_taken_and_one_that_archives_nothing_is_not(server: Cluster, options: Options) -> None:
    with (server.data / "postgresql.conf").open("a") as conf:
        conf.write("archive_command = 'false %p'\n")
    server.sql("select pg_reload_conf()")
    server.write_wal(3)
    assert "mend what it calls (false %p)" in ways(server)[f"mend-archiver:{server.data}"].refused
    given = {"mountpoint": str(server.mountpoint), "data_directory": str(server.data)}
    assert "the command that fails" in plan_of(HOST, "mend-archiver", given).steps[0].because
    with pytest.raises(UsageError, match="archives nothing"):
        plan_of(HOST, "mend-archiver", {**given, "archive_command": "/bin/true"})
    (server.sockets / "it's archive").mkdir(mode=0o777)
    (server.sockets / "it's archive").chmod(0o777)
    command = f'cp %p "{server.sockets}/it\'s archive/%f"'
    done(HOST, "mend-archiver", {**given, "archive_command": command}, options)
    assert list((server.sockets / "it's archive").iterdir())


def test_nothing_under_pg_wal_can_be_named(server: Cluster, tmp_path: Path) -> None:
    segment = next(path for path in (server.data / "pg_wal").iterdir() if path.is_file())
    given = {"mountpoint": str(server.mountpoint), "files": [str(segment)], "store": str(tmp_path / "aside")}
    assert "database directory" in plan_of(HOST, "move-files", given).steps[0].because
    one = {"mountpoint": str(server.mountpoint), "file": str(segment), "length": MIB, "store": str(tmp_path / "aside")}
    assert "database directory" in plan_of(HOST, "archive-log", one).steps[0].because


def test_a_postmaster_pid_that_was_left_behind_leads_to_no_other_server(server: Cluster) -> None:
    """Another server has the port by now; its slot of the same name is not the one that is meant."""
    server.sql("select pg_create_physical_replication_slot('gone', true)")
    server.write_wal(4)
    old = server.mountpoint / "old main"
    shutil.copytree(server.data, old)  # with its postmaster.pid, as a server leaves it that was killed
    run("chown", "-R", "postgres", str(old))
    given = {"mountpoint": str(server.mountpoint), "data_directory": str(old)}
    for name, more in (("drop-slot", {"slot": "gone"}), ("mend-archiver", {"archive_command": "cp %p /x/%f"})):
        first = plan_of(HOST, name, {**given, **more}).steps[0]
        assert first.verdict is Verdict.BLOCKED
        assert f"does not serve {old}" in first.because
    known = Known({**given, "slot": "gone"})
    for command in slot.DROP.commands(known):
        result = HOST.run(Script(command.text, root=True))
        assert f"does not serve {old}" in result.stderr.decode()
        assert result.exit_status == 3
    assert server.sql("select slot_name from pg_replication_slots") == "gone"
    settings = f"{LOOK}settings_of {word(str(old))}; settings_of {word(str(server.data))}"
    nothing, own, _ = HOST.run(Script(settings, root=True)).stdout.decode().split("\n")
    assert (nothing, own[:1]) == ("", "{")


def test_a_slot_that_is_used_is_neither_offered_nor_dropped(server: Cluster) -> None:
    server.sql("select pg_create_physical_replication_slot('used', true)")
    (server.sockets / "received").mkdir()
    shutil.chown(server.sockets / "received", "postgres")
    command = ["runuser", "-u", "postgres", "--", str(PROGRAMS / "pg_receivewal"), "-h", str(server.sockets)]
    command += ["-p", PORT, "-D", str(server.sockets / "received"), "-S", "used"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as receiver:
        try:
            while server.sql("select active from pg_replication_slots") != "t":
                assert receiver.poll() is None
                time.sleep(0.2)
            server.write_wal(4)
            given = {"mountpoint": str(server.mountpoint), "data_directory": str(server.data), "slot": "used"}
            assert "it is active or temporary" in plan_of(HOST, "drop-slot", given).steps[0].because
            assert "drop-slot:used" not in ways(server)
        finally:
            receiver.terminate()
