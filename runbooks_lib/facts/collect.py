"""Ask a host: send one script with its nonce, and turn the answer into a snapshot."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from runbooks_lib.errors import UsageError
from runbooks_lib.facts.answer import Incomplete, end_marker, new_nonce
from runbooks_lib.facts.slow import SLOW_FACTS, SlowSnapshot, parse_slow
from runbooks_lib.facts.snapshot import Snapshot, parse_snapshot
from runbooks_lib.hosts.host import Host, HostError, Result, RootRefused, Script

SCRIPTS = ("quick", "slow")
QUICK_DEADLINE_SECONDS = 20.0
DEFAULT_WALK_SECONDS = 20


class AnswerIncomplete(HostError):
    """The host's answer is not whole: nothing of it is believed."""

    kind = "answer incomplete"


@dataclass(frozen=True)
class Request:
    """One call: the script (with this call's end marker), its stdin, and the nonce that cuts the answer."""

    script: Script
    input: bytes
    nonce: str


@cache
def script_text(name: str) -> str:
    """The text of the script `quick` or `slow`, exactly as it is sent. Raises UsageError for another name."""
    if name not in SCRIPTS:
        raise UsageError(f"there is no script {name!r}", next=f"ask for one of: {', '.join(SCRIPTS)}")
    return files("runbooks_lib.facts").joinpath(f"{name}.sh").read_text(encoding="utf-8")


def quick_script() -> Script:
    """The quick script. Its text, and so its sha256, never depends on nonce, pause or host: those go to its stdin."""
    return Script(script_text("quick"), name="facts: quick")


def slow_script(*, root: bool = True) -> Script:
    """The slow script; with `root` it asks for `sudo -n` or the host's password reference."""
    return Script(script_text("slow"), name="facts: slow", root=root)


def quick_request(sample_seconds: float = 1.0, *, nonce: str | None = None) -> Request:
    """One quick call: `sample_seconds` between the two readings of the counters, 0 for one reading and no rates.
    Raises UsageError when it is negative or over a minute."""
    if not 0 <= sample_seconds <= 60:
        raise UsageError(f"sample_seconds is {sample_seconds}; it must be between 0 and 60")
    nonce = nonce or new_nonce()
    script = Script(script_text("quick"), name="facts: quick", end_marker=end_marker(nonce))
    return Request(script, f"{nonce}\n{sample_seconds:g}\n".encode(), nonce)


def slow_request(
    ask: Collection[str],
    *,
    mountpoint: str = "",
    walk_seconds: int = DEFAULT_WALK_SECONDS,
    root: bool = True,
    nonce: str | None = None,
) -> Request:
    """One slow call for the facts in `ask` (see SLOW_FACTS); `directories` needs a `mountpoint`. Raises UsageError."""
    unknown = [name for name in ask if name not in SLOW_FACTS]
    if unknown or not ask:
        raise UsageError(
            f"no slow fact is called {', '.join(unknown) or 'nothing'}", next=f"ask for: {', '.join(SLOW_FACTS)}"
        )
    if "directories" in ask and not mountpoint.startswith("/"):
        raise UsageError(
            "the biggest directories are asked of a mount point, an absolute path", next="name it as mountpoint"
        )
    if not 1 <= walk_seconds <= 600:
        raise UsageError(f"walk_seconds is {walk_seconds}; it must be between 1 and 600")
    nonce = nonce or new_nonce()
    lines = [nonce, *(f"ask {name}" for name in SLOW_FACTS if name in ask), f"seconds {walk_seconds}"]
    data = "\n".join(lines).encode() + b"\nmount " + escape(mountpoint) + b"\ngo\n"
    script = Script(script_text("slow"), name="facts: slow", root=root, end_marker=end_marker(nonce))
    return Request(script, data, nonce)


def escape(path: str) -> bytes:
    r"""A path as the kernel writes it in /proc: space, tab, newline and backslash as three octal digits. A byte
    that is not
    UTF-8 stands in a path of ours as `\xff`, and is sent as that byte."""
    raw = re.sub(
        rb"\\x([89a-f][0-9a-f])", lambda byte: bytes.fromhex(byte[1].decode()), path.encode("utf-8", "surrogateescape")
    )
    return raw.replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\t", b"\\011").replace(b"\n", b"\\012")


def read_snapshot(
    host: Host,
    *,
    sample_seconds: float = 1.0,
    deadline_seconds: float = QUICK_DEADLINE_SECONDS,
    nonce: str | None = None,
) -> Snapshot:
    """All quick facts of a host in one round trip.

    Raises a HostError when there is no answer, AnswerIncomplete when it is not whole; a fact that the host cannot
    give is a state of that fact. `nonce` is for a recording, whose answer holds the nonce of then."""
    request = quick_request(sample_seconds, nonce=nonce)
    result = host.run(request.script, input=request.input, deadline_seconds=deadline_seconds + sample_seconds)
    with complete(host.name, result):
        return parse_snapshot(
            host.name,
            result.stdout,
            request.nonce,
            started=result.started,
            duration_seconds=result.duration_seconds,
            connected_seconds=result.connected_seconds,
            script_sha256=request.script.sha256,
        )


def read_slow(
    host: Host,
    ask: Collection[str] = ("lvm", "deleted-files", "process-io", "kernel-log", "postgres"),
    *,
    mountpoint: str = "",
    walk_seconds: int = DEFAULT_WALK_SECONDS,
    deadline_seconds: float = 120.0,
    root: bool = True,
    nonce: str | None = None,
) -> SlowSnapshot:
    """The slow facts that are asked for, as root where the host lets us; without root each fact says what it could
    not read.

    Raises a HostError when there is no answer, AnswerIncomplete when it is not whole, UsageError when asked wrongly.
    """
    request = slow_request(ask, mountpoint=mountpoint, walk_seconds=walk_seconds, root=root, nonce=nonce)
    deadline = deadline_seconds + (walk_seconds if "directories" in ask else 0)
    try:
        result = host.run(request.script, input=request.input, deadline_seconds=deadline)
    except RootRefused:
        if not root:
            raise
        return read_slow(
            host,
            ask,
            mountpoint=mountpoint,
            walk_seconds=walk_seconds,
            deadline_seconds=deadline_seconds,
            root=False,
            nonce=nonce,
        )
    with complete(host.name, result):
        return parse_slow(
            host.name,
            result.stdout,
            request.nonce,
            ask=ask,
            mountpoint=mountpoint,
            time=result.started,
            script_sha256=request.script.sha256,
        )


@contextmanager
def complete(host: str, result: Result) -> Iterator[None]:
    """For the reading of an answer: what is not whole becomes AnswerIncomplete, which says what came."""
    try:
        yield
    except Incomplete as error:
        raise _incomplete(host, error, result) from None


def _incomplete(host: str, error: Incomplete, result: Result) -> AnswerIncomplete:
    said = result.stderr.decode("utf-8", "backslashreplace").strip()[-300:]
    ended = f"signal {result.signal}" if result.signal else f"status {result.exit_status}"
    return AnswerIncomplete(
        host,
        f"the answer lacks {error.missing}",
        true_now=f"{len(result.stdout)} bytes came, the shell ended with {ended}"
        + (f", and said: {said}" if said else ""),
        next="nothing of it is believed; ask again, and look whether /bin/sh there is a POSIX shell",
    )
