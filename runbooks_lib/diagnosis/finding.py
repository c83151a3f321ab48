"""A finding: what is wrong, how sure that is and why, what would confirm it, and what mends it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """red: it hurts now or will within the hour. yellow: it is wrong and may hurt. info: good to know, nothing
    wrong."""

    RED = "red"
    YELLOW = "yellow"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One sign, in words with its figures. `weight` (0..1) is how far this sign alone would convince: 0.9 is close to
    proof (the kernel says so), 0.5 a sign that has other explanations, 0 only colours the picture."""

    text: str
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Mend:
    """A notebook that mends it (its path below notebooks/) with the parameters that are known, and what it will do."""

    notebook: str
    parameters: Mapping[str, str]
    why: str

    @property
    def command(self) -> str:
        """The same from a shell, where the notebook first shows its plan."""
        given = " ".join(f"-p {key}={shlex.quote(value)}" for key, value in self.parameters.items())
        return f"runbook report notebooks/{self.notebook} {given}".rstrip()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found about one subject (a mount point, a disk, a session; empty for the whole host).

    `cause` is one sentence. `symptom` is true when it says how the trouble shows and not why it is there. `explains`
    names findings of which this one is the cause, as `rule` or `rule:subject`; `because` (set by ranking) names the
    finding that explains this one. `confirm` is a command or a look that would settle it, `act` what to do.
    """

    rule: str
    severity: Severity
    cause: str
    evidence: tuple[Evidence, ...]
    confirm: str
    act: str
    subject: str = ""
    symptom: bool = False
    mend: Mend | None = None
    explains: frozenset[str] = frozenset()
    because: str = ""

    @property
    def key(self) -> str:
        """`rule:subject`, the same in every run."""
        return f"{self.rule}:{self.subject}"

    @property
    def confidence(self) -> float:
        """0..1: one less the product of every sign's doubt (a noisy or, Pearl 1988, section 4.3.2), at most 0.99. It
        takes signs for independent, so it ranks better than it measures."""
        return min(0.99, 1 - math.prod(1 - sign.weight for sign in self.evidence))

    @property
    def sureness(self) -> str:
        """The confidence in a word."""
        return next(
            word for word, least in (("sure", 0.9), ("likely", 0.6), ("possible", 0.0)) if self.confidence >= least
        )


@dataclass(frozen=True, slots=True)
class Untold:
    """A question that could not be answered: what was asked, and why there is no answer. Never to be read as well."""

    asks: str
    why: str
    rules: tuple[str, ...] = field(default=())
