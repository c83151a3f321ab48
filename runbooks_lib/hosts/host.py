"""What every host can do: run one POSIX sh script and say what came of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from runbooks_lib.errors import RunbookError

DEFAULT_DEADLINE_SECONDS = 30.0
DEFAULT_OUTPUT_LIMIT_BYTES = 4 * 1024 * 1024  # stdout and stderr together
CLEANUP_SECONDS = 6.0  # at most this long, after a deadline, for ending the process group and proving it


@dataclass(frozen=True)
class Script:
    """A POSIX sh text and what may be done with it.

    `changes` is true when it alters the host: such a script is never sent a second time by itself.
    `root` asks for `sudo -n` (or for the host's `sudo_password` reference) unless the user already is root.
    `end_marker`: a line of stdout after which the answer is complete; a shell that then does not end is not waited for.
    """

    text: str
    name: str = "script"
    changes: bool = False
    root: bool = False
    end_marker: bytes | None = None

    @property
    def sha256(self) -> str:
        """Hex digest of the text, as it stands in every result."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Result:
    """What a script said. Exactly one of `exit_status` and `signal` is set, or neither when reading stopped at the
    end marker before the shell had ended."""

    host: str
    script_sha256: str
    stdout: bytes
    stderr: bytes
    exit_status: int | None
    signal: str | None
    started: datetime  # UTC, the operator's clock
    duration_seconds: float
    connected_seconds: float = 0.0  # part of the duration spent on connecting; 0 on a kept connection

    @property
    def ok(self) -> bool:
        """True when the script ended with status 0, or its end marker was seen."""
        return self.signal is None and self.exit_status in (0, None)


class Host(Protocol):
    """A place where scripts run."""

    @property
    def name(self) -> str:
        """The host's name in the inventory."""
        ...

    def run(
        self,
        script: Script,
        *,
        input: bytes = b"",
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        output_limit_bytes: int = DEFAULT_OUTPUT_LIMIT_BYTES,
    ) -> Result:
        """Run `script` with `input` on its stdin.

        A non-zero exit status is a Result, not an error. Raises a HostError when there is no result: not reached,
        refused, deadline passed (then the process group on the host is gone, or the error says that this could not be
        proven), too much output.
        The script's end is its shell's end: a child that it left behind and that keeps stdout open is not waited for.
        Ending the group and proving it may take CLEANUP_SECONDS more than the deadline.
        """
        ...

    def close(self) -> None:
        """Let go of connections. Running again afterwards connects again."""
        ...


class HostError(RunbookError):
    """No result from a host. `kind` is the row's state; `host` names it."""

    kind = "failed"

    def __init__(self, host: str, what: str, *, true_now: str = "", next: str = "") -> None:
        super().__init__(what, where=host, true_now=true_now, next=next)
        self.host = host


class HostUnreachable(HostError):
    """No TCP connection, name not found, no SSH banner, or the connection died."""

    kind = "unreachable"


class HostKeyUnknown(HostError):
    """The host's key is not in known_hosts; `fingerprint` (SHA256:…) and `key_type` are what it showed."""

    kind = "host key unknown"

    def __init__(
        self, host: str, what: str, *, key_type: str, fingerprint: str, true_now: str = "", next: str = ""
    ) -> None:
        super().__init__(host, what, true_now=true_now, next=next)
        self.key_type, self.fingerprint = key_type, fingerprint


class HostKeyChanged(HostKeyUnknown):
    """known_hosts holds another key for this host, or this key is revoked."""

    kind = "host key changed"


class AuthRefused(HostError):
    """The host refused every configured identity."""

    kind = "refused"


class DeadlineExceeded(HostError):
    """Not ended in time. `phase` is connect, banner, auth, channel or command; stdout and stderr are what came so far.

    `group_gone`: True when the script's process group was proven gone, False when that could not be proven, None when
    nothing had been started on the host.
    """

    kind = "timed out"

    def __init__(
        self,
        host: str,
        what: str,
        *,
        phase: str,
        stdout: bytes = b"",
        stderr: bytes = b"",
        group_gone: bool | None = None,
        true_now: str = "",
        next: str = "",
    ) -> None:
        super().__init__(host, what, true_now=true_now, next=next)
        self.phase, self.stdout, self.stderr, self.group_gone = phase, stdout, stderr, group_gone


class OutputLimitExceeded(HostError):
    """More output than allowed. `head` and `tail` are the two ends of what came until then; `group_gone` as in
    DeadlineExceeded."""

    kind = "too much output"

    def __init__(
        self,
        host: str,
        what: str,
        *,
        head: bytes,
        tail: bytes,
        group_gone: bool | None = None,
        true_now: str = "",
        next: str = "",
    ) -> None:
        super().__init__(host, what, true_now=true_now, next=next)
        self.head, self.tail, self.group_gone = head, tail, group_gone


class SettingsRefused(HostError):
    """The SSH configuration asks for something that cannot be done faithfully here (a host CA, some Match, …)."""

    kind = "configuration"


class RootRefused(HostError):
    """The script asks for root and the user neither is root nor may become it; nothing of the script ran."""

    kind = "not allowed"


class NoShell(HostError):
    """The host did something else than starting `/bin/sh` for us (nologin, a forced command, …); nothing ran."""

    kind = "no shell"


class RecordingMissing(HostError):
    """A RecordedHost has no answer to this script with this input."""

    kind = "no recording"
