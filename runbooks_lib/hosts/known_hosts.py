"""What is known about host keys: the verdict on a key that a host shows, from OpenSSH's known_hosts files.

Why not paramiko's `HostKeys`: it costs O(n²) to load (5.5 s for 5,000 lines), gives up on a whole file at one odd line,
and knows neither wildcards nor negation. The rules for ports and addresses are those of OpenSSH's `sshconnect.c`
(`check_host_key`) and `hostfile.c`.

A presented key is looked up in the files' indexes; only where its name is hashed or a pattern are names compared, and
only those of lines that hold this key. All lines are walked only to explain a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from runbooks_lib.hosts.host import HostError, HostKeyChanged, HostKeyUnknown, SettingsRefused
from runbooks_lib.hosts.known_hosts_file import (
    CERT_AUTHORITY,
    REVOKED,
    IndexedFile,
    KnownLine,
    fingerprint,
    line_names,
    read_cached,
    read_revoked,
    walk,
)

__all__ = ["SSH_PORT", "KnownHosts", "KnownLine", "State", "Verdict", "fingerprint", "lookup_name"]

SSH_PORT = 22
State = Literal["known", "unknown", "changed", "revoked", "ca-only"]


def lookup_name(host: str, port: int = SSH_PORT, alias: str | None = None) -> str:
    """The name under which known_hosts holds a host: the alias, `host`, or `[host]:port` when the port is not 22."""
    if alias:
        return alias.lower()
    return host.lower() if port in (0, SSH_PORT) else f"[{host.lower()}]:{port}"


@dataclass(frozen=True)
class Verdict:
    """What the known_hosts files say about a key that a host has shown. Only `known` may be connected to.

    `name` is what was looked up (`db-1`, `[db-1]:2222` or the alias). `matched` is the line that decided *known* or
    *revoked*. `known` are the plain lines for this name, `authorities` its `@cert-authority` lines, `known_types` the
    types of `known` (offer them first in a second handshake: a host may hold several keys), `elsewhere` the lines
    that hold the shown key under other names. `address_line` is set when the key for the address differs.
    """

    state: State
    name: str
    key_type: str
    fingerprint: str
    files: tuple[str, ...]
    matched: KnownLine | None = None
    known: tuple[KnownLine, ...] = ()
    authorities: tuple[KnownLine, ...] = ()
    elsewhere: tuple[KnownLine, ...] = ()
    address_line: KnownLine | None = None

    @property
    def known_types(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line.key_type for line in self.known))

    def error(self, host: str, *, inventory_name: str = "") -> HostError | None:
        """The row of `host` when it may not be connected to, None when the key is known."""
        shown = f"{self.key_type} {self.fingerprint}"
        name = inventory_name or host
        if self.state == "known":
            return None
        if self.state == "revoked":
            place = f" at {self.matched.place}" if self.matched else ""
            return HostKeyChanged(
                host,
                f"the host shows a REVOKED key, {shown}",
                key_type=self.key_type,
                fingerprint=self.fingerprint,
                true_now=f"not connected; the key is marked {REVOKED}{place}",
                next="do not log in: find out from the host's owner why a revoked key is in use",
            )
        if self.state == "changed":
            return self._changed(host, shown, name)
        if self.state == "ca-only":
            places = ", ".join(line.place for line in self.authorities[:3])
            return SettingsRefused(
                host,
                f"a host CA vouches for {self.name}, which cannot be checked here; the host shows {shown}",
                true_now=f"not connected; {CERT_AUTHORITY} at {places}, and no plain key for {self.name}",
                next=f"compare the fingerprint on the host's console, then pin this key: runbook hosts trust {name}",
            )
        others = f"; the same key is known as {_names(self.elsewhere)}" if self.elsewhere else ""
        return HostKeyUnknown(
            host,
            f"the host's key is not known: {shown}",
            key_type=self.key_type,
            fingerprint=self.fingerprint,
            true_now=f"not connected; {self.name} is not in {', '.join(self.files) or 'any known_hosts file'}{others}",
            next=f"compare the fingerprint with the host's console, then: runbook hosts trust {name}",
        )

    def _changed(self, host: str, shown: str, name: str) -> HostError:
        if self.address_line is not None:
            line = self.address_line
            true_now = f"not connected; {line.place} holds {line.key_type} {line.fingerprint} for the address"
            looked_up = line.hosts
        else:
            listed = "; ".join(f"{line.key_type} {line.fingerprint} at {line.place}" for line in self.known[:4])
            true_now = f"not connected; known for {self.name}: {listed}"
            if self.authorities:
                true_now += f"; a host CA is named at {self.authorities[0].place}, which cannot be checked here"
            looked_up = self.name
        path = (self.address_line or self.known[0]).path
        return HostKeyChanged(
            host,
            f"the host's key has CHANGED: it shows {shown}. The host was reinstalled, or someone stands in between",
            key_type=self.key_type,
            fingerprint=self.fingerprint,
            true_now=true_now,
            next="ask who changed it. Only when that is explained, remove the old key yourself: "
            f"ssh-keygen -f '{path}' -R '{looked_up}', then: runbook hosts trust {name}",
        )


class KnownHosts:
    """The keys of several known_hosts files together. Immutable; safe to share between threads."""

    def __init__(self, files: Sequence[IndexedFile], revoked: dict[bytes, KnownLine] | None = None) -> None:
        self._files = tuple(files)
        self._revoked = revoked or {}
        self._walked: dict[bytes, tuple[KnownLine, ...]] = {}

    @classmethod
    def load(
        cls, paths: Iterable[str | os.PathLike[str]], *, revoked_files: Iterable[str | os.PathLike[str]] = ()
    ) -> KnownHosts:
        """Read the files that exist; a missing one is fine, an unreadable one is a warning. Unchanged files (same
        mtime, size and inode) are read once a process. `revoked_files` are RevokedHostKeys: lists of public keys.

        Raises SettingsRefused when a revoked-keys file is a binary KRL or cannot be read: no key can be called good.
        """
        revoked: dict[bytes, KnownLine] = {}
        for path in revoked_files:
            revoked.update(read_revoked(os.fspath(path)))
        unique = dict.fromkeys(os.fspath(path) for path in paths)
        return cls([read_cached(path) for path in unique], revoked)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self._files)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One `path:line: why it was skipped` for each line that could not be used."""
        return tuple(warning for file in self._files for warning in file.warnings)

    def __len__(self) -> int:
        return sum(len(file.lines) for file in self._files)

    def check(
        self,
        host: str,
        port: int,
        key_type: str,
        key_blob: bytes,
        alias: str | None = None,
        *,
        address: str | None = None,
    ) -> Verdict:
        """The verdict on `key_blob`, shown by `host`:`port` (`alias`: its HostKeyAlias).

        `address` is the IP that was connected to, given only when CheckHostIP is on and there is no proxy. A key
        under the bare name also counts for a port other than 22, but only while nothing is known for `[host]:port`.
        A `@revoked` line wins over everything, and for the bare name it counts on every port (stricter than ssh).
        """
        key_type = _plain_type(key_type)
        name = lookup_name(host, port, alias)
        bare = None if alias or port in (0, SSH_PORT) else host.lower()
        encoded = _bytes(name)

        def verdict(state: State, **more: object) -> Verdict:
            return Verdict(state, name, key_type, fingerprint(key_blob), self.paths, **more)  # type: ignore[arg-type]

        if key_blob in self._revoked:
            return verdict("revoked", matched=self._revoked[key_blob])
        tried = [encoded] if bare is None else [encoded, _bytes(bare)]
        if address is not None and _bytes(address.lower()) not in tried:
            tried.append(_bytes(lookup_name(address, port)))
        for file in self._files:
            for line in file.revoked_by_blob.get(key_blob, ()):
                if any(line_names(line, each) for each in tried):
                    return verdict("revoked", matched=line)

        holding = self._line_holding(key_blob, encoded)
        if holding is not None:
            differs = self._address_differs(address, host, port, key_blob)
            if differs is not None:
                return verdict("changed", matched=holding, known=self._plain(encoded), address_line=differs)
            return verdict("known", matched=holding, known=(holding,))

        lines = self._lines_for(encoded)
        known = tuple(line for line in lines if not line.marker)
        authorities = tuple(line for line in lines if line.marker == CERT_AUTHORITY)
        if known:
            return verdict("changed", known=known, authorities=authorities)
        holding = None if bare is None else self._line_holding(key_blob, _bytes(bare))
        if holding is not None:
            return verdict("known", matched=holding, known=(holding,))
        if authorities:
            return verdict("ca-only", authorities=authorities)
        everything = (line for file in self._files for line in file.lines)
        same_key = (line for line in everything if line.key_blob == key_blob and not line.marker)
        return verdict("unknown", elsewhere=tuple(islice(same_key, 5)))

    def likely_key_types(self, host: str, port: int, alias: str | None = None) -> tuple[str, ...]:
        """The key types that plain, unhashed lines name for this host: what to prefer in the handshake. It costs one
        dict look-up a file; hashed and patterned names are not tried, `Verdict.known_types` tells them afterwards."""
        names = [_bytes(lookup_name(host, port, alias))]
        if not alias and port != SSH_PORT:
            names.append(_bytes(host.lower()))
        for name in names:
            found = [line.key_type for file in self._files for line in file.by_name.get(name, ()) if not line.marker]
            if found:
                return tuple(dict.fromkeys(found))
        return ()

    def lines_for(self, host: str, port: int, alias: str | None = None) -> tuple[KnownLine, ...]:
        """Every line, marked ones too, whose names match this host; in file order."""
        return self._lines_for(_bytes(lookup_name(host, port, alias)))

    def _line_holding(self, key_blob: bytes, name: bytes) -> KnownLine | None:
        """The first plain line that holds this key under this name."""
        for file in self._files:
            for line in file.by_name.get(name, ()):
                if line.key_blob == key_blob and not line.marker:
                    return line
            for line in file.unnamed_by_blob.get(key_blob, ()):
                if not line.marker and line_names(line, name):
                    return line
        return None

    def _plain(self, name: bytes) -> tuple[KnownLine, ...]:
        return tuple(line for line in self._lines_for(name) if not line.marker)

    def _address_differs(self, address: str | None, host: str, port: int, key_blob: bytes) -> KnownLine | None:
        if address is None or address.lower() == host.lower():
            return None
        known = self._plain(_bytes(lookup_name(address, port)))
        if not known or any(line.key_blob == key_blob for line in known):
            return None
        return known[0]

    def _lines_for(self, name: bytes) -> tuple[KnownLine, ...]:
        """The full walk, kept by name: a round over many hosts asks the same failures again."""
        found = self._walked.get(name)
        if found is None:
            collected = [line for file in self._files for line in walk(file, name)]
            if len(self._walked) > 10_000:
                self._walked.clear()
            found = self._walked[name] = tuple(collected)
        return found


def _plain_type(key_type: str) -> str:
    """paramiko may name the signature algorithm where the key type is meant."""
    return "ssh-rsa" if key_type in ("rsa-sha2-256", "rsa-sha2-512") else key_type


def _names(lines: Iterable[KnownLine]) -> str:
    return ", ".join(line.hosts if not line.hosts.startswith("|") else line.place for line in lines)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
