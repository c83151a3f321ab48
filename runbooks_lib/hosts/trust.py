"""Trusting a host's key: fetch the key it shows, let a person compare the fingerprint, write it into known_hosts.

Nothing here asks or prints: `runbook hosts trust` shows `TrustPlan.describe()` and calls `add` after a typed yes.
A changed or a revoked key is never written: the old line is shown, and removing it is the person's own act.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.connection import show_host_key
from runbooks_lib.hosts.host import SettingsRefused
from runbooks_lib.hosts.known_hosts import KnownHosts, KnownLine, Verdict, fingerprint, lookup_name
from runbooks_lib.hosts.known_hosts_file import hash_name
from runbooks_lib.hosts.sockets import OpenSocket
from runbooks_lib.hosts.ssh_settings import SshSettings, resolve, route

logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)  # every failure is told as a HostError instead

_DEADLINE_SECONDS = 10.0
_LOCK_SECONDS = 5.0
# What may stand as a plain name: no comma, blank or wildcard, and no first character that means something else.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_\[:][A-Za-z0-9._:%\[\]-]*")


@dataclass(frozen=True)
class ShownKey:
    """The key that a host showed in a handshake. `name` is how known_hosts calls the host."""

    ssh_name: str
    name: str
    key_type: str
    key_blob: bytes

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key_blob)


@dataclass(frozen=True)
class TrustPlan:
    """What `add` would do: append `line` to `path`. `already_known` is set when there is nothing to do."""

    shown: ShownKey
    settings: SshSettings
    verdict: Verdict
    path: str
    line: str
    already_known: KnownLine | None = None

    def describe(self) -> str:
        """What a person must see before saying yes."""
        where = f"{self.settings.hostname} port {self.settings.port}"
        lines = [f"{self.shown.ssh_name} ({where}) shows", f"  {self.shown.key_type} {self.shown.fingerprint}"]
        if self.already_known is not None:
            return "\n".join([*lines, f"It is known already: {self.already_known.place}"])
        lines.append("Compare it on the host's own console: ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub")
        for line in self.verdict.elsewhere:
            lines.append(f"The same key is known for {_readable(line)} ({line.place})")
        for line in self.verdict.authorities:
            lines.append(
                f"A host CA vouches for this name ({line.place}); it cannot be checked here, this key would be pinned"
            )
        hashed = " (hashed)" if self.line.startswith("|") else ""
        lines.append(f"Yes would add it as {self.shown.name}{hashed} to {self.path}")
        return "\n".join(lines)


def fetch_host_key(
    settings: SshSettings, *, open_socket: OpenSocket | None = None, deadline_seconds: float = _DEADLINE_SECONDS
) -> ShownKey:
    """The key that the host of `settings` shows. Only the key exchange is done: no login, nothing is believed.

    Its jump hosts, if it has any, are logged in to, and must be known. `open_socket` is another way to reach it. Raises
    HostUnreachable, DeadlineExceeded, and what a jump host or `open_socket` raises.
    """
    end = time.monotonic() + deadline_seconds
    if open_socket is None and route(settings):
        # Imported here: only a host behind another pays for it.
        from runbooks_lib.hosts.bastion import SHARED

        open_socket = SHARED.way(settings)
    key = show_host_key(settings, name=settings.ssh_name, end=end, open_socket=open_socket)
    return ShownKey(
        settings.ssh_name,
        lookup_name(settings.hostname, settings.port, settings.host_key_alias),
        key.get_name(),
        key.asbytes(),
    )


def offered_key(
    ssh_name: str,
    *,
    config_file: str | os.PathLike[str] | None = None,
    user: str | None = None,
    port: int | None = None,
    open_socket: OpenSocket | None = None,
    deadline_seconds: float = _DEADLINE_SECONDS,
) -> TrustPlan:
    """`plan` for the key that the host shows now. Raises what `resolve`, `fetch_host_key` and `plan` raise."""
    settings = resolve(ssh_name, config_file=config_file, user=user, port=port)
    return plan(fetch_host_key(settings, open_socket=open_socket, deadline_seconds=deadline_seconds), settings)


def plan(shown: ShownKey, settings: SshSettings) -> TrustPlan:
    """What trusting `shown` would write. Raises HostKeyChanged when another key is known or this one is revoked, and
    SettingsRefused when there is no file to write to or the name cannot stand in one."""
    verdict = _judge(shown, settings)
    if verdict.state in ("changed", "revoked"):
        error = verdict.error(shown.ssh_name)
        assert error is not None  # noqa: S101 - both states have an error
        raise error
    path = _first_file(settings)
    if settings.hash_known_hosts:
        name = hash_name(shown.name, secrets.token_bytes(20))
    elif _PLAIN_NAME.fullmatch(shown.name):
        name = shown.name
    else:
        raise SettingsRefused(
            shown.ssh_name,
            f"the name {shown.name!a} cannot stand in known_hosts: it would mean something else there",
            true_now="nothing was written",
            next="give the host a plain HostKeyAlias in ~/.ssh/config",
        )
    key = base64.b64encode(shown.key_blob).decode()
    already = verdict.matched if verdict.state == "known" else None
    return TrustPlan(shown, settings, verdict, path, f"{name} {shown.key_type} {key}\n", already)


def add(plan: TrustPlan) -> None:
    """Append the planned line, after a person has said yes. Does nothing when the key is known by now.

    Safe beside other writers: one append under a lock, to the file that bears the name when it is done (`ssh-keygen -R`
    puts a new file in its place). A missing directory is made 0700, a missing file 0600, a missing final newline put
    right. Raises what `plan` raises when the files say otherwise by now, RunbookError when the line cannot be written;
    then the file is as it was.
    """
    path = Path(plan.path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in range(10):
            verdict = _judge(plan.shown, plan.settings)
            if verdict.state == "known":
                return
            if verdict.state in ("changed", "revoked"):
                raise verdict.error(plan.shown.ssh_name) or AssertionError
            with _locked(path) as file:
                # The verdict and the lock in this order: whoever holds the lock has not replaced the file since.
                if _same_file(file, path):
                    _append(file, plan.line.encode())
                    if _same_file(file, path):
                        break
        else:
            raise RunbookError(
                "known_hosts is being replaced again and again by another program",
                where=plan.path,
                true_now="the key may not be in the file",
                next="look which program writes it, then try again",
            )
    except OSError as error:
        raise RunbookError(
            f"the key cannot be written: {error.strerror or error}",
            where=plan.path,
            true_now="the file is as it was; the host is still not trusted",
            next="check the file's permissions and the free space, then try again",
        ) from error
    if _judge(plan.shown, plan.settings).state != "known":
        raise RunbookError(
            "the key was written but is not found again",
            where=plan.path,
            true_now=f"{plan.shown.name} is still not trusted",
            next="look at the last lines of the file",
        )


def _judge(shown: ShownKey, settings: SshSettings) -> Verdict:
    known = KnownHosts.load(settings.known_hosts_files, revoked_files=settings.revoked_host_keys)
    return known.check(settings.hostname, settings.port, shown.key_type, shown.key_blob, settings.host_key_alias)


def _first_file(settings: SshSettings) -> str:
    files = settings.user_known_hosts_files
    if not files or files[0] == os.devnull:
        raise SettingsRefused(
            settings.ssh_name,
            f"UserKnownHostsFile is {files[0] if files else 'none'}: there is no file to write the key to",
            true_now="nothing was written, and every key of this host counts as unknown",
            next="set UserKnownHostsFile to a real file for this host in ~/.ssh/config",
        )
    return files[0]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """A descriptor of the file, opened to append, with an exclusive lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is not a regular file")
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OSError(0, f"another program has held a lock on it for {_LOCK_SECONDS:g} s") from None
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    opened = os.fstat(descriptor)
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def _append(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    written = os.write(descriptor, line)
    if written != len(line):
        # A full disk can take half a line. Cut it off again, unless someone has appended behind it.
        if os.fstat(descriptor).st_size == size + written:
            os.ftruncate(descriptor, size)
        raise OSError(0, "no space left for the whole line")
    os.fsync(descriptor)


def _readable(line: KnownLine) -> str:
    return "a hashed name" if line.hosts.startswith("|") else line.hosts
