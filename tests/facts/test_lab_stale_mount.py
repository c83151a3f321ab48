"""A network mount whose server has stopped answering: a real sshfs whose sftp server is stopped with SIGSTOP."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runbooks_lib.facts import collect
from runbooks_lib.facts.fact import State
from runbooks_lib.hosts.host import Host

pytestmark = pytest.mark.lab
NewHost = Callable[..., Host]
SFTP_SERVER = "/usr/lib/openssh/sftp-server"


class Mount:
    """One sshfs mount and the process id of its server."""

    def __init__(self, point: Path, server: int) -> None:
        self.point, self.server = point, server


@contextmanager
def sshfs(tmp_path: Path, name: str) -> Iterator[Mount]:
    assert shutil.which("sshfs"), "this test needs the Debian package sshfs"
    assert Path(SFTP_SERVER).exists(), "this test needs the Debian package openssh-sftp-server"
    place = tmp_path / f"{name.replace(' ', '-')}.d"
    point, pid_file, ssh = tmp_path / name, place / "pid", place / "ssh"
    source = place / "source"
    source.mkdir(parents=True)
    point.mkdir()
    ssh.write_text(f"#!/bin/sh\necho $$ >{pid_file}\nexec {SFTP_SERVER}\n")
    ssh.chmod(0o755)
    # Without the caches each look at the mount's root goes to the server, as on a mount that was not used for a while.
    options = f"ssh_command={ssh},entry_timeout=0,attr_timeout=0,dir_cache=no"
    subprocess.run(["sshfs", "-o", options, f"nowhere:{source}", point], check=True, timeout=20)
    server = int(pid_file.read_text())
    try:
        yield Mount(point, server)
    finally:
        # Ended, not continued: the kernel then answers every waiting call with ENOTCONN.
        os.kill(server, signal.SIGKILL)
        subprocess.run(["umount", "-l", point], check=False, timeout=20, stderr=subprocess.DEVNULL)


def rows(host: Host, prefix: Path) -> tuple[float, dict[str, State], int]:
    began = time.monotonic()
    found = collect.read_snapshot(host, sample_seconds=0).filesystems.require()
    seconds = time.monotonic() - began
    mine = {row.mountpoint: row.state for row in found.rows if row.mountpoint.startswith(str(prefix))}
    return seconds, mine, sum(row.usage is not None for row in found.rows)


@pytest.mark.parametrize("shell", [("dash",), ("bash",), ("busybox", "sh")], ids=lambda shell: shell[0])
def test_dead_mounts_cost_two_seconds_together_and_only_their_own_rows(
    shell: tuple[str, ...], shell_host: NewHost, tmp_path: Path
) -> None:
    assert shutil.which(shell[0]), (
        f"this test needs the Debian package {'busybox-static' if len(shell) > 1 else shell[0]}"
    )
    host = shell_host(shell)
    with sshfs(tmp_path, "live 1") as live, sshfs(tmp_path, "dead") as dead, sshfs(tmp_path, "dead too") as dead_too:
        quick, states, figures = rows(host, tmp_path)
        assert quick < 1.5
        assert set(states.values()) == {State.AVAILABLE}
        for mount in (dead, dead_too):
            os.kill(mount.server, signal.SIGSTOP)
        slow, states, left = rows(host, tmp_path)
        assert states == {
            str(live.point): State.AVAILABLE,
            str(dead.point): State.TIMED_OUT,
            str(dead_too.point): State.TIMED_OUT,
        }
        assert left == figures - 2
        assert 1.8 < slow < 3.5
        for mount in (dead, dead_too):
            os.kill(mount.server, signal.SIGCONT)
        _, states, _ = rows(host, tmp_path)
        assert set(states.values()) == {State.AVAILABLE}


def test_a_mount_below_a_dead_one_is_not_walked_to(host: Host, tmp_path: Path) -> None:
    with sshfs(tmp_path, "dead") as dead:
        inner = dead.point / "inner"
        inner.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", inner], check=True)
        try:
            os.kill(dead.server, signal.SIGSTOP)
            seconds, states, _ = rows(host, tmp_path)
            assert states == {str(dead.point): State.TIMED_OUT, str(inner): State.TIMED_OUT}
            assert seconds < 3.5
        finally:
            os.kill(dead.server, signal.SIGCONT)
            subprocess.run(["umount", "-l", inner], check=False)


def test_the_biggest_directories_of_a_dead_mount_are_refused_in_two_seconds(host: Host, tmp_path: Path) -> None:
    with sshfs(tmp_path, "dead") as dead:
        os.kill(dead.server, signal.SIGSTOP)
        began = time.monotonic()
        found = collect.read_slow(host, ("directories",), mountpoint=str(dead.point), root=False).directories
        assert found is not None
        assert found.state is State.TIMED_OUT
        assert time.monotonic() - began < 3.5
