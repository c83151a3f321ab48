"""A host over SSH when things are not as they should be: keys, logins, dead and silent hosts, dying connections."""

from __future__ import annotations

import base64
import contextlib
import gc
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from runbooks_lib.hosts import bastion as bastion_module
from runbooks_lib.hosts.bastion import Bastions
from runbooks_lib.hosts.capture import Capture
from runbooks_lib.hosts.host import (
    AuthRefused,
    DeadlineExceeded,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    Script,
    SettingsRefused,
)
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import SshSettings, resolve, route
from runbooks_lib.training.practice_host import PracticeHost
from tests.hosts.processes import all_gone, wait_for

ECHO = Script("echo here", name="echo")


@pytest.fixture
def practice(tmp_path: Path) -> Iterator[PracticeHost]:
    with PracticeHost(tmp_path / "practice") as host:
        yield host


@pytest.fixture
def bastions() -> Iterator[Bastions]:
    made = Bastions()
    yield made
    made.close()


def settings_of(practice: PracticeHost, **changes: object) -> SshSettings:
    return replace(resolve(practice.names[0], config_file=practice.ssh_config), **changes)  # type: ignore[arg-type]


def host_with(practice: PracticeHost, **changes: object) -> SshHost:
    settings = settings_of(practice, **changes)
    return SshHost(practice.names[0], settings_source=lambda _: settings)


def new_key(path: Path, password: bytes | None = None) -> Path:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption
    )
    path.write_bytes(private)
    path.chmod(0o600)
    return path


# Host keys


def known(tmp_path: Path, *lines: str) -> tuple[str, ...]:
    path = tmp_path / f"known_hosts-{secrets.token_hex(4)}"
    path.write_text("".join(line + "\n" for line in lines))
    return (str(path),)


def shown(practice: PracticeHost) -> str:
    return " ".join(practice.known_hosts.read_text().split()[1:3])


def test_an_unknown_key_is_refused_before_any_login_with_its_fingerprint_and_the_next_command(practice, tmp_path):
    host = host_with(practice, user_known_hosts_files=known(tmp_path))
    with pytest.raises(HostKeyUnknown) as caught:
        host.run(ECHO)
    key = base64.b64decode(shown(practice).split()[1])
    assert caught.value.fingerprint.startswith("SHA256:")
    assert caught.value.key_type == "ssh-ed25519"
    assert caught.value.fingerprint in str(caught.value)
    assert "runbook hosts trust practice-host" in str(caught.value)
    assert practice.logins == 0
    assert key


def test_a_changed_key_is_refused_before_any_login(practice, tmp_path):
    other = paramiko.Ed25519Key.from_private_key_file(str(new_key(tmp_path / "other")))
    lines = known(tmp_path, f"practice-host ssh-ed25519 {other.get_base64()}")
    with pytest.raises(HostKeyChanged, match="CHANGED"):
        host_with(practice, user_known_hosts_files=lines).run(ECHO)
    assert practice.logins == 0


def test_a_revoked_key_is_refused_even_when_it_is_known_too(practice, tmp_path):
    lines = known(tmp_path, f"practice-host {shown(practice)}", f"@revoked * {shown(practice)}")
    with pytest.raises(HostKeyChanged, match="REVOKED"):
        host_with(practice, user_known_hosts_files=lines).run(ECHO)
    assert practice.logins == 0


def test_a_host_that_only_a_ca_vouches_for_is_refused_in_words(practice, tmp_path):
    other = paramiko.Ed25519Key.from_private_key_file(str(new_key(tmp_path / "ca")))
    lines = known(tmp_path, f"@cert-authority * ssh-ed25519 {other.get_base64()}")
    with pytest.raises(SettingsRefused, match="CA"):
        host_with(practice, user_known_hosts_files=lines).run(ECHO)
    assert practice.logins == 0


def test_a_host_known_by_another_key_type_is_asked_for_that_type(practice, tmp_path):
    ecdsa = paramiko.ECDSAKey.generate()
    practice._host_keys.append(ecdsa)
    # Hashed, so that the type is not known beforehand; ed25519 is offered first and is not the one that is known.
    salt = secrets.token_bytes(20)
    name = paramiko.HostKeys.hash_host("practice-host", "|1|" + base64.b64encode(salt).decode() + "|x")
    lines = known(tmp_path, f"{name} {ecdsa.get_name()} {ecdsa.get_base64()}")
    host = host_with(practice, user_known_hosts_files=lines)
    assert host.run(ECHO).stdout == b"here\n"
    host.close()


# The login


def test_a_refused_key_is_named_and_not_offered_twice(practice, tmp_path):
    wrong = new_key(tmp_path / "wrong")
    with pytest.raises(AuthRefused) as caught:
        host_with(practice, identity_files=(str(wrong),)).run(ECHO)
    assert str(caught.value).count(str(wrong)) == 1
    assert f"{practice.user}@" in str(caught.value)


def test_an_encrypted_key_without_agent_says_so(practice, tmp_path):
    locked = new_key(tmp_path / "locked", b"passphrase")
    with pytest.raises(AuthRefused, match=r"encrypted, and no agent is configured.*IdentityAgent"):
        host_with(practice, identity_files=(str(locked),)).run(ECHO)


def test_a_key_file_that_others_can_read_is_not_used(practice, tmp_path):
    open_key = new_key(tmp_path / "open")
    open_key.chmod(0o644)
    with pytest.raises(AuthRefused, match="chmod 600"):
        host_with(practice, identity_files=(str(open_key),)).run(ECHO)


def test_a_missing_key_file_that_was_named_says_so(practice, tmp_path):
    with pytest.raises(AuthRefused, match="does not exist"):
        host_with(practice, identity_files=(str(tmp_path / "none"),)).run(ECHO)


def test_a_damaged_key_file_is_one_problem_and_the_next_key_is_tried(practice, tmp_path):
    bad = tmp_path / "bad"
    bad.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nrubbish\n-----END OPENSSH PRIVATE KEY-----\n")
    host = host_with(practice, identity_files=(str(bad), str(practice.identity_file)))
    assert host.run(ECHO).ok
    host.close()


def test_a_host_is_not_shown_so_many_keys_that_it_locks_us_out(practice, tmp_path):
    keys = [str(new_key(tmp_path / f"key-{number}")) for number in range(8)]
    with pytest.raises(AuthRefused, match=r"3 more were not offered.*") as caught:
        host_with(practice, identity_files=tuple(keys)).run(ECHO)
    assert "IdentitiesOnly" in str(caught.value)


@pytest.mark.lab
def test_an_agent_is_used_only_when_it_is_configured(practice, tmp_path, monkeypatch):
    agent = subprocess.run(["ssh-agent", "-s", "-a", tmp_path / "agent"], capture_output=True, text=True, check=True)
    pid = agent.stdout.partition("SSH_AGENT_PID=")[2].partition(";")[0]
    environment = {"SSH_AUTH_SOCK": str(tmp_path / "agent"), "PATH": "/usr/bin:/bin"}
    try:
        subprocess.run(["ssh-add", "-q", practice.identity_file], env=environment, check=True, capture_output=True)
        monkeypatch.setenv("SSH_AUTH_SOCK", environment["SSH_AUTH_SOCK"])
        locked = tmp_path / "locked"
        locked.write_bytes(practice.identity_file.read_bytes())
        locked.chmod(0o600)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "passphrase", "-f", locked], check=True)
        Path(f"{locked}.pub").write_bytes(Path(f"{practice.identity_file}.pub").read_bytes())
        with pytest.raises(AuthRefused, match="no agent is configured"):
            host_with(practice, identity_files=(str(locked),)).run(ECHO)
        host = host_with(practice, identity_files=(str(locked),), identity_agent=environment["SSH_AUTH_SOCK"])
        assert host.run(ECHO).ok
        host.close()
        with pytest.raises(AuthRefused, match="does not answer"):
            host_with(practice, identity_files=(), identity_agent=str(tmp_path / "nobody")).run(ECHO)
    finally:
        subprocess.run(["kill", pid], check=True)


# Dead, silent and odd hosts


def test_a_closed_connection_leaves_no_garbage(practice):
    host = host_with(practice)
    gc.disable()
    try:
        assert host.run(ECHO).stdout == b"here\n"
        transport = weakref.ref(host._connection.transport)
        host.close()
        end = time.monotonic() + 10
        while transport() is not None:
            assert time.monotonic() < end, "a circle holds it until garbage is collected"
            time.sleep(0.02)
    finally:
        gc.enable()


def test_a_socket_is_closed_by_the_thread_that_reads_it_and_by_nobody_else(practice):
    """Closed under it, its number is the next connection's, and the thread waits for what comes there."""
    with contextlib.closing(host_with(practice)) as host:
        host.run(ECHO)
        transport = host._connection.transport
        transport.packetizer.close()
        assert transport.sock.fileno() >= 0
    transport.join(2)
    assert not transport.is_alive()
    assert transport.sock.fileno() == -1


def test_a_kept_connection_keeps_no_answer(practice):
    with contextlib.closing(host_with(practice)) as host:
        text = host.run(Script("i=0; while [ $i -lt 2000 ]; do echo kept-$i; i=$((i+1)); done")).stdout
        assert len(text) > 16_000
        captures = [each for each in gc.get_objects() if isinstance(each, Capture)]
        assert all(len(each.stdout.data) == 0 for each in captures)
        assert host.run(ECHO).stdout == b"here\n"


def test_reading_hosts_does_not_bring_in_what_paramiko_needs_for_a_match_exec():
    lines = "import sys, runbooks_lib.history.collecting; assert 'asyncio' not in sys.modules; import invoke"
    subprocess.run([sys.executable, "-c", lines], check=True, timeout=60)


def test_a_closed_port_is_unreachable_in_words(practice):
    host = host_with(practice)
    practice.stop()
    with pytest.raises(HostUnreachable, match="refused") as caught:
        host.run(ECHO, deadline_seconds=5)
    assert "nothing was started" in str(caught.value)


def test_a_name_without_address_is_unreachable(practice):
    with pytest.raises(HostUnreachable, match="no address"):
        host_with(practice, hostname="no-such-host.invalid").run(ECHO, deadline_seconds=10)


def test_a_name_server_that_does_not_answer_costs_the_deadline_and_is_told_as_such(practice, monkeypatch):
    never, real = threading.Event(), socket.getaddrinfo

    def silent(host: str, *arguments: object, **options: object) -> object:
        return real(host, *arguments, **options) if options.get("flags") else never.wait()

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        with pytest.raises(DeadlineExceeded, match="the name server did not answer for db-1") as caught:
            host_with(practice, hostname="db-1.invalid").run(ECHO, deadline_seconds=0.5)
    finally:
        never.set()
    assert caught.value.phase == "connect"
    assert host_with(practice).run(ECHO).ok, "an address asks no name server"


def test_a_silent_address_leaves_the_next_one_its_share_of_the_time(practice, monkeypatch):
    """A full listen queue: TCP gets no answer there, as behind a firewall that drops packets."""
    real = socket.getaddrinfo
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        for _ in range(3):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        two = [*real(*full.getsockname(), 0, socket.SOCK_STREAM), *real("127.0.0.1", practice.port, 0, 1)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: two)
        host = host_with(practice)
        assert host.run(ECHO, deadline_seconds=4).ok
        host.close()


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """Accepts TCP; says `answer` and closes, or keeps silent when it is None."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        kept = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                if answer is not None:
                    connection.sendall(answer)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()
                else:
                    kept.append(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


def test_a_host_that_accepts_and_never_speaks_costs_its_deadline_and_no_more(practice):
    with server(None) as port:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="never spoke SSH") as caught:
            host_with(practice, port=port).run(ECHO, deadline_seconds=1)
        assert 0.9 < time.monotonic() - begin < 2
    assert caught.value.phase == "banner"
    assert caught.value.group_gone is None


class CountingLock:
    """A lock that says when so many have asked for it."""

    def __init__(self, most: int, all_wait: threading.Event) -> None:
        self.left, self.all_wait, self.real = most, all_wait, threading.Lock()

    def acquire(self, timeout: float) -> bool:
        self.left -= 1
        if self.left == 0:
            self.all_wait.set()
        return self.real.acquire(timeout=timeout)

    def release(self) -> None:
        self.real.release()


def test_threads_that_wait_for_an_attempt_share_how_it_ended_and_the_next_run_tries_again(practice):
    host, asked, all_wait = host_with(practice), [], threading.Event()

    def refuse(settings, _end):
        asked.append(settings)
        assert all_wait.wait(30)
        raise HostUnreachable(host.name, "no way there", next="look")

    ends: list[HostUnreachable] = []

    def run() -> None:
        try:
            host.run(ECHO, deadline_seconds=60)
        except HostUnreachable as error:
            ends.append(error)

    opened, host._open_once, host._lock = host._open_once, refuse, CountingLock(4, all_wait)
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    assert [(type(error), error.what, error.next) for error in ends] == [(HostUnreachable, "no way there", "look")] * 4
    assert len({id(error) for error in ends}) == 4
    host._open_once = opened
    assert host.run(ECHO).exit_status == 0
    host.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n" + b"\xff" * 100])
def test_a_host_that_does_not_speak_ssh_is_unreachable(practice, answer):
    with server(answer) as port, pytest.raises(HostUnreachable, match=r"ended the connection|reset the connection"):
        host_with(practice, port=port).run(ECHO, deadline_seconds=5)


def test_a_server_that_drops_the_first_connection_is_asked_once_more(practice):
    greet, greeted = practice._greet, []

    def drop_first(sock: socket.socket) -> None:
        greeted.append(sock)
        if len(greeted) == 1:
            sock.close()
        else:
            greet(sock)

    practice._greet = drop_first  # type: ignore[method-assign]
    host = host_with(practice)
    assert host.run(Script("echo x", changes=True)).ok
    assert len(greeted) == 2
    host.close()


# Kept connections


def test_a_connection_is_kept_between_runs(practice):
    host = host_with(practice)
    first, second = host.run(ECHO), host.run(ECHO)
    assert practice.logins == 1
    assert first.connected_seconds > 0
    assert second.connected_seconds == 0
    host.close()


@pytest.mark.parametrize("changes", [False, True])
def test_a_kept_connection_that_died_while_idle_is_made_again(practice, changes):
    host = host_with(practice)
    host.run(ECHO)
    practice.cut_connections()
    time.sleep(0.1)
    assert host.run(Script("echo x", changes=changes)).stdout == b"x\n"
    assert practice.logins == 2
    host.close()


def sessions_a_connection(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The practice host opens so many sessions on a connection, as sshd does with MaxSessions."""
    opened: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()

    def check(self: object, _kind: str, _number: int) -> int:
        opened[self] = opened.get(self, 0) + 1
        return paramiko.OPEN_SUCCEEDED if opened[self] <= most else paramiko.OPEN_FAILED_CONNECT_FAILED

    monkeypatch.setattr("runbooks_lib.training.practice_host._Session.check_channel_request", check)


class Waiting(threading.Thread):
    """A change on the host that goes on until `let_end`, in a thread; `ended` is its result or its error."""

    def __init__(self, host: SshHost, go: Path) -> None:
        super().__init__(daemon=True)
        self.host, self.go, self.ended = host, go, None
        self.mark = f"RUNBOOKS_TEST_MARK={secrets.token_hex(8)}"
        self.start()
        wait_for(self.mark, 1)

    def run(self) -> None:
        text = f"export {self.mark}; sh -c 'until [ -e {self.go} ]; do sleep 0.05; done'; echo done"
        try:
            self.ended = self.host.run(Script(text, changes=True), deadline_seconds=60).stdout
        except HostUnreachable as error:
            self.ended = str(error)

    def let_end(self) -> object:
        self.go.touch()
        self.join(30)
        return self.ended


def test_a_session_that_is_refused_is_opened_on_another_connection_and_no_run_is_lost(practice, tmp_path, monkeypatch):
    sessions_a_connection(monkeypatch, 1)
    host = host_with(practice)
    first = Waiting(host, tmp_path / "go")
    second = Waiting(host, tmp_path / "go")
    assert host.run(ECHO).stdout == b"here\n"
    assert (first.let_end(), second.let_end()) == (b"done\n", b"done\n")
    assert practice.logins == 3
    assert [each.alive for each in host._retired if each is not host._connection] == [False, False]
    host.close()


def test_questions_asked_at_once_are_all_answered_however_few_sessions_a_connection_has(practice, monkeypatch):
    sessions_a_connection(monkeypatch, 1)
    host, answers = host_with(practice), []
    threads = [threading.Thread(target=lambda: answers.append(host.run(ECHO).stdout)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"here\n"] * 6
    host.close()


def test_a_host_that_opens_no_session_at_all_is_told_as_one(practice, monkeypatch):
    sessions_a_connection(monkeypatch, 0)
    with pytest.raises(HostUnreachable, match=r"allows no more sessions \(MaxSessions\)\n.*nothing was started"):
        host_with(practice).run(ECHO)
    assert practice.logins == 2


def test_closing_a_host_ends_every_connection_that_runs_go_on_over(practice, tmp_path, monkeypatch):
    sessions_a_connection(monkeypatch, 1)
    host = host_with(practice)
    runs = [Waiting(host, tmp_path / "never") for _ in range(3)]
    host.close()
    for run in runs:
        run.join(30)
        assert "closed by this side" in str(run.ended)
        assert all_gone(run.mark)


def run_and_cut(practice: PracticeHost, tmp_path: Path, changes: bool) -> tuple[object, int]:
    """A script that counts its runs; its first connection is cut under it."""
    counted = tmp_path / "runs"
    mark = f"RUNBOOKS_TEST_MARK={secrets.token_hex(8)}"
    script = Script(
        f"export {mark}; echo x >> '{counted}'; [ $(wc -l <'{counted}') -gt 1 ] || sleep 300", changes=changes
    )
    host = host_with(practice)
    got: list[object] = []

    def run() -> None:
        try:
            got.append(host.run(script, deadline_seconds=20))
        except HostUnreachable as error:
            got.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(mark, 1)
    practice.cut_connections()
    thread.join(10)
    assert all_gone(mark), "the host itself ends what a cut connection leaves"
    host.close()
    return got[0], counted.read_text().count("x")


def test_a_read_whose_connection_dies_is_sent_once_more(practice, tmp_path):
    result, runs = run_and_cut(practice, tmp_path, changes=False)
    assert getattr(result, "ok", False)
    assert runs == 2


def test_a_change_whose_connection_dies_is_never_sent_again_and_says_what_is_not_known(practice, tmp_path):
    error, runs = run_and_cut(practice, tmp_path, changes=True)
    assert isinstance(error, HostUnreachable)
    assert "may have run wholly, in part, or not at all" in str(error)
    assert runs == 1


def test_a_reset_in_the_middle_of_the_payload_is_never_a_short_answer(practice):
    host = host_with(practice)
    threading.Timer(0.5, practice.cut_connections).start()
    with pytest.raises(HostUnreachable):
        host.run(Script("while :; do echo line; done", changes=True), deadline_seconds=20, output_limit_bytes=1 << 30)
    host.close()


def test_a_deadline_on_a_connection_that_is_cut_is_still_proven_over_a_new_one(practice):
    mark = f"RUNBOOKS_TEST_MARK={secrets.token_hex(8)}"
    host = host_with(practice)
    script = Script(f"export {mark}; sleep 300")
    original = SshHost._end_group

    def cut_first(self: SshHost, *arguments: object) -> bool | None:
        practice.cut_connections()
        return original(self, *arguments)  # type: ignore[arg-type]

    SshHost._end_group = cut_first  # type: ignore[method-assign]
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            host.run(script, deadline_seconds=1)
    finally:
        SshHost._end_group = original  # type: ignore[method-assign]
    assert caught.value.group_gone is True
    assert all_gone(mark)
    host.close()


def test_when_the_host_is_lost_at_the_deadline_nothing_is_claimed(practice):
    host = host_with(practice)
    host.run(ECHO)
    mark = f"RUNBOOKS_TEST_MARK={secrets.token_hex(8)}"
    original = SshHost._end_group

    def lose_it(self: SshHost, *arguments: object) -> bool | None:
        practice.stop()
        return original(self, *arguments)  # type: ignore[arg-type]

    SshHost._end_group = lose_it  # type: ignore[method-assign]
    try:
        with pytest.raises(DeadlineExceeded, match="could not be proven") as caught:
            host.run(Script(f"export {mark}; sleep 300", changes=True), deadline_seconds=1)
    finally:
        SshHost._end_group = original  # type: ignore[method-assign]
    assert caught.value.group_gone is False
    assert "may go on changing" in str(caught.value)


def test_idle_kept_connections_cost_next_to_nothing(practice):
    hosts = [host_with(practice) for _ in range(20)]
    for host in hosts:
        host.run(ECHO)
    # In this process the practice host's own side idles too; the client's share is what its poll interval says.
    assert all(host._connection.transport._active_check_timeout >= 5 for host in hosts)
    assert all(host._connection.transport.sock.gettimeout() >= 5 for host in hosts)
    for host in hosts:
        host.close()


# Ways there


def test_a_proxy_command_is_the_way_to_a_host_and_ends_with_the_connection(practice):
    mark = f"RUNBOOKS_TEST_MARK={secrets.token_hex(8)}"
    relay = (
        "import os,socket,sys,threading\n"
        f"s=socket.create_connection(('127.0.0.1',{practice.port}))\n"
        "def up():\n"
        "  while d:=os.read(0,65536): s.sendall(d)\n"
        "threading.Thread(target=up,daemon=True).start()\n"
        "while d:=s.recv(65536): os.write(1,d)\n"
    )
    command = f'env {mark} python3 -c "{relay}"'
    host = host_with(practice, proxy_command=command)
    assert host.run(ECHO).ok
    wait_for(mark, 1)
    host.close()
    assert all_gone(mark)


def test_a_proxy_command_that_dies_says_what_it_said(practice):
    with pytest.raises(HostUnreachable, match="no route to nowhere"):
        host_with(practice, proxy_command="echo no route to nowhere >&2; exit 1").run(ECHO, deadline_seconds=5)


def test_a_host_behind_two_jump_hosts_is_reached_through_both(tmp_path, bastions):
    with (
        PracticeHost(tmp_path / "a", names=("jump-a",)) as a,
        PracticeHost(tmp_path / "b", names=("jump-b",)) as b,
        PracticeHost(tmp_path / "c", names=("target",)) as c,
    ):
        config = tmp_path / "config"
        jumps = c.ssh_config.read_text().replace("Host target\n", "Host target\n  ProxyJump jump-a,jump-b\n")
        config.write_text(a.ssh_config.read_text() + b.ssh_config.read_text() + jumps)
        host = SshHost("target", settings_source=partial(resolve, config_file=config), bastions=bastions)
        assert host.run(ECHO).ok
        assert (a.logins, b.logins, c.logins) == (1, 1, 1)
        again = SshHost("target", settings_source=partial(resolve, config_file=config), bastions=bastions)
        assert again.run(ECHO).ok
        assert (a.logins, b.logins, c.logins) == (1, 1, 2), "jump connections are shared"
        b.cut_connections()
        assert host.run(ECHO).ok, "a dead jump connection is made again"
        host.close()
        again.close()


def test_what_a_jump_host_cannot_reach_names_the_jump_host(tmp_path, bastions):
    with PracticeHost(tmp_path / "a", names=("jump-a",)) as a:
        config = tmp_path / "config"
        config.write_text(
            a.ssh_config.read_text() + "Host target\n  HostName 127.0.0.1\n  Port 1\n  ProxyJump jump-a\n"
        )
        host = SshHost("target", settings_source=partial(resolve, config_file=config), bastions=bastions)
        with pytest.raises(HostUnreachable, match=r"jump host jump-a cannot reach 127\.0\.0\.1 port 1"):
            host.run(ECHO, deadline_seconds=5)


def test_an_unknown_key_of_a_jump_host_stops_before_the_host(tmp_path, bastions):
    with PracticeHost(tmp_path / "a", names=("jump-a",)) as a, PracticeHost(tmp_path / "c", names=("target",)) as c:
        a.known_hosts.write_text("")
        config = tmp_path / "config"
        jumps = c.ssh_config.read_text().replace("Host target\n", "Host target\n  ProxyJump jump-a\n")
        config.write_text(a.ssh_config.read_text() + jumps)
        host = SshHost("target", settings_source=partial(resolve, config_file=config), bastions=bastions)
        with pytest.raises(HostKeyUnknown, match="runbook hosts trust jump-a"):
            host.run(ECHO, deadline_seconds=5)
        assert (a.logins, c.logins) == (0, 0)


def behind(tmp_path: Path, jump: PracticeHost, names: tuple[str, ...]) -> Path:
    """A configuration in which nobody answers behind the jump host."""
    config = tmp_path / "config"
    hosts = "".join(f"Host {name}\n  HostName 127.0.0.1\n  Port 1\n  ProxyJump jump-a\n" for name in names)
    config.write_text(jump.ssh_config.read_text() + hosts)
    return config


def test_a_jump_host_that_refuses_the_login_is_asked_once_for_all_hosts_behind_it(tmp_path, bastions, monkeypatch):
    monkeypatch.setattr("runbooks_lib.hosts.bastion.REFUSED_SECONDS", 600)
    names = tuple(f"target-{number}" for number in range(12))
    with PracticeHost(tmp_path / "a", names=("jump-a",)) as a:
        greet, greeted = a._greet, []
        monkeypatch.setattr(a, "_greet", lambda sock: (greeted.append(sock), greet(sock)))
        source = partial(resolve, config_file=behind(tmp_path, a, names))
        new_key(a.identity_file)
        for name in names:
            with pytest.raises(AuthRefused, match="jump-a: the login as"):
                SshHost(name, settings_source=source, bastions=bastions).run(ECHO, deadline_seconds=30)
        assert len(greeted) == 1


def test_hosts_that_wait_for_one_jump_host_share_how_the_attempt_ended(tmp_path, bastions, monkeypatch):
    names, asked, ends, all_wait = ("one", "two", "three", "four"), [], [], threading.Event()
    real = bastion_module.open_connection

    def silent(settings: SshSettings, **options: object) -> object:
        if settings.ssh_name != "jump-a":
            return real(settings, **options)
        asked.append(settings)
        assert all_wait.wait(30)
        raise DeadlineExceeded("jump-a", "never spoke SSH", phase="banner")

    def run(name: str) -> None:
        try:
            SshHost(name, settings_source=source, bastions=bastions).run(ECHO, deadline_seconds=60)
        except DeadlineExceeded as error:
            ends.append(error)

    with PracticeHost(tmp_path / "a", names=("jump-a",)) as a:
        source = partial(resolve, config_file=behind(tmp_path, a, names))
        bastions._bastion(route(source("one"))).lock = CountingLock(4, all_wait)
        monkeypatch.setattr(bastion_module, "open_connection", silent)
        threads = [threading.Thread(target=run, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(asked) == 1
        assert [(error.host, error.what, error.phase) for error in ends] == [
            ("jump-a", "never spoke SSH", "banner")
        ] * 4
        monkeypatch.setattr(bastion_module, "open_connection", real)
        with pytest.raises(HostUnreachable, match="the jump host jump-a cannot reach"):
            SshHost("one", settings_source=source, bastions=bastions).run(ECHO, deadline_seconds=30)
