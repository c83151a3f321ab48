"""A real PostgreSQL, started by hand on a socket of its own, asked with and without root."""

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runbooks_lib.facts import collect
from runbooks_lib.facts.postgres_activity import PostgresActivity
from runbooks_lib.hosts.host import Host

pytestmark = pytest.mark.lab
NewHost = Callable[..., Host]


class Server:
    """A cluster behind a symlink, its WAL behind another."""

    def __init__(self, binaries: Path, link: Path, data: Path, wal: Path) -> None:
        self.binaries, self.link, self.data, self.wal = binaries, link, data, wal

    def psql(self, sql: str) -> str:
        command = [self.binaries / "psql", "-XAtq", "-h", self.link.parent, "-p", "54321", "-d", "postgres", "-c", sql]
        return as_postgres(*map(str, command))

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split("\n")[0])


def as_postgres(*command: str) -> str:
    done = subprocess.run(
        command,
        user="postgres",
        group="postgres",
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "this test needs the Debian package postgresql"
    binaries = found[-1].parent
    # A directory of pytest's is closed to other users.
    root = Path(
        subprocess.run(
            ["mktemp", "-d", "/var/tmp/facts.XXXXXX"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    owner = pwd.getpwnam("postgres")
    os.chown(root, owner.pw_uid, owner.pw_gid)
    root.chmod(0o755)
    data, wal, link = root / "new disk" / "data", root / "wal", root / "data"
    as_postgres("mkdir", "-m", "755", str(data.parent))
    as_postgres(str(binaries / "initdb"), "-D", str(data), "-X", str(wal), "-A", "trust", "--no-sync")
    link.symlink_to(data)
    options = f"-p 54321 -c listen_addresses='' -c unix_socket_directories={root} -c fsync=off"
    options += " -c archive_mode=on -c archive_command=false"
    as_postgres(str(binaries / "pg_ctl"), "-D", str(link), "-w", "-l", str(root / "log"), "-o", options, "start")
    try:
        yield Server(binaries, link, data, wal)
    finally:
        subprocess.run(
            [binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"],
            user="postgres",
            group="postgres",
            cwd="/",
            check=False,
            stdout=subprocess.DEVNULL,
        )
        shutil.rmtree(root)


def test_without_root_the_data_directory_is_found_behind_its_symlink(server: Server, shell_host: NewHost) -> None:
    found = collect.read_snapshot(shell_host(("sh",), None, 65534), sample_seconds=0)
    mine = next(one for one in found.postgres.require() if one.pid == server.pid)
    assert mine.data_directory == str(server.link)
    assert mine.resolved_directory == str(server.data)
    assert mine.wal_directory == ""
    assert mine.version == server.binaries.parent.name
    assert mine.port == 54321
    place = found.filesystems.require().holding(mine.resolved_directory)
    assert place is not None
    assert mine.mountpoint == place.mountpoint


def test_as_root_the_wal_directory_and_the_version_are_read(server: Server, host: Host) -> None:
    found = collect.read_snapshot(host, sample_seconds=0)
    mine = next(one for one in found.postgres.require() if one.pid == server.pid)
    assert mine.wal_directory == str(server.wal)
    assert mine.version == (server.data / "PG_VERSION").read_text().strip()


def test_size_wal_slots_and_a_failing_archiver_are_read_from_inside(server: Server, host: Host) -> None:
    server.psql("select pg_create_physical_replication_slot('old', true)")
    server.psql("create table t as select generate_series(1, 20000) i; select pg_switch_wal(); checkpoint")
    fact = collect.read_slow(host, ("postgres",), root=False).postgres
    assert fact is not None
    mine = next(one for one in fact.require() if one.pid == server.pid)
    assert mine.detail == ""
    assert mine.data_directory == str(server.data)
    assert mine.wal_directory == str(server.wal)
    assert mine.version_number == int(server.psql("show server_version_num"))
    assert mine.size_bytes == pytest.approx(
        int(server.psql("select sum(pg_database_size(oid)) from pg_database where datallowconn")), rel=0.2
    )
    assert mine.wal_bytes == sum(file.stat().st_size for file in server.wal.iterdir() if len(file.name) == 24)
    assert mine.slots is not None
    slot = next(slot for slot in mine.slots if slot.name == "old")
    assert not slot.active
    assert (slot.retained_bytes or 0) > 1_000_000
    assert mine.archiver is not None
    assert mine.archiver.mode == "on"
    assert (mine.archiver.waiting or 0) >= 1


def test_asking_changes_nothing_inside(server: Server, host: Host) -> None:
    before = server.psql("select pg_current_wal_insert_lsn(), sum(xact_commit) >= 0 from pg_stat_database")
    collect.read_slow(host, ("postgres",), root=False)
    assert server.psql("select pg_current_wal_insert_lsn(), sum(xact_commit) >= 0 from pg_stat_database") == before


def test_an_ordinary_user_may_not_look_inside_and_is_told_so(server: Server, shell_host: NewHost) -> None:
    fact = collect.read_slow(shell_host(("sh",), {"PATH": "/usr/bin:/bin"}, 65534), ("postgres",), root=False).postgres
    assert server.pid
    assert fact is not None
    assert str(fact.state) == "not allowed"
    assert "need" in fact.detail


def activity(server: Server, host: Host) -> PostgresActivity:
    fact = collect.read_slow(host, ("postgres-activity",), root=False).postgres_activity
    assert fact is not None
    return next(one for one in fact.require() if one.pid == server.pid)


@contextlib.contextmanager
def session(server: Server, *statements: str) -> Iterator[subprocess.Popen[str]]:
    """A psql that has run these statements and stays connected."""
    command = ["psql", "-XAtq", "-h", server.link.parent, "-p", "54321", "-d", "postgres"]
    with subprocess.Popen(
        command, user="postgres", group="postgres", cwd="/", text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        child.stdin.write("".join(f"{statement};\n" for statement in statements))
        child.stdin.flush()
        try:
            yield child
        finally:
            child.kill()


def wait_until(server: Server, condition: str) -> None:
    end = time.monotonic() + 30
    while server.psql(f"select {condition}") != "t":
        assert time.monotonic() < end, condition
        time.sleep(0.1)


def test_who_blocks_whom_is_seen_as_a_tree_and_words_in_quotes_stay_inside(server: Server, host: Host) -> None:
    server.psql("create table if not exists b (i int); truncate b; insert into b values (1), (2)")
    waits = "(select count(*) >= {} from pg_stat_activity where wait_event_type = 'Lock')"
    with session(server, "begin", "update b set i = 3 where i = 1 and 'my password' <> 'it''s secret'"):
        wait_until(server, "(select count(*) = 1 from pg_stat_activity where state = 'idle in transaction')")
        with session(server, "begin", "lock table b in access exclusive mode"):
            wait_until(server, waits.format(1))
            with session(server, "select * from b"):
                wait_until(server, waits.format(2))
                found = activity(server, host)
    (blocker,) = found.blockers()
    assert blocker.session is not None
    assert blocker.session.state == "idle in transaction"
    assert len(blocker.victims) == 2
    assert {each.wait_type for each in found.lasting() if each.kind == "client backend"} >= {"Lock"}
    assert "password" not in str(found)
    assert "secret" not in str(found)
    assert "update b set i = 3" in blocker.session.statement


def test_temporary_files_are_told_by_session(server: Server, host: Host) -> None:
    statement = (
        "begin; set local work_mem = '64kB'; declare c cursor for select md5(n::text) || repeat('x', 500) as l"
        " from generate_series(1, 20000) n order by 1; fetch 1 from c"
    )
    with session(server, *statement.split("; ")) as child:
        wait_until(server, "(select count(*) > 0 from pg_ls_tmpdir())")
        wait_until(server, "(select count(*) = 1 from pg_stat_activity where state = 'idle in transaction')")
        found = activity(server, host)
        assert child.poll() is None
    assert found.temporary is not None
    (pid,) = found.temporary
    assert found.temporary[pid] > 5_000_000
    assert found.looks[-1].sessions[0].pid == pid


def test_three_looks_give_a_rate_of_commits_and_connections_are_counted(server: Server, host: Host) -> None:
    found = activity(server, host)
    assert len(found.looks) == 3
    assert found.window_seconds > 1.3
    assert found.commits_per_second is not None
    assert found.max_connections == int(server.psql("show max_connections"))
    assert (found.transaction_number_age or 0) > 0
