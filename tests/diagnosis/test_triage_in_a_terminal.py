"""`runbook triage` in a terminal, while a service keeps it waiting: told early, told whole, stopped."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Early at once, and a service may take a minute: nothing here depends on how quick this machine is.
COMMAND = """
import sys
from runbooks_lib.diagnosis import triage
from runbooks_lib.facts import services_asking
triage.EARLY_SECONDS, services_asking.TIMEOUT_SECONDS = 0.0, 60.0
from runbooks_lib.cli import main
sys.exit(main())
"""


class Slow(BaseHTTPRequestHandler):
    """Answers when it may."""

    may: threading.Event

    def do_GET(self) -> None:
        self.may.wait(100)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def may() -> threading.Event:
    return threading.Event()


@pytest.fixture
def terminal(tmp_path: Path, may: threading.Event) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command, its stderr a terminal and its stdout a pipe, and the terminal's other end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Slow,), {"may": may}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/"
    (tmp_path / "runbooks.toml").write_text(
        f'[hosts.here]\nlocal = true\n[hosts.here.services.web]\nhealth = "{address}"\n'
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "triage", "here", "--config", tmp_path / "runbooks.toml"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        os.close(theirs)
        yield process, ours
        process.kill()
        may.set()
    os.close(ours)
    server.shutdown()
    thread.join()
    server.server_close()


def until(terminal: int, words: str) -> str:
    seen = b""
    while words.encode() not in seen:
        seen += os.read(terminal, 65536)
    return seen.decode()


@pytest.mark.timeout(120)
def test_what_is_known_is_shown_while_the_rest_is_waited_for(
    terminal: tuple[subprocess.Popen[bytes], int], may: threading.Event
) -> None:
    process, screen = terminal
    seen = until(screen, "The rest is waited for; Ctrl-C ends that.")
    assert "no answer yet about" in seen
    assert "the services" in seen
    assert process.poll() is None
    may.set()
    assert process.stdout is not None
    whole = process.stdout.read().decode()
    assert "no answer yet" not in whole
    # A service that kept us for more than three seconds is a finding, and a quick machine comes here before that.
    assert whole.lower().startswith(("here: ", "nothing wrong was found on here"))
    assert process.wait(60) in (0, 3)


@pytest.mark.timeout(120)
def test_ctrl_c_ends_the_waiting(terminal: tuple[subprocess.Popen[bytes], int]) -> None:
    process, screen = terminal
    until(screen, "The rest is waited for")
    process.send_signal(signal.SIGINT)
    until(screen, "Stopped. Nothing more was done.")
    assert process.wait(40) == 1
    assert process.stdout is not None
    assert process.stdout.read() == b""
