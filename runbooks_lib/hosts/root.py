"""Becoming root with a password: it is sent only when sudo asks for it, on stdin, and stands in no list and no log."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from runbooks_lib.hosts.capture import Capture
from runbooks_lib.hosts.host import RootRefused
from runbooks_lib.hosts.transport import send
from runbooks_lib.secrets import resolve  # registers the value, so that every writer masks it


class Asked:
    """One use of the password: the command that asks for it with a prompt of our own. The reference is looked up only
    when sudo asks; the value is never an attribute of anything."""

    def __init__(self, command: Callable[[str], str], reference: str) -> None:
        self.prompt = "RP" + secrets.token_hex(16)
        self.command = command(self.prompt)
        self._reference = reference
        self.answered = 0

    def password_line(self) -> bytes:
        """What sudo reads. Raises what `runbooks_lib.secrets.resolve` raises."""
        return resolve(self._reference).encode() + b"\n"


def answer_sudo(asked: Asked, channel: Any, capture: Capture, end: float, name: str) -> None:
    """Wait for root's shell; give the password when sudo asks, once. Returns when the shell is ready, or when there is
    nothing to wait for. Raises RootRefused for a wrong password, before a second try is counted against the user.
    """
    prompt, ready = asked.prompt.encode(), asked.prompt.encode() + b" ready\n"

    def is_ready() -> bool:
        return capture.stdout.hold(ready)

    def prompts() -> int:
        return capture.stderr.data.count(prompt)

    capture.wait(end - time.monotonic(), lambda: is_ready() or prompts() > 0)
    if is_ready() or prompts() == 0:
        return
    send(channel, asked.password_line(), capture, end)
    capture.wait(end - time.monotonic(), lambda: is_ready() or prompts() > 1)
    if prompts() > 1 and not is_ready():
        raise refuse_password(name)


def refuse_password(name: str) -> RootRefused:
    """The error for a password that sudo did not take."""
    return RootRefused(
        name,
        "sudo did not accept the password",
        true_now="nothing of the script ran; one failed attempt stands in the host's log",
        next="check the secret that sudo_password refers to",
    )
