"""What is told: one subject, a few plain lines, a state, and where to read more."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import Any, Literal

from runbooks_lib.secrets import redact

State = Literal["ok", "crossed", "failed", "information"]
_LONGEST_SUBJECT, _LONGEST_TEXT = 200, 4000


@dataclass(frozen=True)
class Message:
    """A message. `source` names what speaks (a report, a runbook), `link` where more stands, `machine` who sends it.

    Made by `message`, which masks and bounds its texts."""

    subject: str
    text: str
    state: State
    source: str
    link: str = ""
    machine: str = field(default_factory=platform.node)

    @property
    def body(self) -> str:
        """The text with its link and sender, as a person reads it."""
        return "\n\n".join(part for part in (self.text, self.link, f"-- {self.source} on {self.machine}") if part)

    def as_json(self) -> dict[str, Any]:
        """The message as a webhook gets it. `text` is all of it in one text, as chat servers want it."""
        return {
            "text": f"{self.subject}\n{self.body}",
            "subject": self.subject,
            "body": self.text,
            "state": self.state,
            "source": self.source,
            "link": self.link,
            "machine": self.machine,
        }


def message(subject: str, text: str, *, state: State, source: str, link: str = "") -> Message:
    """A message without secrets, control characters or endless lines, whatever a host has called its partitions."""
    line = _printable(" ".join(redact(subject).split()))
    lines = "\n".join(_printable(each) for each in redact(text).splitlines())
    return Message(_cut(line, _LONGEST_SUBJECT), _cut(lines, _LONGEST_TEXT), state, source, redact(link))


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
