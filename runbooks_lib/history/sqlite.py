"""The embedded history: one SQLite file that a timer writes while a notebook reads."""

from __future__ import annotations

import os
import sqlite3
import threading
import time as clock
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import compaction, database, names, partitions, writing
from runbooks_lib.history.buckets import ascending
from runbooks_lib.history.database import open_reader, open_writer, told, transaction
from runbooks_lib.history.model import (
    COLLECTED,
    DAY_SECONDS,
    USED_BYTES,
    USED_FILES,
    Collection,
    FilesystemHistory,
    Floats,
    HistoryDamaged,
    Ints,
    Series,
    from_seconds,
    merge_origins,
    to_seconds,
    to_times,
)
from runbooks_lib.history.packing import Unreadable, check_blob
from runbooks_lib.history.reading import Known, Reader
from runbooks_lib.history.tiers import Keep

LOCK_TIMEOUT_SECONDS = 10.0
# A clock may be this much ahead of ours before its samples count as coming from the future: they are kept, and not read
# before their time unless asked for.
_FUTURE_SECONDS = 3600
_FUTURE_IMPORT_SECONDS = DAY_SECONDS


@dataclass
class _Waiting:
    """A snapshot on its way into the file."""

    snapshot: writing.Snapshot
    done: bool = False
    error: BaseException | None = None


class SqliteHistory:
    """The history in one file. Threads may share it; a file is made at the first write, never by reading.

    What a storing method has returned from is kept: through `kill -9` at any moment, and through a power failure as far
    as the disk keeps what it acknowledged. Samples are kept for `raw_days`, hours for `hourly_days`, days for ever.
    Every method raises HistoryError (Missing, Locked, Damaged, TooNew), whose text names the file and says what is true
    now.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        raw_days: int = 14,
        hourly_days: int = 365,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    ) -> None:
        self.path = Path(path)
        self._keep = Keep(raw_days, hourly_days)
        self._timeout = lock_timeout_seconds
        self._lock = threading.RLock()
        self._writer: writing.Writer | None = None
        self._reader: Reader | None = None
        self._file: tuple[int, int, int] | None = None
        self._inherited: list[object] = []
        self._queue: deque[_Waiting] = deque()

    def prepare(self) -> None:
        """Make or open the file for writing now, so that a mistaken path is told before hosts are asked."""
        with self.write_access("the history cannot be written"):
            pass

    # -- writing -------------------------------------------------------------------------------------------------------

    def store_snapshot(self, instance: str, time: datetime, samples: Iterable[Sample]) -> None:
        """Keep what a host said at one time, whole or not at all, and that its collection went well.

        All samples are stored under `time` (to the second). Storing the same second again joins the two; where both
        have a value, the later stored one holds. A time before what is stored already (a clock that went back) is as
        good as any other. One in the future is kept and read once it has come.
        """
        waiting = _Waiting(snapshot_of(instance, time, samples))
        self._queue.append(waiting)
        # While one thread waits for the disk the others queue up; the next one stores them all with one wait.
        with self._lock:
            if not waiting.done:
                batch = [self._queue.popleft() for _ in range(len(self._queue))]
                self._store(batch)
        if waiting.error is not None:
            raise waiting.error

    def store_snapshots(self, snapshots: Sequence[writing.Snapshot]) -> None:
        """The same for several that `snapshot_of` has made: all of them, with one wait for the disk, or none."""
        names_of = sorted({snapshot.instance for snapshot in snapshots})
        listed = ", ".join(names_of[:5]) + (f" and {len(names_of) - 5} more" if len(names_of) > 5 else "")
        with self.write_access(f"the snapshot of {listed} was not stored") as writer:
            writer.store_snapshots(snapshots)

    def record_failure(self, instance: str, time: datetime, state: str, message: str) -> None:
        """Keep that a host was not read: `state` is the HostError's kind, `message` what it said."""
        second = to_seconds(time)
        with self.write_access(f"that {instance} was not read ({state}) was not stored") as writer:
            writer.record_failure(instance, second, state, message)

    def import_samples(
        self, samples: Iterable[Sample], *, origin: str, instance: str | None = None, now: datetime | None = None
    ) -> writing.Imported:
        """Bring in samples from elsewhere, all of them or none; again is harmless. `origin` says from where, for ever:
        "example", "imported from x.csv". Without `instance` each sample's label `instance` names its host.

        Raises UsageError for samples without a host, and for times later than a day from now.
        """
        rows = (
            (
                instance or _instance_of(sample),
                names.key(sample.name, sample.labels),
                to_seconds(sample.time),
                sample.value,
            )
            for sample in samples
        )
        return self.import_arrays(writing.arrays_of(rows), origin=origin, now=now)

    def import_series(self, series: Iterable[Series], *, origin: str, now: datetime | None = None) -> writing.Imported:
        """The same for whole series, whose labels name their `instance`."""
        per_instance: dict[str, dict[str, tuple[Ints, Floats]]] = {}
        for one in series:
            arrays = per_instance.setdefault(one.labels.get(names.INSTANCE, ""), {})
            seconds = np.asarray(one.times).astype("datetime64[s]").astype(np.int64)
            text = names.key(one.name, one.labels)
            times, values = arrays.get(text, (seconds[:0], np.empty(0)))
            arrays[text] = ascending(
                np.concatenate([times, seconds]), np.concatenate([values, np.asarray(one.values, dtype=np.float64)])
            )
        return self.import_arrays(per_instance, origin=origin, now=now)

    def import_arrays(
        self, per_instance: Mapping[str, writing.Arrays], *, origin: str, now: datetime | None = None
    ) -> writing.Imported:
        """The same for arrays by host and key (`names.key`): times in seconds, and values."""
        names.check_name(origin, "an origin")
        if origin == COLLECTED:
            raise UsageError(
                "what is imported was not collected", next='name its origin, such as "imported from x.csv"'
            )
        at = to_seconds(now) if now is not None else int(clock.time())
        spans = [times for arrays in per_instance.values() for times, _ in arrays.values() if len(times)]
        if any(int(times.min()) < 0 for times in spans):
            raise UsageError(f"{origin}: a time before 1970, or none", true_now="nothing was imported")
        latest = max((int(times.max()) for times in spans), default=0)
        if latest > at + _FUTURE_IMPORT_SECONDS:
            raise UsageError(
                f"{origin}: a sample from the future, {latest} seconds after 1970 (now: {at})",
                true_now="nothing was imported",
                next="are its times seconds and not milliseconds, and is this machine's clock right?",
            )
        with self.write_access(f"{origin}: nothing was imported") as writer:
            return writer.import_arrays(per_instance, origin, now=at)

    def compact(self, now: datetime | None = None) -> compaction.Compacted:
        """Put finished days into blocks and drop what is too old. Cheap when there is nothing to do; may be stopped or
        killed anywhere, and called as often as one likes."""
        at = to_seconds(now) if now is not None else int(clock.time())
        with self.write_access("finished days were not compacted") as writer:
            return compaction.compact(writer, keep=self._keep, now=at)

    # -- reading -------------------------------------------------------------------------------------------------------

    def series(
        self,
        name: str,
        labels: Mapping[str, str] = {},
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[Series]:
        """Every series of that metric whose labels include the given ones, start <= time <= end, where it has values.

        Samples as they came where they are still kept; before that the last value of each hour, then of each day, at
        its own time.
        """
        begin, until = 0 if start is None else to_seconds(start), _until(end)
        rest = {label: value for label, value in labels.items() if label != names.INSTANCE}
        found: list[Series] = []
        with self.read_access() as reader:
            for instance, number in reader.instances().items():
                if labels.get(names.INSTANCE, instance) != instance:
                    continue
                for known in reader.catalog(number):
                    if known.name != name or not rest.items() <= known.labels.items():
                        continue
                    times, values = reader.finest(number, known.id, begin, until)
                    if not len(times):
                        continue
                    origins = merge_origins(reader.origins_with_head(number, known.id, begin, until))
                    found.append(Series(name, {"instance": instance, **known.labels}, to_times(times), values, origins))
        return found

    def filesystems(self, instance: str | None = None) -> list[tuple[str, str]]:
        """Sorted (instance, mount point) of every partition that was ever seen."""
        found: set[tuple[str, str]] = set()
        with self.read_access() as reader:
            for name, number in reader.instances().items():
                if instance in (None, name):
                    found.update(
                        (name, known.labels["mountpoint"])
                        for known in reader.catalog(number)
                        if known.name in (USED_BYTES, USED_FILES) and "mountpoint" in known.labels
                    )
        return sorted(found)

    def filesystem(
        self, instance: str, mountpoint: str, *, end: datetime | None = None, days: int = 400
    ) -> FilesystemHistory | None:
        """One partition's past over the last `days` days before `end`, or None when there is none."""
        until = _until(end)
        begin = max(0, until - days * DAY_SECONDS)
        with self.read_access() as reader:
            number = reader.instances().get(instance)
            if number is None:
                return None
            devices: dict[tuple[str, str], dict[str, Known]] = {}
            for known in reader.catalog(number):
                if known.labels.get("mountpoint") == mountpoint:
                    device = known.labels.get("device", ""), known.labels.get("fstype", "")
                    devices.setdefault(device, {})[known.name] = known
            pasts = [reader.device_past(number, *device, by_name, begin, until) for device, by_name in devices.items()]
            origins = merge_origins(
                [
                    found
                    for by_name in devices.values()
                    for name in (USED_BYTES, USED_FILES)
                    if name in by_name
                    for found in reader.origins_with_head(number, by_name[name].id, begin, until)
                ]
            )
        return partitions.assemble(instance, mountpoint, pasts, origins)

    def instances(self) -> list[str]:
        """Sorted names of every host that was stored, imported or not reached."""
        with self.read_access() as reader:
            return list(reader.instances())

    def metrics(self) -> list[str]:
        """Sorted names of every metric that is kept."""
        with self.read_access() as reader:
            return [row[0] for row in reader.connection.execute("SELECT DISTINCT name FROM series ORDER BY name")]

    def last_collection(self, instance: str) -> Collection | None:
        """The attempt that was stored last, whatever the clock said then; None for a host that was never tried."""
        with self.read_access() as reader:
            row = reader.connection.execute(
                "SELECT last_time, last_state, last_message FROM instance WHERE name = ?", (instance,)
            ).fetchone()
        return None if row is None or row[0] is None else Collection(from_seconds(row[0]), row[1], row[2])

    def not_read_last(self) -> frozenset[str]:
        """The hosts whose last attempt brought nothing."""
        with self.read_access() as reader:
            return frozenset(
                name for (name,) in reader.connection.execute("SELECT name FROM instance WHERE last_state <> 'ok'")
            )

    # -- the file ------------------------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """SQLite's integrity check, and every packed row unpacked; an empty list when nothing is wrong."""
        with self.read_access() as reader:
            found = database.integrity(reader.connection)
            if found:
                return found
            for key, data in reader.connection.execute("SELECT key, data FROM block"):
                try:
                    check_blob(data)
                except Unreadable as error:
                    found.append(f"block {key} cannot be read: {error}")
            for key, data in reader.connection.execute("SELECT key, data FROM snapshot"):
                try:
                    zlib.decompress(data)
                except zlib.error as error:
                    found.append(f"snapshot {key} cannot be read: {error}")
            return found

    def backup(self, target: str | os.PathLike[str]) -> None:
        """A consistent copy of the history, even while it is written. Raises UsageError when `target` exists."""
        path = Path(target)
        with self.read_access() as reader, told(path, "the copy was not made"):
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError as error:
                raise UsageError("there is a file of that name already", where=str(path)) from error
            try:
                reader.connection.execute(
                    "COMMIT"
                )  # a copy inside a transaction of its own source would wait for itself
                copy = sqlite3.connect(path)
                try:
                    reader.connection.backup(copy)
                finally:
                    copy.close()
                reader.connection.execute("BEGIN")
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def close(self) -> None:
        """Let go of the file. Any later call opens it again."""
        with self._lock:
            for opened in (self._reader, self._writer):
                if opened is not None and self._is_ours():
                    with suppress(sqlite3.Error):
                        opened.connection.close()
            self._reader = self._writer = self._file = None

    def __enter__(self) -> SqliteHistory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _store(self, batch: list[_Waiting]) -> None:
        error: BaseException | None = RunbookError("the storing thread was stopped; the snapshot was not stored")
        try:
            self.store_snapshots([waiting.snapshot for waiting in batch])
            error = None
        except RunbookError as failed:
            error = failed
        finally:
            for waiting in batch:
                waiting.done, waiting.error = True, error

    @contextmanager
    def write_access(self, what: str) -> Iterator[writing.Writer]:
        """The open file's writer, for the other modules of this room; `what` was not done when it fails."""
        with self._lock, self._told(what):
            self._still_the_same_file()
            if self._writer is None:
                self._writer = writing.Writer(open_writer(self.path, timeout_seconds=self._timeout), self._keep)
                self._remember_file()
            yield self._writer

    @contextmanager
    def read_access(self) -> Iterator[Reader]:
        """The open file's reader inside one read transaction, for the other modules of this room."""
        with self._lock, self._told("the history could not be read"):
            self._still_the_same_file()
            if self._reader is None:
                self._reader = Reader(open_reader(self.path, timeout_seconds=self._timeout))
                self._remember_file()
            # One transaction around it all: compaction moves samples between tables, and none may be seen twice or
            # missed.
            with transaction(self._reader.connection, writing=False):
                self._reader.begin()
                yield self._reader

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            with told(self.path, what):
                yield
        except Unreadable as error:
            raise HistoryDamaged(
                f"the history is damaged ({error})",
                where=str(self.path),
                true_now="the file was not altered",
                next=database.MOVE_ASIDE,
            ) from error

    def _still_the_same_file(self) -> None:
        """A file that was moved away or put in place of ours must not be written by its old name; nor may a process
        that was forked use its parent's connections (sqlite.org/howtocorrupt.html, 2.6)."""
        if self._file is None:
            return
        if not self._is_ours():
            self._inherited += [self._reader, self._writer]  # closing them here would drop the parent's locks
            self._reader = self._writer = self._file = None
        elif self._identity() != self._file:
            self.close()

    def _is_ours(self) -> bool:
        return self._file is not None and self._file[2] == os.getpid()

    def _remember_file(self) -> None:
        self._file = self._identity()

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino, os.getpid()


def snapshot_of(instance: str, time: datetime, samples: Iterable[Sample]) -> writing.Snapshot:
    """What a host said at one time, as `store_snapshots` takes it. Raises UsageError for a name that no host has."""
    names.check_name(instance, "a host's name")
    return writing.Snapshot(instance, to_seconds(time), names.values_by_key(samples))


def _until(end: datetime | None) -> int:
    return int(clock.time()) + _FUTURE_SECONDS if end is None else to_seconds(end)


def _instance_of(sample: Sample) -> str:
    instance = sample.labels.get(names.INSTANCE)
    if not instance:
        raise UsageError(
            f"a sample without a host: {sample.name}{dict(sample.labels)}",
            true_now="nothing was imported",
            next="name the host, or give each sample the label `instance`",
        )
    return instance
