"""What comes back from one wrapped script: both streams cut to what lies between its begin and end lines, bounded.

Fed by one thread (paramiko's transport thread, or the local reader), waited for by another. The feeding side only
appends and looks at what is new, and wakes the other thread only when there is something to decide: that is most of
why a round over many hosts stays cheap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

KEPT_END_BYTES = 64 * 1024  # of each end, when there was too much
PATIENCE_SECONDS = 0.5
NAP_SECONDS = 1.0  # with a hundred hosts that are waited for, shorter naps cost more than what the hosts say
STRAY_LIMIT_BYTES = 256 * 1024  # what a .bashrc may print before the script begins; not counted as output


class Stream:
    """One of the two streams. `begin` and `end` are offsets into `data`, -1 until seen."""

    def __init__(self, begin_mark: bytes, end_mark: bytes) -> None:
        self.data = bytearray()
        self.begin = -1
        self.end = -1
        self.begin_line = b""
        self.end_line = b""
        self._begin_mark, self._end_mark = begin_mark, end_mark
        self._seen = 0

    def feed(self, new: bytes) -> None:
        """Append and look for the two lines; what follows the end line (a child left behind) is dropped."""
        if self.end >= 0:
            return
        self.data += new
        if self.begin < 0:
            at = self.data.find(self._begin_mark, max(0, self._seen - len(self._begin_mark)))
            newline = self.data.find(b"\n", at) if at >= 0 else -1
            if newline < 0:
                # Half a line: look from its start again, or the mark itself may be cut in two.
                self._seen = at if at >= 0 else len(self.data)
                return
            self.begin_line = bytes(self.data[at + len(self._begin_mark) : newline])
            self.begin = self._seen = newline + 1
        at = self.data.find(self._end_mark, max(self.begin, self._seen - len(self._end_mark)))
        newline = self.data.find(b"\n", at) if at >= 0 else -1
        if newline >= 0:
            self.end_line = bytes(self.data[at + len(self._end_mark) : newline])
            self.end = at
        else:
            self._seen = at if at >= 0 else len(self.data)

    @property
    def payload(self) -> bytes:
        """The script's own bytes so far; before the begin line has come, nothing."""
        if self.begin < 0:
            return b""
        return bytes(self.data[self.begin : self.end if self.end >= 0 else len(self.data)])

    def hold(self, text: bytes) -> bool:
        """True when `text` came anywhere, also outside of the two lines."""
        return text in self.data


class Capture:
    """Both streams of one run, its exit status or signal, and whether there was too much."""

    def __init__(self, nonce: bytes, limit_bytes: int, end_marker: bytes | None = None, notes_bytes: int = 0) -> None:
        self.nonce = nonce
        self.stdout = Stream(nonce + b" begin", nonce + b" end ")
        self.stderr = Stream(nonce + b" begin", nonce + b" end")
        self.limit_bytes = limit_bytes
        self._notes_bytes = notes_bytes  # of the wrapper's own among the output
        self.over = False  # more than the limit: nothing further is kept
        self.closed = False  # the channel or process is gone
        self.shell_status: int | None = None  # what the host says of the shell itself
        self.shell_signal: str | None = None
        self.answered = False  # the script's own end marker has been seen
        self._marker = None if end_marker is None else end_marker.rstrip(b"\n") + b"\n"
        self._marker_seen = 0
        self._event = threading.Event()
        self._watched = False

    # The feeding thread

    def feed_stdout(self, new: bytes) -> None:
        if self.over:
            return
        self.stdout.feed(new)
        if self._marker is not None and not self.answered and self.stdout.begin >= 0:
            self._look_for_marker(self._marker)
        self._after_feeding()

    def feed_stderr(self, new: bytes) -> None:
        if self.over:
            return
        self.stderr.feed(new)
        self._after_feeding()

    def shell_ended(self, status: int | None, signal: str | None = None) -> None:
        """The host's word on the shell: its exit status, or the signal (without SIG) that ended it."""
        self.shell_status, self.shell_signal = status, signal
        self._after_feeding()

    def close(self) -> None:
        """Nothing more will come."""
        self.closed = True
        self._event.set()

    # The waiting thread

    def let_go(self) -> None:
        """Keep no output any longer. A connection that stays remembers its last channel, and that this."""
        self.over = True
        self.stdout.data, self.stderr.data = bytearray(), bytearray()

    @property
    def begun(self) -> bool:
        return self.stdout.begin >= 0

    @property
    def framed(self) -> bool:
        """Both end lines are here: the script has ended and all of its output has come."""
        return self.stdout.end >= 0 and self.stderr.end >= 0

    @property
    def ended(self) -> bool:
        """Nothing more is worth waiting for."""
        return self.closed or self.over or (self.framed and self.shell_known)

    @property
    def shell_known(self) -> bool:
        """The host has said how the shell ended."""
        return self.shell_status is not None or self.shell_signal is not None

    @property
    def group(self) -> tuple[int, int] | None:
        """The script's process group and its leader's start time, as the wrapper told; None when not known."""
        numbers = self.stdout.begin_line.split()
        if len(numbers) != 2 or not all(each.isdigit() for each in numbers) or int(numbers[0]) < 2:
            return None
        return int(numbers[0]), int(numbers[1])

    @property
    def exit_status(self) -> int | None:
        """The script's exit status (128 + n when its shell reports a signal), None when it has not been told."""
        line = self.stdout.end_line
        return int(line) if self.stdout.end >= 0 and line.isdigit() else None

    def wait(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Wait for the end, or for `until`; False when the time is over.

        When the script has answered but its shell does not end (a child in the kernel's hands), or the shell was ended
        and a child holds its streams, PATIENCE_SECONDS more are given. That is looked at between naps (so it may take
        NAP_SECONDS until it is noticed), so that the usual end costs one wake-up and not three.
        """
        end = time.monotonic() + seconds
        complete_since: float | None = None
        self._watched = until is not None
        try:
            while True:
                self._event.clear()
                if self.ended or (until is not None and until()):
                    return True
                now = time.monotonic()
                if until is None and (self.answered or self.framed or self.shell_known):
                    complete_since = complete_since or now
                    if now - complete_since >= PATIENCE_SECONDS:
                        return True
                if now >= end:
                    return self.answered or self.framed or self.shell_known
                self._event.wait(min(end - now, PATIENCE_SECONDS if complete_since else NAP_SECONDS))
        finally:
            self._watched = False

    def ends(self) -> tuple[bytes, bytes]:
        """Head and tail of the longer stream, at most KEPT_END_BYTES each and never the same bytes twice."""
        longer = max(self.stdout, self.stderr, key=lambda stream: len(stream.data))
        data = longer.data[longer.begin if longer.begin >= 0 else 0 :]
        return bytes(data[:KEPT_END_BYTES]), bytes(data[max(KEPT_END_BYTES, len(data) - KEPT_END_BYTES) :])

    def before_begin(self) -> str:
        """What was said instead of beginning, for an error message: one short readable text."""
        said = b" ".join(bytes(stream.data[:2000]).strip() for stream in (self.stdout, self.stderr) if stream.begin < 0)
        text = said.decode("utf-8", "replace")
        return "".join(c if c.isprintable() else " " for c in text).strip()[:500]

    # Both

    def _look_for_marker(self, marker: bytes) -> None:
        data, begin = self.stdout.data, self.stdout.begin
        at = max(begin, self._marker_seen - len(marker) - 1)
        while (at := data.find(marker, at)) >= 0:
            if at == begin or data[at - 1] == 0x0A:
                self.answered = True
                return
            at += 1
        self._marker_seen = len(data)

    def _after_feeding(self) -> None:
        if self._size(self.stdout) + self._size(self.stderr) > self.limit_bytes + self._notes_bytes:
            self.over = True
        if self._watched or self.ended:
            self._event.set()

    def _size(self, stream: Stream) -> int:
        if stream.begin < 0:
            return max(0, len(stream.data) - STRAY_LIMIT_BYTES)
        if stream.end >= 0:
            return stream.end - stream.begin
        return max(0, len(stream.data) - stream.begin - len(self.nonce) - 10)  # an end line may be on its way
