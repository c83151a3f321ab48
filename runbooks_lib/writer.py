"""The one way in which reports reach the disk: masked, whole or not at all, readable by their owner only.

Whatever is written here goes through `secrets.redact` first, into a new file beside its place, to the disk (fsync), and
then into its place by a rename: a reader sees the old text or the new one, and a full disk leaves the old one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets as random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runbooks_lib.errors import RunbookError
from runbooks_lib.secrets import redact

# What a notebook's own grammar says reveals nothing, and a secret that happens to be the word "code" must not break it.
_GRAMMAR = {
    "cell_type": {"code", "markdown", "raw"},
    "output_type": {"stream", "display_data", "execute_result", "error"},
    "name": {"stdout", "stderr", "python3", "python"},
}
_GRAMMAR_KEYS = frozenset(
    {"cells", "cell_type", "source", "metadata", "outputs", "output_type", "name", "text", "data", "ename", "evalue"}
    | {"traceback", "execution_count", "id", "nbformat", "nbformat_minor", "kernelspec", "display_name", "language"}
    | {"language_info", "tags", "papermill", "parameters", "text/plain", "text/html", "text/markdown", "image/png"}
    | {"image/jpeg", "image/svg+xml", "application/json", "application/vnd.runbooks.result+json"}
)


@contextmanager
def alone(lock: Path, *, seconds: float) -> Iterator[None]:
    """One process at a time with this lock file. After `seconds` of waiting - for a holder that hangs, on a file system
    without locks - it goes on all the same. Raises RunbookError when there can be no such file.
    """
    make_directory(lock.parent)
    try:
        descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise cannot_write(lock, error) from error
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    break
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory (0700) and those above it, where they are not there. RunbookError when that cannot be done."""
    try:
        # mkdir(parents=True) would give those above the usual mode.
        for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
            missing.mkdir(exist_ok=True, mode=0o700)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "there is a file of that name")
    except OSError as error:
        raise cannot_write(path, error) from error


def write(path: Path, text: str) -> None:
    """Put a masked text in its place, atomically, mode 0600. RunbookError says why it could not; the old text stays."""
    write_exactly(path, redact(text).encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Put a masked JSON object in its place; see `write`."""
    text = json.dumps(masked(value), indent=1, ensure_ascii=False)
    write_exactly(path, text.encode("utf-8", "backslashreplace") + b"\n")


def write_exactly(path: Path, data: bytes) -> None:
    """Put bytes that are masked already in their place; see `write`."""
    draft = path.with_name(f".{path.name}.{random.token_hex(6)}.part")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> RunbookError:
    """A failed write told to a person."""
    room = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return RunbookError(
        "the disk is full" if room else f"cannot be written: {error.strerror or error}",
        where=str(path),
        true_now="this run has no page; what was there before is as it was",
        next=f"make room on the file system of {_mount_of(path)}, then run it again"
        if room
        else "mend that, then run it again",
    )


def _mount_of(path: Path) -> Path:
    """Where the file system of a path is mounted: the path itself may be gone when a person reads of it."""
    return next(parent for parent in path.absolute().parents if parent.is_mount())


def masked(value: Any) -> Any:
    """A copy of JSON-like data in which every text is masked: values and names, except a notebook's own grammar."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            (key if key in _GRAMMAR_KEYS else redact(str(key))): (
                item if isinstance(item, str) and item in _GRAMMAR.get(key, ()) else masked(item)
            )
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, str) for item in value):
            return _masked_lines(list(value))
        return [masked(item) for item in value]
    return value


def _masked_lines(lines: list[str]) -> list[str]:
    """A text that a notebook keeps as a list of its lines: a secret of two lines is found only in the whole."""
    whole = "".join(lines)
    clean = redact(whole)
    if clean == whole:
        return [redact(line) for line in lines]
    if all(line.endswith("\n") for line in lines[:-1]):
        return clean.splitlines(keepends=True)
    return [redact(line) for line in lines]


def notebook_text(notebook: Mapping[str, Any]) -> str:
    """A notebook (nbformat 4) as masked JSON text."""
    clean = masked({**notebook, "cells": [_streams_joined(cell) for cell in notebook.get("cells", [])]})
    return json.dumps(clean, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _streams_joined(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """Neighbouring pieces of one stream as one text: a secret printed letter by letter is one word for a reader."""
    outputs: list[dict[str, Any]] = []
    for output in cell.get("outputs", []):
        last = outputs[-1] if outputs else {}
        is_stream = output.get("output_type") == last.get("output_type") == "stream"
        if is_stream and output.get("name") == last.get("name"):
            last["text"] = _joined(last["text"]) + _joined(output["text"])
        else:
            outputs.append(dict(output))
    return {**cell, "outputs": outputs} if "outputs" in cell else cell


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


class MaskingIO:
    """papermill's reader and writer for `runbooks://` paths: what papermill saves is masked before it is a file."""

    scheme = "runbooks://"

    def __init__(self, place: Path) -> None:
        self.place = place

    def read(self, path: str) -> str:
        """A saved notebook's text."""
        return self._local(path).read_text(encoding="utf-8")

    def write(self, buf: str, path: str) -> None:
        """Save a notebook that papermill has serialised."""
        write_exactly(self._local(path), notebook_text(json.loads(buf)).encode("utf-8", "backslashreplace"))

    def listdir(self, path: str) -> list[str]:
        """The names in a directory."""
        return [entry.name for entry in self._local(path).iterdir()]

    def pretty_path(self, path: str) -> str:
        """The path as papermill shows it."""
        return path

    def _local(self, path: str) -> Path:
        return self.place / path.removeprefix(self.scheme)


def _sync_directory(path: Path) -> None:
    """Make the rename itself last through a power cut; file systems that cannot do that say EINVAL."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
