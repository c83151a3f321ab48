"""Just enough of PostgreSQL's protocol to be an honest client: log in, run a statement, read text rows.

The load generator must know for sure which commits were acknowledged, and stay outside of the machine whose power is
cut; so it speaks the protocol itself (PostgreSQL manual, chapter "Frontend/Backend Protocol", version 3.0, and
RFC 5802/7677 for SCRAM-SHA-256) and has a deadline on everything.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
import socket
import struct
import time
from types import TracebackType

ENDING = ("57P", "08")  # the server (57P01 to 57P03), or a pooler before it (08*), is ending the connection
_LARGEST_MESSAGE_BYTES = 16 * 1024 * 1024


class ConnectionLost(Exception):
    """No answer, or half of one: whether a statement under way was committed is not known."""


class ServerError(Exception):
    """The server answered with an error: the statement was not committed. `code` is the SQLSTATE."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class WireClient:
    """One connection. Raises ConnectionLost or ServerError; after ConnectionLost it is of no more use."""

    def __init__(
        self, address: tuple[str, int], *, user: str, password: str, database: str, timeout_seconds: float = 5.0
    ) -> None:
        self._password, self._timeout = password, timeout_seconds
        self._end = time.monotonic() + timeout_seconds
        self._buffer = b""
        try:
            self._socket = socket.create_connection(address, timeout=timeout_seconds)
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            options = {"user": user, "database": database, "application_name": "load-generator"}
            body = b"".join(f"{name}\0{value}\0".encode() for name, value in options.items()) + b"\0"
            self._raw_send(struct.pack("!ii", len(body) + 8, 196608) + body)
            self._log_in()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> WireClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say good-bye if it can be said, and close."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(0.5)
            self._socket.sendall(b"X\0\0\0\x04")
        self._socket.close()

    def query(self, statement: str, *, timeout_seconds: float | None = None) -> list[tuple[str | None, ...]]:
        """Run it in a transaction of its own; returns its rows as text. It is committed when this returns."""
        self._end = time.monotonic() + (timeout_seconds or self._timeout)
        self._send(b"Q", statement.encode() + b"\0")
        rows: list[tuple[str | None, ...]] = []
        failure: ServerError | None = None
        while True:
            kind, body = self._receive()
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                failure = _error(body)
                if failure.code.startswith(ENDING):  # nothing more will come
                    raise failure
            elif kind == b"Z":
                if failure:
                    raise failure
                return rows

    def _log_in(self) -> None:
        scram: _Scram | None = None
        while True:
            kind, body = self._receive()
            if kind == b"E":
                raise _error(body)
            if kind == b"Z":
                return
            if kind != b"R":
                continue
            (code,) = struct.unpack("!i", body[:4])
            if code == 10:
                scram = _Scram(self._password)
                first = scram.first()
                self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
            elif code == 11 and scram:
                self._send(b"p", scram.final(body[4:]))
            elif code == 12 and scram:
                scram.check(body[4:])
            elif code != 0:
                raise ServerError("28000", f"the server asks for a kind of login ({code}) that is not spoken here")

    def _send(self, kind: bytes, body: bytes) -> None:
        self._raw_send(kind + struct.pack("!i", len(body) + 4) + body)

    def _raw_send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(data)
        except OSError as error:
            raise ConnectionLost(str(error)) from error

    def _receive(self) -> tuple[bytes, bytes]:
        head = self._exactly(5)
        (length,) = struct.unpack("!i", head[1:])
        if not 4 <= length <= _LARGEST_MESSAGE_BYTES:
            raise ConnectionLost("what came is not PostgreSQL's protocol")
        return head[:1], self._exactly(length - 4)

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                self._socket.settimeout(self._left())
                chunk = self._socket.recv(65536)
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            if not chunk:
                raise ConnectionLost("the server closed the connection")
            self._buffer += chunk
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise ConnectionLost("no answer in time")
        return left


class _Scram:
    """SCRAM-SHA-256 without channel binding; the server has to prove that it knows the password as well."""

    def __init__(self, password: str, *, user: str = "", nonce: str = "") -> None:
        # PostgreSQL takes the user from the start-up message and ignores the one in here.
        self._password = password.encode()
        self._nonce = nonce or secrets.token_urlsafe(18)
        self._bare = f"n={user},r={self._nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        return f"n,,{self._bare}".encode()

    def final(self, server_first: bytes) -> bytes:
        said = dict(part.split("=", 1) for part in server_first.decode().split(","))
        if not said["r"].startswith(self._nonce):
            raise ServerError("28000", "the server's nonce is not ours: somebody stands in between")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(said["s"]), int(said["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={said['r']}"
        message = f"{self._bare},{server_first.decode()},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def check(self, server_final: bytes) -> None:
        said = server_final.decode().removeprefix("v=")
        if not hmac.compare_digest(base64.b64decode(said), self._server_signature):
            raise ServerError("28000", "the server does not know the password: it is another one")


def _row(body: bytes) -> tuple[str | None, ...]:
    (count,) = struct.unpack("!h", body[:2])
    values: list[str | None] = []
    at = 2
    for _ in range(count):
        (length,) = struct.unpack("!i", body[at : at + 4])
        at += 4
        if length < 0:
            values.append(None)
        else:
            values.append(body[at : at + length].decode(errors="replace"))
            at += length
    return tuple(values)


def _error(body: bytes) -> ServerError:
    parts = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return ServerError(parts.get(b"C", ""), parts.get(b"M", "an error without words"))
