"""A private OpenSSH server for lab tests: generated keys, loopback addresses, nothing of the system's configuration.

    with Sshd(tmp_path) as sshd:
        host = sshd.host("sshd-1")          # a SshHost that knows the server's key
        ssh -F sshd.ssh_config sshd-1       # the same for OpenSSH itself

Needs root and openssh-server. `addresses` gives one name each (sshd-1, sshd-2, …); a process serves sixteen of them,
which is what sshd can listen on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from runbooks_lib.hosts.bastion import Bastions
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve

_MOST_ADDRESSES = 16  # MAX_LISTEN_SOCKS in OpenSSH's sshd.c


class Sshd:
    def __init__(
        self,
        directory: Path,
        *,
        addresses: Sequence[str] | None = None,
        port: int = 0,
        user: str = "root",
        lines: Sequence[str] = (),
        prefix: str = "sshd",
        client_lines: Sequence[str] = (),
        bashrc: bool = False,
    ) -> None:
        if os.getuid() != 0:
            raise RuntimeError("this lab test starts a real sshd and needs root")
        self.program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if self.program is None:
            raise RuntimeError("this lab test needs the package openssh-server: apt-get install openssh-server")
        self.directory = directory
        # An address of its own for each server: no port is shared with anybody.
        random = secrets.token_bytes(2)
        self.addresses = tuple(addresses or (f"127.{60 + random[0] % 60}.{random[1]}.1",))
        self.names = tuple(f"{prefix}-{i}" for i in range(1, len(self.addresses) + 1))
        self.user = user
        self.lines, self.client_lines = tuple(lines), tuple(client_lines)
        self.port, self.bashrc = port, bashrc
        self.ssh_config = directory / "ssh_config"
        self.known_hosts = directory / "known_hosts"
        self.identity_file = directory / "id_ed25519"
        self.host_key_file = directory / "host_ed25519"
        # sshd reads this as the user who logs in, and pytest's directories are closed to others.
        self._readable = Path(tempfile.mkdtemp(prefix="rb-sshd-"))
        self._readable.chmod(0o755)
        self.authorized_keys = self._readable / "authorized_keys"
        self.log = directory / "sshd.log"
        self.bastions = Bastions()
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._processes[0].pid

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in (self.host_key_file, self.identity_file):
            if not path.exists():
                keygen(path)
        if not self.authorized_keys.exists():
            shutil.copy(f"{self.identity_file}.pub", self.authorized_keys)
        if self.port == 0:
            with socket.create_server((self.addresses[0], 0)) as probe:
                self.port = probe.getsockname()[1]
        Path("/run/sshd").mkdir(exist_ok=True)
        for first in range(0, len(self.addresses), _MOST_ADDRESSES):
            self._processes.append(self._start_one(first // _MOST_ADDRESSES, self.addresses[first:][:_MOST_ADDRESSES]))
        deadline = time.monotonic() + 10
        for address in self.addresses[_MOST_ADDRESSES - 1 :: _MOST_ADDRESSES] + self.addresses[-1:]:
            self._wait_for(address, deadline)
        self.write_client_files()

    def _start_one(self, number: int, addresses: Sequence[str]) -> subprocess.Popen[bytes]:
        lines = [
            *self.lines,  # the first value counts
            *(f"ListenAddress {address}:{self.port}" for address in addresses),
            f"HostKey {self.host_key_file}",
            f"AuthorizedKeysFile {self.authorized_keys}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin yes",
            "MaxStartups 4000",
            "UseDNS no",
            "PidFile none",
            "LogLevel VERBOSE",
            # bash below the first level does not read ~/.bashrc, whose cost is not ours to measure.
            *(() if self.bashrc else ("SetEnv SHLVL=2",)),
        ]
        config = self.directory / f"sshd_config-{number}"
        config.write_text("\n".join(lines) + "\n")
        with self.log.open("ab") as log:
            return subprocess.Popen([str(self.program), "-D", "-e", "-f", config], stderr=log)

    def _wait_for(self, address: str, deadline: float) -> None:
        while True:
            try:
                socket.create_connection((address, self.port), timeout=1).close()
                return
            except OSError:
                if any(each.poll() is not None for each in self._processes) or time.monotonic() > deadline:
                    raise RuntimeError(f"sshd did not start: {self.log.read_text()[-2000:]}") from None
                time.sleep(0.02)

    def write_client_files(self) -> None:
        public = Path(f"{self.host_key_file}.pub").read_text().split()[:2]
        self.known_hosts.write_text("".join(f"{name} {' '.join(public)}\n" for name in self.names))
        self.ssh_config.write_text(
            "\n".join(
                "\n  ".join(
                    [
                        f"Host {name}",
                        f"HostName {address}",
                        f"Port {self.port}",
                        f"User {self.user}",
                        f"HostKeyAlias {name}",
                        *self.client_lines,
                        f"IdentityFile {self.identity_file}",
                        "IdentitiesOnly yes",
                        "IdentityAgent none",
                        f"UserKnownHostsFile {self.known_hosts}",
                        "GlobalKnownHostsFile none",
                        "StrictHostKeyChecking yes",
                    ]
                )
                + "\n"
                for name, address in zip(self.names, self.addresses, strict=True)
            )
        )

    def host(self, name: str | None = None, **options: object) -> SshHost:
        name = name or self.names[0]
        settings_source = partial(resolve, config_file=self.ssh_config)
        return SshHost(name, settings_source=settings_source, bastions=self.bastions, **options)  # type: ignore[arg-type]

    def hosts(self) -> list[SshHost]:
        return [self.host(name) for name in self.names]

    def kill_connections(self) -> None:
        """End the sshd of every connection with SIGKILL: the operator sees the connection cut."""
        for process in self._processes:
            for pid in _children(process.pid):
                for each in (*_children(pid), pid):
                    if _command(each) == "sshd":
                        os.kill(each, signal.SIGKILL)

    def stop(self) -> None:
        self.bastions.close()
        processes, self._processes = self._processes, []
        for process in processes:
            children = _children(process.pid)
            process.terminate()
            process.wait(10)
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        shutil.rmtree(self._readable, ignore_errors=True)


def keygen(path: Path, *arguments: str) -> None:
    words = arguments or ("-t", "ed25519", "-N", "")
    subprocess.run(["ssh-keygen", "-q", "-C", "test", "-f", path, *words], check=True, stdin=subprocess.DEVNULL)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
