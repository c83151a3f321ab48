"""Read everything about one host at once, and say what is wrong with it: within ten seconds on a real host.

Five questions run side by side over one connection (the quick script, PostgreSQL's sessions and its sizes, what waits,
what is left behind), the services are asked from here, and the history is read meanwhile. Only for a file system that
is tight one more follows: what lies on it. Nothing is changed and nothing is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib import config as inventory
from runbooks_lib.config import Config, HostEntry
from runbooks_lib.diagnosis import baseline as normal
from runbooks_lib.diagnosis.baseline import Baseline
from runbooks_lib.diagnosis.deviation import deviations
from runbooks_lib.diagnosis.diagnosis import Diagnosis, diagnose
from runbooks_lib.diagnosis.rules.space import worth_walking
from runbooks_lib.diagnosis.scene import NOT_YET, Deeper, Scene
from runbooks_lib.errors import RunbookError
from runbooks_lib.facts import services_asking
from runbooks_lib.facts.collect import read_slow, read_snapshot
from runbooks_lib.facts.fact import Fact, State
from runbooks_lib.facts.filesystems import Filesystem
from runbooks_lib.facts.slow import SlowSnapshot
from runbooks_lib.facts.snapshot import Snapshot
from runbooks_lib.history import open_history
from runbooks_lib.hosts.host import DeadlineExceeded, Host, HostError, HostUnreachable
from runbooks_lib.hosts.opening import open_host

SAMPLE_SECONDS = 2.5
DEADLINE_SECONDS = 45.0  # a question that takes longer is told as not answered
WALK_SECONDS = 5
# Where a disk is busy, five let a walk get nowhere, and PostgreSQL is waited for as long anyway.
LONG_WALK_SECONDS = 15
_BUSY_RATIO = 0.5
EARLY_SECONDS = 8.0  # what is known by then is told at once, if some questions still wait
# One script each, at once: on a disk that is slow, PostgreSQL may take half a minute for sizes, and nobody waits for
# another's.
_ASKED = {
    "PostgreSQL's sessions": ("postgres-activity",),
    "PostgreSQL's sizes": ("postgres",),
    "what threads and neighbours wait for": ("waiting", "connections", "process-io", "kernel-log"),
    "deleted files and the journal": ("deleted-files", "journal-use", "boots"),
}
_SERVICES, _PAST, _WALK = "the services", "the host's past", "the directories of "
Early = Callable[[Diagnosis], None]


def triage(
    config: Config | str | Path | None = None,
    host: str = "",
    *,
    opened: Host | None = None,
    now: datetime | None = None,
    early: Early | None = None,
) -> Diagnosis:
    """What is wrong with one host of the inventory. `config` is a checked Config, a file, or None for the usual one.

    `opened` is used instead of connecting. `early` is called at most once, after EARLY_SECONDS, with what is known by
    then if some questions still wait for their answers (a database on a slow disk takes its time to say so).

    Raises UsageError for an unknown host, and a HostError when the host refuses us (key, login, shell), which is no
    finding about it; one that cannot be reached is a finding.
    """
    if not isinstance(config, Config):
        config = inventory.load(config or None)
    (entry,) = config.select(host)
    return diagnose(read_scene(config, entry, opened=opened, now=now, early=early))


def read_scene(
    config: Config,
    entry: HostEntry,
    *,
    opened: Host | None = None,
    now: datetime | None = None,
    early: Early | None = None,
) -> Scene:
    """Everything the rules look at, of one host. Raises as `triage`."""
    begin = time.monotonic()
    at = (now or datetime.now(UTC)).astimezone(UTC)
    host = opened or open_host(entry, config)
    pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="triage")
    try:
        quick = pool.submit(read_snapshot, host, sample_seconds=SAMPLE_SECONDS, deadline_seconds=DEADLINE_SECONDS)
        asked: dict[str, Future[Any]] = {
            what: pool.submit(read_slow, host, facts, deadline_seconds=DEADLINE_SECONDS)
            for what, facts in _ASKED.items()
        }
        asked[_SERVICES] = pool.submit(services_asking.ask, entry.services)
        snapshot, unreached = _snapshot(quick)
        asked[_PAST] = pool.submit(_baseline, config, entry.name, at, snapshot)
        for place in filter(worth_walking, _places(snapshot)):
            asked[_WALK + place.mountpoint] = pool.submit(
                read_slow,
                host,
                ("directories",),
                mountpoint=place.mountpoint,
                walk_seconds=_walk_seconds(snapshot),
                deadline_seconds=DEADLINE_SECONDS,
            )

        def scene() -> Scene:
            return _scene(entry, at, snapshot, unreached, asked, time.monotonic() - begin)

        if early is not None and snapshot is not None:
            wait(asked.values(), max(0.0, EARLY_SECONDS - (time.monotonic() - begin)))
            known = scene()
            if known.pending:
                early(diagnose(known))
        # Of a host that was not reached nothing more comes, and each question would wait for its deadline.
        wait(asked.values() if snapshot is not None else (asked[_SERVICES], asked[_PAST]))
        return scene()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if opened is None:
            host.close()


def _scene(
    entry: HostEntry,
    at: datetime,
    snapshot: Snapshot | None,
    unreached: HostError | None,
    asked: Mapping[str, Future[Any]],
    seconds: float,
) -> Scene:
    """What has been answered by now; whose answer is still waited for stands in the scene's `pending`."""
    pending = tuple(what for what, future in asked.items() if not future.done())
    answers = {what: None if what in pending else future for what, future in asked.items()}
    if snapshot is None:
        pending = ()
    services = answers[_SERVICES]
    past = answers[_PAST]
    base = past.result() if past else Baseline({}, "it has not been read yet")
    slow = {what: _slow(answer) for what, answer in answers.items() if what not in (_SERVICES, _PAST)}
    deeper = Deeper() if snapshot is None else _deeper(slow)
    return Scene(
        entry,
        at,
        snapshot,
        unreached,
        deeper,
        services.result() if services else (),
        base,
        deviations(snapshot, base) if snapshot else (),
        seconds,
        pending,
    )


def _places(snapshot: Snapshot | None) -> tuple[Filesystem, ...]:
    return snapshot.filesystems.value.rows if snapshot is not None and snapshot.filesystems.value is not None else ()


def _walk_seconds(snapshot: Snapshot | None) -> int:
    rates = snapshot.rates.value if snapshot is not None else None
    busy = [disk.busy_ratio or 0.0 for disk in rates.disks.values()] if rates is not None else []
    return LONG_WALK_SECONDS if max(busy, default=0.0) >= _BUSY_RATIO else WALK_SECONDS


def _snapshot(future: Future[Snapshot]) -> tuple[Snapshot | None, HostError | None]:
    try:
        return future.result(), None
    except (HostUnreachable, DeadlineExceeded) as error:
        return None, error


class _Unanswered:
    """Stands for a slow answer that did not come: every fact of it is told with the reason."""

    def __init__(self, state: State, why: str) -> None:
        self._fact: Fact[Any] = Fact(state, None, why)

    def __getattr__(self, _: str) -> Fact[Any]:
        return self._fact


def _slow(future: Future[SlowSnapshot] | None) -> Any:
    if future is None:
        return _Unanswered(State.TIMED_OUT, NOT_YET)
    try:
        return future.result()
    except HostError as error:
        late = isinstance(error, DeadlineExceeded)
        return _Unanswered(State.TIMED_OUT if late else State.UNREADABLE, error.what)


def _deeper(slow: Mapping[str, Any]) -> Deeper:
    activity, postgres, waiting, left = (slow[what] for what in _ASKED)
    return Deeper(
        postgres_details=postgres.postgres,
        postgres_activity=activity.postgres_activity,
        waiting=waiting.waiting,
        connections=waiting.connections,
        journal_use=left.journal_use,
        last_boot=left.last_boot,
        kernel_log=waiting.kernel_log,
        process_io=waiting.process_io,
        deleted_files=left.deleted_files,
        directories={
            what.removeprefix(_WALK): answer.directories for what, answer in slow.items() if what.startswith(_WALK)
        },
    )


def _baseline(config: Config, host: str, now: datetime, snapshot: Snapshot | None) -> Baseline:
    try:
        history = open_history(config.history)
        try:
            return normal.read(history, host, now=now, samples=snapshot.samples() if snapshot else None)
        finally:
            history.close()
    except RunbookError as error:
        return Baseline({}, f"the history cannot be read: {' '.join(str(error.what).split())}")
