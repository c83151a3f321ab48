"""Ask services over HTTP and TLS, from the operator's machine: as their users do, with nothing needed on the host, and
with the token never leaving this process but to the service itself. An address that only the host can reach is told as
timed out or refused, never as well.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from cryptography import x509

from runbooks_lib import secrets
from runbooks_lib.config import ServiceSettings
from runbooks_lib.deadline import within
from runbooks_lib.errors import RunbookError
from runbooks_lib.facts import services
from runbooks_lib.facts.fact import Fact, State, attempt, available
from runbooks_lib.facts.services import Reply, ServiceAnswer

T = TypeVar("T")
TIMEOUT_SECONDS = 5.0
_MOST_BYTES = 4 * 1024 * 1024
_PIECE_BYTES = 65536


def ask(wanted: Sequence[ServiceSettings], *, timeout_seconds: float = TIMEOUT_SECONDS) -> tuple[ServiceAnswer, ...]:
    """Every service's answer, in order, all asked at once; each question ends after `timeout_seconds`. Raises nothing:
    what went wrong is the state of the fact."""
    if not wanted:
        return ()
    with ThreadPoolExecutor(max_workers=min(32, 4 * len(wanted))) as pool:
        return tuple(pool.map(lambda service: _ask_one(service, timeout_seconds), wanted))


def _ask_one(service: ServiceSettings, timeout: float) -> ServiceAnswer:
    with ThreadPoolExecutor(max_workers=5) as pool:

        def teamcity(path: str, parse: Callable[[str], T]) -> Future[Fact[T]] | None:
            if not service.teamcity:
                return None
            where = service.teamcity.rstrip("/") + path
            return pool.submit(lambda: _parsed(get(where, token=service.token, timeout=timeout), parse))

        answer = ServiceAnswer(service.name, service.teamcity or service.health or service.certificate)
        health = pool.submit(get, service.health, timeout=timeout) if service.health else None
        queue = teamcity(services.QUEUE_PATH, services.parse_queue)
        agents = teamcity(services.AGENTS_PATH, services.parse_agents)
        server = teamcity(services.SERVER_PATH, services.parse_server)
        place = service.certificate or _tls_place(service.teamcity) or _tls_place(service.health)
        until, fault = certificate(place, timeout=timeout) if place else (answer.certificate_until, "")
        return replace(
            answer,
            health=health.result() if health else answer.health,
            queue=queue.result() if queue else answer.queue,
            agents=agents.result() if agents else answer.agents,
            server=server.result() if server else answer.server,
            certificate_until=until,
            certificate_fault=fault,
        )


def _parsed(reply: Fact[Reply], parse: Callable[[str], T]) -> Fact[T]:
    if reply.value is None:
        return Fact(reply.state, None, reply.detail)
    status = reply.value.status
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        return Fact(State.NOT_ALLOWED, None, f"it refused the login (HTTP {status}): check the token")
    text = reply.value.body.decode("utf-8", "backslashreplace")
    if status != http.client.OK:
        said = " ".join(text.split())[:200]
        return Fact(State.UNREADABLE, None, f"it answered HTTP {status}" + (f": {said}" if said else ""))
    return attempt(parse, text)


def get(address: str, *, token: str | None = None, timeout: float = TIMEOUT_SECONDS) -> Fact[Reply]:
    """One GET. Redirects are answers: they are not followed, for they would carry the token elsewhere. The
    certificate is always checked. `timeout` is for the whole exchange."""
    begin = time.monotonic()
    sockets: list[socket.socket] = []

    def exchange() -> Reply:
        with contextlib.closing(_connection(address, timeout)) as connection:
            connection.connect()
            sockets.append(connection.sock)
            if time.monotonic() - begin > timeout:
                raise TimeoutError
            parts = urllib.parse.urlsplit(address)
            connection.request(
                "GET", urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")), None, headers
            )
            reply = connection.getresponse()
            pieces: list[bytes] = []
            while (piece := reply.read1(_PIECE_BYTES)) and sum(map(len, pieces)) < _MOST_BYTES:
                pieces.append(piece)
                if time.monotonic() - begin > timeout:
                    raise TimeoutError
            return Reply(reply.status, time.monotonic() - begin, b"".join(pieces))

    headers = {"Accept": "application/json, */*;q=0.5", "User-Agent": "runbook-triage"}
    try:
        if token is not None:
            headers["Authorization"] = f"Bearer {secrets.resolve(token)}"
        return available(within(timeout, exchange, partial(_cut, sockets)))
    except RunbookError as error:  # the token's reference leads nowhere
        return Fact(State.NOT_ALLOWED, None, " ".join(str(error).split()))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _failed(error, timeout)


def _connection(address: str, timeout: float) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, parts.port, timeout=timeout)


def _cut(sockets: Sequence[socket.socket]) -> None:
    """A socket's own timeout starts anew with every byte that comes; this wakes who reads it."""
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _failed(error: Exception, timeout: float) -> Fact[Reply]:
    if isinstance(error, TimeoutError):
        return Fact(State.TIMED_OUT, None, f"no whole answer within {timeout:g} s")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Fact(State.UNREADABLE, None, f"its certificate is not trusted: {error.verify_message}")
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Fact(State.UNREADABLE, None, f"no answer: {words or type(error).__name__}")


def _tls_place(address: str) -> str:
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port or 443
    except ValueError:
        return ""  # the question itself says what is wrong with the address
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{port}" if parts.scheme == "https" else ""


def certificate(place: str, *, timeout: float = TIMEOUT_SECONDS) -> tuple[Fact[datetime], str]:
    """The last moment (UTC) of the certificate that host:port shows, and why it is not trusted, empty when it is.

    It is read without being trusted first: an expired one is what one wants to know. Nothing else is sent."""
    fault = ""
    der: bytes | None = None
    end = time.monotonic() + timeout
    for context in (ssl.create_default_context(), _untrusting()):
        sockets: list[socket.socket] = []
        try:
            der = within(end - time.monotonic(), partial(_shown, place, context, end, sockets), partial(_cut, sockets))
            break
        except ssl.SSLCertVerificationError as error:
            fault = error.verify_message
        except (OSError, ValueError, OverflowError) as error:
            return Fact(_failed(error, timeout).state, None, _failed(error, timeout).detail), fault
    if der is None:
        return Fact(State.UNREADABLE, None, "it showed no certificate"), fault
    return attempt(lambda: x509.load_der_x509_certificate(der).not_valid_after_utc.astimezone(UTC)), fault


def _shown(place: str, context: ssl.SSLContext, end: float, sockets: list[socket.socket]) -> bytes | None:
    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    left = max(0.01, end - time.monotonic())
    with (
        socket.create_connection((host, int(port)), timeout=left) as plain,
        context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False) as wrapped,
    ):
        sockets.append(wrapped)
        if time.monotonic() > end:
            raise TimeoutError
        wrapped.do_handshake()
        return wrapped.getpeercert(binary_form=True)


def _untrusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
