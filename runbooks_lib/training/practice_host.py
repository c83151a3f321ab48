"""A real SSH server on 127.0.0.1 for the demo and the tests: it runs commands on this machine, as the current user.

It is no server for anything else: it binds to a loopback address or not at all, turns away who is not on one, knows one
generated user key, and ends what it started when it is stopped. What it does with a connection that ends is what sshd
does: the command's stdin is closed, and nothing else.

    python -m runbooks_lib.training.practice_host --directory D     stays in the foreground until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import ipaddress
import os
import secrets
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from runbooks_lib.errors import RunbookError, UsageError

DEFAULT_NAMES = ("practice-host",)
_CHUNK_BYTES = 32768
_GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


class PracticeHost:
    """One server, reachable under every name in `names`, with files in `directory` (made with mode 0700).

    `ssh_config` and `known_hosts` are the paths of files that SshHost and `ssh -F` can use as they are; `port`,
    `user`, `identity_file` say the same singly. Use it as a context manager, or `start` and `stop`. Keys in the
    directory are used again, so that a second start on another port shows the same host key. Raises UsageError for an
    address that is not on the loopback, RunbookError when it cannot listen.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        names: Sequence[str] = DEFAULT_NAMES,
        address: str = "127.0.0.1",
        port: int = 0,
        environment: dict[str, str] | None = None,
    ) -> None:
        if not ipaddress.ip_address(address).is_loopback:
            raise UsageError(
                f"the practice host would listen on {address}",
                true_now="nothing was started",
                next="give an address in 127.0.0.0/8: anyone who reached it could run commands as you",
            )
        self.directory = Path(directory).absolute()
        self.names = tuple(names)
        self.address, self.port = address, port
        self.user = getpass.getuser()
        self.environment = environment
        self.ssh_config = self.directory / "ssh_config"
        self.known_hosts = self.directory / "known_hosts"
        self.identity_file = self.directory / "id_ed25519"
        self.host_key_file = self.directory / "host_ed25519"
        self.logins = 0  # since the start: how many connections were let in
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._transports: set[paramiko.Transport] = set()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._stopping = False

    def __enter__(self) -> PracticeHost:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen and write the files. Returns when connections are accepted."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)
        self._host_keys = [_key(self.host_key_file)]
        self._user_key = _key(self.identity_file)
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.address, self.port))
            listener.listen(512)
        except OSError as error:
            listener.close()
            raise RunbookError(
                f"the practice host cannot listen: {error.strerror}", where=f"{self.address} port {self.port}"
            ) from error
        self.port = listener.getsockname()[1]
        self._listener, self._stopping = listener, False
        self._write_files()
        threading.Thread(target=self._accept, args=(listener,), name="practice-host", daemon=True).start()

    def stop(self) -> None:
        """Accept nothing more, end every connection and the process group of every command that still runs."""
        self._stopping = True
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            transports, children = list(self._transports), list(self._children)
        for child in children:
            _end_session(child)
        for transport in transports:
            _cut(transport)

    def cut_connections(self) -> None:
        """End every connection as a dying network would, without a word of SSH. Commands are left to themselves."""
        with self._lock:
            transports = list(self._transports)
        for transport in transports:
            _cut(transport)

    def _write_files(self) -> None:
        public = f"{self._host_keys[0].get_name()} {self._host_keys[0].get_base64()}"
        known = "".join(f"{name} {public}\n" for name in self.names)
        _write(self.known_hosts, known)
        blocks = [
            f"Host {name}\n"
            f"  HostName {self.address}\n"
            f"  Port {self.port}\n"
            f"  User {self.user}\n"
            f"  HostKeyAlias {name}\n"
            f'  IdentityFile "{self.identity_file}"\n'
            f"  IdentitiesOnly yes\n"
            f"  IdentityAgent none\n"
            f'  UserKnownHostsFile "{self.known_hosts}"\n'
            f"  GlobalKnownHostsFile none\n"
            f"  StrictHostKeyChecking yes\n"
            for name in self.names
        ]
        _write(self.ssh_config, "\n".join(blocks))

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            if not ipaddress.ip_address(peer[0].partition("%")[0]).is_loopback:
                sock.close()
                continue
            threading.Thread(target=self._greet, args=(sock,), daemon=True).start()

    def _greet(self, sock: socket.socket) -> None:
        transport: paramiko.Transport | None = None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = _Server(sock)
            for key in self._host_keys:
                transport.add_server_key(key)
            with self._lock:
                self._transports = {each for each in self._transports if each.is_alive()} | {transport}
            transport.start_server(server=_Session(self))
        except (paramiko.SSHException, OSError, EOFError):
            if transport is not None:
                _cut(transport)
            sock.close()
        if self._stopping and transport is not None:
            _cut(transport)

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        """Run one command as sshd does: a session of its own, three pipes, its status at the end."""
        try:
            child = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd=Path.home() if Path.home().is_dir() else "/",
                env=self.environment,
                bufsize=0,
            )
        except OSError:
            channel.send_exit_status(255)
            channel.close()
            return
        with self._lock:
            self._children.add(child)
        if self._stopping:
            _end_session(child)
        assert child.stdin is not None  # noqa: S101 (a pipe was asked for)
        feeding = threading.Thread(target=_feed, args=(channel, child), daemon=True)
        pumps = [
            threading.Thread(target=_pump, args=(child.stdout, channel.sendall), daemon=True),
            threading.Thread(target=_pump, args=(child.stderr, channel.sendall_stderr), daemon=True),
        ]
        for thread in (feeding, *pumps):
            thread.start()
        status = child.wait()
        with self._lock:
            self._children.discard(child)
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            # sshd tells the status at once, even when another process still holds the pipes.
            _tell_status(channel, status)
        with contextlib.suppress(OSError):
            child.stdin.close()
        for thread in pumps:
            thread.join()
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            channel.close()


def _answer(channel: paramiko.Channel, request: paramiko.Message) -> None:
    channel._handle_request(request)
    channel.transport.server_object.answered(channel)


class _Server(paramiko.Transport):  # type: ignore[misc]
    """Quiet, and with the cipher first that costs Python least."""

    _active_check_timeout = 1.0
    _channel_handler_table = paramiko.Transport._channel_handler_table | {paramiko.common.MSG_CHANNEL_REQUEST: _answer}
    _preferred_ciphers = _GCM + tuple(c for c in paramiko.Transport._preferred_ciphers if c not in _GCM)

    def _log(self, level: int, msg: Any, *args: Any) -> None:
        pass

    def _queue_incoming_channel(self, channel: paramiko.Channel) -> None:
        # paramiko would keep every channel in a list for accept(), for ever.
        self.server_object.opened(channel)


class _Session(paramiko.ServerInterface):  # type: ignore[misc]
    """One connection's answers. paramiko calls all of them from the connection's own thread."""

    def __init__(self, host: PracticeHost) -> None:
        self._host = host
        self._waiting: dict[int, paramiko.Channel] = {}  # paramiko itself holds channels weakly
        self._commands: dict[int, str] = {}  # asked for, and not yet answered
        self._targets: dict[int, socket.socket] = {}

    def get_allowed_auths(self, _username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        host = self._host
        if username == host.user and secrets.compare_digest(key.asbytes(), host._user_key.asbytes()):
            with host._lock:
                host.logins += 1
            return int(paramiko.AUTH_SUCCESSFUL)
        return int(paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, _chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._waiting.pop(channel.chanid, None)
        self._commands[channel.chanid] = command.decode("utf-8", "surrogateescape")
        return True

    def answered(self, channel: paramiko.Channel) -> None:
        """A request on a channel was answered: where it was for a command, that starts now.

        Not before: a quick command would close the channel ahead of the answer, and the client be told that its
        request failed.
        """
        command = self._commands.pop(channel.chanid, None)
        if command is not None:
            threading.Thread(target=self._host._run, args=(channel, command), daemon=True).start()

    def check_channel_direct_tcpip_request(
        self, chanid: int, _origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        try:
            if not ipaddress.ip_address(destination[0]).is_loopback:
                return int(paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)
            target = socket.create_connection(destination, timeout=5)
        except (OSError, ValueError):
            return int(paramiko.OPEN_FAILED_CONNECT_FAILED)
        target.settimeout(None)
        self._targets[chanid] = target
        return int(paramiko.OPEN_SUCCEEDED)

    def opened(self, channel: paramiko.Channel) -> None:
        """A channel is open: a session waits for its command, a forwarded one for its first byte."""
        target = self._targets.pop(channel.chanid, None)
        if target is None:
            self._waiting[channel.chanid] = channel
            return
        threading.Thread(target=_to_channel, args=(target, channel), daemon=True).start()
        threading.Thread(target=_from_channel, args=(channel, target), daemon=True).start()


def _to_channel(target: socket.socket, channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while data := target.recv(_CHUNK_BYTES):
            channel.sendall(data)
    target.close()
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


def _from_channel(channel: paramiko.Channel, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := channel.recv(_CHUNK_BYTES):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _feed(channel: paramiko.Channel, child: subprocess.Popen[bytes]) -> None:
    """Channel to stdin. However the channel ends - end of file, closed, cut - stdin is closed."""
    stdin = child.stdin
    assert stdin is not None  # noqa: S101
    with contextlib.suppress(OSError, ValueError):
        while data := channel.recv(_CHUNK_BYTES):
            view = memoryview(data)
            while view:
                view = view[os.write(stdin.fileno(), view) :]
    with contextlib.suppress(OSError, ValueError):
        stdin.close()


def _pump(pipe: Any, send: Any) -> None:
    """A pipe to the channel. When the channel is gone the pipe is closed, as sshd does."""
    with contextlib.suppress(OSError, EOFError, ValueError, paramiko.SSHException):
        while data := os.read(pipe.fileno(), _CHUNK_BYTES):
            send(data)
    with contextlib.suppress(OSError):
        pipe.close()


def _tell_status(channel: paramiko.Channel, status: int) -> None:
    if status >= 0:
        channel.send_exit_status(status)
        return
    message = paramiko.Message()
    message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exit-signal")
    message.add_boolean(False)
    message.add_string(signal.Signals(-status).name.removeprefix("SIG"))
    message.add_boolean(False)
    message.add_string("")
    message.add_string("")
    channel.transport._send_user_message(message)


def _end_session(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _cut(transport: paramiko.Transport) -> None:
    with contextlib.suppress(OSError):
        transport.sock.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(Exception):
        transport.close()


def _key(path: Path) -> paramiko.PKey:
    """The ed25519 key in `path`, generated when there is none."""
    if not path.exists():
        private = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        _write(path, private.decode())
        key = paramiko.Ed25519Key.from_private_key_file(str(path))
        _write(path.with_name(path.name + ".pub"), f"{key.get_name()} {key.get_base64()} practice\n")
    return paramiko.Ed25519Key.from_private_key_file(str(path))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one practice host until Ctrl-C or SIGTERM; prints how to reach it."""
    parser = argparse.ArgumentParser(prog="practice_host", description="A real SSH server on 127.0.0.1, for practice.")
    parser.add_argument("--directory", required=True, type=Path, help="for keys, ssh_config and known_hosts; made 0700")
    parser.add_argument(
        "--name", action="append", help="a name of the host in ssh_config (may be given more than once)"
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    options = parser.parse_args(arguments)
    ends, wakes = os.pipe()

    def stop(_number: int, _frame: object) -> None:
        os.write(wakes, b".")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        with PracticeHost(options.directory, names=options.name or DEFAULT_NAMES, port=options.port) as host:
            print(f"listening on {host.address} port {host.port}; reach it with:", flush=True)
            print(f"  ssh -F {shlex.quote(str(host.ssh_config))} {host.names[0]}", flush=True)
            select.select([ends], [], [])
    except RunbookError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
