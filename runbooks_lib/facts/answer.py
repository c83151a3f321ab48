"""The frame round a host's answer: markers with a nonce, sections, and the refusal of an answer that is not whole."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from runbooks_lib.facts.fact import Damaged, Fact, State, attempt

T = TypeVar("T")

NONCE_BYTES = 16
ANSWER_VERSION = "1"
_HEX = re.compile(r"[0-9a-f]{2,}\Z")


def new_nonce() -> str:
    """32 lower-case hex digits from the operating system's random source."""
    return secrets.token_hex(NONCE_BYTES)


def end_marker(nonce: str) -> bytes:
    """The line after which an answer with this nonce is complete."""
    return f"@@{nonce} end".encode()


class Incomplete(Damaged):
    """The bytes are not one whole answer. `missing` says what is not there."""

    def __init__(self, missing: str) -> None:
        super().__init__(missing)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer: section name to its text (bytes that are not UTF-8 stand as `\\xff`), and why files were
    not read.

    `not_read` maps a path to `absent` or `denied`.
    """

    sections: Mapping[str, str]
    not_read: Mapping[str, str]

    def fact(self, parse: Callable[..., T], *names: str) -> Fact[T]:
        """`parse` of these sections' texts, or the state that says why one of them is not there."""
        sections = self.sections
        try:
            texts = [sections[name] for name in names]
        except KeyError:
            return self.lacking(next(name for name in names if name not in sections))
        return attempt(parse, *texts)

    def lacking(self, name: str) -> Fact[Any]:
        """Why there is no section `name`."""
        path = name.removeprefix("2:")
        why = self.not_read.get(path)
        if why == "absent":
            return Fact(State.ABSENT, None, f"the host has no {path}")
        if why == "denied":
            return Fact(State.NOT_ALLOWED, None, f"this user may not read {path}")
        if path.startswith("/proc/pressure/"):
            # RHEL kernels have the files and refuse to read them unless booted with psi=1.
            return Fact(State.ABSENT, None, f"{path} is there and cannot be read: the kernel was booted without psi=1")
        return Fact(State.UNREADABLE, None, f"the answer has no section {name}")


def parse_answer(stdout: bytes, nonce: str) -> Answer:
    """Cut an answer into its sections.

    Everything before the begin marker (a login script's chatter) and after the end marker is ignored. Raises Incomplete
    when either is missing, when the version is another, or when a section comes twice.
    """
    if _HEX.match(nonce) is None:
        raise Damaged("the nonce is not lower-case hex")
    mark = b"\n@@%s " % nonce.encode()
    parts = stdout.split(mark) if stdout[:2] != mark[1:3] else (b"\n" + stdout).split(mark)
    names: list[str] = []
    sections: dict[str, str] = {}
    begun = False
    for part in parts[1:]:
        head, newline, body = part.partition(b"\n")
        name = head.decode("utf-8", "backslashreplace")
        if not begun:
            word, _, version = name.partition(" ")
            if word != "begin":
                raise Incomplete("the begin marker")
            if version != ANSWER_VERSION:
                raise Incomplete(f"an answer of version {ANSWER_VERSION} (this one says {version!r})")
            begun = True
            continue
        if name == "end":
            return Answer(sections, _not_read(sections.get("missing", "")))
        if not newline:
            break
        if name in sections:
            raise Incomplete(f"one section {name}: it came twice")
        names.append(name)
        sections[name] = body.decode("utf-8", "backslashreplace")
    if not begun:
        raise Incomplete("the begin marker: the script did not start")
    after = f"after section {names[-1]}" if names else "right after its beginning"
    raise Incomplete(f"the end marker: the answer stops {after}")


def _not_read(text: str) -> dict[str, str]:
    rows = (line.partition(" ") for line in text.splitlines() if line)
    return {path: why for why, _, path in rows}
