"""A host that is a local shell of one's choice, which the shipped hosts do not offer."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import pytest

from runbooks_lib.hosts.host import DEFAULT_OUTPUT_LIMIT_BYTES, DeadlineExceeded, Host, Result, Script
from runbooks_lib.hosts.local import LocalHost


class ShellHost:
    """Runs a script's text with `shell -c`, reads to the end marker, and ends the process group."""

    name = "localhost"

    def __init__(
        self, shell: Sequence[str] = ("sh",), env: Mapping[str, str] | None = None, user: int | None = None
    ) -> None:
        self.shell, self.env, self.user = tuple(shell), env, user

    def run(
        self,
        script: Script,
        *,
        input: bytes = b"",
        deadline_seconds: float = 30.0,
        output_limit_bytes: int = DEFAULT_OUTPUT_LIMIT_BYTES,
    ) -> Result:
        started, begun = datetime.now(UTC), time.monotonic()
        child = subprocess.Popen(
            [*self.shell, "-c", script.text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.env,
            user=self.user,
            start_new_session=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        out = b""
        with child, selectors.DefaultSelector() as selector:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(input)
                child.stdin.close()
            child.stdin = None
            selector.register(child.stdout, selectors.EVENT_READ)
            while script.end_marker is None or script.end_marker not in out:
                left = deadline_seconds - (time.monotonic() - begun)
                if left <= 0:
                    os.killpg(child.pid, signal.SIGKILL)
                    raise DeadlineExceeded(self.name, "no answer in time", phase="command", stdout=out)
                if selector.select(left):
                    block = os.read(child.stdout.fileno(), 65536)
                    if not block:
                        break
                    out += block
            seconds = time.monotonic() - begun
            assert len(out) <= output_limit_bytes
            child.wait(5)
        return Result(self.name, script.sha256, out, b"", child.returncode, None, started, seconds)

    def close(self) -> None:
        pass


@pytest.fixture
def shell_host() -> type[ShellHost]:
    return ShellHost


@pytest.fixture
def host() -> Iterator[Host]:
    found = LocalHost()
    yield found
    found.close()
