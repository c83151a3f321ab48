"""The text of ssh_config files: lines as OpenSSH splits them, Include followed, and what a reader must not ignore.

This does not resolve anything: what a name means is asked of `ssh -G` (`ssh_settings.py`). The text is needed to list
the aliases, to know when a cached answer is stale, and to refuse what the fallback parser would silently get wrong.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.errors import UsageError

SYSTEM_CONFIG = "/etc/ssh/ssh_config"
_DEEPEST_INCLUDE = 16  # readconf.c, READCONF_MAX_DEPTH
_KEYWORD = re.compile(r"[ \t]*\"?([^\s=\"]+)\"?(?:[ \t]*=[ \t]*|[ \t]+)?(.*)", re.DOTALL)
# Answers that depend on more than the files: the network, the outcome of a command, the environment.
_VOLATILE = re.compile(
    rb"^[ \t]*(?:match\b.*\b(?:exec|localnetwork|final|canonical)\b"
    rb"|canonicalizehostname\b(?![ \t=]+(?:no|false)\b)|identityagent\b.*\$|.*\$\{)",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class ConfigLine:
    """One setting: its lower-case keyword, the arguments with quotes removed, the rest of the line as written, and
    `top_level`, false when the file was included from inside a Host or Match block."""

    path: str
    number: int
    keyword: str
    arguments: tuple[str, ...]
    value: str
    top_level: bool = True

    @property
    def place(self) -> str:
        return f"{self.path}:{self.number}"


@dataclass(frozen=True)
class Alias:
    """A concrete name of a Host line, and where it stands."""

    name: str
    path: str
    number: int


@dataclass(frozen=True)
class ConfigState:
    """Which files an answer rests on. `identity` changes when one of them does, `volatile` answers may change without;
    `agent_of_environment`: SSH_AUTH_SOCK is named."""

    identity: tuple[tuple[str, int, int, int], ...]
    volatile: bool
    agent_of_environment: bool = False


def home_directory() -> str:
    """The home directory as OpenSSH takes it: from the password database, not from $HOME."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return str(Path.home())


def top_files(config_file: str | None) -> list[str]:
    """The files ssh starts from: the user's and the system's, or only `config_file` (`ssh -F`)."""
    if config_file is not None:
        return [] if config_file == "none" else [config_file]
    return [f"{home_directory()}/.ssh/config", SYSTEM_CONFIG]


def split_arguments(value: str) -> tuple[str, ...]:
    """Words, `"quoted words"` and 'quoted words', up to an unquoted `#` (misc.c `argv_split`).

    Raises ValueError for a quote that is not closed.
    """
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    index = 0
    while index < len(value):
        char = value[index]
        if char == "\\" and index + 1 < len(value) and value[index + 1] in "'\"\\" + ("" if quote else " "):
            word = [*(word or []), value[index + 1]]
            index += 1
        elif quote:
            if char == quote:
                quote = ""
            else:
                word = [*(word or []), char]
        elif char in "'\"":
            quote, word = char, word or []
        elif char in " \t":
            if word is not None:
                words.append("".join(word))
            word = None
        elif char == "#" and word is None:
            break
        else:
            word = [*(word or []), char]
        index += 1
    if quote:
        raise ValueError("a quote is not closed")
    if word is not None:
        words.append("".join(word))
    return tuple(words)


def file_lines(path: str) -> Iterator[ConfigLine]:
    """The settings of one file, Include lines among them. Raises OSError, and UsageError for a quote left open."""
    text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r\f\v")
        if not line or line.startswith("#"):
            continue
        match = _KEYWORD.match(line)
        if match is None:
            continue
        try:
            arguments = split_arguments(match[2])
        except ValueError as error:
            raise UsageError(
                f"{error}: {line!r}",
                where=f"{path}:{number}",
                next="close the quote; ssh does not read this file either",
            ) from error
        yield ConfigLine(path, number, match[1].lower(), arguments, match[2])


def included_files(line: ConfigLine, *, of_system: bool) -> list[str]:
    """The existing files that an Include line names, relative to ~/.ssh, or to /etc/ssh in the system's file."""
    base = "/etc/ssh" if of_system else f"{home_directory()}/.ssh"
    found: list[str] = []
    for argument in line.arguments:
        pattern = re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], ""), argument)
        if pattern.startswith("~"):
            pattern = home_directory() + pattern[1:] if pattern[1:2] in ("", "/") else str(Path(pattern).expanduser())
        # os.path.join keeps an absolute pattern as it is, as ssh does.
        found += sorted(path for path in glob.glob(os.path.join(base, pattern)) if Path(path).is_file())  # noqa: PTH118, PTH207
    return found


def all_lines(config_file: str | None) -> Iterator[ConfigLine]:
    """Every setting that ssh could read for any name, Include followed in place. A missing top file is fine unless it
    was named (then UsageError); an unreadable one raises UsageError."""
    for path in top_files(config_file):
        if not Path(path).exists() and config_file is None:
            continue
        yield from _follow(path, of_system=config_file is None and path == SYSTEM_CONFIG, depth=0, inside=False)


def _follow(path: str, *, of_system: bool, depth: int, inside: bool) -> Iterator[ConfigLine]:
    if depth > _DEEPEST_INCLUDE:
        raise UsageError(
            "Include is nested too deeply, or in a circle", where=path, next="look for a file that includes itself"
        )
    try:
        lines = list(file_lines(path))
    except OSError as error:
        raise UsageError(
            f"the SSH configuration cannot be read: {error.strerror}",
            where=path,
            next="check the path and its permissions",
        ) from error
    for line in lines:
        yield (
            line if not inside else ConfigLine(line.path, line.number, line.keyword, line.arguments, line.value, False)
        )
        if line.keyword in ("host", "match"):
            inside = inside or line.arguments[:1] not in ((), ("*",), ("all",))
        if line.keyword == "include":
            for included in included_files(line, of_system=of_system):
                yield from _follow(included, of_system=of_system, depth=depth + 1, inside=inside)


def list_hosts(config_file: str | None = None) -> tuple[Alias, ...]:
    """The concrete aliases of all Host lines, in file order, each once: no patterns, no negations, nothing that could
    be taken for an option. `config_file` stands for `ssh -F`. Raises UsageError for a file that cannot be read."""
    found: dict[str, Alias] = {}
    for line in all_lines(config_file):
        if line.keyword != "host":
            continue
        for name in line.arguments:
            if name and not set(name) & set("*?!") and not name.startswith("-"):
                found.setdefault(name, Alias(name, line.path, line.number))
    return tuple(found.values())


def state(config_file: str | None) -> ConfigState:
    """What the answers rest on now: every file that is read or would be, with its mtime, size and inode."""
    identity: list[tuple[str, int, int, int]] = []
    volatile = agent = False
    paths = list(top_files(config_file))
    seen: set[str] = set()
    while paths:
        path = paths.pop(0)
        if path in seen:
            continue
        seen.add(path)
        try:
            status = Path(path).stat()
            content = Path(path).read_bytes()
        except OSError:
            identity.append((path, 0, 0, 0))
            continue
        identity.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
        volatile = volatile or _VOLATILE.search(content) is not None
        agent = agent or b"SSH_AUTH_SOCK" in content
        if b"nclude" in content or b"NCLUDE" in content:
            of_system = config_file is None and path.startswith("/etc/ssh/")
            try:
                for line in file_lines(path):
                    if line.keyword == "include":
                        paths += included_files(line, of_system=of_system)
            except UsageError:
                volatile = True  # ssh will say what is wrong with it
    return ConfigState(tuple(identity), volatile, agent)
