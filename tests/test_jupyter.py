"""`runbook lab`: a real JupyterLab on loopback, its token in no log, argument or environment."""

import contextlib
import errno
import http.client
import http.server
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from click.testing import CliRunner

from runbooks_lib import jupyter
from runbooks_lib.cli import cli
from runbooks_lib.errors import RunbookError, UsageError


def answer(lab: jupyter.Lab, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(lab.url).netloc, timeout=10)
    connection.request("GET", path, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_server_answers_only_those_who_have_the_token_and_the_token_is_nowhere_else(tmp_path: Path) -> None:
    log = tmp_path / "lab.log"
    lab = jupyter.prepare(tmp_path / "lab", config_file=tmp_path / "runbooks.toml")
    assert lab.token_file is not None
    token = lab.token_file.read_text()
    assert stat.S_IMODE(lab.token_file.stat().st_mode) == 0o600
    assert token not in " ".join(lab.command)
    assert token not in "".join(lab.environment.values())
    with jupyter.running(lab, log=log) as process:
        assert answer(lab, "/api/contents") == 403
        assert answer(lab, "/api/contents", Authorization=f"token {token}") == 200
        # DNS rebinding: a page of another site must not reach it by its own name.
        assert answer(lab, "/api/contents", Authorization=f"token {token}", Host="evil.example") == 403
        command = Path(f"/proc/{process.pid}/cmdline")
        if command.exists():
            assert token not in command.read_text()
    assert token not in log.read_text()
    assert not lab.runtime.exists()
    assert not lab.token_file.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_another_address_is_refused_without_tls_and_password(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0\.0\.0\.0 can be reached from other machines.*TLS certificate.*password"):
        jupyter.prepare(tmp_path, ip="0.0.0.0")  # noqa: S104 (refused is what is tested)
    with pytest.raises(UsageError, match="a password is missing"):
        jupyter.prepare(tmp_path, ip="::", certificate=tmp_path / "c.pem", key=tmp_path / "k.pem")
    with pytest.raises(UsageError, match="not an IP address"):
        jupyter.prepare(tmp_path, ip="example.org")


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="in use"):
            jupyter.prepare(tmp_path, port=taken.getsockname()[1])


def test_a_server_that_dies_is_told_with_what_it_said(tmp_path: Path) -> None:
    lab = jupyter.prepare(tmp_path / "lab")
    (lab.directory / "config/jupyter_server_config.json").write_text('{"ServerApp": {"port": "no number"}}')
    with pytest.raises(RunbookError, match="did not start") as caught, jupyter.running(lab):
        pass
    assert "no number" in str(caught.value)
    assert not lab.runtime.exists()


def test_two_servers_have_two_tokens_and_each_takes_only_its_own(tmp_path: Path) -> None:
    first = jupyter.prepare(tmp_path / "lab")
    with jupyter.running(first):
        second = jupyter.prepare(tmp_path / "lab")
        assert first.token_file is not None
        assert second.token_file is not None
        with jupyter.running(second):
            mine, other = first.token_file.read_text(), second.token_file.read_text()
            assert mine != other
            assert answer(second, "/api/contents", Authorization=f"token {other}") == 200
            assert answer(second, "/api/contents", Authorization=f"token {mine}") == 403
        assert answer(first, "/api/contents", Authorization=f"token {mine}") == 200


def test_two_that_are_prepared_at_once_take_two_ports(tmp_path: Path) -> None:
    first, second = jupyter.prepare(tmp_path / "lab"), jupyter.prepare(tmp_path / "lab")
    assert first.directory != second.directory
    assert first.token_file is not None
    assert second.token_file is not None
    assert first.token_file.read_text() != second.token_file.read_text()
    with pytest.raises(UsageError, match="in use"):
        jupyter.prepare(tmp_path / "lab", port=int(second.directory.name))
    for lab in (first, second):
        lab.held.let_go()
        lab.runtime.rmdir()


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(jupyter.fcntl, "flock", refused)
    lab = jupyter.prepare(tmp_path / "lab")
    lab.held.let_go()
    lab.runtime.rmdir()


def test_another_programs_server_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    lab = jupyter.prepare(tmp_path / "lab")
    port = urlsplit(lab.url).port
    assert port is not None
    other = http.server.ThreadingHTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    try:
        with pytest.raises(RunbookError, match="did not start"), jupyter.running(lab):
            pass
    finally:
        other.shutdown()
        thread.join()
        other.server_close()


def test_a_server_that_ends_by_itself_ends_the_command_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runbooks.toml").write_text("")

    @contextlib.contextmanager
    def ended(lab: jupyter.Lab, **_: object) -> Iterator[subprocess.Popen[bytes]]:
        lab.runtime.rmdir()
        with subprocess.Popen(["sh", "-c", "exit 5"]) as process:
            yield process

    monkeypatch.setattr(jupyter, "running", ended)
    done = CliRunner().invoke(cli, ["lab", "--config", str(tmp_path / "runbooks.toml"), "--no-browser"])
    assert isinstance(done.exception, RunbookError)
    assert done.exception.exit_code == 1
    assert "exit status 5" in str(done.exception)


def test_a_command_that_is_killed_leaves_no_server_behind(tmp_path: Path) -> None:
    (tmp_path / "runbooks.toml").write_text("")
    command = subprocess.Popen(
        [sys.executable, "-m", "runbooks_lib", "lab", "--config", str(tmp_path / "runbooks.toml"), "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    address = urlsplit(command.stdout.readline().strip())  # said once the server answers
    assert address.port is not None
    before = [each.pid for each in psutil.Process(command.pid).children(recursive=True)]
    assert before
    command.kill()
    command.wait()
    command.stdout.close()
    deadline = time.monotonic() + 30
    while any(map(psutil.pid_exists, before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, before))
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", address.port), timeout=5):
        pass
    assert not list((tmp_path / "outputs/lab").rglob("token"))


def test_missing_notebooks_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        jupyter.prepare(tmp_path, notebooks=tmp_path / "absent")
