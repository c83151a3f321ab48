"""Jump hosts: one shared connection to each, through which many hosts are reached.

The lost-hosts race (paramiko #1115, open since 2017): `Channel._send` gives up its lock before it sends, so that DATA
can leave after CLOSE from another thread. OpenSSH then drops the whole bastion connection, or the stale bytes land in
the next host's re-used channel number. `SafeSocket` lets sending and closing exclude each other.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from copy import copy
from typing import Any

import paramiko

from runbooks_lib.hosts.connection import (
    CHANNEL_SECONDS,
    Connection,
    KnownHostsSource,
    load_known_hosts,
    open_connection,
)
from runbooks_lib.hosts.host import AuthRefused, DeadlineExceeded, HostError, HostUnreachable
from runbooks_lib.hosts.sockets import CONNECT_SECONDS, Dropped, Opened, OpenSocket
from runbooks_lib.hosts.ssh_settings import SshSettings, route
from runbooks_lib.hosts.transport import Transport

SAME_TIME_SECONDS = 5.0  # deadlines of questions that are asked together differ by what each takes by itself
REFUSED_SECONDS = 5.0  # who refused a login is not asked again at once: it may lock us out
HANDSHAKES_AT_ONCE = 16  # through one bastion: each costs its sshd a name look-up and a connect, one after another


class SafeSocket:
    """A direct-tcpip channel with a socket's methods; `send` and `close` exclude each other.

    `channel.send_lock` does the same against a close that comes from the bastion (transport.py).
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._lock = channel.send_lock = threading.Lock()
        self._closed = False
        self.recv: Callable[[int], bytes] = channel.recv
        self.settimeout: Callable[[float | None], None] = channel.settimeout
        self.gettimeout: Callable[[], float | None] = channel.gettimeout

    def send(self, data: bytes) -> int:
        with self._lock:
            if self._closed:
                raise EOFError
            try:
                return int(self._channel.send(data))
            finally:
                if self._closed:
                    self._channel.close()

    def close(self) -> None:
        self._closed = True
        # Who sends may be waiting for the bastion's window; then it closes the channel itself when it is through.
        if self._lock.acquire(timeout=0.2):
            try:
                self._channel.close()
            finally:
                self._lock.release()

    def shutdown(self, how: int) -> None:
        """Wake who reads; nothing is sent here, `close` does that under the lock."""
        del how
        self._channel.shutdown_read()
        self._channel.in_buffer.close()


class _Bastion:
    """One jump host: its connection, made by the first who needs it, how the last attempt failed, and a limit on
    handshakes at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.handshakes = threading.BoundedSemaphore(HANDSHAKES_AT_ONCE)
        self.connection: Connection | None = None
        self.failures = 0
        self._failure: tuple[HostError, float, float] | None = None

    def failed(self, error: HostError, end: float) -> None:
        """Keep how an attempt failed that had time until `end`."""
        self.failures += 1
        kept = time.monotonic() + (REFUSED_SECONDS if isinstance(error, AuthRefused) else 0)
        self._failure = copy(error), end, kept  # a copy holds no frames

    def reached(self, connection: Connection) -> None:
        """Keep the connection; how attempts failed before is past."""
        self.connection, self._failure = connection, None

    def failure(self, failures: int, end: float) -> HostError | None:
        """What is not worth an attempt of one's own: how one failed that ended since the count was `failures` and had
        as much time, or what was refused a moment ago."""
        if self._failure is None:
            return None
        error, had, kept = self._failure
        shared = self.failures != failures and had > end - SAME_TIME_SECONDS
        return copy(error) if shared or time.monotonic() < kept else None


class Bastions:
    """The jump host connections of a process (or of one test): shared, made when needed, made again when they died."""

    def __init__(self, known_hosts: KnownHostsSource = load_known_hosts) -> None:
        self._known_hosts = known_hosts
        self._lock = threading.Lock()
        self._bastions: dict[tuple[SshSettings, ...], _Bastion] = {}

    def open_connection(
        self,
        settings: SshSettings,
        *,
        name: str,
        end: float,
        known_hosts: KnownHostsSource | None = None,
        on_begin: Callable[[Transport], None] = lambda _: None,
    ) -> Connection:
        """A connection to the host of `settings`, through its jump hosts if it has any. Raises a HostError."""
        hops = route(settings) if settings.proxy_jump else ()
        judge = known_hosts or self._known_hosts
        if not hops:
            return open_connection(settings, name=name, end=end, known_hosts=judge, on_begin=on_begin)
        bastion = self._bastion(hops)
        failures = bastion.failures
        if not bastion.handshakes.acquire(timeout=max(0.01, end - time.monotonic())):
            raise _late(name, f"waited for its turn through {hops[-1].ssh_name}", "connect")
        try:
            return open_connection(
                settings,
                name=name,
                end=end,
                known_hosts=judge,
                on_begin=on_begin,
                open_socket=lambda until: self._channel(hops, settings, name, until, failures),
            )
        finally:
            bastion.handshakes.release()

    def way(self, settings: SshSettings) -> OpenSocket:
        """How to open a socket to the host of `settings` through its jump hosts; called, it raises a HostError."""
        return lambda until: self._channel(route(settings), settings, settings.ssh_name, until)

    def close(self) -> None:
        """End every jump host connection; hosts behind them lose theirs."""
        with self._lock:
            bastions, self._bastions = list(self._bastions.values()), {}
        for bastion in bastions:
            if bastion.connection is not None:
                bastion.connection.close()

    def _bastion(self, hops: tuple[SshSettings, ...]) -> _Bastion:
        with self._lock:
            return self._bastions.setdefault(hops, _Bastion())

    def _connected(
        self, hops: tuple[SshSettings, ...], name: str, end: float, failures: int | None = None
    ) -> Connection:
        """The connection to the last hop; others wait while one thread makes it, and share how its attempt failed."""
        bastion = self._bastion(hops)
        failures = bastion.failures if failures is None else failures
        if not bastion.lock.acquire(timeout=max(0.01, end - time.monotonic())):
            raise _late(name, f"waited for the jump host {hops[-1].ssh_name}", "connect")
        try:
            if bastion.connection is None or not bastion.connection.alive:
                if bastion.connection is not None:
                    bastion.connection.close()
                last, before = hops[-1], hops[:-1]
                if (failure := bastion.failure(failures, end)) is not None:
                    raise failure
                try:
                    way = (lambda until: self._channel(before, last, last.ssh_name, until)) if before else None
                    connection = open_connection(
                        last, name=last.ssh_name, end=end, known_hosts=self._known_hosts, open_socket=way
                    )
                except HostError as error:
                    bastion.failed(error, end)
                    raise
                bastion.reached(connection)
                return connection
            return bastion.connection
        finally:
            bastion.lock.release()

    def _channel(
        self, hops: tuple[SshSettings, ...], settings: SshSettings, name: str, end: float, failures: int | None = None
    ) -> Opened:
        through = hops[-1].ssh_name
        where = f"{settings.hostname} port {settings.port}"
        for attempt in (1, 2):
            connection = self._connected(hops, name, end, failures)
            seconds = max(
                0.01, min(end - time.monotonic(), settings.connect_timeout or CONNECT_SECONDS, CHANNEL_SECONDS)
            )
            try:
                channel = connection.transport.open_channel(
                    "direct-tcpip", (settings.hostname, settings.port), ("127.0.0.1", 0), timeout=seconds
                )
                return Opened(SafeSocket(channel))
            except paramiko.ChannelException as error:
                raise HostUnreachable(
                    name,
                    f"the jump host {through} cannot reach {where}: {error.text or error}",
                    true_now="not connected; the jump host itself is fine",
                    next=f"try on it: ssh {through} nc -z {settings.hostname} {settings.port}",
                ) from error
            except (paramiko.SSHException, OSError, EOFError) as error:
                if connection.alive:
                    raise _late(name, f"{where} did not answer through {through}", "connect") from error
                if attempt == 2:
                    raise Dropped(
                        name,
                        f"the connection to the jump host {through} was lost: {error or type(error).__name__}",
                        true_now="not connected; nothing was started",
                        next=f"try the jump host itself: ssh {through} true",
                    ) from error
        raise AssertionError("the second attempt always returns or raises")


def _late(name: str, what: str, phase: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        name,
        f"{what}, and the deadline passed",
        phase=phase,
        true_now="not connected; nothing was started",
        next="check the jump host and the host behind it, or give more time",
    )


SHARED = Bastions()
"""The bastions of this process, used when a SshHost is given no others."""

atexit.register(SHARED.close)
