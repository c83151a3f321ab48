"""The SQLite file itself: made whole, opened with its safeguards, its errors told in words."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from runbooks_lib.history import schema
from runbooks_lib.history.model import HistoryDamaged, HistoryError, HistoryLocked, HistoryMissing

_PAGE_BYTES = 8192
_LEAST_BYTES = 65_536  # with less room than this a write that failed has failed for want of it
_PUBLISHING_SECONDS = 10.0
_MINIMUM_SQLITE = (3, 24, 0)  # ON CONFLICT DO UPDATE

MOVE_ASIDE = (
    "keep the file and its -wal as they are and work on copies: `sqlite3 COPY .recover | sqlite3 NEW` saves what can "
    "be read. Put NEW or a backup in its place and take its -wal and -shm away, or move all three aside and the next "
    "collection begins a new history"
)


class WriterConnection(sqlite3.Connection):
    """A connection whose transactions take turns with those of other writers, what SQLite does after a commit included.

    SQLite before 3.51.3 may corrupt a file when one connection commits while another copies the write-ahead log into it
    (sqlite.org/wal.html, "The WAL-reset bug"). A lock on a file beside the history keeps the two apart. Readers need no
    turn: they cannot copy.
    """

    _turns: int | None = None
    _queue: int | None = None
    _patience_seconds = 0.0

    def take_turns(self, lock: Path, patience_seconds: float) -> None:
        """Use this lock file from now on; its directory is where writers queue."""
        self._turns = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._queue = os.open(lock.parent, os.O_RDONLY | os.O_CLOEXEC)
        self._patience_seconds = patience_seconds

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While it lasts no other writer commits. Raises sqlite3.OperationalError, as SQLite does, when it never
        comes."""
        if self._turns is None or self._queue is None:
            yield
            return
        deadline = time.monotonic() + self._patience_seconds
        # Whoever waits holds the queue, so that a writer that goes on and on cannot be back before it.
        _lock(self._queue, deadline)
        try:
            _lock(self._turns, deadline)
        finally:
            fcntl.flock(self._queue, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._turns, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the connection and let go of the lock."""
        super().close()
        for descriptor in (self._turns, self._queue):
            if descriptor is not None:
                os.close(descriptor)
        self._turns = self._queue = None


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error from None
            time.sleep(0.002)


def open_writer(path: Path, *, timeout_seconds: float) -> WriterConnection:
    """A connection that may write; the file and its directory are made when missing.

    What was committed through it survives the end of the process at any moment, and a power failure as far as the disk
    keeps what it said it had written (WAL, synchronous=FULL, F_FULLFSYNC on macOS). Raises HistoryError and its kin.
    """
    with told(path, "the history cannot be opened for writing"):
        if not path.exists():
            _create(path)
        _check_length(path)
        connection = _connect(path, "rw", timeout_seconds)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA foreign_keys = OFF")
            _check_ours(connection, path)
            connection.take_turns(path.with_name(f"{path.name}-lock"), timeout_seconds)
            with connection.turn():
                schema.migrate(connection, str(path))
        except BaseException:
            connection.close()
            raise
        return connection


def open_reader(path: Path, *, timeout_seconds: float) -> sqlite3.Connection:
    """A connection that cannot write. Raises HistoryMissing when there is no file, HistoryError and its kin."""
    with told(path, "the history cannot be read"):
        if not path.exists():
            raise HistoryMissing(
                "there is no history yet",
                where=str(path),
                next="`runbook collect` begins one; `runbook history import` brings a past into it",
            )
        _check_length(path)
        connection = _connect(path, "ro", timeout_seconds)
        try:
            _check_ours(connection, path)
            found = schema.version(connection)
        except sqlite3.OperationalError as error:
            connection.close()
            # Without the right to write beside the file there can be no -shm: then, and only when no -wal holds more
            # than the file does, it may be read as something that does not change.
            if _code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or _has_wal(path):
                raise
            connection = _connect(path, "ro&immutable=1", timeout_seconds)
            _check_ours(connection, path)
            found = schema.version(connection)
        except BaseException:
            connection.close()
            raise
        schema.refuse_newer(found, str(path))
        if found < len(schema.MIGRATIONS):
            connection.close()
            open_writer(path, timeout_seconds=timeout_seconds).close()
            return open_reader(path, timeout_seconds=timeout_seconds)
        return connection


@contextmanager
def transaction(connection: sqlite3.Connection, *, writing: bool) -> Iterator[None]:
    """All of the block's statements or none of them; what it reads is of one moment."""
    turn = connection.turn() if writing and isinstance(connection, WriterConnection) else nullcontext()
    with turn, _transaction(connection, "BEGIN IMMEDIATE" if writing else "BEGIN"):
        yield


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has already rolled back after some errors (a full disk among them).
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


@contextmanager
def told(path: Path, what: str, *, kept: str = "what was stored before is unharmed") -> Iterator[None]:
    """Turns the errors of SQLite and of the file system into sentences that name the file."""
    where = str(path)
    try:
        yield
    except sqlite3.Error as error:
        raise _in_words(error, where, what, kept) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise HistoryError(
            f"{what}: {error.strerror or error}",
            where=where,
            true_now=kept,
            next="make room on that file system" if full else "check the directory and its permissions",
        ) from error


def integrity(connection: sqlite3.Connection) -> list[str]:
    """SQLite's full check; an empty list when nothing is wrong."""
    found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
    return [] if found == ["ok"] else found


# -- parts -------------------------------------------------------------------------------------------------------------


def _create(path: Path) -> None:
    """A new file appears under its name only when it is whole, and never in place of another."""
    if sqlite3.sqlite_version_info < _MINIMUM_SQLITE:
        raise HistoryError(
            f"SQLite {sqlite3.sqlite_version} is too old",
            where=str(path),
            next=f"use a Python with SQLite {'.'.join(map(str, _MINIMUM_SQLITE))} or later",
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        connection = _connect(draft, "rw", 5.0)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise HistoryError(
                    f"this file system cannot share a SQLite file between processes (journal mode {mode})",
                    where=str(path),
                    next="put the history on a local disk: [history] path",
                )
            schema.migrate(connection, str(path))
            # Closing would do this too, and say nothing when the disk is full: the draft's log is removed below.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()
        descriptor = os.open(path.with_name(f"{path.name}-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Another process that makes the same file, and has begun to write its log, must not lose it.
            _lock(descriptor, time.monotonic() + _PUBLISHING_SECONDS)
            if not path.exists():
                _set_aside(path)
                _publish(draft, path)
        finally:
            os.close(descriptor)
    finally:
        for leftover in (draft, Path(f"{draft}-wal"), Path(f"{draft}-shm"), Path(f"{draft}-journal")):
            leftover.unlink(missing_ok=True)


def _set_aside(path: Path) -> None:
    """A write-ahead log that another file of this name has left would be played into the new one."""
    for suffix in ("-wal", "-shm"):
        left = Path(f"{path}{suffix}")
        if left.exists():
            left.rename(f"{left}.left-{secrets.token_hex(4)}")


def _publish(draft: Path, path: Path) -> None:
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return  # another process was quicker; its file holds
    except OSError:
        # A file system without hard links. Between the two lines another process could begin a history of its own.
        if not path.exists():
            draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _connect(path: Path, mode: str, timeout_seconds: float) -> WriterConnection:
    quoted = urllib.parse.quote(os.fsencode(path.absolute()))
    connection = sqlite3.connect(
        f"file:{quoted}?mode={mode}",
        uri=True,
        timeout=timeout_seconds,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
        factory=WriterConnection,
    )
    # A block of a hostile file must not run code that its schema holds.
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _check_length(path: Path) -> None:
    """SQLite takes an empty file for a new database; a history is never empty, so such a file has lost something.

    Asked without opening it: closing any descriptor of the file would drop the locks of every connection that this
    process has to it (sqlite.org/howtocorrupt.html, 2.2).
    """
    if path.stat().st_size == 0:
        raise HistoryDamaged(
            "the file is empty: a history never is",
            where=str(path),
            true_now="the file was not touched; there is nothing in it to save",
            next="put a backup in its place, or remove it and the next collection begins a new history",
        )


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    found = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if found != schema.APPLICATION_ID:
        raise HistoryError(
            "a SQLite file of another program, not a history",
            where=str(path),
            true_now="the file was not touched",
            next="name another file under [history] path",
        )


def _has_wal(path: Path) -> bool:
    try:
        return Path(f"{path}-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _is_full(path: Path) -> bool:
    """Whether there is no room for even the log's index, which SQLite calls an I/O error."""
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _LEAST_BYTES


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _in_words(error: sqlite3.Error, where: str, what: str, kept: str) -> HistoryError:
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return HistoryLocked(
            f"{what}: another process has it locked and did not let go in time",
            where=where,
            true_now=kept,
            next="try again; `fuser` with the file's name says who has it open",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return HistoryDamaged(
            f"the history is damaged ({error})", where=where, true_now="the file was not altered", next=MOVE_ASIDE
        )
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(Path(where))):
        return HistoryError(
            f"{what}: the disk is full", where=where, true_now=kept, next="make room on that file system"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return HistoryError(
            f"{what}: {error}",
            where=where,
            true_now=kept,
            next="check that the file and its directory can be written by this user",
        )
    return HistoryError(f"{what}: {error}", where=where, true_now=kept)
