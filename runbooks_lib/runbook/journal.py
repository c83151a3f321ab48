"""The journal: what is about to happen, and what came of it, on the disk before anything else happens.

One JSON object a line, only ever appended, each fsynced before `append` returns. A line holds the hash of the line
before it, so that a changed, missing or moved line is seen. A last line that was cut short - the operator's machine
died while writing it - says that what it would have announced had not begun: it is set aside, and that is recorded.

Everything is masked before it is hashed and written. The file is locked (flock) by the one process that carries on with
the run; reading needs no lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib.errors import RunbookError
from runbooks_lib.runbook.digest import canonical
from runbooks_lib.writer import masked

NAME = "journal.jsonl"
FIRST = "0" * 64
_MOST_BYTES = 256 * 1024 * 1024


class JournalDamaged(RunbookError):
    """The chain is broken: the file was changed by something else than this module, or its disk lost parts of it."""


class JournalInUse(RunbookError):
    """Another process carries on with this run now."""


@dataclass(frozen=True)
class Entry:
    """One line. `time` is UTC by the operator's clock."""

    number: int
    time: datetime
    kind: str
    step: str
    data: dict[str, Any]
    hash: str


@dataclass(frozen=True)
class Found:
    """What a journal's file holds: its entries, how many of its bytes they are, and the bytes after them."""

    entries: tuple[Entry, ...]
    sound_bytes: int
    torn: bytes


class Journal:
    """One run's journal, held by this process. Make it with `create` or `resume`; close it when done."""

    def __init__(self, path: Path, descriptor: int, entries: Sequence[Entry], end: int = 0) -> None:
        """`end`: how many bytes of the file the entries are."""
        self.path = path
        self.entries = list(entries)
        self._descriptor = descriptor
        self._ends = {len(self.entries): end}
        self._listeners: list[Callable[[Entry], None]] = []

    @classmethod
    def create(cls, directory: Path) -> Journal:
        """A new journal in a new directory (0700). RunbookError when it is there already or cannot be written."""
        path = directory / NAME
        try:
            directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            directory.mkdir(mode=0o700)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sync(directory)
            _sync(directory.parent)
        except OSError as error:
            raise _cannot_write(path, error) from error
        return cls(path, descriptor, ())

    @classmethod
    def resume(cls, directory: Path) -> Journal:
        """A journal that is there, locked for this process; a torn last line is set aside and recorded.

        Raises JournalInUse, JournalDamaged, RunbookError.
        """
        path = directory / NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise _cannot_write(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise JournalInUse(
                "another process on this machine carries on with this run",
                where=str(path),
                true_now="this one did nothing",
                next="look for the other terminal, kernel or timer; `runbook show` tells how far it is",
            ) from error
        try:
            found = read(path)  # after the lock: nobody writes any more
            journal = cls(path, descriptor, found.entries, found.sound_bytes)
            if found.torn:
                os.ftruncate(descriptor, found.sound_bytes)
                os.fsync(descriptor)
                if found.entries:
                    journal.append("torn", bytes=len(found.torn), sha256=hashlib.sha256(found.torn).hexdigest())
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    def append(self, kind: str, step: str = "", **data: Any) -> Entry:
        """Write one entry; it is on the disk when this returns. RunbookError when it is not: then nothing that it
        announces may begin."""
        previous = self.entries[-1].hash if self.entries else FIRST
        body = {
            "number": len(self.entries) + 1,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "kind": kind,
            "step": step,
            "data": masked(data),
            "previous": previous,
        }
        entry = _entry(body, _hash(body))
        line = canonical({**body, "hash": entry.hash}).encode("ascii") + b"\n"
        end = self._ends[len(self.entries)]
        try:
            # Ctrl-C may have left a line, whole or half, whose `append` raised: nobody acted on it.
            if os.fstat(self._descriptor).st_size > end:
                os.ftruncate(self._descriptor, end)
            self._write(line)
        except OSError as error:
            # A line that is half there would be taken for torn by the next reader: take it away as far as that goes.
            with suppress(OSError):
                os.ftruncate(self._descriptor, end)
            raise _cannot_write(self.path, error) from error
        self._ends[entry.number] = end + len(line)
        self.entries.append(entry)  # last, and at once: until here an interruption leaves the journal as it was
        for listener in self._listeners:
            listener(entry)
        return entry

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)

    def tell(self, listener: Callable[[Entry], None]) -> None:
        """Call `listener` with every entry that is written from now on."""
        self._listeners.append(listener)

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def nobody_holds(directory: Path) -> Iterator[bool]:
    """Whether no process carries on with this run; when so, none begins to as long as the block runs."""
    try:
        descriptor = os.open(directory / NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free
    finally:
        os.close(descriptor)


def read(path: Path) -> Found:
    """The entries of a journal's file, checked. Raises JournalDamaged for anything but a torn last line."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise JournalDamaged("it is larger than any journal", where=str(path))
        data = path.read_bytes()
    except OSError as error:
        raise RunbookError(f"the journal cannot be read: {error.strerror}", where=str(path)) from error
    entries: list[Entry] = []
    done = 0
    previous = FIRST
    while (end := data.find(b"\n", done)) >= 0:
        line = data[done:end]
        try:
            body = json.loads(line)
            claimed = body.pop("hash")
            sound = claimed == _hash(body) and body["previous"] == previous and body["number"] == len(entries) + 1
            entry = _entry(body, claimed)
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            # The last line may end in a line break of a write whose middle never reached the disk.
            if end == len(data) - 1 and b"\0" in line:
                break
            raise JournalDamaged(
                f"line {len(entries) + 1} is not what was written after line {len(entries)}",
                where=str(path),
                true_now="nothing was run; what the journal says from there on is not believed",
                next="keep the file, look at the host, and undo or finish by hand with `runbook show`",
            )
        entries.append(entry)
        previous = entry.hash
        done = end + 1
    return Found(tuple(entries), done, data[done:])


def _entry(body: dict[str, Any], claimed: str) -> Entry:
    time = datetime.fromisoformat(body["time"])
    return Entry(body["number"], time, body["kind"], body["step"], json.loads(canonical(body["data"])), claimed)


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(body).encode("ascii")).hexdigest()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> RunbookError:
    return RunbookError(
        f"the journal cannot be written: {error.strerror or error}",
        where=str(path),
        true_now="nothing more was run on the host: nothing is done that cannot be recorded first",
        next="make the directory writable or make room there, then resume the run",
    )
