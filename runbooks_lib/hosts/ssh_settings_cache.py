"""Answers of `ssh -G`, kept: in the process, and on disk for the next one.

One `ssh -G` costs about 5 ms of CPU, as much as the whole reading of a host costs the operator's machine, so a timer
that reads the same 200 hosts every few minutes must not ask again while no file has changed. The file is private to the
user, and is believed only when it is (it can hold a ProxyCommand).
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import socket
import stat
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from runbooks_lib.hosts.ssh_config_file import ConfigState, home_directory, state
from runbooks_lib.hosts.ssh_options import JumpHop, SshSettings

_FORMAT = 3
_VOLATILE_SECONDS = 60.0  # an answer that rests on more than files
_STATE_SECONDS = 1.0  # the files are looked at once a second, not once a host
_KEPT_SECONDS = 30 * 86400.0
_LONGEST_FILE = 64 * 1024 * 1024
_TUPLES = frozenset(field.name for field in fields(SshSettings) if str(field.type).startswith("tuple"))


@dataclass(frozen=True)
class Key:
    """What one answer depends on, besides the files."""

    ssh_name: str
    user: str | None
    port: int | None
    config_file: str | None
    ssh: str | None

    @property
    def text(self) -> str:
        # No name holds a blank (check_name), so two keys never read the same.
        return f"{self.ssh_name} {self.user or ''} {self.port or ''}"


@dataclass
class _Shelf:
    """The answers for one configuration, good for one state of its files."""

    state: ConfigState
    looked: float
    since: float
    answers: dict[str, SshSettings]
    stored: dict[str, Any]
    unsaved: bool = False


_shelves: dict[tuple[str | None, str | None], _Shelf] = {}
_lock = threading.Lock()


def get(key: Key) -> tuple[SshSettings | None, ConfigState]:
    """The kept answer, None when there is none or a file has changed since; and the state of the files, for `put`."""
    with _lock:
        shelf = _shelf(key)
        kept = shelf.answers.get(key.text)
        if kept is None and key.text in shelf.stored:
            kept = _revive(shelf.stored.pop(key.text))
            if kept is not None:
                shelf.answers[key.text] = kept
        return kept, shelf.state


def put(key: Key, settings: SshSettings, asked: ConfigState) -> None:
    """Keep an answer for this process and, written when it ends or at `save`, for the next; not when the files have
    changed since it was `asked`: it may be theirs of before."""
    with _lock:
        shelf = _shelf(key)
        if shelf.state != asked:
            return
        shelf.answers[key.text] = settings
        shelf.unsaved = not shelf.state.volatile


def save() -> None:
    """Write new answers to disk. A failure is not told: they are in use already, and the next process asks again."""
    with _lock:
        for (config_file, ssh), shelf in _shelves.items():
            if shelf.unsaved and not shelf.state.volatile:
                shelf.unsaved = False
                with contextlib.suppress(OSError):
                    _write(config_file, ssh, shelf)


def forget() -> None:
    """Drop every answer of this process, and look at the disk again."""
    with _lock:
        _shelves.clear()


def _shelf(key: Key) -> _Shelf:
    now = time.monotonic()
    place = (key.config_file, key.ssh)
    shelf = _shelves.get(place)
    if shelf is not None and now - shelf.looked < _STATE_SECONDS:
        return shelf
    current = state(key.config_file)
    stale = shelf is not None and current.volatile and now - shelf.since > _VOLATILE_SECONDS
    if shelf is None or shelf.state != current or stale:
        stored = {} if current.volatile else _read(key.config_file, key.ssh, current)
        shelf = _shelves[place] = _Shelf(current, now, now, {}, stored)
    shelf.looked = now
    return shelf


def _directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or f"{home_directory()}/.cache"
    return Path(base) / "runbooks"


def _path(config_file: str | None, ssh: str | None) -> Path:
    digest = hashlib.sha256(json.dumps([config_file, ssh]).encode()).hexdigest()[:16]
    return _directory() / f"ssh-settings-{digest}.json"


def _identity(ssh: str | None, current: ConfigState) -> list[Any]:
    """Everything but the name that a stored answer rests on."""
    binary: list[int] = []
    if ssh is not None:
        status = Path(ssh).stat()
        binary = [status.st_mtime_ns, status.st_size, status.st_ino]
    environment = os.environ.get("SSH_AUTH_SOCK") if current.agent_of_environment else None
    place = [os.getuid(), home_directory(), socket.gethostname(), environment]
    return [_FORMAT, binary, place, [list(each) for each in current.identity]]


def _read(config_file: str | None, ssh: str | None, current: ConfigState) -> dict[str, Any]:
    path = _path(config_file, ssh)
    try:
        for each in (path.parent, path):
            status = each.lstat()
            if (
                status.st_uid != os.getuid()
                or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
                or stat.S_ISLNK(status.st_mode)
            ):
                return {}
        if path.stat().st_size > _LONGEST_FILE:
            return {}
        content = json.loads(path.read_bytes())
        if content["identity"] == _identity(ssh, current):
            return dict(content["answers"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def _write(config_file: str | None, ssh: str | None, shelf: _Shelf) -> None:
    path = _path(config_file, ssh)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    answers = {**shelf.stored, **{text: asdict(settings) for text, settings in shelf.answers.items()}}
    content = json.dumps({"identity": _identity(ssh, shelf.state), "answers": answers})
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".ssh-settings-", delete=False) as file:
        try:
            file.write(content)
            file.close()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    shelf.stored = answers
    for old in path.parent.glob("ssh-settings-*.json"):
        if old.stat().st_mtime < time.time() - _KEPT_SECONDS:
            old.unlink()  # of a configuration that nobody names any more


def _revive(stored: Any) -> SshSettings | None:
    try:
        values: dict[str, Any] = {name: tuple(value) if name in _TUPLES else value for name, value in stored.items()}
        values["proxy_jump"] = tuple(JumpHop(**hop) for hop in stored["proxy_jump"])
        return SshSettings(**values)
    except (TypeError, KeyError, AttributeError):
        return None


atexit.register(save)
