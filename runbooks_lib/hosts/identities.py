"""The identities that may be shown to a host: key files, certificates, and the agent only when it is configured.

Files are parsed once a process and shared by all threads. One identity is offered at a time and at most MOST_OFFERS of
them: a server counts refused ones (MaxAuthTries 6), and OpenSSH 9.8 then shuts out the operator's address for a while.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm

from runbooks_lib.hosts.ssh_settings import SshSettings

MOST_OFFERS = 5
AGENT_SECONDS = 10.0


@dataclass(frozen=True)
class Identity:
    """One thing to offer: a paramiko key (with or without certificate), and how to call it in a message."""

    key: Any
    label: str


@dataclass(frozen=True)
class Identities:
    """What may be offered, in order, and what could not be used and why."""

    offers: tuple[Identity, ...]
    problems: tuple[str, ...]
    left_out: int = 0
    close: Callable[[], None] = lambda: None


class _Agent(paramiko.agent.AgentSSH):  # type: ignore[misc]
    """The agent behind one socket, asked for signatures and for nothing else; never forwarded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(AGENT_SECONDS)
            connection.connect(path)
            self._connect(connection)
        except BaseException:
            connection.close()
            raise


_lock = threading.Lock()
_parsed: dict[tuple[object, ...], Any] = {}


def identities(settings: SshSettings) -> Identities:
    """What to offer to the host of `settings`: agent keys that stand for a configured file, then files (certificate
    before plain key), then - unless IdentitiesOnly - the agent's others. Never asks for a passphrase."""
    problems: list[str] = []
    agent_keys: list[Any] = []
    agent: _Agent | None = None
    if not settings.pubkey_authentication:
        return Identities((), ("PubkeyAuthentication is off, and no other login without a person exists",))
    if settings.identity_agent:
        try:
            agent = _Agent(settings.identity_agent)
            agent_keys = list(agent.get_keys())
        except (OSError, paramiko.SSHException) as error:
            problems.append(f"the agent at {settings.identity_agent} does not answer ({error})")
    certificates = [(path, blob) for path in settings.certificate_files if (blob := _certificate(path, problems, True))]
    from_agent: list[Identity] = []
    from_files: list[Identity] = []
    for path in settings.identity_files:
        held = _held_by_agent(path, agent_keys)
        if held is not None:
            agent_keys.remove(held)
            from_agent.append(Identity(held, f"{path} (agent)"))
        else:
            from_files.extend(_from_file(path, certificates, settings, problems, agent is not None))
    rest = [] if settings.identities_only else [Identity(key, f"agent key {key.comment!r}") for key in agent_keys]
    offers = [*from_agent, *from_files, *rest]

    def close() -> None:
        if agent is not None:
            with contextlib.suppress(OSError):
                agent._close()

    return Identities(tuple(offers[:MOST_OFFERS]), tuple(problems), max(0, len(offers) - MOST_OFFERS), close)


def fingerprint(key: Any) -> str:
    """`ssh-ed25519 SHA256:…` of a paramiko key's public half (of a certificate, the key that it certifies)."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"


def _from_file(
    path: str, certificates: list[tuple[str, Any]], settings: SshSettings, problems: list[str], has_agent: bool
) -> Iterator[Identity]:
    try:
        stat = Path(path).stat()
        if stat.st_uid == os.getuid() and stat.st_mode & 0o077:
            problems.append(f"{path} can be read by others, and ssh would not use it either: chmod 600 it")
            return
        key = _cached((path, stat.st_mtime_ns, stat.st_size, ""), lambda: _load(path))
    except FileNotFoundError:
        if not settings.identity_files_are_defaults:
            problems.append(f"{path} does not exist")
        return
    except paramiko.PasswordRequiredException:
        how = (
            "it is not in the configured agent: ssh-add it"
            if has_agent
            else "no agent is configured: ssh-add it and set IdentityAgent SSH_AUTH_SOCK for this host"
        )
        problems.append(f"{path} is encrypted, and {how}")
        return
    except (OSError, ValueError, TypeError, paramiko.SSHException, UnsupportedAlgorithm) as error:
        problems.append(f"{path} cannot be used: {error or type(error).__name__}")
        return
    own = _certificate(path + "-cert.pub", problems, False)
    for cert_path, blob in [*certificates, *([(path + "-cert.pub", own)] if own is not None else [])]:
        if _certifies(blob, key):
            with_certificate = _cached(
                (path, stat.st_mtime_ns, stat.st_size, cert_path, blob.key_blob),
                lambda blob=blob: _load(path, blob),  # type: ignore[misc]
            )
            yield Identity(with_certificate, f"{path} with {cert_path}")
    yield Identity(key, path)


def _load(path: str, certificate: Any = None) -> Any:
    try:
        key = paramiko.PKey.from_path(path)
    except TypeError as error:
        # cryptography's words for "encrypted, and no password given".
        raise paramiko.PasswordRequiredException(str(error)) from error
    # from_path also takes up a -cert.pub beside the key; which certificate goes with a key is decided above.
    key.public_blob = certificate
    return key


def _certificate(path: str, problems: list[str], named: bool) -> Any:
    try:
        stat = Path(path).stat()
        return _cached((path, stat.st_mtime_ns, stat.st_size), lambda: paramiko.pkey.PublicBlob.from_file(path))
    except FileNotFoundError:
        if named:
            problems.append(f"{path} does not exist")
    except (OSError, ValueError, paramiko.SSHException) as error:
        problems.append(f"{path} is no certificate: {error}")
    return None


def _certifies(blob: Any, key: Any) -> bool:
    """A certificate holds its type, a nonce, then the certified key's own fields (OpenSSH's PROTOCOL.certkeys)."""
    if not blob.key_type.endswith("-cert-v01@openssh.com") or not blob.key_type.startswith(key.get_name()):
        return False
    certificate, public = paramiko.Message(blob.key_blob), paramiko.Message(key.asbytes())
    certificate.get_string()
    certificate.get_string()
    public.get_string()
    return bool(certificate.get_remainder().startswith(public.get_remainder()))


def _held_by_agent(path: str, keys: list[Any]) -> Any:
    """The agent's key for an identity file, recognised by the public half beside it (or by a private file in clear)."""
    if not keys:
        return None
    for candidate in (path + ".pub", path):
        with contextlib.suppress(OSError, ValueError, paramiko.SSHException):
            text = Path(candidate).read_text(encoding="utf-8", errors="replace")
            if text.startswith(("ssh-", "ecdsa-", "sk-")):
                blob = paramiko.pkey.PublicBlob.from_string(text).key_blob
                return next((key for key in keys if key.blob == blob), None)
    return None


def _cached(key: tuple[object, ...], load: Callable[[], Any]) -> Any:
    with _lock:
        if key in _parsed:
            return _parsed[key]
    value = load()
    with _lock:
        if len(_parsed) > 500:
            _parsed.clear()
        return _parsed.setdefault(key, value)


__all__ = ["MOST_OFFERS", "Identities", "Identity", "fingerprint", "identities"]
