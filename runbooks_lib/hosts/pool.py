"""Many hosts at once: bounded, one host's failure is one row, a deadline for each, and Ctrl-C within a second."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.host import DeadlineExceeded, Host, HostError

T = TypeVar("T")

DEFAULT_WORKERS = 128
NOT_REACHED = "not reached"
SILENT_SECONDS = 2.0  # a host that has not come back by then lends its place to another
OVERDUE_SECONDS = 8.0  # a host closed at its deadline may still be proving that its group is gone


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """One row. `state` is "ok", the error's kind, or "not reached" (its turn had not come, or it was interrupted)."""

    host: str
    value: T | None
    error: HostError | None
    state: str
    seconds: float


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a round. `outcomes` has a row for every host, in order; the message names those not reached."""

    def __init__(self, outcomes: Sequence[Outcome[T]]) -> None:
        self.outcomes: tuple[Outcome[T], ...] = tuple(outcomes)
        self.not_reached = tuple(each.host for each in outcomes if each.state == NOT_REACHED)
        done = len(outcomes) - len(self.not_reached)
        super().__init__(
            f"interrupted after {done} of {len(outcomes)} hosts; not reached: {', '.join(self.not_reached)}"
        )


class _Round(Generic[T]):
    """What the workers and the waiting thread share."""

    def __init__(self, hosts: Sequence[Host], work: Callable[[Host], T], keep_connections: bool) -> None:
        self.hosts, self.work, self.keep = hosts, work, keep_connections
        self.done: queue.SimpleQueue[tuple[int, Outcome[T]]] = queue.SimpleQueue()
        self.started: dict[int, float] = {}
        self.stuck: set[int] = set()  # closed at their deadline, and their threads have not come back yet
        self.stop = False

    def one(self, index: int) -> None:
        """Do one host's work and put its row on the queue. Never raises."""
        if self.stop:
            return
        host, begin = self.hosts[index], time.monotonic()
        self.started[index] = begin
        try:
            value = self.work(host)
            outcome: Outcome[T] = Outcome(host.name, value, None, "ok", time.monotonic() - begin)
        except HostError as error:
            outcome = Outcome(host.name, None, error, error.kind, time.monotonic() - begin)
        except Exception as error:
            outcome = Outcome(host.name, None, _unexpected(host, error), "failed", time.monotonic() - begin)
        self.done.put((index, outcome))
        if not self.keep:
            _close(host)


def run_on_all(
    hosts: Sequence[Host],
    work: Callable[[Host], T],
    *,
    workers: int = DEFAULT_WORKERS,
    deadline_seconds: float = 120.0,
    on_progress: Callable[[Outcome[T]], None] | None = None,
    executor: Executor | None = None,
    keep_connections: bool = False,
) -> list[Outcome[T]]:
    """`work(host)` for every host, at most `workers` at once (and a quarter more in the place of hosts that have been
    silent for two seconds); one Outcome a host, in the order of `hosts`.

    A host that has not come back `deadline_seconds` after its turn began is closed, which ends what runs on it, and
    its row is a DeadlineExceeded. Such a host does not keep its worker: another one takes the place. `on_progress` is
    called in this thread, once a host, as they end. Connections are closed after each host unless `keep_connections`.
    With `executor` its workers are used and `workers` is not; it is neither shut down nor waited for.
    Raises Interrupted on Ctrl-C, within a second: hosts under way are closed. Raises ValueError for workers < 1.
    Of several hundred hosts one interpreter is the limit: `shares.Shares` deals them out over a few processes.
    """

    def tell(_: int, outcome: Outcome[T]) -> None:
        if on_progress is not None:
            on_progress(outcome)

    return run_round(
        hosts, work, tell, workers=workers, deadline_seconds=deadline_seconds, executor=executor, keep=keep_connections
    )


def run_round(
    hosts: Sequence[Host],
    work: Callable[[Host], T],
    on_row: Callable[[int, Outcome[T]], None],
    *,
    workers: int,
    deadline_seconds: float,
    executor: Executor | None = None,
    keep: bool = False,
    let_go: bool = False,
) -> list[Outcome[T]]:
    """The same; `on_row` is told each row with its place in `hosts`. With `let_go` it alone gets the values: they are
    not kept until the end."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    shared: _Round[T] = _Round(hosts, work, keep)
    rows: dict[int, Outcome[T]] = {}
    closed: dict[int, float] = {}
    crew = _Crew(shared, min(workers, len(hosts))) if executor is None else _Borrowed(shared, executor)

    def tell(index: int, row: Outcome[T]) -> None:
        on_row(index, row)
        if let_go:
            rows[index] = replace(row, value=None)

    try:
        crew.start()
        while len(rows) < len(hosts):
            _collect(shared, rows, closed, deadline_seconds, tell)
            silent = _enforce(shared, rows, closed, deadline_seconds, tell)
            crew.allow(workers + min(silent, workers // 4) + len(shared.stuck))
    except KeyboardInterrupt:
        shared.stop = True
        crew.stop()
        _drain(shared, rows, closed, deadline_seconds)
        under_way = [shared.hosts[index] for index in shared.started.copy() if index not in rows]
        close_all(under_way, within=0.5)
        late: dict[int, Outcome[T]] = {}
        _drain(shared, late, closed, deadline_seconds)
        # What failed only now failed because it was closed: that host was not reached.
        rows.update((index, row) for index, row in late.items() if row.error is None)
        now = time.monotonic()
        raise Interrupted(
            [rows.get(i) or not_reached(h.name, now - shared.started.get(i, now)) for i, h in enumerate(hosts)]
        ) from None
    except BaseException:
        shared.stop = True
        crew.stop()
        raise
    return [rows[index] for index in range(len(hosts))]


def not_reached(name: str, seconds: float = 0.0) -> Outcome[T]:
    """The row of a host whose turn had not come, or that was interrupted."""
    return Outcome(name, None, None, NOT_REACHED, seconds)


def _collect(
    shared: _Round[T],
    rows: dict[int, Outcome[T]],
    closed: dict[int, float],
    deadline_seconds: float,
    on_row: Callable[[int, Outcome[T]], None],
) -> None:
    """Take the rows that are there; wait a moment for the first."""
    wait = 0.1
    while True:
        try:
            index, outcome = shared.done.get(timeout=wait) if wait else shared.done.get_nowait()
        except queue.Empty:
            return
        wait = 0.0
        shared.stuck.discard(index)
        if index in rows:
            continue  # came back after its row had been closed
        rows[index] = _late_row(outcome, closed, index, deadline_seconds)
        on_row(index, rows[index])


def _drain(shared: _Round[T], rows: dict[int, Outcome[T]], closed: dict[int, float], deadline_seconds: float) -> None:
    while not shared.done.empty():
        index, outcome = shared.done.get()
        rows.setdefault(index, _late_row(outcome, closed, index, deadline_seconds))


def _late_row(outcome: Outcome[T], closed: dict[int, float], index: int, deadline_seconds: float) -> Outcome[T]:
    """A host that we closed at its deadline failed for that reason, whatever its own error says."""
    if index not in closed or outcome.error is None or isinstance(outcome.error, DeadlineExceeded):
        return outcome
    error = _overdue(outcome.host, deadline_seconds, outcome.error.true_now)
    error.__cause__ = outcome.error
    return Outcome(outcome.host, None, error, error.kind, outcome.seconds)


def _enforce(
    shared: _Round[T],
    rows: dict[int, Outcome[T]],
    closed: dict[int, float],
    deadline_seconds: float,
    on_row: Callable[[int, Outcome[T]], None],
) -> int:
    """Close the hosts whose time is over; give up on those that do not come back even then. How many of the others have
    been silent for long."""
    now, silent = time.monotonic(), 0
    # Not list(items()): that makes objects, so that garbage may be collected and a worker's turn come in between.
    for index, begin in shared.started.copy().items():
        if index in rows:
            del shared.started[index]
        elif index in closed:
            if now - closed[index] >= OVERDUE_SECONDS:
                error = _overdue(shared.hosts[index].name, deadline_seconds, "its thread is still waiting for it")
                rows[index] = Outcome(shared.hosts[index].name, None, error, error.kind, now - begin)
                on_row(index, rows[index])
        elif now - begin >= deadline_seconds:
            closed[index] = now
            shared.stuck.add(index)
            threading.Thread(target=_close, args=(shared.hosts[index],), daemon=True).start()
        elif now - begin >= SILENT_SECONDS:
            silent += 1
    return silent


def _overdue(name: str, deadline_seconds: float, true_now: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        name,
        f"the whole work on this host did not end within {deadline_seconds:g} s",
        phase="command",
        true_now=true_now or "its connection was closed, and the host ends what ran",
        next="run it for this host alone, or give it more time",
    )


def _unexpected(host: Host, error: Exception) -> HostError:
    """Something other than a HostError: still one row. The exception is its cause."""
    text = str(error) if isinstance(error, RunbookError) else f"unexpected {type(error).__name__}: {error}"
    wrapped = HostError(host.name, text, next="" if isinstance(error, RunbookError) else "this is a defect: report it")
    wrapped.__cause__ = error
    return wrapped


def _close(host: Host) -> None:
    with contextlib.suppress(Exception):  # a host that cannot even be closed has its row already
        host.close()


def close_all(hosts: Sequence[Host], within: float) -> None:
    """Close them all at the same time, and wait no longer than `within` seconds."""
    end = time.monotonic() + within
    threads = [threading.Thread(target=_close, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


class _Crew(Generic[T]):
    """Threads of our own, daemons: one hung host would hold up the exit that joins `concurrent.futures`' own."""

    def __init__(self, shared: _Round[T], workers: int) -> None:
        self._shared, self._allowed = shared, workers
        self._waiting = deque(range(len(shared.hosts)))
        self._working, self._lock = 0, threading.Lock()

    def start(self) -> None:
        self.allow(self._allowed)

    def allow(self, workers: int) -> None:
        """So many at once from now on: new ones begin at once, those that are too many end after their host."""
        self._allowed = workers
        for _ in range(min(workers - self._working, len(self._waiting))):
            with self._lock:
                self._working += 1
            threading.Thread(target=self._labour, name="host-worker", daemon=True).start()

    def stop(self) -> None:
        self._waiting.clear()

    def _labour(self) -> None:
        while (index := self._next()) is not None:
            self._shared.one(index)

    def _next(self) -> int | None:
        with self._lock:
            if self._shared.stop or not self._waiting or self._working > self._allowed:
                self._working -= 1
                return None
            return self._waiting.popleft()


class _Borrowed(Generic[T]):
    """An executor that was handed in. Its own limit holds; work that it has not begun is cancelled on Ctrl-C."""

    def __init__(self, shared: _Round[T], executor: Executor) -> None:
        self._shared, self._executor = shared, executor
        self._futures: list[Future[None]] = []

    def start(self) -> None:
        for index in range(len(self._shared.hosts)):
            self._futures.append(self._executor.submit(self._shared.one, index))

    def allow(self, workers: int) -> None:
        """An executor grows by its own rules."""

    def stop(self) -> None:
        for future in self._futures:
            future.cancel()
