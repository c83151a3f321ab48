"""Reading the hosts of the inventory once and keeping what they said; and trying them without keeping anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from runbooks_lib.config import Config, HostEntry
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.facts import lvm
from runbooks_lib.facts.collect import quick_script, read_slow, read_snapshot
from runbooks_lib.facts.fact import State
from runbooks_lib.facts.metrics import keeps_filesystem
from runbooks_lib.facts.samples import Sample
from runbooks_lib.facts.slow import SLOW_FACTS, SlowSnapshot
from runbooks_lib.facts.snapshot import Snapshot
from runbooks_lib.history.import_sysstat import SysstatImport, import_sysstat
from runbooks_lib.history.keeper import Keeper
from runbooks_lib.history.sqlite import SqliteHistory, snapshot_of
from runbooks_lib.history.writing import Snapshot as StoredSnapshot
from runbooks_lib.hosts.host import Host, HostError, Script
from runbooks_lib.hosts.opening import open_host
from runbooks_lib.hosts.pool import Outcome, run_on_all
from runbooks_lib.hosts.shares import Shares
from runbooks_lib.hosts.ssh_settings import resolve

OnProgress = Callable[[str, str], None]  # host, state
T = TypeVar("T")

ARCHIVES_DEADLINE_SECONDS = 900.0  # a month of archives is read on the host, file by file


@dataclass(frozen=True)
class Row:
    """One host of a round. `state` is "ok" or the HostError's kind; `message` says what went wrong and what to do.

    `seen` is set when the host was read. `doubts` are things that are not right all the same, `notes` what the way to
    it says and is not followed.
    """

    host: str
    state: str
    seconds: float
    seen: Seen | None = None
    message: str = ""
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True when the host was read and nothing about it is doubtful."""
        return self.state == "ok" and not self.doubts

    @property
    def partitions(self) -> int:
        """File systems whose usage the history keeps."""
        return 0 if self.seen is None else self.seen.partitions


@dataclass(frozen=True, slots=True)
class Seen:
    """What a row shows of a snapshot. The snapshot itself is let go: 2,000 of them are 100 MB.

    `fullest` is the partition with the highest `fullest_ratio` (df's Use%, 0..1), empty when none has a size.
    """

    system: str
    partitions: int
    fullest: str
    fullest_ratio: float


class _Read:
    """What was read of one host: what its row shows and what is doubtful, and the snapshot until it is stored."""

    def __init__(self, seen: Seen, doubt: str, snapshot: StoredSnapshot) -> None:
        self.seen, self.doubt = seen, doubt
        self._snapshot: StoredSnapshot | None = snapshot

    def take(self) -> StoredSnapshot:
        """The snapshot, which is let go: the rows of a round stay until its end."""
        snapshot, self._snapshot = self._snapshot, None
        assert snapshot is not None  # noqa: S101 - a row comes once
        return snapshot


def script() -> Script:
    """The script that `collect` runs on every host."""
    return quick_script()


def collect(
    config: Config,
    entries: Sequence[HostEntry],
    *,
    sample_seconds: float = 1.0,
    on_progress: OnProgress | None = None,
    processes: int = 1,
) -> list[Row]:
    """Read every host once, at the same time, and store each snapshot or the failure. Example hosts are left out.

    With `processes` the hosts are dealt out over so many forks, which only a process without threads of other code may
    ask for (see `shares.Shares`); this process stores.

    A row per host, in the inventory's order. One host's failure is its row; a history that cannot be written is a
    RunbookError, raised when the round has ended, and the snapshots stored before it are kept. Raises UsageError when
    the history is a Prometheus server, which collects by itself.
    """
    if config.history.path is None:
        raise UsageError(
            f"the history is the server {config.history.url}, which collects by itself",
            where=str(config.file),
            true_now="nothing was collected",
            next="to keep a history of our own, name a path instead of a url under [history]",
        )
    with_lvm = frozenset(entry.name for entry in entries if entry.lvm)
    if any(entry.lvm and entry.sudo_password for entry in entries):
        processes = 1  # a password that a fork has read would not be masked here
    with SqliteHistory(config.history.path) as history:
        history.prepare()
        first = _first(entries, history.not_read_last(), config.collect.workers)
        history.close()  # nothing of it is open while processes are forked; it opens again at the first snapshot
        with Keeper(history) as keeper:

            def work(host: Host) -> _Read:
                snapshot = read_snapshot(
                    host, sample_seconds=sample_seconds, deadline_seconds=config.collect.deadline_seconds
                )
                volumes, doubt = _lvm(host, snapshot.time) if host.name in with_lvm else ([], "")
                samples = [*snapshot.samples(), *volumes]
                return _Read(_seen(snapshot), doubt, snapshot_of(host.name, snapshot.time, samples))

            def keep(outcome: Outcome[_Read]) -> None:
                if outcome.value is not None:
                    keeper.keep(outcome.value.take())

            outcomes = _round(config, first, work, on_progress, on_outcome=keep, processes=processes)
        place = {entry.name: number for number, entry in enumerate(entries)}
        rows = [_row(outcome) for outcome in sorted(outcomes, key=lambda outcome: place[outcome.host])]
        failed = [row for row in rows if row.state != "ok"]
        if keeper.error is None:
            for row in failed:
                history.record_failure(row.host, datetime.now(UTC), row.state, row.message)
            history.compact()
    if keeper.error is not None:
        raise keeper.error
    return rows


def _first(entries: Sequence[HostEntry], not_read: Collection[str], workers: int) -> list[HostEntry]:
    """Those that brought nothing last time first: a host that hangs then waits while the others are read, and not
    after them. They get a quarter of the workers, or a failed rack would hold up everyone."""
    early = frozenset([entry.name for entry in entries if entry.name in not_read][: workers // 4])
    return sorted(entries, key=lambda entry: entry.name not in early)


def check(config: Config, entries: Sequence[HostEntry], *, on_progress: OnProgress | None = None) -> list[Row]:
    """Read every host once, store nothing, and say what is not right: reach, key, login, facts, listed partitions."""
    named = {entry.name: entry for entry in entries}

    def work(host: Host) -> tuple[Seen, tuple[str, ...]]:
        snapshot = read_snapshot(host, sample_seconds=0, deadline_seconds=config.collect.deadline_seconds)
        return _seen(snapshot), tuple(_doubts(named[host.name], snapshot))

    rows = []
    for outcome in _round(config, entries, work, on_progress):
        seen, doubts = outcome.value or (None, ())
        notes = _notes(named[outcome.host], config)
        rows.append(Row(outcome.host, outcome.state, outcome.seconds, seen, _message(outcome), doubts, notes))
    return rows


def _notes(entry: HostEntry, config: Config) -> tuple[str, ...]:
    if entry.local:
        return entry.notes
    try:
        settings = resolve(entry.ssh_name, config_file=config.ssh_config, user=entry.user, port=entry.port)
    except HostError:
        return entry.notes  # its row says why
    return (*entry.notes, *settings.notes)


def read_one(
    config: Config, entry: HostEntry, *, slow: bool = False, walk: str | None = None
) -> tuple[Snapshot, SlowSnapshot | None]:
    """One host's facts now, with rates over a second; `slow` adds what needs root or time, `walk` the biggest
    directories of that mount point. Raises a HostError."""
    asked = [fact for fact in SLOW_FACTS if (slow if fact != "directories" else walk)]
    host = open_host(entry, config)
    try:
        return read_snapshot(host), (read_slow(host, asked, mountpoint=walk or "") if asked else None)
    finally:
        host.close()


@dataclass(frozen=True)
class Archives:
    """What came of one host's sar archives: an import, or the failure's state and message."""

    host: str
    imported: SysstatImport | None
    state: str
    message: str = ""


def import_archives(
    config: Config, entries: Sequence[HostEntry], history: SqliteHistory, *, on_progress: OnProgress | None = None
) -> list[Archives]:
    """Bring in the sar archives of every host, at the same time; a row per host. One host's failure is its row."""

    def work(host: Host) -> SysstatImport | RunbookError:
        try:
            return import_sysstat(history, host)
        except HostError:
            raise
        except RunbookError as error:  # no sysstat there, no archives, or nothing could be stored
            return error

    rows = []
    for outcome in _round(config, entries, work, on_progress, deadline_seconds=ARCHIVES_DEADLINE_SECONDS):
        if isinstance(outcome.value, SysstatImport):
            rows.append(Archives(outcome.host, outcome.value, "ok", outcome.value.advice))
        else:
            error = outcome.error or outcome.value
            state = outcome.state if outcome.error is not None else "no past"
            rows.append(Archives(outcome.host, None, state, str(error)))
    return rows


def _round(
    config: Config,
    entries: Sequence[HostEntry],
    work: Callable[[Host], T],
    on_progress: OnProgress | None,
    *,
    on_outcome: Callable[[Outcome[T]], None] | None = None,
    deadline_seconds: float | None = None,
    processes: int = 1,
) -> list[Outcome[T]]:
    hosts = [open_host(entry, config) for entry in entries if not entry.example]

    def tick(outcome: Outcome[T]) -> None:
        if on_outcome is not None:
            on_outcome(outcome)
        if on_progress is not None:
            on_progress(outcome.host, outcome.state)

    workers, deadline = config.collect.workers, deadline_seconds or config.collect.deadline_seconds
    if processes > 1:
        with Shares(hosts, work, processes=processes) as shares:
            return shares.round(workers=workers, deadline_seconds=deadline, on_progress=tick)
    return run_on_all(hosts, work, workers=workers, deadline_seconds=deadline, on_progress=tick)


def _row(outcome: Outcome[_Read]) -> Row:
    read = outcome.value
    if read is None:
        return Row(outcome.host, outcome.state, outcome.seconds, message=_message(outcome))
    doubts = (read.doubt,) if read.doubt else ()
    return Row(outcome.host, outcome.state, outcome.seconds, read.seen, read.doubt, doubts)


def _lvm(host: Host, time: datetime) -> tuple[list[Sample], str]:
    """What LVM says, for the history, or none of it and why: that must not cost the host's other numbers."""
    try:
        fact = read_slow(host, ["lvm"]).lvm
    except HostError as error:
        return [], f"LVM was not read: {str(error).removeprefix(f'{host.name}: ')}"
    if fact is None or fact.value is None:
        why = "" if fact is None else fact.detail
        return [], f"LVM was not read: {why}; its other numbers are kept"
    return lvm.samples(fact.value, time), ""


def _message(outcome: Outcome[T]) -> str:
    return "" if outcome.error is None else str(outcome.error).removeprefix(f"{outcome.host}: ")


def _seen(snapshot: Snapshot) -> Seen:
    identity, filesystems = snapshot.identity.value, snapshot.filesystems.value
    system = f"{identity.distribution_name or identity.distribution} {identity.kernel}" if identity else ""
    rows = [row for row in filesystems.rows if keeps_filesystem(row)] if filesystems else []
    usages = [(row.usage, row.mountpoint) for row in rows if row.usage]
    filled = [(usage.used_ratio, mountpoint) for usage, mountpoint in usages if usage.used_ratio is not None]
    ratio, mountpoint = max(filled, default=(0.0, ""))
    return Seen(system, len(usages), mountpoint, ratio)


_CLOCK_DOUBT_SECONDS = 5.0


def _doubts(entry: HostEntry, snapshot: Snapshot) -> list[str]:
    found = []
    filesystems = snapshot.filesystems.value
    if filesystems is None:
        found.append(f"its file systems cannot be read: {snapshot.filesystems.detail}")
    else:
        mounted = {place: row for row in filesystems.rows for place in (row.mountpoint, *row.also_at)}
        for partition in entry.partitions:
            if partition not in mounted:
                found.append(f"{partition} is in the inventory, and nothing is mounted there")
            elif mounted[partition].state is not State.AVAILABLE:
                found.append(f"{partition}: {mounted[partition].detail}")
            elif mounted[partition].read_error:
                found.append(f"{partition} cannot be read: {mounted[partition].read_error}")
            elif mounted[partition].read_only_flip:
                found.append(f"{partition} is read-only: {mounted[partition].read_only_flip}")
    clock = snapshot.clock.value
    if clock is not None and abs(clock.offset_seconds) - clock.uncertainty_seconds > _CLOCK_DOUBT_SECONDS:
        found.append(f"its clock is {clock.offset_seconds:+.0f} s from ours")
    return found
