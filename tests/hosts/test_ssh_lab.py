"""SshHost against a real sshd: cut connections, login shells, certificates, sudo, 200 hosts behind one bastion."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from runbooks_lib.hosts.bastion import Bastions
from runbooks_lib.hosts.host import (
    AuthRefused,
    DeadlineExceeded,
    HostError,
    HostUnreachable,
    NoShell,
    RootRefused,
    Script,
)
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.hosts.pool import run_on_all
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from tests.hosts.processes import all_gone, wait_for, with_mark
from tests.hosts.sshd import Sshd, keygen

pytestmark = pytest.mark.lab
ECHO = Script("echo here", name="echo")


class LabUser:
    """An ordinary user of this machine, made for one test."""

    def __init__(self, home: Path) -> None:
        self.name = f"rbl{secrets.token_hex(4)}"
        self.home = home
        subprocess.run(["useradd", "-M", "-d", home, "-s", "/bin/sh", self.name], check=True)
        subprocess.run(["usermod", "-p", "*", self.name], check=True)  # "!" would be a locked account
        home.mkdir(mode=0o755)
        shutil.chown(home, self.name)

    def shell(self, path: str) -> None:
        subprocess.run(["usermod", "-s", path, self.name], check=True)

    def password(self, value: str) -> None:
        subprocess.run(["chpasswd"], input=f"{self.name}:{value}\n", text=True, check=True)


@pytest.fixture
def user() -> Iterator[LabUser]:
    home = Path(f"/tmp/rb-home-{secrets.token_hex(4)}")
    made = LabUser(home)
    yield made
    subprocess.run(["pkill", "-KILL", "-U", made.name], check=False)
    subprocess.run(["userdel", made.name], check=True)
    shutil.rmtree(home)


@pytest.fixture
def mark() -> str:
    return f"RUNBOOKS_TEST_MARK={secrets.token_hex(8)}"


def need(program: str, package: str) -> str:
    found = shutil.which(program)
    assert found, f"this lab test needs the package {package}: apt-get install {package}"
    return found


def long_running(mark: str, *, changes: bool) -> Script:
    return Script(f"export {mark}; trap '' HUP TERM; (sleep 300 & sleep 301) & sleep 302", changes=changes)


# Connections that die


def test_a_connection_cut_in_the_middle_leaves_no_grandchild_on_the_host(tmp_path, mark):
    with Sshd(tmp_path) as sshd:
        host = sshd.host()
        caught: list[HostError] = []

        def run() -> None:
            with pytest.raises(HostUnreachable) as error:
                host.run(long_running(mark, changes=True), deadline_seconds=30)
            caught.append(error.value)

        thread = threading.Thread(target=run)
        thread.start()
        wait_for(mark, 3)
        sshd.kill_connections()
        thread.join(5)
        assert "not at all" in str(caught[0])
        assert all_gone(mark)
        host.close()


def test_an_operator_killed_in_the_middle_leaves_no_grandchild_on_the_host(tmp_path, mark):
    with Sshd(tmp_path) as sshd:
        program = (
            "import sys; from functools import partial; from runbooks_lib.hosts.ssh import SshHost;"
            "from runbooks_lib.hosts.ssh_settings import resolve; from runbooks_lib.hosts.host import Script;"
            "SshHost(sys.argv[1], settings_source=partial(resolve, config_file=sys.argv[2]))"
            f".run(Script('export {mark}; (sleep 300 & sleep 301) & sleep 302'), deadline_seconds=60)"
        )
        operator = subprocess.Popen([sys.executable, "-c", program, sshd.names[0], str(sshd.ssh_config)])
        wait_for(mark, 3, seconds=20)
        operator.kill()
        operator.wait()
        assert all_gone(mark)


def test_a_deadline_is_proven_even_when_the_host_allows_one_session_a_connection(tmp_path, mark):
    with Sshd(tmp_path, lines=["MaxSessions 1"]) as sshd:
        host = sshd.host()
        with pytest.raises(DeadlineExceeded) as caught:
            host.run(long_running(mark, changes=True), deadline_seconds=1)
        assert caught.value.group_gone is True
        assert with_mark(mark) == []
        host.close()


def test_nothing_is_left_on_the_host_after_many_runs(tmp_path):
    with Sshd(tmp_path) as sshd:
        host = sshd.host()
        for number in range(20):
            assert host.run(Script("cat"), input=f"{number}\n".encode()).ok
        children = Path(f"/proc/{sshd.pid}/task/{sshd.pid}/children").read_text().split()
        assert len(children) == 1, "one connection for all of them"
        below = subprocess.run(["ps", "-o", "args=", "--ppid", children[0]], capture_output=True, text=True)
        assert [line for line in below.stdout.splitlines() if "defunct" not in line] == []
        host.close()


# Login shells


@pytest.mark.parametrize(
    ("shell", "package"),
    [("sh", "dash"), ("bash", "bash"), ("fish", "fish"), ("tcsh", "tcsh")],
    ids=lambda value: value,
)
@pytest.mark.parametrize("root", [False, True], ids=["user", "root"])
def test_any_login_shell_will_do(tmp_path, user, shell, package, root):
    user.shell(need(shell, package))
    (user.home / ".bashrc").write_text("echo dirty from .bashrc; echo dirt >&2\n")
    (user.home / ".tcshrc").write_text("echo dirty from .tcshrc\n")
    (user.home / ".config" / "fish").mkdir(parents=True)
    (user.home / ".config" / "fish" / "config.fish").write_text("echo dirty from fish\n")
    subprocess.run(["chown", "-R", user.name, user.home], check=True)
    sudoers = Path(f"/etc/sudoers.d/{user.name}")
    if root:
        need("sudo", "sudo")
        sudoers.write_text(f"{user.name} ALL=(root) NOPASSWD: /bin/sh -s\n")
    try:
        with Sshd(tmp_path, user=user.name, bashrc=True) as sshd:
            host = sshd.host()
            script = Script("id -u; cat; echo \"it's 'quoted' $HOME!\" >&2; exit 5", root=root)
            result = host.run(script, input=b"in\n")
            uid = 0 if root else int(subprocess.check_output(["id", "-u", user.name]))
            assert result.stdout == f"{uid}\nin\n".encode()
            assert result.stderr.startswith(b"it's 'quoted' /")
            assert result.exit_status == 5
            host.close()
    finally:
        sudoers.unlink(missing_ok=True)


def test_a_user_without_a_shell_is_told_with_what_the_host_said(tmp_path, user):
    user.shell("/usr/sbin/nologin")
    with Sshd(tmp_path, user=user.name) as sshd:
        host = sshd.host()
        with pytest.raises(NoShell, match="not available"):
            host.run(ECHO, deadline_seconds=10)
        host.close()


def test_a_forced_command_is_told_and_nothing_is_believed(tmp_path):
    with Sshd(tmp_path, lines=["ForceCommand echo forced"]) as sshd:
        host = sshd.host()
        with pytest.raises(NoShell, match="forced"):
            host.run(ECHO, deadline_seconds=10)
        host.close()


# Root


def sudo_case(user: LabUser, rule: str) -> Path:
    need("sudo", "sudo")
    path = Path(f"/etc/sudoers.d/{user.name}")
    path.write_text(f"{user.name} {rule}\n")
    path.chmod(0o440)
    return path


def test_root_that_is_not_allowed_is_a_clear_outcome_and_nothing_ran(tmp_path, user):
    need("sudo", "sudo")
    trace = tmp_path / "trace"
    with Sshd(tmp_path / "sshd", user=user.name) as sshd:
        host = sshd.host()
        with pytest.raises(RootRefused, match="sudo") as caught:
            host.run(Script(f"echo ran > '{trace}'", root=True))
        assert caught.value.kind == "not allowed"
        assert "nothing of it ran" in str(caught.value)
        assert host.run(ECHO).ok
        host.close()
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["ssh", "local"])
@pytest.mark.parametrize("reference", [None, "env:RB_NEVER_SET_AND_NEVER_ASKED_FOR"])
def test_a_user_who_is_root_already_needs_neither_sudo_nor_password(tmp_path, kind, reference):
    with Sshd(tmp_path) as sshd:
        host = sshd.host(sudo_password=reference) if kind == "ssh" else LocalHost(sudo_password=reference)
        for data in (b"", b"x\n", b"\0" * 10_000):
            result = host.run(Script("id -u; cat | wc -c", root=True), input=data)
            assert result.stdout.split() == [b"0", str(len(data)).encode()]
        host.close()


@pytest.mark.parametrize("input", [b"", b"in\n", b"\0" * 100_000], ids=["none", "small", "raw"])
def test_the_sudo_password_goes_over_stdin_and_is_seen_nowhere(tmp_path, user, monkeypatch, input):
    password = "pw-" + secrets.token_hex(8)
    user.password(password)
    rule = sudo_case(user, "ALL=(ALL) ALL")
    monkeypatch.setenv("RB_TEST_SUDO", password)
    try:
        with Sshd(tmp_path, user=user.name) as sshd:
            host = sshd.host(sudo_password="env:RB_TEST_SUDO")
            text = "id -u; cat | wc -c; env | grep -c pw-; tr '\\0' ' ' </proc/$PPID/cmdline"
            result = host.run(Script(text, root=True), input=input)
            assert result.stdout.split()[:3] == [b"0", str(len(input)).encode(), b"0"]
            assert password.encode() not in result.stdout + result.stderr
            assert result.stderr == b""
            host.close()
        assert password not in sshd.log.read_text()
    finally:
        rule.unlink()


def test_a_wrong_sudo_password_is_one_failed_attempt(tmp_path, user, monkeypatch):
    user.password("right")
    rule = sudo_case(user, "ALL=(ALL) ALL")
    monkeypatch.setenv("RB_TEST_SUDO", "wrong")
    try:
        with Sshd(tmp_path, user=user.name) as sshd:
            host = sshd.host(sudo_password="env:RB_TEST_SUDO")
            begin = time.monotonic()
            with pytest.raises(RootRefused, match="did not accept the password"):
                host.run(Script("id", root=True), deadline_seconds=20)
            assert time.monotonic() - begin < 10
            host.close()
    finally:
        rule.unlink()


def test_a_deadline_ends_a_group_that_runs_as_root_too(tmp_path, user, mark):
    rule = sudo_case(user, "ALL=(root) NOPASSWD: /bin/sh -s")
    try:
        with Sshd(tmp_path, user=user.name) as sshd:
            host = sshd.host()
            script = replace(long_running(mark, changes=True), root=True)
            with pytest.raises(DeadlineExceeded) as caught:
                host.run(script, deadline_seconds=1)
            assert caught.value.group_gone is True
            assert with_mark(mark) == []
            host.close()
    finally:
        rule.unlink()


# Identities


def test_user_certificates_log_in_named_or_beside_the_key(tmp_path):
    ca = tmp_path / "ca"
    keygen(ca)
    with Sshd(tmp_path / "sshd", lines=[f"TrustedUserCAKeys {ca}.pub"]) as sshd:
        sshd.authorized_keys.write_text("")
        for kind in ("ed25519", "rsa", "ecdsa"):
            key = tmp_path / f"key-{kind}"
            keygen(key, "-t", kind, "-N", "")
            settings = replace(resolve(sshd.names[0], config_file=sshd.ssh_config), identity_files=(str(key),))
            with pytest.raises(AuthRefused):
                SshHost("x", settings_source=lambda _, s=settings: s).run(ECHO)
            subprocess.run(["ssh-keygen", "-q", "-s", ca, "-I", "test", "-n", "root", f"{key}.pub"], check=True)
            beside = SshHost("x", settings_source=lambda _, s=settings: s)
            assert beside.run(ECHO).ok
            beside.close()
            elsewhere = Path(f"{key}-cert.pub").rename(tmp_path / f"{kind}.cert")
            named = replace(settings, certificate_files=(str(elsewhere),))
            host = SshHost("x", settings_source=lambda _, s=named: s)
            assert host.run(ECHO).ok
            host.close()


def test_one_identity_is_offered_when_only_one_is_configured(tmp_path):
    with Sshd(tmp_path, lines=["MaxAuthTries 1"]) as sshd:
        host = sshd.host()
        assert host.run(ECHO).ok
        host.close()


# Jump hosts


def test_200_hosts_behind_one_bastion_are_all_reached_over_one_connection(tmp_path):
    addresses = [f"127.{130 + os.getpid() % 100}.{1 + i // 100}.{1 + i % 100}" for i in range(200)]
    with (
        Sshd(tmp_path / "bastion", prefix="bastion") as bastion,
        Sshd(
            tmp_path / "target", addresses=addresses, prefix="behind", client_lines=["ProxyJump bastion-1"]
        ) as targets,
    ):
        config = tmp_path / "config"
        config.write_text(bastion.ssh_config.read_text() + targets.ssh_config.read_text())
        bastions = Bastions()
        hosts = [
            SshHost(name, settings_source=partial(resolve, config_file=config), bastions=bastions)
            for name in targets.names
        ]
        script = Script("head -c 17000 /dev/zero | tr '\\0' x; echo; echo END")
        for _ in range(2):
            rows = run_on_all(
                hosts, lambda host: host.run(script, deadline_seconds=60), workers=32, deadline_seconds=90
            )
            lost = [f"{row.host}: {row.error}" for row in rows if row.value is None]
            assert lost == []
            assert all(len(row.value.stdout) == 17_005 for row in rows)
        log = bastion.log.read_text()
        assert log.count("Accepted publickey") == 1
        assert "nonexistent channel" not in log
        bastions.close()


def test_hosts_that_die_behind_a_bastion_take_no_other_with_them(tmp_path):
    addresses = [f"127.{130 + os.getpid() % 100}.9.{1 + i}" for i in range(40)]
    with (
        Sshd(tmp_path / "bastion", prefix="bastion") as bastion,
        Sshd(tmp_path / "good", addresses=addresses[:20], prefix="good", client_lines=["ProxyJump bastion-1"]) as good,
        Sshd(tmp_path / "bad", addresses=addresses[20:], prefix="bad", client_lines=["ProxyJump bastion-1"]) as bad,
    ):
        config = tmp_path / "config"
        config.write_text("".join(each.ssh_config.read_text() for each in (bastion, good, bad)))
        bastions = Bastions()
        hosts = [
            SshHost(name, settings_source=partial(resolve, config_file=config), bastions=bastions)
            for pair in zip(good.names, bad.names, strict=True)
            for name in pair
        ]
        script = Script(
            "i=0; while [ $i -lt 200 ]; do head -c 5000 /dev/zero; sleep 0.01; i=$((i+1)); done", changes=True
        )
        threading.Timer(2.0, bad.kill_connections).start()
        rows = run_on_all(
            hosts,
            lambda host: host.run(script, deadline_seconds=60, input=b"\0" * 100_000),
            workers=40,
            deadline_seconds=90,
        )
        assert [row.host for row in rows if row.host.startswith("good") and row.state != "ok"] == []
        assert "nonexistent channel" not in bastion.log.read_text()
        assert bastion.log.read_text().count("Accepted publickey") == 1
        bastions.close()


def test_a_kept_connection_that_went_silent_is_noticed_and_made_again(tmp_path):
    with Sshd(tmp_path) as sshd:
        host = sshd.host()
        host.run(ECHO)
        (connection,) = Path(f"/proc/{sshd.pid}/task/{sshd.pid}/children").read_text().split()
        os.kill(int(connection), signal.SIGSTOP)  # TCP stays up, nobody answers: as behind a firewall that forgot us
        try:
            begin = time.monotonic()
            assert host.run(Script("echo x", changes=True), deadline_seconds=20).stdout == b"x\n"
            assert time.monotonic() - begin < 10
        finally:
            os.kill(int(connection), signal.SIGKILL)
        host.close()


def test_a_connection_that_goes_silent_for_a_while_is_left_to_the_change_that_runs_on_it(tmp_path, mark):
    with Sshd(tmp_path) as sshd:
        host, go, ended = sshd.host(), tmp_path / "go", []
        change = Script(f"export {mark}; sh -c 'until [ -e {go} ]; do sleep 0.1; done'; echo done", changes=True)
        thread = threading.Thread(target=lambda: ended.append(host.run(change, deadline_seconds=60).stdout))
        thread.start()
        wait_for(mark, 1)
        (connection,) = Path(f"/proc/{sshd.pid}/task/{sshd.pid}/children").read_text().split()
        os.kill(int(connection), signal.SIGSTOP)
        try:
            assert host.run(ECHO, deadline_seconds=30).stdout == b"here\n"
        finally:
            os.kill(int(connection), signal.SIGCONT)
        go.touch()
        thread.join(30)
        assert ended == [b"done\n"]
        host.close()


def test_three_changes_outlive_a_fourth_script_where_a_connection_has_three_sessions(tmp_path, mark):
    with Sshd(tmp_path, lines=["MaxSessions 3"]) as sshd:
        host, go, ended = sshd.host(), tmp_path / "go", []
        change = Script(f"export {mark}; sh -c 'until [ -e {go} ]; do sleep 0.1; done'; echo done", changes=True)
        threads = [
            threading.Thread(target=lambda: ended.append(host.run(change, deadline_seconds=60).stdout))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        wait_for(mark, 3)
        assert host.run(ECHO).stdout == b"here\n"
        go.touch()
        for thread in threads:
            thread.join(30)
        assert ended == [b"done\n"] * 3
        host.close()
