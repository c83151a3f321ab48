"""Stored and scored: what earlier forecasts said, compared with what came, as running counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

_CLASSES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Said:
    """One statement of a published forecast, as it is stored beside the history: plain values only.

    On `made` it was said that on `due` the use would lie between `low` and `high` (80 %), and that the threshold
    `level` would be touched by then with `probability`. Any of the two may be missing (nan).
    """

    instance: str
    mountpoint: str
    resource: str
    made: date
    due: date
    low: float
    middle: float
    high: float
    level: float
    probability: float


@dataclass(frozen=True)
class Running:
    """The running score of an installation over the statements that came due and could be judged.

    `cover80` is the share of `bands` truths inside the said band; `brier` the mean squared error of `chances` said
    probabilities (0 perfect, 0.25 what saying one half always gets) and `brier_base` that of always saying the share
    that came true. `classes` are (from, to, said, came true) counts. `waiting`: not due yet, or due for at most two
    weeks and not measured; `unknown`: not measured in the end.
    """

    bands: int
    cover80: float
    chances: int
    brier: float
    brier_base: float
    classes: tuple[tuple[float, float, int, int], ...]
    waiting: int
    unknown: int

    def sentences(self) -> list[str]:
        """In words, e.g. `of 41 times we said 20-40 %, 12 came true`; nothing when nothing has come due."""
        lines = []
        if self.bands:
            inside = round(self.cover80 * self.bands)
            lines.append(
                f"Of {self.bands} ranges of 80 % that have come due, {inside} held ({self.cover80 * 100:.0f} %)."
            )
        lines += [
            f"Of {said} times we said {low * 100:.0f}-{high * 100:.0f} %, {came} came true."
            for low, high, said, came in self.classes
            if said
        ]
        return lines


_MAY_STILL_COME = timedelta(days=14)

# The highest use between two days, both counted, and the use on the last of them; None where it was not measured.
Observed = Callable[[str, str, str, date, date], tuple[float, float] | None]


def score_due(said: Iterable[Said], observed: Observed, *, today: date) -> Running:
    """Score the statements that were due before `today`.

    `observed(instance, mountpoint, resource, first, last)` gives the highest use from `first` to `last` and the use on
    `last`, or None. A partition resized in between is judged against the level as it was said.
    """
    inside, bands, waiting, unknown = 0, 0, 0, 0
    pairs: list[tuple[float, bool]] = []
    for one in said:
        if one.due >= today:
            waiting += 1
            continue
        truth = observed(one.instance, one.mountpoint, one.resource, one.made + timedelta(days=1), one.due)
        if truth is None:
            # What was collected late may still come, and a host that is off is measured when it is back.
            if today - one.due <= _MAY_STILL_COME:
                waiting += 1
            else:
                unknown += 1
            continue
        highest, at_end = truth
        if one.low <= one.high:
            bands += 1
            inside += one.low <= at_end <= one.high
        if one.probability == one.probability:  # not nan
            pairs.append((one.probability, highest >= one.level))
    base = sum(came for _, came in pairs) / len(pairs) if pairs else float("nan")
    return Running(
        bands=bands,
        cover80=inside / bands if bands else float("nan"),
        chances=len(pairs),
        brier=sum((p - came) ** 2 for p, came in pairs) / len(pairs) if pairs else float("nan"),
        brier_base=base * (1 - base),
        classes=tuple(_class(low, high, pairs) for low, high in pairwise(_CLASSES)),
        waiting=waiting,
        unknown=unknown,
    )


def _class(low: float, high: float, pairs: list[tuple[float, bool]]) -> tuple[float, float, int, int]:
    own = [came for p, came in pairs if low < p <= high or (low == 0 and p <= high)]
    return low, high, len(own), sum(own)
