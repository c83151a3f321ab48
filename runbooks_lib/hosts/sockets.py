"""The ways to a host's SSH server: a TCP connection, or what a ProxyCommand brings. A name look-up, each address and
each command has its deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from runbooks_lib.deadline import within
from runbooks_lib.hosts.host import DeadlineExceeded, HostUnreachable
from runbooks_lib.hosts.ssh_settings import SshSettings

CONNECT_SECONDS = 10.0


def _nothing() -> None:
    pass


def _no_words() -> str:
    return ""


@dataclass(frozen=True)
class Opened:
    """A connected socket, or what behaves like one; what to call when its connection has ended; and what the way there
    says about itself (a ProxyCommand's stderr)."""

    sock: Any
    close: Callable[[], None] = _nothing
    words: Callable[[], str] = _no_words


OpenSocket = Callable[[float], Opened]  # the argument: the monotonic time when it must be open


class Dropped(HostUnreachable):
    """The other side ended the connection before anything was asked of it (as MaxStartups does): worth one more try."""


def direct(settings: SshSettings, name: str) -> OpenSocket:
    """How to open a socket to the host of `settings` itself; called, it raises a HostError."""
    if settings.proxy_command:
        return lambda _end: _proxy_command(settings, name)
    return lambda end: Opened(_tcp(settings, name, end))


def _tcp(settings: SshSettings, name: str, end: float) -> socket.socket:
    where = f"{settings.hostname} port {settings.port}"
    addresses = _addresses(settings, name, end)
    allowed = min(max(0.01, end - time.monotonic()), settings.connect_timeout or CONNECT_SECONDS)
    until = time.monotonic() + allowed
    failure: OSError | None = None
    for place, (each_family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(each_family, kind, protocol)
        try:
            # SSHClient leaves Nagle on; every login then waits for a delayed ACK (54 ms instead of 7).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if settings.bind_address:
                sock.bind((settings.bind_address, 0))
            # A silent address leaves the next ones their share.
            sock.settimeout(max(0.01, (until - time.monotonic()) / (len(addresses) - place)))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    if isinstance(failure, TimeoutError) or time.monotonic() >= until:
        raise DeadlineExceeded(
            name,
            f"no TCP connection to {where} within its deadline of {allowed:.3g} s",
            phase="connect",
            true_now="not connected; nothing was started",
            next="check that the host is up and that no firewall drops the packets",
        ) from failure
    if isinstance(failure, ConnectionResetError):
        raise Dropped(
            name,
            f"{where} reset the connection at once",
            true_now="not connected; nothing was started",
            next="it may be overloaded, or block this address; its own log says which",
        ) from failure
    why = failure.strerror if failure is not None and failure.strerror else str(failure or "it has no address")
    raise HostUnreachable(
        name,
        f"no TCP connection to {where}: {why}",
        true_now="not connected; nothing was started",
        next="check that the host is up and that an SSH server listens there",
    ) from failure


def _addresses(settings: SshSettings, name: str, end: float) -> list[tuple[Any, ...]]:
    """What getaddrinfo says, before the monotonic time `end`: by itself it waits for dead name servers."""
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(settings.address_family, socket.AF_UNSPEC)
    ask = partial(socket.getaddrinfo, settings.hostname, settings.port, family, socket.SOCK_STREAM)
    with contextlib.suppress(OSError, UnicodeError):
        return ask(flags=socket.AI_NUMERICHOST)  # an address asks nobody
    try:
        return within(end - time.monotonic(), ask)
    except TimeoutError as error:
        raise DeadlineExceeded(
            name,
            f"the name server did not answer for {settings.hostname}, and the deadline passed",
            phase="connect",
            true_now="not connected; nothing was started",
            next=f"check the name server, or give {settings.ssh_name} an address as HostName in the SSH configuration",
        ) from error
    except (OSError, UnicodeError) as error:
        raise HostUnreachable(
            name,
            f"the name {settings.hostname} has no address: {getattr(error, 'strerror', None) or error}",
            true_now="not connected",
            next=f"check HostName for {settings.ssh_name} in the SSH configuration, and the name server",
        ) from error


def _proxy_command(settings: SshSettings, name: str) -> Opened:
    """A socket pair whose other end is the command's stdin and stdout: a real socket, which can be woken and timed out
    (paramiko's ProxyCommand can do neither, and spins when the command dies)."""
    command = settings.proxy_command or ""
    ours, theirs = socket.socketpair()
    words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the connection)
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=words,
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        words.close()
        raise HostUnreachable(name, f"ProxyCommand could not be started: {error}", true_now="not connected") from error
    finally:
        theirs.close()

    def said() -> str:
        words.seek(0)
        text = words.read(2000).decode("utf-8", "replace").strip()
        return "".join(c if c.isprintable() else " " for c in text)[:500]

    def closed() -> None:
        ours.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        words.close()

    return Opened(ours, closed, said)
