"""Read everything about one host at once, and say what is wrong with it: within ten seconds on a real host.

Four questions run side by side over one connection (the quick script, PostgreSQL, what waits, what is left behind), the
services are asked from here, and the history is read meanwhile. Only for a file system that is tight a second question
follows: what lies on it. Nothing is changed and nothing is stored.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
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
from runbooks_lib.diagnosis.scene import Deeper, Scene
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
_POSTGRES = ("postgres", "postgres-activity")
_WAITING = ("waiting", "connections", "process-io", "kernel-log")
_LEFT_BEHIND = ("deleted-files", "journal-use", "boots")


def triage(
    config: Config | str | Path | None = None,
    host: str = "",
    *,
    opened: Host | None = None,
    now: datetime | None = None,
) -> Diagnosis:
    """What is wrong with one host of the inventory. `config` is a checked Config, a file, or None for the usual one.

    `opened` is used instead of connecting. Raises UsageError for an unknown host, and a HostError when the host refuses
    us (key, login, shell), which is no finding about it; one that cannot be reached is a finding.
    """
    if not isinstance(config, Config):
        config = inventory.load(config or None)
    (entry,) = config.select(host)
    return diagnose(read_scene(config, entry, opened=opened, now=now))


def read_scene(config: Config, entry: HostEntry, *, opened: Host | None = None, now: datetime | None = None) -> Scene:
    """Everything the rules look at, of one host. Raises as `triage`."""
    begin = time.monotonic()
    at = (now or datetime.now(UTC)).astimezone(UTC)
    host = opened or open_host(entry, config)
    pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="triage")
    try:
        quick = pool.submit(read_snapshot, host, sample_seconds=SAMPLE_SECONDS, deadline_seconds=DEADLINE_SECONDS)
        slow = [
            pool.submit(read_slow, host, ask, deadline_seconds=DEADLINE_SECONDS)
            for ask in (_POSTGRES, _WAITING, _LEFT_BEHIND)
        ]
        asked = pool.submit(services_asking.ask, entry.services)
        snapshot, unreached = _snapshot(quick)
        past = pool.submit(_baseline, config, entry.name, at, snapshot)
        walks = {
            place.mountpoint: pool.submit(
                read_slow,
                host,
                ("directories",),
                mountpoint=place.mountpoint,
                walk_seconds=WALK_SECONDS,
                deadline_seconds=DEADLINE_SECONDS,
            )
            for place in _places(snapshot)
            if worth_walking(place)
        }
        deeper = Deeper() if snapshot is None else _deeper([_slow(each) for each in slow])
        deeper = replace(deeper, directories={place: _slow(walk).directories for place, walk in walks.items()})
        services, base = asked.result(), past.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if opened is None:
            host.close()
    compared = deviations(snapshot, base) if snapshot else ()
    return Scene(entry, at, snapshot, unreached, deeper, services, base, compared, time.monotonic() - begin)


def _places(snapshot: Snapshot | None) -> tuple[Filesystem, ...]:
    return snapshot.filesystems.value.rows if snapshot is not None and snapshot.filesystems.value is not None else ()


def _snapshot(future: Future[Snapshot]) -> tuple[Snapshot | None, HostError | None]:
    try:
        return future.result(), None
    except (HostUnreachable, DeadlineExceeded) as error:
        return None, error


class _Unanswered:
    """Stands for a slow answer that did not come: every fact of it is told with the reason."""

    def __init__(self, error: HostError) -> None:
        late = isinstance(error, DeadlineExceeded)
        self._fact: Fact[Any] = Fact(State.TIMED_OUT if late else State.UNREADABLE, None, error.what)

    def __getattr__(self, _: str) -> Fact[Any]:
        return self._fact


def _slow(future: Future[SlowSnapshot]) -> Any:
    try:
        return future.result()
    except HostError as error:
        return _Unanswered(error)


def _deeper(answers: list[Any]) -> Deeper:
    postgres, waiting, left = answers
    return Deeper(
        postgres_details=postgres.postgres,
        postgres_activity=postgres.postgres_activity,
        waiting=waiting.waiting,
        connections=waiting.connections,
        journal_use=left.journal_use,
        last_boot=left.last_boot,
        kernel_log=waiting.kernel_log,
        process_io=waiting.process_io,
        deleted_files=left.deleted_files,
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
