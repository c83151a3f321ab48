"""One authenticated SSH connection: socket, key exchange, host key, login; each has its deadline."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paramiko

from runbooks_lib.hosts.host import (
    AuthRefused,
    DeadlineExceeded,
    HostError,
    HostUnreachable,
    SettingsRefused,
)
from runbooks_lib.hosts.identities import Identities, fingerprint, identities
from runbooks_lib.hosts.known_hosts import KnownHosts, Verdict
from runbooks_lib.hosts.sockets import Dropped, Opened, OpenSocket, direct
from runbooks_lib.hosts.ssh_settings import SshSettings
from runbooks_lib.hosts.transport import Transport

HANDSHAKE_SECONDS = 10.0
AUTH_SECONDS = 15.0
CHANNEL_SECONDS = 10.0

KnownHostsSource = Callable[[SshSettings], KnownHosts]


@dataclass(frozen=True)
class Login:
    """As whom a connection was let in: the user, and the key that was accepted, as `ssh-keygen -l` shows it."""

    user: str
    key: str
    source: str


class Connection:
    """An authenticated transport. Use `open_connection`; `close` may be called from any thread, more than once.

    Several runs may share it. One that can begin nothing on it says `retire`: the others go on to their ends.
    """

    def __init__(self, transport: Transport, on_close: Callable[[], None], login: Login) -> None:
        self.transport = transport
        self.login = login
        self.last_used = time.monotonic()
        self.let_in = False  # whether a session was ever opened on it
        self._on_close: Callable[[], None] | None = on_close
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._runs = 0
        self._retired = False

    @property
    def alive(self) -> bool:
        return self._process == os.getpid() and bool(self.transport.is_active())

    @property
    def crowded(self) -> bool:
        """Whether a session that is refused now may be let in elsewhere: others are or were, on this connection."""
        return self.let_in or any(channel.active for channel in self.transport._channels.values())

    def enter(self) -> bool:
        """Count a run on it; False when no more may begin. Whoever got True calls `leave` at the run's end."""
        with self._lock:
            self._runs += not self._retired
            return not self._retired

    def leave(self) -> None:
        """A run has ended; the last one closes a retired connection."""
        with self._lock:
            self._runs -= 1
            over = self._retired and self._runs == 0
        if over:
            self.close()

    def retire(self) -> None:
        """Let no more runs begin on it. Closed at once when the caller's run is the only one, else by the last."""
        with self._lock:
            self._retired = True
            alone = self._runs <= 1
        if alone:
            self.close()

    def close(self) -> None:
        if self._process != os.getpid():
            return  # a fork has the socket and not the thread: it is its parent's to use and to end
        self.transport.cut()
        self.transport.auth_handler.transport = None  # a circle (see Transport.run); nobody logs in any more
        with self._lock:
            on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


def load_known_hosts(settings: SshSettings) -> KnownHosts:
    """The known_hosts files that the settings name, read once a process while they stay the same."""
    return KnownHosts.load(settings.known_hosts_files, revoked_files=settings.revoked_host_keys)


def open_connection(
    settings: SshSettings,
    *,
    name: str,
    end: float,
    open_socket: OpenSocket | None = None,
    known_hosts: KnownHostsSource = load_known_hosts,
    on_begin: Callable[[Transport], None] = lambda _: None,
) -> Connection:
    """Connect and log in before the monotonic time `end`. `name` is how messages call the host. `on_begin` gets what
    another thread may cut, which ends the attempt.

    The host key is judged after the key exchange and before any login. A host may hold keys of several types: when the
    one it showed is not known but another type is, the exchange is done once more, asking for that type.
    Raises a HostError; on any, the socket is closed.
    """
    transport, opened, verdict = _exchange(settings, name, end, open_socket, known_hosts, on_begin)
    try:
        if verdict.state != "known":
            error = verdict.error(name, inventory_name=name)
            raise error or SettingsRefused(name, f"the verdict on the host key is {verdict.state!r}")
        login = _log_in(transport, settings, name, end)
        return Connection(transport, opened.close, login)
    except BaseException:
        _let_go(transport, opened)
        raise


def show_host_key(
    settings: SshSettings,
    *,
    name: str,
    end: float,
    open_socket: OpenSocket | None = None,
    known_hosts: KnownHostsSource = load_known_hosts,
) -> paramiko.PKey:
    """The key that the host shows, of a type that is known for it where one is. Only the key exchange is done, as
    `open_connection` does it, before the monotonic time `end`: no login, nothing is believed. Raises a HostError; the
    socket is closed in any case.
    """
    transport, opened, _ = _exchange(settings, name, end, open_socket, known_hosts)
    _let_go(transport, opened)
    return transport.host_key


def _exchange(
    settings: SshSettings,
    name: str,
    end: float,
    open_socket: OpenSocket | None,
    known_hosts: KnownHostsSource,
    on_begin: Callable[[Transport], None] = lambda _: None,
) -> tuple[Transport, Opened, Verdict]:
    """Exchange keys, a second time where the key is of a type that is not known and another type is."""
    known = known_hosts(settings)
    likely = known.likely_key_types(settings.hostname, settings.port, settings.host_key_alias)
    for attempt in (1, 2):
        opened = (open_socket or direct(settings, name))(end)
        transport: Transport | None = None
        try:
            transport = Transport(opened.sock)
            on_begin(transport)
            _prefer(transport, likely)
            _handshake(transport, settings, name, end)
            verdict = _judge(known, settings, transport, opened.sock if open_socket is None else None)
        except BaseException as failure:
            told = _told(failure, opened, settings, name)
            _let_go(transport, opened)
            if told is not None:
                raise told from failure
            raise
        if attempt == 2 or verdict.state != "changed" or verdict.key_type in verdict.known_types:
            return transport, opened, verdict
        likely = verdict.known_types
        _let_go(transport, opened)
    raise AssertionError("the second exchange always returns or raises")


def _told(failure: BaseException, opened: Opened, settings: SshSettings, name: str) -> HostUnreachable | None:
    """The failure in the words of a way that has any; None where the failure says it best itself."""
    words = opened.words() if isinstance(failure, Dropped) else ""
    if not words:
        return None
    return HostUnreachable(
        name,
        f"the ProxyCommand ended: {words}",
        true_now="not connected; nothing was started",
        next=f"try it by hand: {settings.proxy_command}",
    )


def _let_go(transport: Transport | None, opened: Opened) -> None:
    if transport is not None:
        transport.cut()
    else:
        with contextlib.suppress(Exception):
            opened.sock.close()
    opened.close()


# The key exchange


def _prefer(transport: Transport, key_types: tuple[str, ...]) -> None:
    wanted: list[str] = []
    for key_type in key_types:
        wanted += ["rsa-sha2-512", "rsa-sha2-256"] if key_type == "ssh-rsa" else [key_type]
    offered = transport._preferred_keys
    first = [each for each in offered if each in wanted]
    transport._preferred_keys = (*first, *(each for each in offered if each not in first))


def _handshake(transport: Transport, settings: SshSettings, name: str, end: float) -> None:
    where = f"{settings.hostname} port {settings.port}"
    seconds = max(0.01, min(HANDSHAKE_SECONDS, end - time.monotonic()))
    try:
        finished = transport.handshake(seconds)
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise SettingsRefused(
            name,
            f"no algorithm in common with the SSH server at {where}: {error}",
            true_now="not connected",
            next="the server offers only outdated algorithms (or needs a newer paramiko); update it",
        ) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise Dropped(
            name,
            f"the SSH server at {where} ended the connection during the key exchange: {_words(error)}",
            true_now="not connected; nothing was started",
            next="it may be overloaded (MaxStartups), or block this address; its own log says which",
        ) from error
    if not finished:
        silent = not transport.remote_version
        raise DeadlineExceeded(
            name,
            f"{where} accepted the connection, but {'never spoke SSH' if silent else 'did not finish the key exchange'}"
            f" within {seconds:.1f} s",
            phase="banner",
            true_now="not connected; nothing was started",
            next="check what listens there and how loaded the host is",
        )


def _words(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def _judge(known: KnownHosts, settings: SshSettings, transport: Transport, sock: Any) -> Verdict:
    key = transport.host_key
    address: str | None = None
    if settings.check_host_ip and isinstance(sock, socket.socket) and not settings.proxy_command:
        address = sock.getpeername()[0]
    return known.check(
        settings.hostname, settings.port, key.get_name(), key.asbytes(), settings.host_key_alias, address=address
    )


# The login


def _log_in(transport: Transport, settings: SshSettings, name: str, end: float) -> Login:
    found = identities(settings)
    try:
        refused: list[str] = []
        until = min(end, time.monotonic() + AUTH_SECONDS)
        for identity in found.offers:
            answer = _offer(transport, settings, identity.key, until)
            if answer == "accepted":
                return Login(settings.user, fingerprint(identity.key), identity.label)
            if answer == "deadline":
                raise DeadlineExceeded(
                    name,
                    f"the login as {settings.user} was not answered in time (offered {identity.label})",
                    phase="auth",
                    true_now="not logged in; nothing was started",
                    next="check the host's load, its PAM and its name server",
                )
            refused.append(f"{identity.label}: {answer}" if answer != "refused" else identity.label)
            if not transport.is_active():
                break
        raise _refused(settings, name, found, refused)
    finally:
        found.close()


def _offer(transport: Transport, settings: SshSettings, key: Any, until: float) -> str:
    done = threading.Event()
    try:
        transport.auth_publickey(settings.user, key, done)
        finished = done.wait(max(0.01, until - time.monotonic()))
    except (paramiko.SSHException, OSError, EOFError) as error:
        return _words(error)
    if transport.is_authenticated():
        return "accepted"
    if not finished:
        return "deadline"
    problem = transport.get_exception()
    if isinstance(problem, paramiko.BadAuthenticationType):
        return f"the server wants {', '.join(problem.allowed_types)}"
    if isinstance(problem, paramiko.ssh_exception.PartialAuthentication):
        return f"accepted, but the server also wants {', '.join(problem.allowed_types)}"
    if problem is None or isinstance(problem, paramiko.AuthenticationException):
        return "refused"
    return _words(problem)


def _refused(settings: SshSettings, name: str, found: Identities, refused: list[str]) -> HostError:
    where = f"{settings.user}@{settings.hostname} port {settings.port}"
    said = f"offered {'; '.join(refused)}" if refused else "no identity could be offered"
    if found.problems:
        said += f"; {'; '.join(found.problems)}"
    next_ = f"check User and IdentityFile in: ssh -G {settings.ssh_name}; try by hand: ssh -v {settings.ssh_name}"
    if found.left_out:
        said += f"; {found.left_out} more were not offered, so that the host does not lock us out"
        next_ = f"name one IdentityFile and set IdentitiesOnly yes for {settings.ssh_name}"
    return AuthRefused(name, f"the login as {where} was refused: {said}", true_now="not logged in", next=next_)
