"""Secrets are references (`env:NAME`, `file:/path`), and what was read through one is masked wherever text is written.

`resolve` reads a reference and registers its value in this process; `redact` masks every registered value in the forms
in which it escapes: as it is, in base64 (all three alignments, both alphabets), hexadecimal, URL-encoded, JSON-escaped,
HTML-escaped, as Python's and the shell's quoting write it. Beside registered values a few narrow patterns are masked
(private keys, AWS key ids, `password=…`, `//user:…@`, `Authorization: …`), since a host's process list may hold them.

Several processes. A value travels to another process only over a socket that the parent made for it (`send_to`,
`receive_from`): never through a file, an argument, or a notebook. `register` returns only after every such listener has
the value, so that the process that writes files knows a secret before any text with it can arrive.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import os
import re
import shlex
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import overload
from urllib.parse import quote, quote_plus

from runbooks_lib.errors import UsageError

MASK = "***"
# Masking "ab" everywhere would tear holes into ordinary words and still be guessable from them.
SHORTEST = 4
LARGEST_FILE_BYTES = 65_536
_TELLING_SECONDS = 10.0  # a listener that does not answer is taken for dead
_LONG_LINE = 8  # of a secret of several lines (a key file), lines from this length are masked alone too

_REFERENCE = re.compile(r"(env):([A-Za-z_][A-Za-z0-9_]*)|(file):(.+)", re.DOTALL)
_SECRET_NAME = re.compile(r"passw(or)?d|secret|token|api_?key|private_?key|credential", re.IGNORECASE)
_NAMES_A_PLACE = re.compile(r"(_file|_path|_dir|_reference|_ref|_name|_socket)$", re.IGNORECASE)

PATTERNS: Mapping[str, re.Pattern[str]] = {
    # Each pattern's last group is what is masked. Narrow on purpose: a report in which every address is a row of stars
    # is not read.
    "private key": re.compile(
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----((?:(?!-----END)[\s\S]){0,100000})(?=-----END|\Z)"
    ),
    "aws key id": re.compile(r"\b((?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    "password=": re.compile(
        r"(?i)(?:\b|_|-)(?:password|passwd|pgpassword|mysql_pwd)=([^\s'\"&;,<>)\\*][^\s'\"&;,<>)\\]*)"
    ),
    # A shell's word ends at a blank, whatever else is in it.
    "password word": re.compile(r"(?:--password|\bPGPASSWORD|\bMYSQL_PWD)=([^\s'\"<\\*][^\s'\"<\\]*)"),
    # libpq and shells quote; JSON and HTML write the quote in their own way.
    "quoted password": re.compile(
        r"(?i)(?:\b|_|-)(?:password|passwd|pgpassword|mysql_pwd)\s?=\s?(\\?['\"]|&quot;|&#(?:3[49]|x27);)"
        r"((?:(?!\1)(?:\\.|[^\\\r\n])){1,300})(?=\1|\Z)"
    ),
    "url password": re.compile(r"://[^\s/:@'\"]{0,100}:([^\s/@'\"*][^\s/'\"]{0,200})@"),
    "authorization": re.compile(r"(?i)\bauthorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic|token)\s+([^\s'\"*]{4,})"),
}

_LENGTH = struct.Struct("!I")

_lock = threading.RLock()
_values: dict[str, tuple[str, ...]] = {}
_told: dict[str, threading.Event] = {}  # of each value: set when every listener has it
_listeners: list[Callable[[str], None]] = []
_patterns: tuple[re.Pattern[str], ...] = tuple(PATTERNS.values())


# -- reading -----------------------------------------------------------------------------------------------------------


def is_reference(text: str) -> bool:
    """Whether a text is `env:NAME` or `file:path`."""
    return _REFERENCE.fullmatch(text) is not None


def names_a_secret(name: str) -> bool:
    """Whether a parameter or variable of this name would hold a secret: `db_password`, but not `password_file`."""
    return _SECRET_NAME.search(name) is not None and _NAMES_A_PLACE.search(name) is None


def resolve(reference: str) -> str:
    """The secret that a reference names; it is masked from now on in everything that this project writes.

    `env:NAME` is the environment variable; `file:path` a file's content without its last line end (`~` and a path
    relative to the present directory are understood). UsageError when there is none, when it is shorter than four
    characters (such a value cannot be masked), or when every user of this machine can read the file. No message holds
    the value, nor a text that might be one.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise UsageError(
            "a secret was given in a way that is not a reference",
            true_now="it was not used, and it is not repeated here",
            next='write "env:NAME" (an environment variable) or "file:/path" instead of the secret itself',
        )
    value = _from_environment(match[2]) if match[1] else _from_file(match[4])
    if len(value) < SHORTEST:
        raise UsageError(
            f"the secret is {'empty' if not value else f'shorter than {SHORTEST} characters'}",
            where=reference,
            true_now="it was not used: so short a value cannot be masked in what is written",
            next="set a longer one",
        )
    register(value)
    return value


def _from_environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise UsageError(
            f"the environment variable {name} is not set",
            where=f"env:{name}",
            next=f"export {name}=… before the command, or use file:/path; a timer's service needs it too",
        )
    return value


def _from_file(text: str) -> str:
    where = f"file:{text}"
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"the secret's file has no place: {error}", where=where) from error
    try:
        # Not blocking: a FIFO that nobody writes to must not hold the command for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"the secret's file cannot be read: {error.strerror}", where=where) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UsageError("the secret's file is not a regular file", where=where)
        if status.st_mode & stat.S_IROTH and _others_can_reach(path):
            raise UsageError(
                "every user of this machine can read the secret's file",
                where=where,
                true_now="it was not used",
                next=f"chmod 600 {shlex.quote(str(path))}",
            )
        data = file.read(LARGEST_FILE_BYTES + 1)
    if len(data) > LARGEST_FILE_BYTES:
        raise UsageError(f"the secret's file is larger than {LARGEST_FILE_BYTES} bytes", where=where)
    try:
        value = data.decode("utf-8")
    except UnicodeDecodeError:
        # The original error is not chained: it carries the bytes.
        raise UsageError("the secret's file is not UTF-8 text", where=where) from None
    return value.removesuffix("\n").removesuffix("\r")


def _others_can_reach(path: Path) -> bool:
    """Whether every directory above lets others pass: a key under a 0700 home is nobody else's, whatever its mode."""
    try:
        return all(directory.stat().st_mode & stat.S_IXOTH for directory in path.resolve().parents)
    except OSError:
        return True


# -- what is known -----------------------------------------------------------------------------------------------------


def register(value: str) -> None:
    """Mask this value from now on, here and in every process that listens. UsageError when it is too short to mask."""
    if len(value) < SHORTEST:
        raise UsageError(f"a secret shorter than {SHORTEST} characters cannot be masked")
    with _lock:
        told = _told.get(value)
        if told is None:
            listeners = list(_listeners)
            mine = _told[value] = threading.Event()
            _values[value] = _forms(value)
    if told is not None:
        told.wait(_TELLING_SECONDS * 2)  # another thread is telling it; whoever returns may print it
        return
    try:
        for tell in listeners:
            tell(value)
    finally:
        mine.set()


def register_environment(environment: Mapping[str, str] | None = None) -> None:
    """Mask what the environment holds under names like `DB_PASSWORD` or `GITHUB_TOKEN`: a cell may print all of it."""
    for name, value in (os.environ if environment is None else environment).items():
        if len(value) >= _LONG_LINE and names_a_secret(name) and not is_reference(value):
            register(value)


def register_references(references: Iterable[str | None]) -> None:
    """Mask what these references hold, as far as it can be read now; one that cannot be is told when it is used."""
    for reference in references:
        if reference and is_reference(reference):
            try:
                resolve(reference)
            except UsageError:
                continue


def forget() -> None:
    """Forget every registered value and listener: for tests, and for a process that has written its last text."""
    with _lock:
        _values.clear()
        _told.clear()
        _listeners.clear()
        configure(PATTERNS)


def configure(patterns: Iterable[str] | Mapping[str, re.Pattern[str]]) -> None:
    """Choose the patterns that are masked beside registered values: names out of `PATTERNS`, or patterns of your own.

    A pattern's last group is what is masked. UsageError for an unknown name.
    """
    global _patterns
    if isinstance(patterns, Mapping):
        _patterns = tuple(patterns.values())
        return
    names = list(patterns)
    unknown = [name for name in names if name not in PATTERNS]
    if unknown:
        raise UsageError(f"no such pattern: {', '.join(unknown)}", next=f"patterns: {', '.join(PATTERNS)}")
    _patterns = tuple(PATTERNS[name] for name in names)


# -- masking -----------------------------------------------------------------------------------------------------------


@overload
def redact(text: str, *, patterns: bool = True) -> str: ...
@overload
def redact(text: bytes, *, patterns: bool = True) -> bytes: ...
def redact(text: str | bytes, *, patterns: bool = True) -> str | bytes:
    """The text with every registered value, in any form that is known, and every pattern's match replaced by `***`.

    `patterns=False` masks registered values only.
    """
    if isinstance(text, bytes):
        # Latin-1 keeps every byte, but a secret beyond ASCII is UTF-8 there: surrogateescape reads both right.
        decoded = text.decode("utf-8", "surrogateescape")
        return redact(decoded, patterns=patterns).encode("utf-8", "surrogateescape")
    with _lock:
        known = list(_values.values())
    spans = [
        (match.start(), match.start() + len(form))
        for forms in known
        for form in forms
        # A plain search first: it is ten times as fast as a regular expression, and nearly always finds nothing.
        if form in text
        for match in re.finditer(f"(?={re.escape(form)})", text)
    ]
    for pattern in _patterns if patterns else ():
        spans.extend(match.span(match.lastindex or 0) for match in pattern.finditer(text))
    return _masked(text, spans) if spans else text


def _masked(text: str, spans: list[tuple[int, int]]) -> str:
    """Overlapping and touching spans become one mask, so that no end of a longer secret stays behind a shorter one."""
    parts: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if start == end:
            continue
        if start > done or not parts:
            parts += [text[done:start], MASK]
        done = max(done, end)
    return "".join([*parts, text[done:]])


def _forms(value: str) -> tuple[str, ...]:
    """Every way in which a value is known to be written, longest first."""
    whole = {value}
    lines = value.splitlines()
    if len(lines) > 1:
        whole.update(line for line in lines if len(line) >= _LONG_LINE and not line.startswith("-----"))
    forms: set[str] = set()
    for text in whole:
        data = text.encode("utf-8", "surrogatepass")
        written = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        written |= {repr(text)[1:-1], ascii(text)[1:-1], repr(data)[2:-1], text.replace("'", "\\'")}
        written |= {text.replace("'", "'\"'\"'"), text.replace("'", "'\\''")}
        # A page may hold JSON in JSON, or JSON in HTML.
        written |= {json.dumps(form)[1:-1] for form in list(written)}
        written |= set().union(*(_in_html(form) for form in list(written)))
        forms |= written | _in_urls(text) | _base64_forms(data)
        digits = binascii.hexlify(data).decode("ascii")
        forms |= {digits, digits.upper()}
    return tuple(sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True))


def _in_html(text: str) -> set[str]:
    named = html.escape(text)  # ' is &#x27; here, &#39; in markupsafe, &apos; in XML
    return {
        named,
        html.escape(text, quote=False),
        named.replace("&#x27;", "&#39;"),
        named.replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        named.replace("&#x27;", "&apos;"),
    }


def _in_urls(text: str) -> set[str]:
    data = text.encode("utf-8", "surrogatepass")
    forms = {quote(data, safe=""), quote(data), quote(data, safe="!*'();:@&=+$,/?#[]"), quote_plus(data)}
    return forms | {re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in forms}


def _base64_forms(data: bytes) -> set[str]:
    """The characters of a base64 text that depend on these bytes alone, wherever in a longer text they stand."""
    forms: set[str] = set()
    for before in range(3):
        padded = base64.b64encode(b"\0" * before + data).decode("ascii")
        core = padded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        forms |= {core, core.replace("+", "-").replace("/", "_"), quote(core, safe=""), core.replace("/", "\\/")}
    padded = base64.b64encode(data).decode("ascii")
    return forms | {padded, quote(padded, safe="")}


# -- from process to process -------------------------------------------------------------------------------------------


def send_to(channel: socket.socket) -> None:
    """Tell the process at the other end of a socket every value that is or will be registered here.

    A dead listener is dropped: it can write nothing any more. The socket is then this module's own.
    """
    turn = threading.Lock()
    channel.settimeout(_TELLING_SECONDS)
    owner = os.getpid()

    def tell(value: str) -> None:
        if os.getpid() != owner:
            return  # a forked child shares the socket: two writers would garble it
        data = value.encode("utf-8", "surrogatepass")
        with turn:
            try:
                channel.sendall(_LENGTH.pack(len(data)) + data)
                alive = channel.recv(1) == b"k"
            except OSError:
                alive = False
        if not alive:
            with _lock:
                if tell in _listeners:
                    _listeners.remove(tell)

    with _lock:
        _listeners.append(tell)
        known = list(_values)
    for value in known:
        tell(value)


def receive_from(channel: socket.socket) -> None:
    """Register what a process tells with `send_to`, and acknowledge each value. Returns when the other end closes."""
    with channel, channel.makefile("rb") as stream:
        while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
            (length,) = _LENGTH.unpack(head)
            value = stream.read(length)
            if len(value) < length:
                return
            try:
                register(value.decode("utf-8", "surrogatepass"))
                channel.sendall(b"k")
            except OSError:
                return
