"""paramiko's Transport, tuned for many hosts, and the run of one wrapped script over a channel of it.

Why a subclass: a stock Transport polls its socket ten times a second (500 idle connections cost 13 % of a core),
prefers CTR + HMAC over GCM (whose comparison is a Python loop), starts a Timer thread per handshake, formats log lines
that nobody reads, ignores `exit-signal`, and deadlocks when stdout and stderr share a full window (paramiko #448,
#563, #1778).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import paramiko
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_REQUEST,
    cMSG_CHANNEL_CLOSE,
    cMSG_CHANNEL_REQUEST,
)

from runbooks_lib.hosts.capture import STRAY_LIMIT_BYTES, Capture

logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)  # every failure is told as a HostError instead

IDLE_CHECK_SECONDS = 5.0
_READ_BYTES, _MOST_READ_BYTES = 4096, 32768
_LONGEST_GREETING_BYTES = 16384  # RFC 4253, 4.2: lines may come before the version, which has 255 bytes at most
_GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


class _Buffered:
    """A socket that is read in large pieces: paramiko asks twice for every packet, and each time that a thread goes to
    the kernel it also has to win the interpreter back from all the others. Large only while much comes: a thread that
    waits holds as many bytes as it has asked for."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._kept = b""
        self._asked = _READ_BYTES
        self.send: Callable[[bytes], int] = sock.send
        # The thread that reads a socket closes it, at its end. Closed under it, the number would go to the next
        # connection at once; a thread that is just about to wait would wait for that one's data, for five seconds.
        self.close: Callable[[], None] = (lambda: None) if isinstance(sock, socket.socket) else sock.close

    def recv(self, size: int) -> bytes:
        data = self._kept
        if not data:
            data = self._sock.recv(self._asked)
            self._asked = _MOST_READ_BYTES if len(data) == self._asked else _READ_BYTES
        self._kept = data[size:]
        return bytes(data[:size])


class Packetizer(paramiko.Packetizer):  # type: ignore[misc]
    """Without the Timer thread: whoever waits for the handshake keeps the time and closes the socket."""

    def __init__(self, sock: Any) -> None:
        super().__init__(_Buffered(sock))
        self._greeting_bytes = 0

    def _read_timeout(self, timeout: float) -> bytes:
        """What paramiko looks for the version line in, without an end of its own."""
        data = bytes(super()._read_timeout(timeout))
        self._greeting_bytes += len(data)
        if self._greeting_bytes > _LONGEST_GREETING_BYTES:
            raise paramiko.SSHException(f"it sent {self._greeting_bytes} bytes and no SSH version")
        return data

    def start_handshake(self, timeout: float) -> None:
        pass

    def handshake_timed_out(self) -> bool:
        return False

    def complete_handshake(self) -> None:
        pass


def _data(channel: Any, message: paramiko.Message) -> None:
    capture = getattr(channel, "capture", None)
    if capture is None:
        channel._feed(message)
    else:
        capture.feed_stdout(message.get_binary())


def _extended_data(channel: Any, message: paramiko.Message) -> None:
    capture = getattr(channel, "capture", None)
    if capture is None:
        channel._feed_extended(message)
    elif message.get_int() == 1:
        capture.feed_stderr(message.get_binary())


def _request(channel: Any, message: paramiko.Message) -> None:
    capture = getattr(channel, "capture", None)
    if capture is None:
        channel._handle_request(message)
        return
    kind = message.get_text()
    message.get_boolean()
    if kind == "exit-status":
        capture.shell_ended(message.get_int())
    elif kind == "exit-signal":
        capture.shell_ended(None, message.get_text())


def _eof(channel: Any, message: paramiko.Message) -> None:
    channel._handle_eof(message)


def _close(channel: Any, message: paramiko.Message) -> None:
    """The other side closes. Over a bastion our CLOSE must not overtake data that another thread is sending: sshd would
    drop the whole connection (see bastion.py)."""
    send_lock = getattr(channel, "send_lock", None)
    if send_lock is None:
        channel._handle_close(message)
        return
    with channel.lock:
        answered = channel.closed
        channel._set_closed()  # whoever waits for the window gives up, and with it the send lock
        channel.transport._unlink_channel(channel.chanid)
    if answered:
        return
    held = send_lock.acquire(timeout=2.0)
    try:
        reply = paramiko.Message()
        reply.add_byte(cMSG_CHANNEL_CLOSE)
        reply.add_int(channel.remote_chanid)
        channel.transport._send_user_message(reply)
    finally:
        if held:
            send_lock.release()


class Transport(paramiko.Transport):  # type: ignore[misc]
    """A client connection over a socket that is already connected. The caller keeps every deadline."""

    _active_check_timeout = IDLE_CHECK_SECONDS
    _preferred_ciphers = _GCM + tuple(c for c in paramiko.Transport._preferred_ciphers if c not in _GCM)
    _channel_handler_table = {  # noqa: RUF012 (paramiko's own class attribute)
        **paramiko.Transport._channel_handler_table,
        MSG_CHANNEL_DATA: _data,
        MSG_CHANNEL_EXTENDED_DATA: _extended_data,
        MSG_CHANNEL_REQUEST: _request,
        MSG_CHANNEL_EOF: _eof,
        MSG_CHANNEL_CLOSE: _close,
    }

    def __init__(self, sock: Any) -> None:
        super().__init__(sock, packetizer_class=Packetizer)

    def _log(self, level: int, msg: Any, *args: Any) -> None:
        pass

    def _filter_algorithm(self, type_: str) -> tuple[str, ...]:
        """None is disabled; paramiko looks at each, several times a connection."""
        return tuple(getattr(self, f"_preferred_{type_}"))

    def run(self) -> None:
        """paramiko's thread. At its end the circles are broken: else every connection is garbage that waits to be
        found, 20 KB of it a host."""
        super().run()
        self._handler_table.clear()
        self.kex_engine = None
        error = self.saved_exception
        if error is not None:
            error.__traceback__ = error.__context__ = None

    def open_channel(self, *arguments: Any, **options: Any) -> Any:
        """As paramiko does it. A refusal is a ChannelException in every thread: paramiko keeps the last one only, and
        of two threads that are refused together one finds nothing."""
        try:
            return super().open_channel(*arguments, **options)
        except paramiko.SSHException as error:
            if str(error) == "Unable to open channel." and self.is_active():
                raise paramiko.ChannelException(paramiko.OPEN_FAILED_CONNECT_FAILED, "Connect failed") from error
            raise

    def handshake(self, seconds: float) -> bool:
        """Exchange keys; False when the time is over. Raises what paramiko raises when the exchange fails."""
        done = threading.Event()
        self.banner_timeout = seconds
        self.start_client(event=done)
        finished = done.wait(seconds)
        if not self.active:
            raise self.get_exception() or paramiko.SSHException("the connection ended during the key exchange")
        return finished

    def cut(self) -> None:
        """End the connection at once, without waiting for its thread or for the other side."""
        self.active = False
        sock = self.sock
        with contextlib.suppress(Exception):
            sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it, which close() does not
        with contextlib.suppress(Exception):
            self.packetizer.close()
        if not self.is_alive():
            with contextlib.suppress(Exception):
                sock.close()
        if self.completion_event is not None:
            self.completion_event.set()  # whoever waits for the key exchange or the login need not wait on
        with contextlib.suppress(Exception):
            self.auth_handler.abort()
        for channel in self._channels.values():
            with contextlib.suppress(Exception):
                channel._unlink()


def attach(channel: Any, capture: Capture) -> None:
    """Let `capture` get what comes over `channel`, its end included."""
    channel.capture = capture

    def closed() -> None:
        channel.__dict__.pop("_set_closed", None)  # a circle
        channel._set_closed()
        capture.close()

    channel._set_closed = closed
    if channel.closed or not channel.transport.is_active():
        capture.close()


def open_capture(transport: Transport, capture: Capture, seconds: float) -> Any:
    """A session channel whose output goes to `capture`.

    The window is the output limit: the host cannot send more than we keep, no window is ever adjusted, and both streams
    are always read, so that nothing can deadlock. Raises paramiko.SSHException when it does not open.
    """
    window = capture.limit_bytes + 2 * STRAY_LIMIT_BYTES + 4096
    channel = transport.open_channel("session", window_size=window, timeout=seconds)
    attach(channel, capture)
    return channel


def execute(channel: Any, command: str) -> None:
    """Ask for `command` without waiting for the answer: a refusal closes the channel, and a round trip is saved."""
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exec")
    message.add_boolean(True)
    message.add_string(command)
    channel.transport._send_user_message(message)


def send(channel: Any, data: bytes, capture: Capture, end: float, stop: Any = None) -> bool:
    """Send all of `data` before the monotonic time `end`; False when time is over. Ends early when the run has ended
    or `stop()` is true: a script need not read all of its input."""
    view = memoryview(data)
    channel.settimeout(0.25)
    while view:
        if capture.ended or (stop is not None and stop()):
            return True
        if time.monotonic() >= end:
            return False
        try:
            sent = channel.send(bytes(view[:32768]))
        except TimeoutError:
            continue
        except OSError:
            return True  # closed; the capture says why
        if sent == 0:
            return True
        view = view[sent:]
    return True
