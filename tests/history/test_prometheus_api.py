"""The HTTP client against servers that misbehave: real sockets on the loopback, and a real TLS handshake."""

from __future__ import annotations

import base64
import http.server
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.history import HistoryError
from runbooks_lib.history.prometheus import PrometheusHistory, without_port
from runbooks_lib.history.prometheus_api import MAX_POINTS, PrometheusApi, quoted, quoted_pattern, steps
from tests.certificates import issue

OK = b'{"status":"success","data":{"resultType":"vector","result":[]}}'
Answer = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


@contextmanager
def serving(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer(self, body)

        def do_GET(self) -> None:
            answer(self, b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def ask(url: str, **options: object) -> list[object]:
    return list(PrometheusApi(url, **options).query("up", time=0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"no", "refused the login"),
        (403, b"", "refused the login"),
        (404, b"<html>", "HTTP 404"),
        (200, b"<html>", "not understood"),
        (200, b"{}", "not understood"),
        (200, b'{"status":"success","data":{"result":[{"metric":{},"value":["x","y"]}]}}', "not understood"),
        (200, b'{"status":"success","data":3}', "not understood"),
        (422, b'{"status":"error","errorType":"execution","error":"too many samples"}', "too many samples"),
        (503, b"", "HTTP 503"),
    ],
)
def test_a_wrong_answer_is_told(status: int, body: bytes, said: str) -> None:
    with serving(lambda handler, _: reply(handler, status, body)) as url, pytest.raises(HistoryError) as caught:
        ask(url)
    assert said in caught.value.what
    assert caught.value.where == url


def test_a_redirect_is_not_followed_with_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "a-token-of-tests")
    elsewhere: list[str | None] = []

    def thief(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        elsewhere.append(handler.headers.get("Authorization"))
        reply(handler, 200, OK)

    def away(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        reply(handler, 302, b"", Location=other)

    with serving(thief) as other, serving(away) as url, pytest.raises(HistoryError, match="HTTP 302"):
        ask(url, token="env:TOKEN")
    assert elsewhere == []


def test_a_server_that_drips_does_not_hold_us_for_ever() -> None:
    stop = threading.Event()

    def drip(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not stop.wait(0.05):
                handler.wfile.write(b" ")
                handler.wfile.flush()
        except OSError:
            pass

    with serving(drip) as url:
        started = time.monotonic()
        with pytest.raises(HistoryError, match=r"no answer within 0\.5 s"):
            ask(url, timeout_seconds=0.5)
        assert time.monotonic() - started < 3
        stop.set()


def test_a_server_that_drips_its_headers_does_not_hold_us_either() -> None:
    stop = threading.Event()

    def drip(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        with suppress(OSError):
            for _ in range(400):
                handler.wfile.write(b"X: y\r\n")
                if stop.wait(0.05):
                    break
            handler.wfile.write(b"Content-Length: %d\r\n\r\n%b" % (len(OK), OK))

    with serving(drip) as url:
        with pytest.raises(HistoryError, match=r"no answer within 0\.5 s"):
            ask(url, timeout_seconds=0.5)
        stop.set()


def test_a_silent_server_and_none_are_told_apart(free_port: Callable[[], int]) -> None:
    stop = threading.Event()
    with serving(lambda *_: stop.wait(5) and None) as url:
        with pytest.raises(HistoryError, match=r"no answer within 0\.3 s"):
            ask(url, timeout_seconds=0.3)
        stop.set()
    with pytest.raises(HistoryError, match="refused"):
        ask(f"http://127.0.0.1:{free_port()}")


def test_secrets_come_from_references_and_reach_only_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_PASSWORD", "p:ä&ss-of-tests")
    token = tmp_path / "token"
    token.write_text("tok-of-tests\n")
    token.chmod(0o600)
    seen: list[str] = []

    def check(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        seen.append(handler.headers["Authorization"])
        reply(handler, 401, b"")

    with serving(check) as url:
        for options in ({"user": "me", "password": "env:PROMETHEUS_PASSWORD"}, {"token": f"file:{token}"}):
            with pytest.raises(HistoryError) as caught:
                ask(url, **options)
            assert "of-tests" not in str(caught.value)
    assert seen[0] == "Basic " + base64.b64encode("me:p:ä&ss-of-tests".encode()).decode()
    assert seen[1] == "Bearer tok-of-tests"


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("http://prometheus.example:9090", {"token": "env:T"}, "unencrypted"),
        ("http://192.0.2.1", {"user": "u", "password": "env:P"}, "unencrypted"),
        ("https://u:secret@prometheus.example", {}, "inside the address"),
        ("https://prometheus.example", {"user": "u"}, "belong together"),
        ("https://prometheus.example", {"user": "u", "password": "env:P", "token": "env:T"}, "both a token"),
        ("ftp://prometheus.example", {}, "not the address"),
        ("https://", {}, "not the address"),
    ],
)
def test_an_unsafe_setting_is_refused_before_anything_is_sent(url: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        PrometheusApi(url, **options)  # type: ignore[arg-type]
    assert "secret@" not in str(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_refused_and_a_known_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = issue(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.server)
    with serving(lambda handler, _: reply(handler, 200, OK), context) as url:
        with pytest.raises(HistoryError, match="certificate is not trusted"):
            ask(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
        assert ask(url) == []


def test_a_proxy_that_lets_only_reading_through_is_asked_by_get() -> None:
    methods: list[str] = []

    def only_get(handler: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        methods.append(handler.command)
        reply(handler, 200 if handler.command == "GET" else 405, OK if handler.command == "GET" else b"")

    with serving(only_get) as url:
        assert ask(url) == []
    assert methods == ["POST", "GET"]


def test_a_long_range_is_asked_in_pieces_that_the_server_allows() -> None:
    asked: list[int] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        from urllib.parse import parse_qs

        query = {name: float(values[0]) for name, values in parse_qs(body.decode()).items() if name != "query"}
        times = range(int(query["start"]), int(query["end"]) + 1, int(query["step"]))
        asked.append(len(times))
        points = ",".join(f'[{second},"{second}"]' for second in times)
        reply(
            handler,
            200,
            b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[%s]}]}}'
            % points.encode(),
        )

    with serving(answer) as url:
        (found,) = PrometheusApi(url).query_range("up", start=0, end=60 * 25_000, step=60)
    assert max(asked) <= MAX_POINTS
    assert found.times.tolist() == list(range(0, 60 * 25_000 + 1, 60))


def test_a_warning_of_the_server_is_kept() -> None:
    body = b'{"status":"success","warnings":["partial"],"data":{"resultType":"vector","result":[]}}'
    with serving(lambda handler, _: reply(handler, 200, body)) as url:
        history = PrometheusHistory(url)
        assert history.last_collection("a") is None
        assert history.api.warnings == ["partial"]


def test_a_name_that_is_not_unicode_is_told() -> None:
    with pytest.raises(HistoryError, match="not Unicode"):
        PrometheusHistory("http://127.0.0.1:1").filesystem("db-01", "/\udcff")


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("db-01:9100", "db-01"),
        ("db-01", "db-01"),
        ("10.0.0.1:9100", "10.0.0.1"),
        ("[::1]:9100", "::1"),
        ("[::1]", "::1"),
    ],
)
def test_a_port_is_left_out_of_a_host(target: str, host: str) -> None:
    assert without_port(target) == host


def test_texts_are_quoted_for_promql() -> None:
    assert quoted('a"\\\n') == '"a\\"\\\\\\n"'
    assert quoted_pattern("a.b-c[1]$") == r"a\.b-c\[1\]\$"
    assert steps(86_400, least=300) == 300
    assert 400 * 86_400 / steps(400 * 86_400, least=300) < MAX_POINTS
