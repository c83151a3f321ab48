"""Asking a host: yes, no, or cannot tell, each with what was seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runbooks_lib.hosts.host import Host, HostError, Result, Script
from runbooks_lib.runbook.digest import canonical
from runbooks_lib.runbook.quoting import text_of
from runbooks_lib.runbook.step import Check, Known, Read
from runbooks_lib.secrets import redact

# Exit statuses that nothing ends with by accident: sh and its tools use 0 to 2, 64 to 78 (sysexits), 126 and above.
_YES, _NO, _CANNOT_TELL = 90, 91, 92
PRELUDE = f"""LC_ALL=C; export LC_ALL
yes() {{ [ $# = 0 ] || printf '%s\\n' "$*"; exit {_YES}; }}
no() {{ [ $# = 0 ] || printf '%s\\n' "$*"; exit {_NO}; }}
cannot_tell() {{ [ $# = 0 ] || printf '%s\\n' "$*"; exit {_CANNOT_TELL}; }}
"""
EVIDENCE_CHARACTERS = 4000
_OUTPUT_BYTES = 8 * 1024 * 1024


class Answer(StrEnum):
    """What a check says."""

    YES = "yes"
    NO = "no"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Observation:
    """An answer with what was seen."""

    check: str
    answer: Answer
    evidence: str

    @property
    def words(self) -> str:
        """`yes: the evidence`, in one text."""
        return f"{self.answer}: {self.evidence or 'nothing was printed'}"


class CannotTell(Exception):
    """A read gave no value; the message is what was seen instead."""


def ask(host: Host, check: Check, known: Known) -> Observation:
    """Ask once. No error of the host escapes: a host that does not answer is one that cannot tell."""
    script = Script(PRELUDE + check.script(known), name=f"check: {check.title}", root=check.root)
    try:
        result = host.run(script, deadline_seconds=check.deadline_seconds, output_limit_bytes=_OUTPUT_BYTES)
    except HostError as error:
        return Observation(check.title, Answer.CANNOT_TELL, f"the host did not answer: {error}")
    evidence = bounded(text_of(result.stdout).rstrip("\n"))
    if result.exit_status == _YES:
        if not evidence.strip():
            return Observation(check.title, Answer.CANNOT_TELL, "it matched nothing")
        return Observation(check.title, Answer.YES, evidence)
    if result.exit_status == _NO:
        return Observation(check.title, Answer.NO, evidence)
    if result.exit_status == _CANNOT_TELL:
        return Observation(check.title, Answer.CANNOT_TELL, evidence)
    seen = "\n".join(part for part in (evidence, bounded(text_of(result.stderr).strip())) if part)
    return Observation(check.title, Answer.CANNOT_TELL, f"the check {_ended(result)} without an answer: {seen}")


def read(host: Host, reading: Read, known: Known) -> Any:
    """The value of one read. Raises CannotTell."""
    script = Script(
        "LC_ALL=C; export LC_ALL\n" + reading.script(known), name=f"read: {reading.name}", root=reading.root
    )
    try:
        result = host.run(script, deadline_seconds=reading.deadline_seconds, output_limit_bytes=_OUTPUT_BYTES)
    except HostError as error:
        raise CannotTell(f"{reading.name}: the host did not answer: {error}") from error
    if result.exit_status != 0:
        raise CannotTell(f"{reading.name}: it {_ended(result)}: {bounded(text_of(result.stderr).strip())}")
    try:
        # As the journal will give it back: what a resume computes must be what was computed first.
        return json.loads(canonical(reading.parse(result.stdout)))
    except ValueError as error:
        raise CannotTell(f"{reading.name}: its answer was not understood: {error}") from error


def read_all(host: Host, readings: tuple[Read, ...], known: Known) -> Mapping[str, Any]:
    """The values by name; a later read knows the earlier ones as `before`. Raises CannotTell."""
    values: dict[str, Any] = {}
    for reading in readings:
        values[reading.name] = read(host, reading, Known(known.parameters, dict(values), known.outputs))
    return values


def bounded(text: str, characters: int = EVIDENCE_CHARACTERS) -> str:
    """What a host said, masked; of a text that is too long to keep both ends, and how much was left out."""
    text = redact(text)
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def _ended(result: Result) -> str:
    return f"was ended by {result.signal}" if result.signal else f"ended with status {result.exit_status}"
