"""Load with an oracle: clients that write rows and remember each commit that the server acknowledged.

A commit has three possible fates, and mixing them up is how such oracles lie: *acknowledged* (the row must be there for
ever), *refused* (the server said no; the row must not be there), *unknown* (the connection died before the answer; the
row may be there or not). After anything, `verify` compares with the table. Downtime is the longest gap between two
acknowledged commits of all clients together.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runbooks_lib.errors import RunbookError
from runbooks_lib.training.lab import lab
from runbooks_lib.training.lab.wire import ENDING, ConnectionLost, ServerError, WireClient

USER, DATABASE = "buildserver", "buildserver"
_PAUSE_AFTER_FAILURE_SECONDS = 0.05
_OPEN = (*ENDING, "40003")  # these leave it open whether the statement was committed


@dataclass(frozen=True)
class Gap:
    """The longest time without an acknowledged commit: `seconds`, beginning `after_seconds` after the load's start."""

    seconds: float
    after_seconds: float


@dataclass(frozen=True)
class Verdict:
    """What the table says about what clients were told. `lost`: acknowledged and not there. `invented`: refused, or
    never sent, and there. `unknown_present`: no answer came, and it was committed; that is allowed."""

    acknowledged: int
    present: int
    lost: tuple[tuple[str, int], ...]
    invented: tuple[tuple[str, int], ...]
    unknown: int
    unknown_present: int

    @property
    def ok(self) -> bool:
        """True when nothing acknowledged was lost, and nothing is there that should not be."""
        return not self.lost and not self.invented


@dataclass
class _Client:
    name: str
    acknowledged: list[tuple[int, float]] = field(default_factory=list)  # number, when (monotonic)
    unknown: set[int] = field(default_factory=set)
    refused: int = 0
    errors: dict[str, int] = field(default_factory=dict)


class Load:
    """Clients at work from `start` until `stop` (or as a `with` block).

    `addresses` are tried in turn after each lost connection, so that clients follow a database that has moved; a
    server that only reads (a standby) refuses the write and counts as a failure. `commits_per_second` is for all
    clients together; 0 means as fast as it goes. `log` keeps each acknowledged number in a file, at once. `password` is
    by default that of the practice machine at the first address: a database that moves takes its roles along.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        *,
        clients: int = 4,
        commits_per_second: float = 50.0,
        timeout_seconds: float = 3.0,
        password: str | None = None,
        log: Path | None = None,
    ) -> None:
        self.addresses = tuple(addresses)
        self._password = lab.password(USER, self.addresses[0]) if password is None else password
        self._pause = clients / commits_per_second if commits_per_second else 0.0
        self._timeout = timeout_seconds
        run = f"{os.getpid()}-{time.time_ns()}"
        self._clients = [_Client(f"{run}-{number}") for number in range(clients)]
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._log = log.open("a", encoding="ascii", buffering=1) if log else None
        self.started = 0.0
        self.stopped = 0.0

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to write."""
        self.started = time.monotonic()
        for client in self._clients:
            thread = threading.Thread(target=self._work, args=(client,), name=f"load-{client.name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End; every statement under way has its answer, or its deadline, before this returns."""
        if self.stopped:
            return
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.stopped = time.monotonic()
        if self._log:
            self._log.close()

    @property
    def acknowledged(self) -> int:
        """Commits that the server has acknowledged so far."""
        return sum(len(client.acknowledged) for client in self._clients)

    @property
    def refusals(self) -> dict[str, int]:
        """How often each failure was met, by SQLSTATE or `connection lost`."""
        total: dict[str, int] = {}
        for client in self._clients:
            for code, count in list(client.errors.items()):
                total[code] = total.get(code, 0) + count
        return total

    def wait_acknowledged(self, count: int, *, seconds: float = 60.0) -> None:
        """Wait until this many more commits were acknowledged. Raises RunbookError when they were not in time."""
        target, end = self.acknowledged + count, time.monotonic() + seconds
        while self.acknowledged < target:
            if time.monotonic() > end:
                raise RunbookError(
                    f"{self.acknowledged} commits were acknowledged, not {target} as awaited; failures: {self.refusals}"
                )
            time.sleep(0.02)

    def longest_gap(self, since: float | None = None) -> Gap:
        """The downtime as clients saw it, from the start (or `since`, on the monotonic clock) until now or the stop."""
        begin, end = self.started if since is None else since, self.stopped or time.monotonic()
        times = sorted(when for client in self._clients for _, when in list(client.acknowledged) if when >= begin)
        edges = [begin, *times, end]
        gaps = [(after - before, before - self.started) for before, after in itertools.pairwise(edges)]
        seconds, begin = max(gaps)
        return Gap(seconds, begin)

    def verify(self, address: tuple[str, int] | None = None, *, patience_seconds: float = 60.0) -> Verdict:
        """Compare with the table, at `address` or the first address. Raises RunbookError when it cannot be read."""
        if not self.stopped:
            raise RunbookError("the load is still running", next="stop it before verifying")
        rows = self._read_table(address or self.addresses[0], patience_seconds)
        told = {(client.name, number) for client in self._clients for number, _ in client.acknowledged}
        unknown = {(client.name, number) for client in self._clients for number in client.unknown}
        return Verdict(
            acknowledged=len(told),
            present=len(rows),
            lost=tuple(sorted(told - rows)),
            invented=tuple(sorted(rows - told - unknown)),
            unknown=len(unknown),
            unknown_present=len(rows & unknown),
        )

    def missing(
        self, address: tuple[str, int] | None = None, *, patience_seconds: float = 60.0
    ) -> tuple[tuple[str, int], ...]:
        """Commits that were acknowledged until now and are not in the table, while the clients write on; () when all
        are there. Raises RunbookError when the table cannot be read."""
        told = {(client.name, number) for client in self._clients for number, _ in list(client.acknowledged)}
        return tuple(sorted(told - self._read_table(address or self.addresses[0], patience_seconds)))

    def _read_table(self, address: tuple[str, int], patience_seconds: float) -> set[tuple[str, int]]:
        names = ", ".join(f"'{client.name}'" for client in self._clients)
        statement = f"select client, number from acknowledged where client in ({names})"  # noqa: S608 - our own names
        end = time.monotonic() + patience_seconds
        while True:
            try:
                with self._connect(address) as client:
                    rows = client.query(statement, timeout_seconds=30)
                    return {(str(name), int(number or 0)) for name, number in rows}
            except (ConnectionLost, ServerError) as error:
                if time.monotonic() > end:
                    raise RunbookError(
                        f"the table cannot be read: {error}", where=f"{address[0]}:{address[1]}"
                    ) from error
                time.sleep(0.5)

    def _connect(self, address: tuple[str, int]) -> WireClient:
        return WireClient(address, user=USER, password=self._password, database=DATABASE, timeout_seconds=self._timeout)

    def _work(self, client: _Client) -> None:
        connection: WireClient | None = None
        turn = number = 0
        due = time.monotonic()
        while not self._stop.is_set():
            begun = False
            try:
                if connection is None:
                    connection = self._connect(self.addresses[turn % len(self.addresses)])
                number += 1
                begun = True
                connection.query(f"insert into acknowledged (client, number) values ('{client.name}', {number})")  # noqa: S608
            except (ConnectionLost, ServerError) as error:
                code = error.code if isinstance(error, ServerError) else "connection lost"
                certain = isinstance(error, ServerError) and not code.startswith(_OPEN)
                if begun and not certain:
                    client.unknown.add(number)
                client.errors[code] = client.errors.get(code, 0) + 1
                if connection is not None and (
                    not isinstance(error, ServerError) or code.startswith((*ENDING, "25006"))
                ):
                    connection.close()
                    connection = None
                if connection is None:
                    turn += 1
                self._stop.wait(_PAUSE_AFTER_FAILURE_SECONDS)
                continue
            now = time.monotonic()
            client.acknowledged.append((number, now))
            if self._log:
                self._log.write(f"{client.name} {number}\n")
            due = max(due + self._pause, now - 1.0)
            if due > now:
                self._stop.wait(due - now)
        if connection is not None:
            connection.close()
