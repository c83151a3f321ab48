"""A rule: a question asked of every host, as data. What it needs, why it is asked, where its figures come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runbooks_lib.diagnosis.finding import Finding
from runbooks_lib.diagnosis.scene import Scene


@dataclass(frozen=True)
class Rule:
    """`asks` is the question in words; `needs` the facts without which it cannot be answered (then it is listed as
    such); `reason` why it matters, `source` where the procedure and the thresholds come from; `look` finds."""

    name: str
    asks: str
    needs: tuple[str, ...]
    reason: str
    source: str
    look: Callable[[Scene], Iterable[Finding]]
