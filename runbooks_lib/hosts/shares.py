"""A round over several hundred hosts, dealt out over a few processes: under one interpreter lock it ends at about 200 a
second, whatever the number of workers.

Every process is a fork that works its share with threads, as `pool` does, and sends each row home. Hosts behind the
same jump host stay together, so that they share its connection. A process that is ended from outside loses its own
rows only; when this one is gone, the others end at once, and with them their connections.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from runbooks_lib.hosts import bastion
from runbooks_lib.hosts.host import Host, HostError
from runbooks_lib.hosts.pool import (
    DEFAULT_WORKERS,
    OVERDUE_SECONDS,
    Interrupted,
    Outcome,
    close_all,
    not_reached,
    run_round,
)
from runbooks_lib.hosts.ssh import SshHost

T = TypeVar("T")

HOSTS_EACH = 50  # a process for fewer costs more than it saves
MOST_PROCESSES = 4
_PATIENCE_SECONDS = 30.0  # of the whole share, after the time that its hosts have
_CLOSE_SECONDS = 0.5
_LEAVE_SECONDS = 0.8
_LOOKS_AT_ONCE = 8
_M_ARENA_MAX = -8  # malloc.h


def processes_for(hosts: int) -> int:
    """How many processes are worth it for so many hosts here; 1 where a process cannot be forked safely."""
    if sys.platform != "linux":
        return 1
    return max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0)), hosts // HOSTS_EACH))


@dataclass(frozen=True)
class _Order:
    """One round, as it is told to every process."""

    workers: int
    deadline_seconds: float
    keep_connections: bool


@dataclass
class _Share:
    """One process: the places of its hosts, and when it was last heard of."""

    places: tuple[int, ...]
    process: BaseProcess
    pipe: Connection
    heard: float = 0.0
    waiting: set[int] = field(default_factory=set)


class Shares(Generic[T]):
    """`hosts` over `processes`, for one round or several; `work` and the hosts are inherited, its values are pickled.

    The forks take place here. Threads that other code runs in this process must hold nothing that a host needs: it is
    for the `runbook` command, and a notebook uses the pool. `work` must read no secret: this process could not mask it.
    A context manager; afterwards no process is left.
    """

    def __init__(self, hosts: Sequence[Host], work: Callable[[Host], T], *, processes: int) -> None:
        self._hosts = tuple(hosts)
        self._rows: queue.SimpleQueue[tuple[_Share, Any]] = queue.SimpleQueue()
        self._shares: list[_Share] = []
        _one_arena()
        dealt = _deal(self._hosts, processes)
        gc.freeze()  # what stands now is never garbage in a fork, and looking at it would copy its pages
        try:
            for places in dealt:
                self._fork(places, work)
        except BaseException:
            self.close()
            raise
        finally:
            gc.unfreeze()
        for share in self._shares:
            threading.Thread(target=self._listen, args=(share,), name="share-listener", daemon=True).start()

    def __enter__(self) -> Shares[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def round(
        self,
        *,
        workers: int = DEFAULT_WORKERS,
        deadline_seconds: float = 120.0,
        on_progress: Callable[[Outcome[T]], None] | None = None,
        keep_connections: bool = False,
    ) -> list[Outcome[T]]:
        """`pool.run_on_all` over these hosts; `workers` are shared out as well. Raises as that does."""
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        rows: dict[int, Outcome[T]] = {}

        def keep(index: int, row: Outcome[T]) -> None:
            rows[index] = row
            if on_progress is not None:
                on_progress(row)

        try:
            order = _Order(max(1, workers // max(1, len(self._shares))), deadline_seconds, keep_connections)
            for share in self._shares:
                share.heard, share.waiting = time.monotonic(), set(share.places)
                with contextlib.suppress(OSError):  # gone: its listener has said so, or will
                    share.pipe.send(order)
            while any(share.waiting for share in self._shares):
                self._collect(keep, wait=0.2)
                self._end_silent(deadline_seconds + OVERDUE_SECONDS + _PATIENCE_SECONDS)
        except KeyboardInterrupt:
            while not self._rows.empty():
                self._collect(rows.__setitem__, wait=0)
            self.close()
            late: dict[int, Outcome[T]] = {}
            while not self._rows.empty():
                self._collect(late.__setitem__, wait=0)
            # What failed only now failed because it was closed: that host was not reached.
            rows.update((index, row) for index, row in late.items() if row.error is None)
            raise Interrupted(
                [rows.get(index) or not_reached(host.name) for index, host in enumerate(self._hosts)]
            ) from None
        except BaseException:
            self.close()
            raise
        return [rows[index] for index in range(len(self._hosts))]

    def close(self) -> None:
        """End every process, within a second."""
        for share in self._shares:
            with contextlib.suppress(OSError):
                share.pipe.send(None)
        end = time.monotonic() + _LEAVE_SECONDS
        for share in self._shares:
            share.process.join(max(0.0, end - time.monotonic()))
            if share.process.is_alive():
                share.process.kill()
                share.process.join()

    def _fork(self, places: tuple[int, ...], work: Callable[[Host], T]) -> None:
        ours, theirs = multiprocessing.Pipe()
        hosts = [self._hosts[index] for index in places]
        not_theirs = [ours, *(share.pipe for share in self._shares)]
        process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(theirs, not_theirs, hosts, work), daemon=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the threads that numpy started and never runs
            process.start()
        theirs.close()
        self._shares.append(_Share(places, process, ours))

    def _listen(self, share: _Share) -> None:
        """Put what one process sends on the queue, and None when it is gone. In a thread of its own, so that Ctrl-C
        never tears a message in two."""
        while True:
            try:
                self._rows.put((share, share.pipe.recv()))
            except (OSError, EOFError):
                self._rows.put((share, None))
                return

    def _collect(self, keep: Callable[[int, Outcome[T]], None], wait: float) -> None:
        try:
            share, message = self._rows.get(timeout=wait) if wait else self._rows.get_nowait()
        except queue.Empty:
            return
        share.heard = time.monotonic()
        if message is not None:
            place, row = message
            share.waiting.discard(share.places[place])
            keep(share.places[place], row)
            return
        share.process.join(1.0)
        for index in sorted(share.waiting):
            error = _lost(self._hosts[index].name, share.process.exitcode)
            keep(index, Outcome(error.host, None, error, error.kind, 0.0))
        share.waiting.clear()

    def _end_silent(self, patience_seconds: float) -> None:
        for share in self._shares:
            if share.waiting and time.monotonic() - share.heard > patience_seconds:
                share.process.kill()
                share.heard = time.monotonic()


def _lost(name: str, exit_code: int | None) -> HostError:
    how = f"by signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"with status {exit_code}"
    return HostError(
        name,
        f"the process that was to read it ended {how}",
        true_now="nothing of it was kept; what ran there is ended by the host",
        next="run it again; the kernel's log says whether memory was short here",
    )


def _deal(hosts: Sequence[Host], processes: int) -> list[tuple[int, ...]]:
    """The places of the hosts of each process: as many in each as can be, those behind one jump host together."""
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as looks:
        ways = list(looks.map(_way, hosts))
    groups: dict[Hashable, list[int]] = {}
    for index, way in enumerate(ways):
        groups.setdefault(way or index, []).append(index)
    shares: list[list[int]] = [[] for _ in range(max(1, min(processes, len(groups))))]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(shares, key=len).extend(group)
    return [tuple(sorted(share)) for share in shares]


def _way(host: Host) -> tuple[str, ...]:
    return host.way if isinstance(host, SshHost) else ()


def _one_arena() -> None:
    """Keep glibc from giving many threads of this process and its forks memory to allocate from of their own: that is
    15 MB a fork, and under the interpreter's lock they hardly ever allocate at once."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


# In the fork


def _serve(pipe: Connection, not_ours: Sequence[Connection], hosts: Sequence[Host], work: Callable[[Host], T]) -> None:
    """Work one order after the other until the pipe is closed."""
    for each in not_ours:
        each.close()  # or the others would not see it when the one that forked us is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that forked us says what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.collect()  # nothing, since all is frozen; but from now on little counts as much
    gc.set_threshold(5_000, 10, 10)  # a connection leaves no garbage (see Transport.run)
    orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
    threading.Thread(target=_orders, args=(pipe, orders, hosts), daemon=True).start()
    while True:
        order = orders.get()
        run_round(
            hosts,
            work,
            lambda place, row: _send(pipe, place, row),
            workers=order.workers,
            deadline_seconds=order.deadline_seconds,
            keep=order.keep_connections,
            let_go=True,
        )


def _orders(pipe: Connection, orders: queue.SimpleQueue[_Order], hosts: Sequence[Host]) -> None:
    with contextlib.suppress(OSError, EOFError):
        while (order := pipe.recv()) is not None:
            orders.put(order)
    close_all(hosts, within=_CLOSE_SECONDS)
    bastion.SHARED.close()
    os._exit(0)


def _send(pipe: Connection, place: int, row: Outcome[T]) -> None:
    try:
        pipe.send((place, row))
    except OSError:
        os._exit(0)  # nobody is there any more
    except Exception as failed:
        error = HostError(
            row.host, f"what was read cannot be handed over: {failed}", next="this is a defect: report it"
        )
        pipe.send((place, Outcome(row.host, None, error, error.kind, row.seconds)))
