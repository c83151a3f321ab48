"""Talking to a running qemu: its machine protocol (QMP) on a socket in the machine's directory."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runbooks_lib.errors import RunbookError

SOCKET = "qmp.sock"
DEADLINE_SECONDS = 30.0


class QmpError(RunbookError):
    """qemu did not do what it was asked, or does not answer."""


@contextlib.contextmanager
def short_socket_path(path: Path) -> Iterator[str]:
    """A name for a socket that fits into the 107 bytes a socket's name may have, however deep its directory lies."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class Qmp:
    """One conversation. qemu talks with one at a time: keep it short, and use it as a context manager.

    Raises QmpError when qemu is not there, does not answer in time, or refuses a command.
    """

    def __init__(self, directory: Path, *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._where = directory.name
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(deadline_seconds)
        self._buffer = b""
        try:
            with short_socket_path(directory / SOCKET) as path:
                self._socket.connect(path)
            self._receive()
            self.execute("qmp_capabilities")
        except OSError as error:
            self._socket.close()
            raise QmpError(f"qemu does not answer: {error}", where=self._where) from error
        except QmpError:
            self._socket.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """What the command returns. Events that come meanwhile are passed over."""
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
            while True:
                answer = self._receive()
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise QmpError(f"qemu refused {command}: {answer['error'].get('desc', '')}", where=self._where)
        except OSError as error:
            raise QmpError(f"qemu gave no answer to {command}: {error}", where=self._where) from error

    def monitor(self, line: str) -> str:
        """What qemu's monitor for people says to a line; its commands tell failure only in words."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise QmpError("qemu closed the conversation", where=self._where)
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer
