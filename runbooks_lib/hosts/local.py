"""This machine as a host: the same wrapped scripts in a session of their own, with the same guarantees as over SSH.

When the operator's process dies, its end of the script's stdin closes, and the wrapper's watchdog ends the group.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from runbooks_lib.hosts.capture import PATIENCE_SECONDS, Capture
from runbooks_lib.hosts.host import (
    CLEANUP_SECONDS,
    DEFAULT_DEADLINE_SECONDS,
    DEFAULT_OUTPUT_LIMIT_BYTES,
    DeadlineExceeded,
    HostUnreachable,
    NoShell,
    OutputLimitExceeded,
    Result,
    Script,
)
from runbooks_lib.hosts.outcome import gone_words, group_gone, not_begun, result_of
from runbooks_lib.hosts.root import Asked, refuse_password
from runbooks_lib.hosts.wrapper import COMMAND, ROOT_COMMAND, Wrapped, end_group_script, password_command, wrap

_CHUNK_BYTES = 65536


class LocalHost:
    """This machine. Nothing is kept between runs; `close` ends the scripts that other threads are running."""

    def __init__(self, name: str = "localhost", *, sudo_password: str | None = None) -> None:
        self._name = name
        self._sudo_password = sudo_password
        self._lock = threading.Lock()
        self._running: set[_Process] = set()

    def __repr__(self) -> str:
        return f"LocalHost({self._name!r})"

    @property
    def name(self) -> str:
        return self._name

    def run(
        self,
        script: Script,
        *,
        input: bytes = b"",
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        output_limit_bytes: int = DEFAULT_OUTPUT_LIMIT_BYTES,
    ) -> Result:
        """As `Host.run` says."""
        started, begin = datetime.now(UTC), time.monotonic()
        wrapped = wrap(script.text, input)
        capture = Capture(wrapped.nonce, output_limit_bytes, script.end_marker, wrapped.notes_bytes)
        asked = Asked(password_command, self._sudo_password) if script.root and self._sudo_password else None
        command = asked.command if asked else ROOT_COMMAND if script.root else COMMAND
        process = _Process(command, wrapped, capture, asked, self._name)
        with self._lock:
            self._running.add(process)
        try:
            complete = process.drive(begin + deadline_seconds)
        finally:
            with self._lock:
                self._running.discard(process)
            process.let_go()
        if process.stopped:
            raise HostUnreachable(self._name, "closed while the script ran", true_now=f"{script.name} was ended")
        if capture.over or not complete:
            gone = self._end_group(script, capture)
            now = gone_words(gone, capture.group, script)
            if capture.over:
                head, tail = capture.ends()
                raise OutputLimitExceeded(
                    self._name,
                    f"{script.name} printed more than {capture.limit_bytes} bytes",
                    head=head,
                    tail=tail,
                    group_gone=gone,
                    true_now=now,
                    next="give a higher output limit, or ask for less",
                )
            raise DeadlineExceeded(
                self._name,
                f"{script.name} did not end within {deadline_seconds:g} s",
                phase="command",
                stdout=capture.stdout.payload,
                stderr=capture.stderr.payload,
                group_gone=gone,
                true_now=now,
                next="look at what it waits for, or give it more time",
            )
        if not capture.begun:
            raise not_begun(self._name, script, capture)
        if not capture.framed and not capture.answered:
            self._end_group(script, capture)  # something ended the shell: nobody minds the rest
        return result_of(capture, self._name, script, started, begin)

    def close(self) -> None:
        """End what other threads are running here."""
        with self._lock:
            running = list(self._running)
        for process in running:
            process.stop()

    def _end_group(self, script: Script, capture: Capture) -> bool | None:
        if capture.group is None:
            return False if capture.begun else None
        ending = Script(end_group_script(*capture.group), name="end of the group", root=script.root)
        with contextlib.suppress(DeadlineExceeded, OutputLimitExceeded, NoShell):
            return self._ended(ending)
        return False

    def _ended(self, ending: Script) -> bool:
        wrapped = wrap(ending.text, b"")
        answer = Capture(wrapped.nonce, _CHUNK_BYTES)
        asked = Asked(password_command, self._sudo_password) if ending.root and self._sudo_password else None
        command = asked.command if asked else ROOT_COMMAND if ending.root else COMMAND
        process = _Process(command, wrapped, answer, asked, self._name)
        try:
            process.drive(time.monotonic() + CLEANUP_SECONDS)
        finally:
            process.let_go()
        return group_gone(answer)


class _Process:
    """One shell and its three pipes, driven by the calling thread."""

    def __init__(self, command: str, wrapped: Wrapped, capture: Capture, asked: Asked | None, name: str) -> None:
        self._capture, self._asked, self._name = capture, asked, name
        self._wrapped = wrapped
        self.stopped = False
        self._lock = threading.Lock()
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self._to_send = memoryview(b"" if asked else wrapped.program)
        self._stages = self._plan()

    def _plan(self) -> list[tuple[str, bytes]]:
        """What is sent later, each after a sign on a stream."""
        stages: list[tuple[str, bytes]] = []
        if self._wrapped.raw_input is not None:
            stages += [("begun", self._wrapped.raw_input), ("fed", b"\n")]
        return stages

    def drive(self, end: float) -> bool:
        """Feed and read until the script has ended; False when the time is over. Raises RootRefused."""
        shell, capture = self._shell, self._capture
        assert shell.stdin is not None  # noqa: S101 (all three are pipes)
        assert shell.stdout is not None  # noqa: S101
        assert shell.stderr is not None  # noqa: S101
        for pipe in (shell.stdin, shell.stdout, shell.stderr):
            os.set_blocking(pipe.fileno(), False)
        feeds = {shell.stdout.fileno(): capture.feed_stdout, shell.stderr.fileno(): capture.feed_stderr}
        complete_since: float | None = None
        with selectors.DefaultSelector() as selector:
            for fileno in feeds:
                selector.register(fileno, selectors.EVENT_READ)
            writing = False
            while True:
                self._advance()
                if writing != bool(self._to_send):
                    writing = bool(self._to_send)
                    if writing:
                        selector.register(shell.stdin.fileno(), selectors.EVENT_WRITE)
                    else:
                        selector.unregister(shell.stdin.fileno())
                now = time.monotonic()
                if capture.over or self.stopped:
                    return True
                if not self._ended and shell.poll() is not None:
                    self._note_end(shell.returncode)
                if self._ended and (capture.framed or not _readable(selector, feeds)):
                    return True
                if capture.answered or capture.framed or self._ended:
                    complete_since = complete_since or now
                    if now - complete_since >= PATIENCE_SECONDS:
                        return True
                if now >= end:
                    return capture.answered or capture.framed
                # A child's end makes no pipe readable while another child holds it open: look now and then.
                for key, _ in selector.select(min(end - now, 0.02 if capture.framed else 0.2)):
                    self._serve(key.fd, feeds, selector)

    _ended = False

    def _note_end(self, status: int) -> None:
        self._ended = True
        if status < 0:
            with contextlib.suppress(ValueError):
                self._capture.shell_ended(None, signal.Signals(-status).name.removeprefix("SIG"))
                return
        self._capture.shell_ended(status)

    def _serve(
        self, fileno: int, feeds: Mapping[int, Callable[[bytes], None]], selector: selectors.BaseSelector
    ) -> None:
        stdin = self._shell.stdin
        if stdin is not None and fileno == stdin.fileno():
            try:
                sent = os.write(fileno, self._to_send[:_CHUNK_BYTES])
                self._to_send = self._to_send[sent:]
            except BlockingIOError:
                pass
            except OSError:
                self._to_send = memoryview(b"")  # nobody reads any more; the end will be seen
                self._stages.clear()
            return
        try:
            data = os.read(fileno, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if data:
            feeds[fileno](data)
        else:
            selector.unregister(fileno)

    def _advance(self) -> None:
        """Put on its way what the signs on the streams allow."""
        if self._asked is not None:
            self._advance_sudo(self._asked)
        if self._to_send or not self._stages:
            return
        sign, data = self._stages[0]
        seen = self._capture.begun if sign == "begun" else self._capture.stderr.hold(self._wrapped.fed)
        if seen:
            self._stages.pop(0)
            self._to_send = memoryview(data)

    def _advance_sudo(self, asked: Asked) -> None:
        prompts = self._capture.stderr.data.count(asked.prompt.encode())
        if self._capture.stdout.hold(asked.prompt.encode() + b" ready\n"):
            self._asked = None
            self._to_send = memoryview(self._wrapped.program)
        elif prompts > asked.answered:
            if asked.answered:
                raise refuse_password(self._name)
            asked.answered += 1
            self._to_send = memoryview(asked.password_line())

    def stop(self) -> None:
        self.stopped = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._shell.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Close the pipes (the watchdog ends what still runs) and reap the shell."""
        shell = self._shell
        if shell.poll() is None and not self._capture.framed and not self._capture.answered:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(shell.pid, signal.SIGKILL)
        for _ in range(20):
            if shell.poll() is not None:
                break
            time.sleep(0.01)
        # The shell is reaped before its stdin closes, so that the watchdog does not take it for still running.
        for pipe in (shell.stdin, shell.stdout, shell.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            shell.wait(timeout=1.0)


def _readable(selector: selectors.BaseSelector, feeds: Mapping[int, object]) -> bool:
    return any(key.fd in feeds for key in selector.get_map().values())
