"""The file itself: its mode, and what is said when it is locked, damaged, too new, not ours or cannot be written."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import (
    HistoryDamaged,
    HistoryError,
    HistoryLocked,
    HistoryMissing,
    HistoryTooNew,
    SqliteHistory,
    schema,
)

Disk = Callable[..., list[Sample]]


def load(time: datetime, value: float = 1.0) -> list[Sample]:
    return [Sample("node_load1", value, time)]


@pytest.fixture
def filled(tmp_path: Path, noon: datetime, disk: Disk) -> Path:
    """A closed history with a few days, some of them in blocks."""
    path = tmp_path / "filled.sqlite"
    with SqliteHistory(path) as history:
        for step in range(200):
            time = noon + timedelta(minutes=30 * step)
            history.store_snapshot("db-01", time, disk(time, 1e9 + step))
        history.compact(noon + timedelta(days=3))
    return path


def test_file_and_directory_are_made_for_the_owner_alone(tmp_path: Path, noon: datetime) -> None:
    path = tmp_path / "var" / "lib" / "history.sqlite"
    before = os.umask(0)
    try:
        with SqliteHistory(path) as history:
            history.store_snapshot("db-01", noon, load(noon))
            assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {
                "history.sqlite": 0o600,
                "history.sqlite-lock": 0o600,
                "history.sqlite-wal": 0o600,
                "history.sqlite-shm": 0o600,
            }
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(file.name for file in path.parent.iterdir()) == ["history.sqlite", "history.sqlite-lock"]


def test_what_is_acknowledged_has_been_synced(history: SqliteHistory, noon: datetime) -> None:
    history.store_snapshot("db-01", noon, load(noon))
    connection = history._writer.connection  # type: ignore[union-attr]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_missing_history_is_not_made_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    history = SqliteHistory(path)
    for read in (history.instances, history.filesystems, history.check, lambda: history.last_collection("x")):
        with pytest.raises(HistoryMissing) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "runbook collect" in caught.value.next
    assert list(tmp_path.iterdir()) == []


def test_an_empty_history_answers_with_nothing(history: SqliteHistory) -> None:
    history.prepare()
    assert history.instances() == []
    assert history.filesystems() == []
    assert history.filesystem("db-01", "/") is None
    assert history.series("node_load1") == []
    assert history.check() == []
    assert history.compact().days == 0


def test_a_lock_is_waited_for_and_then_told(filled: Path, noon: datetime) -> None:
    with closing(sqlite3.connect(filled, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with SqliteHistory(filled, lock_timeout_seconds=0.2) as history:
            assert history.instances() == ["db-01"]  # a reader does not wait
            with pytest.raises(HistoryLocked) as caught:
                history.store_snapshot("db-01", noon, load(noon))
            assert str(filled) in str(caught.value)
            assert "locked" in caught.value.what
            other.execute("ROLLBACK")
            history.store_snapshot("db-01", noon, load(noon))
            assert history.series("node_load1")[0].values.tolist() == [1]


@pytest.mark.parametrize(
    "content", [b"", b"not a database, but long enough to be one" * 200, b"SQLite format 3\x00" + b"\xff" * 4096]
)
def test_a_file_that_is_no_history_is_refused_and_left_alone(tmp_path: Path, noon: datetime, content: bytes) -> None:
    path = tmp_path / "h.sqlite"
    path.write_bytes(content)
    history = SqliteHistory(path)
    for attempt in (history.instances, lambda: history.store_snapshot("db-01", noon, load(noon)), history.compact):
        with pytest.raises(HistoryDamaged) as caught:
            attempt()
        assert str(path) in str(caught.value)
        assert ("copies" if content else "backup") in caught.value.next
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["h.sqlite"]


def test_damage_inside_is_found_and_told_and_the_file_is_left_alone(filled: Path) -> None:
    with closing(sqlite3.connect(filled)) as plain:
        (empty,) = plain.execute("PRAGMA freelist_count").fetchone()  # pages that hold nothing cannot lose anything
    whole = filled.read_bytes()
    page = 8192
    told = 0
    for number in range(1, len(whole) // page):
        filled.write_bytes(whole[: number * page] + b"\xa5" * page + whole[(number + 1) * page :])
        damaged = filled.read_bytes()
        with SqliteHistory(filled) as history:
            told += bool(_said(history.check, filled))
            for name in ("node_filesystem_free_bytes", "runbook_filesystem_used_bytes"):
                _said(partial(history.series, name), filled)
        assert filled.read_bytes() == damaged
    assert told >= len(whole) // page - 1 - empty
    assert empty < 4


def _said(read: Callable[[], object], path: Path) -> object:
    """What reading returned, or the text of its HistoryDamaged."""
    try:
        return read()
    except HistoryDamaged as error:
        return str(error) if str(path) in str(error) and "not altered" in str(error) else pytest.fail(str(error))


def test_a_changed_byte_in_a_block_is_never_read_as_a_number(filled: Path, noon: datetime) -> None:
    with closing(sqlite3.connect(filled)) as plain:
        (key, blob) = plain.execute("SELECT key, data FROM block WHERE (key >> 20) & 15 = 0 LIMIT 1").fetchone()
        plain.execute("UPDATE block SET data = ? WHERE key = ?", (blob[:20] + bytes([blob[20] ^ 1]) + blob[21:], key))
        plain.commit()
        (name,) = plain.execute("SELECT name FROM series WHERE id = ?", (key >> 24,)).fetchone()
    with SqliteHistory(filled) as history, pytest.raises(HistoryDamaged, match="damaged"):
        history.series(name, end=noon + timedelta(days=9))


def test_a_file_of_a_later_version_is_refused(filled: Path) -> None:
    with closing(sqlite3.connect(filled)) as plain:
        plain.execute("PRAGMA user_version = 99")
    for attempt in (SqliteHistory(filled).instances, SqliteHistory(filled).compact):
        with pytest.raises(HistoryTooNew, match="later version"):
            attempt()


def test_an_older_file_is_brought_up_by_reading_or_writing(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copy(filled, filled.with_name("copy.sqlite"))

    def add_a_table(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE novelty (id INTEGER PRIMARY KEY)")

    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, add_a_table])
    for path, touch in ((filled, SqliteHistory.instances), (Path(copy), SqliteHistory.prepare)):
        with SqliteHistory(path) as history:
            touch(history)
            assert history.instances() == ["db-01"]
        with closing(sqlite3.connect(path)) as plain:
            assert plain.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
            plain.execute("SELECT * FROM novelty")


def test_a_migration_that_fails_leaves_the_file_as_it_was(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE novelty (id INTEGER PRIMARY KEY)")
        raise sqlite3.OperationalError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, fail])
        with pytest.raises(HistoryError, match="out of luck"):
            SqliteHistory(filled).prepare()
    with SqliteHistory(filled) as history:
        assert history.instances() == ["db-01"]


def test_another_programs_database_is_refused(tmp_path: Path, noon: datetime) -> None:
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE bookmarks (id INTEGER)")
    for attempt in (SqliteHistory(path).instances, lambda: SqliteHistory(path).store_snapshot("a", noon, load(noon))):
        with pytest.raises(HistoryError, match="another program"):
            attempt()


def test_a_path_below_a_file_is_told(tmp_path: Path, noon: datetime) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match=r"(?i)not a directory|file exists"):
        SqliteHistory(tmp_path / "file" / "h.sqlite").store_snapshot("a", noon, load(noon))


def test_opening_a_second_connection_keeps_the_locks_of_the_first(filled: Path, noon: datetime) -> None:
    """Closing any other descriptor of the file would drop them, and another process would take the log for its own."""
    program = "import sys\nfrom runbooks_lib.history import SqliteHistory\nSqliteHistory(sys.argv[1]).{}()\n"
    with SqliteHistory(filled) as reader, SqliteHistory(filled) as writer:
        assert reader.instances() == ["db-01"]
        writer.store_snapshot("db-02", noon, load(noon))
        with SqliteHistory(filled) as third:
            assert third.instances() == ["db-01", "db-02"]
        for verb in ("prepare", "instances", "compact"):
            subprocess.run([sys.executable, "-c", program.format(verb), filled], check=True, timeout=60)
            assert filled.with_name(f"{filled.name}-wal").exists(), f"{verb} elsewhere took itself for the last one"
        writer.store_snapshot("db-03", noon, load(noon))
        assert reader.instances() == ["db-01", "db-02", "db-03"]
    with SqliteHistory(filled) as again:
        assert again.instances() == ["db-01", "db-02", "db-03"]
        assert again.check() == []


def test_writers_take_turns_and_one_that_waits_too_long_says_so(filled: Path, noon: datetime) -> None:
    with SqliteHistory(filled) as first, SqliteHistory(filled, lock_timeout_seconds=0.2) as second:
        first.prepare()
        second.prepare()
        with first.write_access("x") as writer, writer.connection.turn(), pytest.raises(HistoryLocked, match="locked"):
            second.store_snapshot("db-02", noon, load(noon))
        second.store_snapshot("db-02", noon, load(noon))
        assert second.instances() == ["db-01", "db-02"]


def test_processes_that_store_and_compact_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom datetime import *\nfrom runbooks_lib.history import SqliteHistory\n"
        "from runbooks_lib.facts.samples import Sample\nstart = datetime(2025, 3, 10, tzinfo=UTC)\n"
        "with SqliteHistory(sys.argv[1]) as history:\n"
        "    for step in range(72):\n"
        "        when = start + timedelta(hours=step)\n"
        "        samples = [Sample(f'node_x{n}', step + n, when) for n in range(200)]\n"
        "        history.store_snapshot(sys.argv[2], when, samples)\n"
        "        if step % 24 == 5:\n"
        "            history.compact(when)\n"
    )
    path = tmp_path / "h.sqlite"
    running = [subprocess.Popen([sys.executable, "-c", program, path, f"host-{n}"]) for n in range(3)]
    assert [process.wait(100) for process in running] == [0] * 3
    with SqliteHistory(path) as history:
        assert history.check() == []
        found = history.series("node_x199")
        assert [series.values.tolist() for series in found] == [[step + 199 for step in range(72)]] * 3


def test_a_history_that_was_moved_away_is_not_written_by_its_old_name(tmp_path: Path, noon: datetime) -> None:
    path = tmp_path / "h.sqlite"
    with SqliteHistory(path) as history:
        history.store_snapshot("db-01", noon, load(noon))
        for file in tmp_path.iterdir():
            file.rename(tmp_path / file.name.replace("h.sqlite", "old.sqlite"))
        history.store_snapshot("db-02", noon, load(noon))
        assert history.instances() == ["db-02"]
    assert SqliteHistory(tmp_path / "old.sqlite").instances() == ["db-01"]


def test_the_log_of_a_history_that_was_moved_away_is_not_played_into_the_new_one(
    tmp_path: Path, noon: datetime
) -> None:
    path = tmp_path / "history.sqlite"
    child = os.fork()
    if not child:
        history = SqliteHistory(path)
        for number in range(50):
            history.store_snapshot(f"old-{number}", noon, load(noon))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    path.rename(tmp_path / "aside.sqlite")
    assert (tmp_path / "history.sqlite-wal").stat().st_size > 0
    with SqliteHistory(path) as history:
        history.store_snapshot("new", noon, load(noon))
        assert [series.labels["instance"] for series in history.series("node_load1", end=noon)] == ["new"]
        history.check()
    (left,) = tmp_path.glob("history.sqlite-wal.left-*")
    left.rename(tmp_path / "aside.sqlite-wal")
    with SqliteHistory(tmp_path / "aside.sqlite") as aside:
        assert len(aside.series("node_load1", end=noon)) == 50, "and what was moved away is whole"


def test_two_processes_that_begin_a_history_share_it(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom datetime import *\nfrom runbooks_lib.history import SqliteHistory\n"
        "from runbooks_lib.facts.samples import Sample\nnow = datetime(2025, 3, 10, tzinfo=UTC)\n"
        "SqliteHistory(sys.argv[1]).store_snapshot(sys.argv[2], now, [Sample('node_load1', 1, now)])\n"
    )
    path = tmp_path / "h.sqlite"
    running = [subprocess.Popen([sys.executable, "-c", program, path, f"host-{n}"]) for n in range(6)]
    assert [process.wait(60) for process in running] == [0] * 6
    assert SqliteHistory(path).instances() == [f"host-{n}" for n in range(6)]


def test_a_forked_child_stores_through_a_connection_of_its_own(tmp_path: Path, noon: datetime) -> None:
    with SqliteHistory(tmp_path / "h.sqlite") as history:
        history.store_snapshot("parent", noon, load(noon))
        child = os.fork()
        if child == 0:
            try:
                history.store_snapshot("child", noon, load(noon))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        history.store_snapshot("parent", noon + timedelta(minutes=1), load(noon))
        assert history.instances() == ["child", "parent"]
        assert history.check() == []


def test_a_backup_is_a_history_and_never_replaces_a_file(filled: Path, tmp_path: Path, noon: datetime) -> None:
    with SqliteHistory(filled) as history:
        history.backup(tmp_path / "copy.sqlite")
        before = history.filesystem("db-01", "/srv/db", end=noon + timedelta(days=5))
        with pytest.raises(UsageError, match="already"):
            history.backup(tmp_path / "copy.sqlite")
    assert (tmp_path / "copy.sqlite").stat().st_mode & 0o777 == 0o600
    with SqliteHistory(tmp_path / "copy.sqlite") as copy:
        after = copy.filesystem("db-01", "/srv/db", end=noon + timedelta(days=5))
        assert copy.check() == []
    assert before is not None
    assert after is not None
    assert after.used_bytes_max.tolist() == before.used_bytes_max.tolist()


def test_a_name_with_every_odd_character_is_a_file_like_any_other(tmp_path: Path, noon: datetime) -> None:
    path = tmp_path / "h?mode=memory&x=%20 #ü\udcff\n.sqlite"
    with SqliteHistory(path) as history:
        history.store_snapshot("db-01", noon, load(noon))
        assert history.instances() == ["db-01"]
    assert path.exists()


def as_nobody(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a program with this user's rights taken away (only root can do that to itself)."""
    drop = "import os\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n" if os.geteuid() == 0 else ""
    return subprocess.run(
        [sys.executable, "-c", "from runbooks_lib.history import *\n" + drop + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )


@pytest.fixture
def read_only(filled: Path) -> Iterator[Path]:
    """The filled history in a directory in which nobody may write."""
    place = filled.parent / "archive"
    place.mkdir()
    path = Path(shutil.copy(filled, place / "h.sqlite"))
    for parent in (*filled.parents,):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    path.chmod(0o444)
    place.chmod(0o555)
    yield path
    place.chmod(0o755)


def test_a_read_only_directory_is_read_and_not_written(read_only: Path) -> None:
    done = as_nobody("import sys\nprint(SqliteHistory(sys.argv[1]).filesystems())", read_only)
    assert "('db-01', '/srv/db')" in done.stdout, done.stderr
    done = as_nobody(
        "import sys\ntry:\n    SqliteHistory(sys.argv[1]).compact()\nexcept HistoryError as error:\n    print(error)",
        read_only,
    )
    assert "cannot be opened for writing" in done.stdout, done.stderr
    assert str(read_only) in done.stdout
    done = as_nobody(
        "import sys\ntry:\n    SqliteHistory(sys.argv[1]).prepare()\nexcept HistoryError as error:\n    print(error)",
        read_only.with_name("new.sqlite"),
    )
    assert "ermission denied" in done.stdout, done.stderr
    assert [file.name for file in read_only.parent.iterdir()] == ["h.sqlite"]


def test_a_check_reads_what_is_packed_too(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with SqliteHistory(path) as history:
        old = datetime.now(UTC) - timedelta(days=40)
        made = [Sample("node_load1", float(number), old + timedelta(hours=number)) for number in range(200)]
        history.import_samples(made, instance="db-1", origin="imported from a test")
        assert history.check() == []
    with sqlite3.connect(path) as raw:
        key, data = raw.execute("SELECT key, data FROM block LIMIT 1").fetchone()
        middle = len(data) // 2
        damaged = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
        raw.execute("UPDATE block SET data = ? WHERE key = ?", (damaged, key))
    with SqliteHistory(path) as history:
        assert [text for text in history.check() if "cannot be read" in text]
