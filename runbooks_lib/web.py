"""HTTP to a server that the inventory names: certificates checked, secrets over TLS only, no redirects, a deadline."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import time as clock
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from functools import partial
from typing import Any

from runbooks_lib.deadline import within
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.secrets import resolve

_MOST_BYTES = 16 * 1024 * 1024
_PIECE_BYTES = 1 << 20


class ServerError(RunbookError):
    """The server was not reached, or its answer did not come whole or in time."""


class Server:
    """One server. `user` with `password`, or `token`, are sent only over TLS or to this machine itself; both are
    references (`env:NAME`, `file:path`). Certificates are always checked. Redirects are not followed: they would carry
    the secret elsewhere. Raises UsageError for an address or a login that cannot be.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        timeout_seconds: float = 60.0,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                "not the address of a server", where=_without_secret(url), next="give http(s)://host[:port]"
            )
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                "a user or password inside the address",
                where=_without_secret(url),
                next='give user = "name" and password = "env:NAME" beside it',
            )
        secret = password is not None or token is not None
        if secret and parts.scheme == "http" and not is_this_machine(parts.hostname):
            raise UsageError("a secret would go over the network unencrypted", where=url, next="use https")
        if token is not None and (user is not None or password is not None):
            raise UsageError("both a token and a user with a password", where=url, next="give one of them")
        if (user is None) != (password is None):
            raise UsageError("a user and a password belong together", where=url)
        self.url = url.rstrip("/")
        self._user, self._password, self._token = user, password, token
        self._timeout, self._most_bytes = timeout_seconds, most_bytes
        self._opener = urllib.request.build_opener(_NoRedirects, _Plain(), _Tls(context=ssl.create_default_context()))

    def exchange(
        self, method: str, address: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, bytes]:
        """The status and the body of the answer, whatever the status is. Raises ServerError, in words."""
        request = urllib.request.Request(address, data=body, method=method, headers=dict(headers))  # noqa: S310
        request.add_header("Accept", "application/json")
        if self._token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {resolve(self._token)}")
        elif self._user is not None and self._password is not None:
            pair = f"{self._user}:{resolve(self._password)}".encode()
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
        deadline = clock.monotonic() + self._timeout
        try:
            try:
                opening = partial(self._opener.open, request, timeout=self._timeout)
                with within(self._timeout, opening, partial(_cut, request)) as answer:
                    return answer.status, self._read(answer, deadline)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, self._read(error, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreached(error) from error

    def _read(self, answer: Any, deadline: float) -> bytes:
        """The whole answer. The socket's own timeout starts anew with every byte; this one does not."""
        pieces: list[bytes] = []
        size = 0
        while piece := answer.read1(_PIECE_BYTES) if hasattr(answer, "read1") else answer.read(_PIECE_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > self._most_bytes:
                raise ServerError("the answer is too large", where=self.url, next="ask for less at once")
            if clock.monotonic() > deadline:
                raise TimeoutError("timed out")
        return b"".join(pieces)

    def _unreached(self, error: Exception) -> ServerError:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return ServerError(
                f"the server's certificate is not trusted: {reason.verify_message}",
                where=self.url,
                next="add the CA to this system, or name its file in the variable SSL_CERT_FILE",
            )
        if isinstance(reason, TimeoutError):
            return ServerError(
                f"no answer within {self._timeout:g} s", where=self.url, next="is the server overloaded? Ask for less"
            )
        return ServerError(f"the server was not reached: {reason}", where=self.url, next="check the address")


class _Kept(urllib.request.AbstractHTTPHandler):
    """With the connection kept at the request, so that it can be cut, and nothing sent when its time is over."""

    def do_open(self, http_class: Any, req: Any, **options: Any) -> Any:
        end = clock.monotonic() + req.timeout

        def made(*arguments: Any, **more: Any) -> Any:
            connection = req.connection = http_class(*arguments, **more)
            connect = connection.connect

            def timely() -> None:
                connect()
                if clock.monotonic() > end:
                    raise TimeoutError("timed out")

            connection.connect = timely
            return connection

        return super().do_open(made, req, **options)


class _Plain(_Kept, urllib.request.HTTPHandler):
    pass


class _Tls(_Kept, urllib.request.HTTPSHandler):
    pass


def _cut(request: Any) -> None:
    """End an exchange whose answer has not begun: the socket's own timeout starts anew with every byte."""
    sock = getattr(getattr(request, "connection", None), "sock", None)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address is loopback's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_secret(url: str) -> str:
    return re.sub(r"//.*@", "//…@", url)
