"""Hosts to measure against: real sshds on loopback addresses, and a mock fleet that costs next to nothing."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.facts.collect import quick_request, script_text
from runbooks_lib.hosts.wrapper import COMMAND, wrap

REAL_PORT, MOCK_PORT = 22022, 22023
ADDRESSES_PER_SSHD = 16  # sshd.c, MAX_LISTEN_SOCKS
_NONCE = re.compile(rb"(?:RB)?[0-9a-f]{32}")
_PLAIN_NONCE = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Fleet:
    """Names, and the ssh_config that says how they are reached. `plain_command` prints one host's whole raw answer."""

    names: tuple[str, ...]
    ssh_config: Path
    plain_command: str
    directory: Path


def require(*programs: tuple[str, str]) -> None:
    """Ends with one sentence when a program is missing: (program, Debian package)."""
    missing = [package for program, package in programs if shutil.which(program, path=_path()) is None]
    if missing:
        sys.exit(f"benchmarks.collect needs these packages: apt-get install -y {' '.join(dict.fromkeys(missing))}")
    if os.geteuid() != 0:
        sys.exit("benchmarks.collect starts sshd on many loopback addresses and needs root")


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def many_files() -> None:
    """Thousands of sockets on both sides."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


@contextlib.contextmanager
def real_fleet(directory: Path, count: int) -> Iterator[Fleet]:
    """`count` addresses of real sshds, as the current user, every connection a login of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    addresses = _addresses("127.77.0.1", count)
    _keys(directory)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for first in range(0, count, ADDRESSES_PER_SSHD):
            config = directory / f"sshd_{first}"
            listen = "".join(
                f"ListenAddress {each}:{REAL_PORT}\n" for each in addresses[first : first + ADDRESSES_PER_SSHD]
            )
            config.write_text(
                f"{listen}HostKey {directory}/host_key\nAuthorizedKeysFile {directory}/user_key.pub\nStrictModes no\n"
                "UsePAM no\nPermitRootLogin prohibit-password\nMaxStartups 4000\nMaxSessions 100\nPidFile none\n"
                "LogLevel ERROR\nPrintMotd no\nPrintLastLog no\n"
                # A bash that is started by sshd reads ~/.bashrc unless it believes to be a shell in a shell; what
                # stands in the operator's (pyenv: 100 ms) would be most of what is measured, on every side.
                "SetEnv SHLVL=1\n"
            )
            # Process ids of its own: else every host lists the processes of all others, and each costs what all do.
            command = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", "/usr/sbin/sshd", "-D", "-e"]
            with (directory / "sshd.log").open("ab") as log:
                processes.append(subprocess.Popen([*command, "-f", config], stderr=log))
        _until_they_answer(addresses, REAL_PORT)
        (directory / "quick.sh").write_text(script_text("quick"))
        (directory / "request").write_text(f"{_PLAIN_NONCE}\n0\n")
        yield Fleet(
            tuple(f"real-{number:04}" for number in range(count)),
            _ssh_config(directory, "real", addresses, REAL_PORT),
            f"/bin/sh {directory}/quick.sh < {directory}/request",
            directory,
        )
    finally:
        _end(processes)


@contextlib.contextmanager
def mock_fleet(directory: Path, count: int, *, rtt_ms: int, exec_ms: int = 0, hang_every: int = 0) -> Iterator[Fleet]:
    """`count` addresses of the mock server; every `hang_every`th accepts TCP and never speaks."""
    directory.mkdir(parents=True, exist_ok=True)
    addresses = _addresses("127.88.0.1", count)
    _keys(directory)
    _record(directory)
    lines = [
        f"{'hang ' if hang_every and number % hang_every == hang_every - 1 else ''}{each}:{MOCK_PORT}\n"
        for number, each in enumerate(addresses)
    ]
    (directory / "addresses").write_text("".join(lines))
    process = subprocess.Popen(
        [
            _build(directory),
            *("-key", directory / "host_key", "-addresses", directory / "addresses", "-rtt", f"{rtt_ms}ms"),
            *("-exec", f"{exec_ms}ms"),
            *("-stdout", directory / "stdout", "-stderr", directory / "stderr", "-plain", directory / "plain"),
            *("-command", COMMAND, "-terminator", (directory / "terminator").read_text()),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            sys.exit("the mock fleet did not start")
        yield Fleet(
            tuple(f"mock-{number:04}" for number in range(count)),
            _ssh_config(directory, "mock", addresses, MOCK_PORT),
            "plain",
            directory,
        )
    finally:
        _end([process])


def _build(directory: Path) -> Path:
    """The mock server, compiled from Debian's packages alone."""
    source = Path(__file__).parent / "mockd"
    binary = directory / "mockd"
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(directory / "gocache"),
    }
    subprocess.run(["go", "build", "-o", binary, "."], cwd=source, env=environment, check=True, timeout=300)
    return binary


def _record(directory: Path) -> None:
    """One real answer of this machine to what is really sent, with the nonces taken out."""
    request = quick_request(0.0)
    wrapped = wrap(request.script.text, request.input)
    sent = wrapped.program
    # stdin stays open, as it does over SSH: at its end the envelope's watchdog would end the script.
    process = subprocess.Popen(
        ["/bin/sh", "-s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(sent)
    process.stdin.flush()
    stdout, stderr = process.stdout.read(), process.stderr.read()
    process.stdin.close()
    process.wait(timeout=20)
    nonces = list(dict.fromkeys(_NONCE.findall(sent)))
    assert nonces == [wrapped.nonce, request.nonce.encode()], nonces
    assert request.nonce.encode() + b" end" in stdout
    plain = stdout
    for number, nonce in enumerate(nonces):
        stdout, stderr = (text.replace(nonce, b"\1%d\1" % number) for text in (stdout, stderr))
        plain = plain.replace(nonce, _PLAIN_NONCE.encode())
    (directory / "stdout").write_bytes(stdout)
    (directory / "stderr").write_bytes(stderr)
    (directory / "plain").write_bytes(plain)
    (directory / "terminator").write_bytes(sent[-20:])


def _addresses(first: str, count: int) -> list[str]:
    start = ipaddress.IPv4Address(first)
    return [str(start + number) for number in range(count)]


def _keys(directory: Path) -> None:
    for name in ("host_key", "user_key"):
        if not (directory / name).exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", directory / name],
                check=True,
                timeout=20,
            )


def _ssh_config(directory: Path, prefix: str, addresses: Sequence[str], port: int) -> Path:
    key_type, key = (directory / "host_key.pub").read_text().split()[:2]
    (directory / "known_hosts").write_text("".join(f"[{each}]:{port} {key_type} {key}\n" for each in addresses))
    path = directory / "ssh_config"
    hosts = "".join(f"Host {prefix}-{number:04}\n  HostName {each}\n" for number, each in enumerate(addresses))
    path.write_text(
        f"{hosts}Host *\n  Port {port}\n  IdentityFile {directory}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n  GlobalKnownHostsFile none\n  BatchMode yes\n"
        "  StrictHostKeyChecking yes\n"
    )
    return path


def _until_they_answer(addresses: Sequence[str], port: int) -> None:
    end = time.monotonic() + 30
    for address in addresses:
        while True:
            try:
                socket.create_connection((address, port), 1).close()
                break
            except OSError:
                if time.monotonic() > end:
                    sys.exit(f"no sshd answers on {address} port {port}")
                time.sleep(0.05)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    # unshare ignores SIGTERM while it waits; killed, it takes its whole process id namespace with it.
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
