"""How far a measure is from its normal, in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runbooks_lib import words
from runbooks_lib.diagnosis.baseline import Band, Baseline
from runbooks_lib.diagnosis.measures import MEASURES, Measure
from runbooks_lib.facts.snapshot import Snapshot

_FAR = 2.0  # outside the band, and at least this many times its median, or less than this part of it


@dataclass(frozen=True, eq=False)
class Deviation:
    """One measure now, beside its band. `lately` is its mean since the last collection, `now` that of our own few
    seconds; `direction` is set when each that is known lies far outside on the same side."""

    measure: Measure
    now: float | None
    lately: float | None
    band: Band | None
    direction: Literal["", "below", "above"] = ""

    @property
    def sentence(self) -> str:
        """`CPU in use is 3 %; at this hour of the week it is 38 % to 61 %`."""
        value = self.lately if self.lately is not None else self.now
        known = shown(value, self.measure) if value is not None else "not known"
        if self.band is None:
            return f"{self.measure.words}: {known} (no baseline)"
        normal = f"{shown(self.band.low, self.measure)} to {shown(self.band.high, self.measure)}"
        return f"{self.measure.words}: {known}; normal at {self.band.of.partition(',')[0]} is {normal}"


def shown(value: float, measure: Measure) -> str:
    """A value of a measure with its unit."""
    if measure.unit == "ratio":
        return words.percent(value)
    if measure.unit == "bytes/s":
        return f"{words.amount(value)}/s"
    number = f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    return f"{number}/s" if measure.unit == "number/s" else number


def deviations(snapshot: Snapshot, baseline: Baseline) -> tuple[Deviation, ...]:
    """Every measure of this host now, beside its normal."""
    rows = []
    for measure in MEASURES:
        now, past = measure.now(snapshot), baseline.pasts.get(measure.name)
        lately, band = (past.lately, past.band) if past else (None, None)
        if now is not None or past is not None:
            rows.append(Deviation(measure, now, lately, band, _direction(measure, now, lately, band)))
    return tuple(rows)


def _direction(
    measure: Measure, now: float | None, lately: float | None, band: Band | None
) -> Literal["", "below", "above"]:
    values = [value for value in (now, lately) if value is not None]
    if band is None or not values:
        return ""
    if band.median >= measure.least and all(value < band.low and value < band.median / _FAR for value in values):
        return "below"
    if all(value > band.high and value > max(band.median * _FAR, measure.least) for value in values):
        return "above"
    # A share near its end cannot double: halving what is left counts as much.
    if measure.unit == "ratio" and all(value > band.high and 1 - value < (1 - band.median) / _FAR for value in values):
        return "above"
    return ""
