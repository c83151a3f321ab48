"""The load generator's own PostgreSQL client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from runbooks_lib.training.lab.wire import ConnectionLost, ServerError, WireClient, _Scram


def test_scram_is_that_of_rfc_7677() -> None:
    scram = _Scram("pencil", user="user", nonce="rOprNGfwEbeRWgbNEkqO")
    assert scram.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    final = scram.final(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    assert final.endswith(b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    scram.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


def test_a_server_that_does_not_know_the_password_is_refused() -> None:
    scram = _Scram("pencil", user="user", nonce="rOprNGfwEbeRWgbNEkqO")
    scram.final(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    with pytest.raises(ServerError, match="another one"):
        scram.check(b"v=" + b"A" * 43 + b"=")


def test_a_nonce_that_is_not_ours_is_refused() -> None:
    scram = _Scram("pencil")
    scram.first()
    with pytest.raises(ServerError, match="in between"):
        scram.final(b"r=somebodyelse,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def connect(listener: socket.socket) -> WireClient:
    return WireClient(listener.getsockname(), user="u", password="p", database="d", timeout_seconds=0.5)


def test_a_server_that_says_nothing_costs_no_more_than_the_deadline(listener: socket.socket) -> None:
    begin = time.monotonic()
    with pytest.raises(ConnectionLost):
        connect(listener)
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"R\xff\xff\xff\xff", b"R\0\0\0\0", b"E"])
def test_what_is_not_postgresqls_protocol_is_a_lost_connection(listener: socket.socket, said: bytes) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(said)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with pytest.raises(ConnectionLost):
            connect(listener)
    finally:
        thread.join()


def test_nobody_listening_is_a_lost_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with pytest.raises(ConnectionLost):
        WireClient(address, user="u", password="p", database="d", timeout_seconds=0.5)
