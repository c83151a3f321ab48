"""From what was captured to what is said: results, and the words about what is left on a host."""

from __future__ import annotations

import time
from datetime import datetime

from runbooks_lib.hosts.capture import Capture
from runbooks_lib.hosts.host import HostError, NoShell, Result, RootRefused, Script


def result_of(
    capture: Capture, name: str, script: Script, started: datetime, begin: float, connected_seconds: float = 0.0
) -> Result:
    """The Result of a run that ended; `begin` is the monotonic time of its start."""
    status, signal = capture.exit_status, None
    if status is None and not capture.answered:
        status, signal = capture.shell_status, capture.shell_signal
    return Result(
        host=name,
        script_sha256=script.sha256,
        stdout=capture.stdout.payload,
        stderr=_without_notes(capture),
        exit_status=status,
        signal=signal,
        started=started,
        duration_seconds=time.monotonic() - begin,
        connected_seconds=connected_seconds,
    )


def _without_notes(capture: Capture) -> bytes:
    """stderr without the wrapper's own line about raw input."""
    return capture.stderr.payload.replace(capture.nonce + b" fed\n", b"", 1)


def not_begun(name: str, script: Script, capture: Capture) -> HostError:
    """The error for a shell that ended before it began the script."""
    said = capture.before_begin()
    words = f": {said}" if said else ""
    if script.root:
        return RootRefused(
            name,
            f"{script.name} needs root, and sudo did not give it{words}",
            true_now="nothing of it ran",
            next="allow this user `sudo -n /bin/sh -s` in sudoers (NOPASSWD), or set the host's sudo_password",
        )
    status = capture.shell_status
    return NoShell(
        name,
        f"the host ended the session ({'no status' if status is None else f'status {status}'}) before {script.name} "
        f"began{words}",
        true_now="nothing of it ran",
        next="check the user's login shell and any ForceCommand on the host",
    )


def group_gone(answer: Capture) -> bool:
    """True when the group-ending script says that no process of the group is left."""
    return answer.stdout.payload.strip() == b"gone"


def gone_words(gone: bool | None, group: tuple[int, int] | None, script: Script) -> str:
    """What is true now about what the script started."""
    if gone is None:
        return f"{script.name} had not begun"
    which = f"its process group {group[0]}" if group else "what it started"
    if gone:
        return f"{which} on the host is gone" + ("; what it had changed until then stays" if script.changes else "")
    return f"{which} was told to end, but that it is gone could not be proven" + (
        "; what it changes may go on changing" if script.changes else ""
    )
