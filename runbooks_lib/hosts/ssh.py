"""A host over SSH: scripts over kept connections, each with a deadline after which nothing of it is left running."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from copy import copy
from datetime import UTC, datetime

import paramiko

from runbooks_lib.hosts.bastion import SAME_TIME_SECONDS, SHARED, Bastions
from runbooks_lib.hosts.capture import Capture
from runbooks_lib.hosts.connection import CHANNEL_SECONDS, Connection, Login, load_known_hosts
from runbooks_lib.hosts.host import (
    CLEANUP_SECONDS,
    DEFAULT_DEADLINE_SECONDS,
    DEFAULT_OUTPUT_LIMIT_BYTES,
    DeadlineExceeded,
    HostError,
    HostUnreachable,
    NoShell,
    OutputLimitExceeded,
    Result,
    RootRefused,
    Script,
)
from runbooks_lib.hosts.known_hosts import KnownHosts
from runbooks_lib.hosts.outcome import gone_words, group_gone, not_begun, result_of
from runbooks_lib.hosts.root import Asked, answer_sudo
from runbooks_lib.hosts.sockets import Dropped
from runbooks_lib.hosts.ssh_settings import SshSettings, resolve, route
from runbooks_lib.hosts.transport import Transport, execute, open_capture, send
from runbooks_lib.hosts.wrapper import COMMAND, ROOT_COMMAND, Wrapped, end_group_script, password_command, wrap

KEPT_CHANNEL_SECONDS = 4.0  # a kept connection that does not open a channel in this time is taken for dead
_GROUP_LIMIT_BYTES = 64 * 1024
_ENDING = "end of the group"


class _Lost(Exception):
    """The connection ended. `sent` is true when the script had been sent."""

    def __init__(self, sent: bool, why: str) -> None:
        super().__init__(why)
        self.sent = sent


class _NoSession(_Lost):
    """The host refused to open one more session. `crowded` is true when it let others in on the same connection."""

    def __init__(self, crowded: bool) -> None:
        super().__init__(False, "no session was opened")
        self.crowded = crowded


class SshHost:
    """A host reached as the SSH configuration says for `ssh_name` (the same as `name` when not given).

    The connection is kept between runs until `close`; several threads may run scripts at once, over more connections
    than one where the host allows fewer sessions on it (MaxSessions). `sudo_password` is a secret reference
    ("env:NAME", "file:path"), used only for scripts that ask for root, and only if sudo asks for it.
    """

    def __init__(
        self,
        name: str,
        *,
        ssh_name: str | None = None,
        sudo_password: str | None = None,
        settings_source: Callable[[str], SshSettings] = resolve,
        known_hosts: KnownHosts | None = None,
        bastions: Bastions | None = None,
    ) -> None:
        self._name = name
        self.ssh_name = ssh_name or name
        self._sudo_password = sudo_password
        self._settings_source = settings_source
        self._known_hosts = load_known_hosts if known_hosts is None else lambda _settings: known_hosts
        self._bastions = bastions or SHARED
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._retired: tuple[Connection, ...] = ()  # where runs go on, and no more begin
        self._beginning: Transport | None = None
        self._closings = 0
        self._failures = 0
        self._failure: tuple[HostError, float] | None = None  # of the last attempt, and until when it might have tried

    def __repr__(self) -> str:
        return f"SshHost({self._name!r}, ssh_name={self.ssh_name!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def way(self) -> tuple[str, ...]:
        """The jump hosts before it; none also when its settings cannot be read, which its run will say."""
        try:
            return tuple(hop.ssh_name for hop in route(self._settings_source(self.ssh_name)))
        except HostError:
            return ()

    @property
    def login(self) -> Login | None:
        """As whom the last connection was let in, and by which key; None before the first."""
        connection = self._connection
        return connection.login if connection is not None else None

    def run(
        self,
        script: Script,
        *,
        input: bytes = b"",
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        output_limit_bytes: int = DEFAULT_OUTPUT_LIMIT_BYTES,
    ) -> Result:
        """As `Host.run` says. A script that only reads is sent once more when the connection died under it; one that
        changes something is never sent a second time."""
        started, begin = datetime.now(UTC), time.monotonic()
        end = begin + deadline_seconds
        closings = self._closings
        connected = 0.0
        tries_left = 2
        while True:
            before = time.monotonic()
            connection, fresh = self._connected(end)
            connected += time.monotonic() - before if fresh else 0.0
            wrapped = wrap(script.text, input)
            capture = Capture(wrapped.nonce, output_limit_bytes, script.end_marker, wrapped.notes_bytes)
            try:
                self._execute(connection, fresh, script, wrapped, capture, end, deadline_seconds)
            except _Lost as lost:
                connection.retire()  # what others run on it must not end with it
                if self._closings != closings:
                    raise self._was_closed(lost, script) from None
                if lost.sent and script.changes:
                    raise self._died(lost, script) from None
                # Of those that a full connection refuses, one more at least is let in over each new one.
                tries_left -= not (isinstance(lost, _NoSession) and lost.crowded)
                if tries_left == 0 or time.monotonic() >= end:
                    raise self._died(lost, script) from None
                continue
            finally:
                connection.leave()
            connection.last_used = time.monotonic()
            result = result_of(capture, self._name, script, started, begin, connected)
            capture.let_go()
            return result

    def close(self) -> None:
        """End the connection, also one that is only being made; a run that is under way in another thread ends with
        HostUnreachable, and the host ends its process group by itself."""
        self._closings += 1
        beginning = self._beginning
        if beginning is not None:
            beginning.cut()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        for retired in self._retired:
            retired.close()

    # The connection

    def _connected(self, end: float) -> tuple[Connection, bool]:
        """A connection on which this run is counted, and whether it is a new one."""
        kept = self._connection
        if kept is not None and kept.alive and kept.enter():
            return kept, False
        failures = self._failures
        if not self._lock.acquire(timeout=max(0.01, end - time.monotonic())):
            raise self._late("connect", "another thread was still connecting")
        try:
            kept = self._connection
            if kept is not None and kept.alive and kept.enter():
                return kept, False
            if kept is not None:
                if kept.alive:
                    self._retired = (*(each for each in self._retired if each.alive), kept)
                else:
                    kept.close()
                self._connection = None
            # Whoever waited for another thread's attempt, which had as much time, shares how it ended: five questions
            # to a host that is silent are to wait once, not five times in a row.
            if self._failures != failures and self._failure is not None and self._failure[1] > end - SAME_TIME_SECONDS:
                raise copy(self._failure[0])
            closings = self._closings
            try:
                connection = self._open(end)
            except HostError as error:
                self._failures, self._failure = self._failures + 1, (copy(error), end)  # a copy holds no frames
                raise
            self._failure = None
            if self._closings != closings:
                connection.close()
                raise HostUnreachable(self._name, "closed while it was connecting", true_now="nothing was started")
            connection.enter()
            self._connection = connection
            return connection, True
        finally:
            self._lock.release()

    def _open(self, end: float) -> Connection:
        settings, closings = self._settings_source(self.ssh_name), self._closings
        try:
            return self._open_once(settings, end)
        except Dropped:
            # sshd drops logins at random when many come at once (MaxStartups 10:30:100); nothing was asked of it yet.
            pause = random.uniform(0.1, 0.6)  # noqa: S311
            if self._closings != closings or end - time.monotonic() <= pause:
                raise
            time.sleep(pause)
            return self._open_once(settings, end)

    def _open_once(self, settings: SshSettings, end: float) -> Connection:
        try:
            return self._bastions.open_connection(
                settings, name=self._name, end=end, known_hosts=self._known_hosts, on_begin=self._begin
            )
        finally:
            self._beginning = None

    def _begin(self, transport: Transport) -> None:
        self._beginning = transport

    # One run

    def _execute(
        self,
        connection: Connection,
        fresh: bool,
        script: Script,
        wrapped: Wrapped,
        capture: Capture,
        end: float,
        deadline_seconds: float,
    ) -> None:
        """Run to the end or raise; leaves `capture` complete. Raises _Lost when the connection died."""
        asked = Asked(password_command, self._sudo_password) if script.root and self._sudo_password else None
        command = asked.command if asked else ROOT_COMMAND if script.root else COMMAND
        left = max(0.01, end - time.monotonic())
        allowed = min(left, CHANNEL_SECONDS if fresh else KEPT_CHANNEL_SECONDS)
        try:
            channel = open_capture(connection.transport, capture, allowed)
            connection.let_in = True
        except paramiko.ChannelException as error:
            raise _NoSession(connection.crowded) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            if fresh and connection.alive:
                connection.retire()
                raise self._late("channel", f"no channel was opened within {allowed:.1f} s") from error
            raise _Lost(False, str(error) or type(error).__name__) from error
        sent = False
        try:
            execute(channel, command)
            if asked is not None:
                answer_sudo(asked, channel, capture, end, self._name)
            sent = True
            complete = send(channel, wrapped.program, capture, end)
            if complete and wrapped.raw_input is not None:
                complete = self._send_raw(channel, wrapped, capture, end)
            complete = complete and capture.wait(end - time.monotonic())
            self._judge(connection, channel, script, capture, complete, deadline_seconds)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise _Lost(sent, str(error) or type(error).__name__) from error
        finally:
            with contextlib.suppress(Exception):
                channel.close()

    def _send_raw(self, channel: paramiko.Channel, wrapped: Wrapped, capture: Capture, end: float) -> bool:
        if not capture.wait(end - time.monotonic(), lambda: capture.begun):
            return False
        taken = lambda: capture.stderr.hold(wrapped.fed)  # noqa: E731
        if not send(channel, wrapped.raw_input or b"", capture, end, stop=taken):
            return False
        if not capture.wait(end - time.monotonic(), taken):
            return False
        return send(channel, b"\n", capture, end)

    def _judge(
        self,
        connection: Connection,
        channel: paramiko.Channel,
        script: Script,
        capture: Capture,
        complete: bool,
        deadline_seconds: float,
    ) -> None:
        if capture.over:
            channel.close()
            gone = self._end_group(connection, script, capture)
            head, tail = capture.ends()
            raise OutputLimitExceeded(
                self._name,
                f"{script.name} printed more than {capture.limit_bytes} bytes",
                head=head,
                tail=tail,
                group_gone=gone,
                true_now=gone_words(gone, capture.group, script),
                next="give a higher output limit, or ask for less",
            )
        if not complete:
            channel.close()
            gone = self._end_group(connection, script, capture)
            raise DeadlineExceeded(
                self._name,
                f"{script.name} did not end within {deadline_seconds:g} s",
                phase="command",
                stdout=capture.stdout.payload,
                stderr=capture.stderr.payload,
                group_gone=gone,
                true_now=gone_words(gone, capture.group, script),
                next="look at what it waits for, or give it more time",
            )
        if capture.framed or capture.answered:
            return
        if not capture.begun and (capture.shell_known or connection.alive):
            raise not_begun(self._name, script, capture)
        if not capture.shell_known:
            raise _Lost(True, "the connection ended before the script did")
        # Something ended the shell (the script itself, or the kernel for want of memory): nobody minds the rest.
        channel.close()
        self._end_group(connection, script, capture)

    def _end_group(self, connection: Connection, script: Script, capture: Capture) -> bool | None:
        """End what the script started and prove it, over the same connection or a new one. True: proven gone; False:
        not proven; None: it had not begun."""
        if capture.group is None:
            return False if capture.begun else None
        if script.name == _ENDING:
            return False  # the ending itself was cut off: nothing is proven, and asking again could go on for ever
        end = time.monotonic() + CLEANUP_SECONDS
        ending = Script(end_group_script(*capture.group), name=_ENDING, root=script.root)
        with contextlib.suppress(HostError, _Lost):
            if connection.alive:
                return self._ended(connection, ending, end)
        connection.retire()
        while time.monotonic() < end:
            try:
                use, _ = self._connected(end)
            except HostError:
                return False
            try:
                return self._ended(use, ending, end)
            except HostError:
                return False
            except _Lost as lost:
                use.retire()
                if not (isinstance(lost, _NoSession) and lost.crowded):
                    return False
            finally:
                use.leave()
        return False

    def _ended(self, connection: Connection, ending: Script, end: float) -> bool:
        wrapped = wrap(ending.text, b"")
        answer = Capture(wrapped.nonce, _GROUP_LIMIT_BYTES)
        until = min(end, time.monotonic() + CLEANUP_SECONDS / 2)
        self._execute(connection, True, ending, wrapped, answer, until, 3.0)
        return group_gone(answer)

    # Words

    def _late(self, phase: str, what: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            self._name,
            what,
            phase=phase,
            true_now="nothing was started",
            next="check how loaded the host is, or give more time",
        )

    def _died(self, lost: _Lost, script: Script) -> HostUnreachable:
        if isinstance(lost, _NoSession):
            return HostUnreachable(
                self._name,
                "the host allows no more sessions (MaxSessions)",
                true_now="nothing was started",
                next="raise MaxSessions in its sshd_config, or let what runs there end",
            )
        if not lost.sent:
            now = "nothing was started"
        elif script.changes:
            now = f"{script.name} may have run wholly, in part, or not at all; it was not sent again"
        else:
            now = f"{script.name} only reads; the host ends what is left of it"
        return HostUnreachable(
            self._name, f"the connection died: {lost}", true_now=now, next="look at the host, then run again"
        )

    def _was_closed(self, lost: _Lost, script: Script) -> HostUnreachable:
        now = "nothing was started"
        if lost.sent:
            now = f"the host ends the process group of {script.name} when it sees the connection gone"
        return HostUnreachable(self._name, "the connection was closed by this side", true_now=now)


__all__ = ["NoShell", "RootRefused", "SshHost"]
