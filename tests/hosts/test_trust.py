"""Trusting a key: a person sees it, one line is added, no line is lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts import trust
from runbooks_lib.hosts.host import DeadlineExceeded, HostKeyChanged, HostKeyUnknown, HostUnreachable, SettingsRefused
from runbooks_lib.hosts.known_hosts import KnownHosts
from runbooks_lib.hosts.known_hosts_file import hash_name
from runbooks_lib.hosts.sockets import Opened
from runbooks_lib.hosts.ssh_options import SshSettings
from runbooks_lib.hosts.trust import ShownKey, add, fetch_host_key, offered_key, plan
from tests.hosts.processes import all_gone

KEY = paramiko.ECDSAKey.generate()
OTHER = paramiko.ECDSAKey.generate()


@contextlib.contextmanager
def server(*keys: paramiko.PKey) -> Iterator[int]:
    """A real SSH server on 127.0.0.1 that shows one of these keys and lets nobody in."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    ended = threading.Event()
    transports: list[paramiko.Transport] = []

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            transport = paramiko.Transport(connection)
            transports.append(transport)
            for key in keys:
                transport.add_server_key(key)
            transport.start_server(event=threading.Event(), server=paramiko.ServerInterface())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        thread.join()
        listener.close()
        for transport in transports:
            transport.close()


@pytest.fixture
def port() -> Iterator[int]:
    with server(KEY) as number:
        yield number


def settings_for(tmp_path: Path, port: int = 22, **more: object) -> SshSettings:
    settings = SshSettings(
        "db", "127.0.0.1", port, "nobody", user_known_hosts_files=(f"{tmp_path}/.ssh/known_hosts", f"{tmp_path}/second")
    )
    return replace(settings, **more)  # type: ignore[arg-type]


def shown(settings: SshSettings, key: paramiko.PKey = KEY) -> ShownKey:
    name = trust.lookup_name(settings.hostname, settings.port, settings.host_key_alias)
    return ShownKey(settings.ssh_name, name, key.get_name(), key.asbytes())


def state(settings: SshSettings, key: paramiko.PKey = KEY) -> str:
    known = KnownHosts.load(settings.known_hosts_files)
    return known.check(settings.hostname, settings.port, key.get_name(), key.asbytes(), settings.host_key_alias).state


def test_the_key_that_a_host_shows_is_fetched_trusted_and_then_known(tmp_path: Path, port: int) -> None:
    settings = settings_for(tmp_path, port)
    fetched = fetch_host_key(settings)
    assert (fetched.name, fetched.key_blob) == (f"[127.0.0.1]:{port}", KEY.asbytes())
    planned = plan(fetched, settings)
    assert state(settings) == "unknown"
    for part in (fetched.fingerprint, f"{tmp_path}/.ssh/known_hosts", f"[127.0.0.1]:{port}"):
        assert part in planned.describe()
    add(planned)
    path = tmp_path / ".ssh" / "known_hosts"
    assert state(settings) == "known"
    assert path.read_text() == f"[127.0.0.1]:{port} {KEY.get_name()} {KEY.get_base64()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = plan(fetched, settings)
    assert again.already_known is not None
    assert "known already" in again.describe()
    add(again)
    assert path.read_text().count("\n") == 1


def test_a_server_that_says_nothing_costs_the_deadline_and_no_more(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"never spoke SSH within 0\.[45] s"):
            fetch_host_key(settings_for(tmp_path, silent.getsockname()[1]), deadline_seconds=0.5)
        assert time.monotonic() - started < 3


def test_nobody_there_is_told_as_unreachable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(HostUnreachable, match=r"Connection refused"):
        fetch_host_key(settings_for(tmp_path, port))


def test_another_way_to_the_host_may_be_given(tmp_path: Path, port: int) -> None:
    settings = settings_for(tmp_path, port)
    fetched = fetch_host_key(
        settings, open_socket=lambda _end: Opened(socket.create_connection((settings.hostname, settings.port), 5))
    )
    assert fetched.key_blob == KEY.asbytes()


def test_a_proxy_command_is_used_to_fetch_the_key(tmp_path: Path, port: int) -> None:
    mark = f"RUNBOOKS_TEST_MARK={secrets.token_hex(8)}"
    relay = (
        "import os,socket,sys,threading\n"
        f"s=socket.create_connection(('127.0.0.1',{port}))\n"
        "def up():\n"
        "    while d:=os.read(0,65536): s.sendall(d)\n"
        "    os._exit(0)\n"
        "threading.Thread(target=up,daemon=True).start()\n"
        "while d:=s.recv(65536): os.write(1,d)\n"
    )
    script = tmp_path / "relay.py"
    script.write_text(relay)
    # As ssh does, the words go to a shell, and what it starts ends with the connection.
    command = f"{mark} {shlex.quote(sys.executable)} {script} 2>/dev/null || exit 1"
    settings = settings_for(tmp_path, 22, hostname="nowhere.invalid", proxy_command=f"env {command}")
    assert fetch_host_key(settings).key_blob == KEY.asbytes()
    assert all_gone(mark)


def test_a_proxy_command_that_dies_is_told_in_its_own_words(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, proxy_command="echo no such gate >&2; exit 1")
    with pytest.raises(HostUnreachable, match="no such gate"):
        fetch_host_key(settings)


def test_of_several_keys_the_known_one_is_asked_for(tmp_path: Path) -> None:
    other = paramiko.RSAKey.generate(2048)
    with server(KEY, other) as port:
        settings = settings_for(tmp_path, port)
        assert fetch_host_key(settings).key_blob == KEY.asbytes()
        add(plan(shown(settings, other), settings))
        assert plan(fetch_host_key(settings), settings).already_known is not None


def test_of_several_keys_the_known_one_is_asked_for_where_its_name_is_hashed(tmp_path: Path) -> None:
    """HashKnownHosts yes is Debian's default; which types a hashed name has is known only once it was looked up."""
    other = paramiko.RSAKey.generate(2048)
    with server(KEY, other) as port:
        settings = settings_for(tmp_path, port, hash_known_hosts=True)
        add(plan(shown(settings, other), settings))
        assert plan(fetch_host_key(settings), settings).already_known is not None
    with server(KEY) as port:
        settings = settings_for(tmp_path / "changed", port, hash_known_hosts=True)
        add(plan(shown(settings, other), settings))
        with pytest.raises(HostKeyChanged, match="CHANGED"):
            plan(fetch_host_key(settings), settings)


def test_a_changed_key_is_never_written_and_the_way_out_is_said(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    add(plan(shown(settings, OTHER), settings))
    before = (tmp_path / ".ssh" / "known_hosts").read_bytes()
    with pytest.raises(HostKeyChanged, match="CHANGED") as raised:
        plan(shown(settings), settings)
    assert "ssh-keygen -f" in str(raised.value)
    assert f"{tmp_path}/.ssh/known_hosts:1" in str(raised.value)
    assert (tmp_path / ".ssh" / "known_hosts").read_bytes() == before


def test_a_key_that_changed_between_question_and_yes_is_not_written(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    planned = plan(shown(settings), settings)
    add(plan(shown(settings, OTHER), settings))
    with pytest.raises(HostKeyChanged):
        add(planned)
    assert state(settings) == "changed"


def test_a_revoked_key_is_never_written(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    (tmp_path / "second").write_text(f"@revoked * {KEY.get_name()} {KEY.get_base64()}\n")
    with pytest.raises(HostKeyChanged, match="REVOKED"):
        plan(shown(settings), settings)
    assert not (tmp_path / ".ssh").exists()


def test_the_name_is_hashed_when_the_configuration_says_so(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, 2222, hash_known_hosts=True)
    add(plan(shown(settings), settings))
    content = (tmp_path / ".ssh" / "known_hosts").read_text()
    assert content.startswith("|1|")
    assert "127.0.0.1" not in content
    assert state(settings) == "known"


def test_an_alias_is_written_without_a_port(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, 2222, host_key_alias="cluster")
    add(plan(shown(settings), settings))
    assert (tmp_path / ".ssh" / "known_hosts").read_text().startswith("cluster ecdsa")


@pytest.mark.parametrize("name", ["*", "a,b", "!x", "|1|x", "@revoked", "#x", "a b", "a\nb", ""])
def test_a_name_that_would_mean_something_else_is_not_written(tmp_path: Path, name: str) -> None:
    settings = settings_for(tmp_path, hostname=name)
    with pytest.raises(SettingsRefused, match="cannot stand in known_hosts"):
        plan(shown(settings), settings)


@pytest.mark.parametrize("files", [(), ("/dev/null",)])
def test_without_a_file_to_write_to_nothing_is_promised(tmp_path: Path, files: tuple[str, ...]) -> None:
    settings = settings_for(tmp_path, user_known_hosts_files=files)
    with pytest.raises(SettingsRefused, match="no file to write"):
        plan(shown(settings), settings)


def test_a_missing_final_newline_does_not_glue_two_lines(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    path = tmp_path / ".ssh" / "known_hosts"
    path.parent.mkdir()
    path.write_text(f"other {OTHER.get_name()} {OTHER.get_base64()}")
    add(plan(shown(settings), settings))
    assert len(path.read_text().splitlines()) == 2
    assert state(settings) == "known"
    assert state(replace(settings, hostname="other"), OTHER) == "known"


def test_twenty_writers_at_once_lose_no_line(tmp_path: Path) -> None:
    everyone = [settings_for(tmp_path, hostname=f"host-{number}") for number in range(20)]
    plans = [plan(shown(settings), settings) for settings in everyone]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(add, plans))
    assert [state(settings) for settings in everyone] == ["known"] * 20
    assert len((tmp_path / ".ssh" / "known_hosts").read_text().splitlines()) == 20


def test_a_writer_that_replaces_the_file_does_not_swallow_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ssh-keygen -R` writes a new file and renames it over the old one."""
    settings = settings_for(tmp_path)
    path = tmp_path / ".ssh" / "known_hosts"
    add(plan(shown(replace(settings, hostname="first")), replace(settings, hostname="first")))
    append, replaced = trust._append, []

    def append_while_replaced(descriptor: int, line: bytes) -> None:
        append(descriptor, line)
        if not replaced:
            replaced.append(True)
            (tmp_path / "new").write_text("")
            (tmp_path / "new").replace(path)

    monkeypatch.setattr(trust, "_append", append_while_replaced)
    add(plan(shown(settings), settings))
    assert state(settings) == "known"


def test_a_lock_that_is_never_released_ends_in_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_LOCK_SECONDS", 0.2)
    settings = settings_for(tmp_path)
    path = tmp_path / ".ssh" / "known_hosts"
    path.parent.mkdir()
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunbookError, match="held a lock"):
            add(plan(shown(settings), settings))


def test_a_file_that_cannot_be_written_ends_in_a_message(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, user_known_hosts_files=(f"{tmp_path}/file/known_hosts",))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunbookError, match="cannot be written"):
        add(plan(shown(settings), settings))


@pytest.mark.lab
def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test mounts a small tmpfs and needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", mount], check=True, timeout=20)
    try:
        path = mount / "known_hosts"
        full = b"# " + b"x" * 8100 + b"\n"
        path.write_bytes(full)
        settings = settings_for(tmp_path, user_known_hosts_files=(str(path),))
        with pytest.raises(RunbookError, match="cannot be written"):
            add(plan(shown(settings), settings))
        assert path.read_bytes() == full
    finally:
        subprocess.run(["umount", mount], check=True, timeout=20)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[int]:
    if not Path("/usr/sbin/sshd").exists() or os.geteuid() != 0:
        pytest.fail("this test needs root and the package openssh-server")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    key = tmp_path / "host_key"
    KEY.write_private_key_file(str(key))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {key}\nUsePAM no\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/authorized_keys\n"
    )
    (tmp_path / "authorized_keys").write_text(f"{OTHER.get_name()} {OTHER.get_base64()}\n")
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < end, "sshd did not start"
            time.sleep(0.05)
    yield port
    server.kill()
    server.wait()


@pytest.mark.lab
def test_the_verdict_on_a_real_server_is_that_of_ssh_itself(tmp_path: Path, sshd: int) -> None:
    assert shutil.which("ssh"), "this test needs the package openssh-client"
    good, bad = (f"{key.get_name()} {key.get_base64()}" for key in (KEY, OTHER))
    named = f"[127.0.0.1]:{sshd}"
    hashed = hash_name(named, b"0123456789abcdefghij")
    files = [
        "",
        f"{named} {good}",
        f"{named} {bad}",
        f"{named} {bad}\n{named} {good}",
        f"{hashed} {good}",
        f"{hashed} {bad}",
        f"127.0.0.1 {good}",
        f"127.0.0.1 {bad}",
        f"127.0.0.1 {good}\n{named} {bad}",
        f"127.0.0.* {good}",
        f"[127.0.0.*]:* {good}",
        f"[127.0.0.*]:*,!{named} {good}",
        f"@revoked * {good}\n{named} {good}",
        f"@revoked elsewhere {good}\n{named} {good}",
        f"@cert-authority * {good}",
        f"@cert-authority * {bad}\n{named} {good}",
        f"garbage\n{named} ssh-rsa !!!\n{named}  {good}",
    ]
    path = tmp_path / "known"
    for content in files:
        path.write_text(content + "\n")
        command = ["ssh", "-F", "none", "-p", str(sshd), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
        command += ["-o", f"UserKnownHostsFile={path}", "-o", "GlobalKnownHostsFile=none", "-o", "IdentityFile=none"]
        said = subprocess.run([*command, "127.0.0.1", "true"], capture_output=True, text=True, timeout=20).stderr
        assert ("Permission denied" in said) != ("verification failed" in said), said
        known = KnownHosts.load([path])
        state = known.check("127.0.0.1", sshd, KEY.get_name(), KEY.asbytes()).state
        assert (state == "known") == ("Permission denied" in said), (content, state, said)


@pytest.mark.lab
def test_the_key_of_a_host_behind_a_jump_host_is_fetched_through_it(tmp_path: Path, sshd: int) -> None:
    user_key = tmp_path / "user_key"
    OTHER.write_private_key_file(str(user_key))
    known = tmp_path / "known"
    config = tmp_path / "ssh_config"
    config.write_text(
        f"Host inner\n  ProxyJump gate\n  HostKeyAlias inner\nHost gate\n  HostKeyAlias gate\n"
        f"Host *\n  HostName 127.0.0.1\n  Port {sshd}\n  IdentityFile {user_key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile none\n"
    )
    with pytest.raises(HostKeyUnknown):
        offered_key("inner", config_file=config)
    add(offered_key("gate", config_file=config))
    planned = offered_key("inner", config_file=config)
    assert planned.shown.key_blob == KEY.asbytes()
    assert planned.line.startswith("inner ")
    add(planned)
    assert [line.split()[0] for line in known.read_text().splitlines()] == ["gate", "inner"]
