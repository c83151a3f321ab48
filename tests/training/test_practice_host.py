"""The practice host: a real SSH server, to this machine only."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import paramiko
import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.host import AuthRefused, HostUnreachable, Script
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.training.practice_host import PracticeHost, _Server
from tests.hosts.processes import all_gone, wait_for


def ssh(practice: PracticeHost, name: str | None = None) -> SshHost:
    return SshHost(name or practice.names[0], settings_source=partial(resolve, config_file=practice.ssh_config))


def test_it_serves_several_names_with_the_files_it_wrote(tmp_path):
    with PracticeHost(tmp_path / "p", names=("db-1", "db-2")) as practice:
        for name in practice.names:
            host = ssh(practice, name)
            assert host.run(Script("echo $USER >/dev/null; id -un")).stdout.strip() == practice.user.encode()
            host.close()
    assert stat.S_IMODE(practice.directory.stat().st_mode) == 0o700
    for path in (practice.identity_file, practice.host_key_file, practice.ssh_config, practice.known_hosts):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1"])  # noqa: S104
def test_it_refuses_an_address_that_others_could_reach(tmp_path, address):
    with pytest.raises(UsageError, match="127"):
        PracticeHost(tmp_path / "p", address=address)
    assert not (tmp_path / "p").exists()


def test_it_listens_on_the_loopback_and_nowhere_else(tmp_path):
    with PracticeHost(tmp_path / "p") as practice:
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with other:
            try:
                other.connect(("192.0.2.1", 9))  # sends nothing; tells our own address on the network
            except OSError:
                pytest.skip("this machine has no other address")
            address = other.getsockname()[0]
        if address.startswith("127."):
            pytest.skip("this machine has no other address")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, practice.port), timeout=2)


def test_a_peer_that_is_not_on_the_loopback_is_turned_away(tmp_path, monkeypatch):
    monkeypatch.setattr("ipaddress.IPv4Address.is_loopback", property(lambda self: str(self) == "127.0.0.1"))
    with PracticeHost(tmp_path / "p") as practice:
        stranger = socket.create_connection(("127.0.0.1", practice.port), source_address=("127.0.0.2", 0))
        stranger.settimeout(2)
        assert stranger.recv(10) == b""
        stranger.close()


def test_it_knows_one_key_and_one_user(tmp_path):
    with PracticeHost(tmp_path / "p") as practice:
        for user, key in ((practice.user, paramiko.ECDSAKey.generate()), ("somebody", practice._user_key)):
            transport = paramiko.Transport(socket.create_connection((practice.address, practice.port)))
            transport.start_client(timeout=5)
            with pytest.raises(paramiko.AuthenticationException):
                transport.auth_publickey(user, key)
            transport.close()
        assert practice.logins == 0


def test_its_keys_stay_the_same_over_starts_and_its_port_need_not(tmp_path):
    with PracticeHost(tmp_path / "p") as practice:
        first = practice.known_hosts.read_text()
    with PracticeHost(tmp_path / "p") as practice:
        assert practice.known_hosts.read_text() == first
        host = ssh(practice)
        assert host.run(Script("echo x")).ok
        host.close()


def test_stopping_ends_what_it_started(tmp_path):
    mark = f"RUNBOOKS_TEST_MARK={secrets.token_hex(8)}"
    practice = PracticeHost(tmp_path / "p")
    practice.start()
    transport = paramiko.Transport(socket.create_connection((practice.address, practice.port)))
    transport.start_client(timeout=5)
    transport.auth_publickey(practice.user, practice._user_key)
    channel = transport.open_session()
    channel.exec_command(f"export {mark}; trap '' HUP TERM; sleep 300 & sleep 301")
    wait_for(mark, 2)
    practice.stop()
    assert all_gone(mark)
    transport.close()
    with pytest.raises(HostUnreachable):
        ssh(practice).run(Script("echo x"), deadline_seconds=3)


def test_many_channels_over_one_connection(tmp_path):
    with PracticeHost(tmp_path / "p") as practice:
        transport = paramiko.Transport(socket.create_connection((practice.address, practice.port)))
        transport.start_client(timeout=5)
        transport.auth_publickey(practice.user, practice._user_key)
        channels = [transport.open_session() for _ in range(50)]
        for number, channel in enumerate(channels):
            channel.exec_command(f"echo {number}; exit {number}")
        for number, channel in enumerate(channels):
            channel.settimeout(10)
            assert channel.recv_exit_status() == number
            assert channel.makefile().read() == f"{number}\n".encode()
        transport.close()


def test_no_command_starts_before_its_request_is_answered(tmp_path, monkeypatch):
    send = _Server._send_user_message

    def slow_to_answer(transport, message):
        if message.asbytes()[0] == paramiko.common.MSG_CHANNEL_SUCCESS:
            time.sleep(0.5)
        send(transport, message)

    monkeypatch.setattr(_Server, "_send_user_message", slow_to_answer)
    with PracticeHost(tmp_path / "p") as practice:
        host = ssh(practice)
        assert host.run(Script("echo x")).stdout == b"x\n"
        host.close()
        transport = paramiko.Transport(socket.create_connection((practice.address, practice.port)))
        transport.start_client(timeout=5)
        transport.auth_publickey(practice.user, practice._user_key)
        channel = transport.open_session()
        channel.exec_command("exit 3")
        assert channel.recv_exit_status() == 3
        transport.close()


@pytest.mark.lab
def test_openssh_itself_can_use_it(tmp_path):
    with PracticeHost(tmp_path / "p") as practice:
        command = ["ssh", "-F", practice.ssh_config, practice.names[0], "cat; exit 3"]
        done = subprocess.run(command, input=b"\0" * 5_000_000, capture_output=True, timeout=30)
        assert (len(done.stdout), done.returncode) == (5_000_000, 3)
        done = subprocess.run(["ssh", "-F", practice.ssh_config, practice.names[0], "kill -9 $$"], timeout=30)
        assert done.returncode == 255


def test_as_a_program_it_stays_until_it_is_told_to_end(tmp_path):
    directory = tmp_path / "with space"
    command = [sys.executable, "-m", "runbooks_lib.training.practice_host", "--directory", directory, "--name", "db-1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert "127.0.0.1" in process.stdout.readline()
    assert "ssh -F" in process.stdout.readline()
    host = SshHost("db-1", settings_source=partial(resolve, config_file=directory / "ssh_config"))
    assert host.run(Script("echo x")).ok
    host.close()
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(5) == 0
    assert time.monotonic() - begin < 2
    process.stdout.close()


def test_a_wrong_user_is_a_refused_login(tmp_path):
    with PracticeHost(tmp_path / "p") as practice:
        practice.ssh_config.write_text(practice.ssh_config.read_text().replace(f"User {practice.user}", "User nobody2"))
        with pytest.raises(AuthRefused, match="nobody2@"):
            ssh(practice).run(Script("echo x"), deadline_seconds=5)
