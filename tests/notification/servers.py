"""Real servers on loopback that take messages: one for HTTP, one for SMTP, and Debian's Alertmanager."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import socketserver
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Received:
    """What came in: HTTP requests as (path, headers, parsed JSON), or letters as (sender, receivers, text)."""

    address: str
    items: list[tuple[Any, Any, Any]] = field(default_factory=list)
    status: int = 200
    location: str = ""
    refuse: bool = False


@contextlib.contextmanager
def webhook() -> Iterator[Received]:
    """An HTTP server that answers each POST with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.items.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(received.status)
            if received.location:
                self.send_header("Location", received.location)
            self.end_headers()
            self.wfile.write(b"no such channel" if received.status >= 400 else b"ok")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Received(f"http://127.0.0.1:{server.server_address[1]}")
    with _serving(server):
        yield received


@contextlib.contextmanager
def mail_server() -> Iterator[Received]:
    """An SMTP server (RFC 5321) without TLS; with `refuse` it takes no receiver."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 mail.test")
            sender, receivers = "", []
            while line := self.rfile.readline().decode().strip():
                verb = line.split(":")[0].split(" ")[0].upper()
                if verb in ("EHLO", "HELO"):
                    self.say("250 mail.test")
                elif verb == "MAIL":
                    sender = line
                    self.say("250 ok")
                elif verb == "RCPT":
                    if received.refuse:
                        self.say("550 no such user here")
                    else:
                        receivers.append(line.split("<")[1].split(">")[0])
                        self.say("250 ok")
                elif verb == "DATA":
                    self.say("354 go on")
                    lines = []
                    while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                        lines.append(text)
                    received.items.append((sender, receivers, "\n".join(lines)))
                    self.say("250 kept")
                elif verb == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 ok")

        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received = Received(str(server.server_address[1]))
    with _serving(server):
        yield received


@contextlib.contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def alertmanager(directory: Path) -> Iterator[str]:
    """Debian's Alertmanager; its address."""
    program = shutil.which("prometheus-alertmanager")
    assert program, "the package prometheus-alertmanager is missing"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = directory / "alertmanager.yml"
    settings.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    url = f"http://127.0.0.1:{port}"
    with (directory / "alertmanager.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program, f"--config.file={settings}", f"--storage.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
            ],
            stdout=log,
            stderr=log,
        )  # fmt: skip
    try:
        for _ in range(600):
            assert process.poll() is None, (directory / "alertmanager.log").read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=2):  # noqa: S310
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def post(url: str, body: object) -> None:
    """Post a JSON body, as Prometheus posts alerts."""
    request = urllib.request.Request(  # noqa: S310
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


def get(url: str) -> Any:
    """A JSON answer."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        return json.load(answer)
