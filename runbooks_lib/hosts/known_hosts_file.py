"""One known_hosts file, read in one pass into an index. The format is sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".

Two ways lead to the line that holds a key for a host: by its plain name, and by the key where the name is hashed or a
pattern. Both are dictionaries: neither a long file nor a thousand cloned hosts with one key make a check slow.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from runbooks_lib.hosts.host import SettingsRefused

REVOKED = "@revoked"
CERT_AUTHORITY = "@cert-authority"


# What OpenSSH 9.2 can parse as a plain key. A line of any other type is skipped with a warning, as OpenSSH skips it.
KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "ssh-rsa",
        "ssh-dss",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_TYPES = {name.encode(): (name, len(name).to_bytes(4, "big") + name.encode()) for name in KEY_TYPES}
_ED25519_BYTES = 51
_HASH_SIGN, _AT_SIGN, _BAR = b"#@|"
_HASHED_NAME = re.compile(rb"\|1\|[A-Za-z0-9+/]{27}=\|[A-Za-z0-9+/]{27}=")  # both are 20 bytes
_WILDCARD = re.compile(rb"[*?!]")
_LONGEST_PATTERN = 1023  # match.c: a longer sub-pattern makes the whole list match nothing
_KRL_MAGIC = b"SSHKRL\n\x00"


def fingerprint(key_blob: bytes) -> str:
    """`SHA256:` and the unpadded base64 digest of a public key blob, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(key_blob).digest()
    return "SHA256:" + binascii.b2a_base64(digest, newline=False).decode().rstrip("=")


def hash_name(name: str, salt: bytes) -> str:
    """The hashed form of a name, `|1|salt|HMAC-SHA1(salt, name)`, as HashKnownHosts and `ssh-keygen -H` write it."""
    digest = hmac.digest(salt, name.lower().encode(), "sha1")
    return "|1|" + "|".join(binascii.b2a_base64(part, newline=False).decode() for part in (salt, digest))


class KnownLine(NamedTuple):
    """One line of a known_hosts file. `marker` is empty, `@revoked` or `@cert-authority`; `hosts` is the first field as
    it stands in the file (latin-1)."""

    # A NamedTuple and not a frozen dataclass: 5,000 of them are made at every load, and cost 2 ms instead of 10.
    path: str
    number: int
    marker: str
    hosts: str
    key_type: str
    key_blob: bytes

    @property
    def place(self) -> str:
        """`path:line`."""
        return f"{self.path}:{self.number}"

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key_blob)


@dataclass
class IndexedFile:
    """One parsed file: its lines and the three ways to find one."""

    path: str
    lines: list[KnownLine] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unnamed_by_blob: dict[bytes, list[KnownLine]] = field(default_factory=dict)  # hashed and patterned names only
    revoked_by_blob: dict[bytes, list[KnownLine]] = field(default_factory=dict)
    by_name: dict[bytes, list[KnownLine]] = field(default_factory=dict)
    hashed: list[KnownLine] = field(default_factory=list)
    patterned: list[tuple[list[tuple[bool, bytes]], KnownLine]] = field(default_factory=list)

    def skip(self, number: int, why: str) -> None:
        self.warnings.append(f"{self.path}:{number}: skipped: {why}")


def walk(file: IndexedFile, name: bytes) -> list[KnownLine]:
    found = list(file.by_name.get(name, ()))
    digest, decode = hmac.digest, binascii.a2b_base64
    for line in file.hashed:
        hosts = line.hosts
        if digest(decode(hosts[3:31]), name, "sha1") == decode(hosts[32:]):
            found.append(line)
    found += [line for patterns, line in file.patterned if patterns_match(patterns, name)]
    # A name written twice on a line ("a,a") is indexed twice.
    unique = {line.number: line for line in found}
    return [unique[number] for number in sorted(unique)]


def line_names(line: KnownLine, name: bytes) -> bool:
    hosts = line.hosts.encode("latin-1")
    if hosts.startswith(b"|"):
        salt, digest = binascii.a2b_base64(hosts[3:31]), binascii.a2b_base64(hosts[32:])
        return hmac.digest(salt, name, "sha1") == digest
    return patterns_match(split_patterns(hosts), name)


def split_patterns(hosts: bytes) -> list[tuple[bool, bytes]]:
    """(negated, lower-case pattern) for each part; empty when a part is too long for OpenSSH to match at all."""
    patterns = []
    for part in hosts.lower().split(b","):
        negated = part.startswith(b"!")
        pattern = part[1:] if negated else part
        if len(pattern) >= _LONGEST_PATTERN:
            return []
        patterns.append((negated, pattern))
    return patterns


def patterns_match(patterns: list[tuple[bool, bytes]], name: bytes) -> bool:
    """match.c `match_pattern_list`: one positive match is needed, and any negated match forbids."""
    positive = False
    for negated, pattern in patterns:
        if glob_match(pattern, name):
            if negated:
                return False
            positive = True
    return positive


def glob_match(pattern: bytes, text: bytes) -> bool:
    """match.c `match_pattern`: `*` any run, `?` any one byte, everything else (also `[`) itself. Time is at most
    len(pattern) x len(text): a pattern such as `*a*a*a*b` must not be able to hang a check."""
    position = at = 0
    star = resume = -1
    while at < len(text):
        if position < len(pattern) and pattern[position] == 0x2A:
            star, resume = position, at
            position += 1
        elif position < len(pattern) and (pattern[position] == 0x3F or pattern[position] == text[at]):
            position += 1
            at += 1
        elif star >= 0:
            resume += 1
            position, at = star + 1, resume
        else:
            return False
    return all(byte == 0x2A for byte in pattern[position:])


_cache: dict[str, tuple[tuple[int, int, int], IndexedFile]] = {}
_cache_lock = threading.Lock()


def read_cached(path: str) -> IndexedFile:
    try:
        status = Path(path).stat()
        identity = (status.st_mtime_ns, status.st_size, status.st_ino)
        with _cache_lock:
            kept = _cache.get(path)
        if kept is not None and kept[0] == identity:
            return kept[1]
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return IndexedFile(path)
    except OSError as error:
        return IndexedFile(path, warnings=[f"{path}: not read: {error.strerror}"])
    file = parse(path, content)
    with _cache_lock:
        _cache[path] = (identity, file)
    return file


def parse(path: str, content: bytes) -> IndexedFile:
    """Index the text of one file. Never raises: a line that cannot be used becomes a warning, the rest stands."""
    file = IndexedFile(path)
    by_name, unnamed, lines = file.by_name, file.unnamed_by_blob, file.lines
    patterns_possible = any(wildcard in content for wildcard in (b"*", b"?", b"!"))
    nul_possible = b"\0" in content
    decode = binascii.a2b_base64
    for number, raw in enumerate(content.split(b"\n"), 1):
        fields = raw.split(None, 3)
        if not fields or fields[0][0] == _HASH_SIGN:
            continue
        if nul_possible and b"\0" in raw:
            # OpenSSH's C strings end here; what follows must not count for us either.
            file.skip(number, "a NUL byte in the line")
            continue
        marker = ""
        if fields[0][0] == _AT_SIGN:
            marker = fields[0].decode("latin-1")
            fields = raw.split(None, 4)[1:]
            if marker not in (REVOKED, CERT_AUTHORITY) or (fields and fields[0][0] == _AT_SIGN):
                file.skip(number, "unknown marker")
                continue
        if len(fields) < 3:
            file.skip(number, "not 'names type key'")
            continue
        hosts, token = fields[0], fields[1]
        known_type = _TYPES.get(token)
        if known_type is None:
            file.skip(number, f"key type {printable(token)} is not known here")
            continue
        key_type, prefix = known_type
        try:
            blob = decode(fields[2], strict_mode=True)
        except binascii.Error:
            file.skip(number, "the key is not base64")
            continue
        if not blob.startswith(prefix) or (len(blob) != _ED25519_BYTES and key_type == "ssh-ed25519"):
            file.skip(number, f"the key is not of type {key_type}")
            continue
        line = KnownLine(path, number, marker, hosts.decode("latin-1"), key_type, blob)
        if hosts[0] == _BAR:
            if _HASHED_NAME.fullmatch(hosts) is None:
                file.skip(number, "the hashed name is damaged")
                continue
            file.hashed.append(line)
            unnamed.setdefault(blob, []).append(line)
        elif (patterns_possible and _WILDCARD.search(hosts)) or len(hosts) >= _LONGEST_PATTERN:
            file.patterned.append((split_patterns(hosts), line))
            unnamed.setdefault(blob, []).append(line)
        else:
            for name in hosts.lower().split(b","):
                if name in by_name:
                    by_name[name].append(line)
                else:
                    by_name[name] = [line]
        if marker == REVOKED:
            file.revoked_by_blob.setdefault(blob, []).append(line)
        lines.append(line)
    return file


def read_revoked(path: str) -> dict[bytes, KnownLine]:
    """The keys of a RevokedHostKeys file in its text form: one public key a line."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        # ssh itself refuses every host then (ssh_config(5), RevokedHostKeys).
        raise SettingsRefused(
            path,
            f"RevokedHostKeys cannot be read: {error.strerror}",
            true_now="no host that names this file is connected to",
            next="make the file readable, or take RevokedHostKeys out of the SSH configuration",
        ) from error
    if content.startswith(_KRL_MAGIC):
        raise SettingsRefused(
            path,
            "RevokedHostKeys names a binary key revocation list, which cannot be read here",
            true_now="no host that names this file is connected to",
            next="list the revoked public keys in a text file, one a line, or as @revoked lines in known_hosts",
        )
    revoked = {}
    for number, raw in enumerate(content.split(b"\n"), 1):
        fields = raw.split()
        if len(fields) < 2 or fields[0].startswith(b"#"):
            continue
        try:
            blob = binascii.a2b_base64(fields[1], strict_mode=True)
        except binascii.Error:
            continue
        revoked[blob] = KnownLine(path, number, REVOKED, "*", printable(fields[0]), blob)
    return revoked


def printable(text: bytes) -> str:
    return ascii(text[:40].decode("latin-1"))[1:-1]
