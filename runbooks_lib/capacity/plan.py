"""How much to add, and what an amount buys.

The short answer to "how many days do so many bytes buy this partition" is `days_bought(outlook, bytes_added)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from runbooks_lib.capacity.events import Event
from runbooks_lib.capacity.growth import CannotTellError, Forecast
from runbooks_lib.capacity.partition import Outlook
from runbooks_lib.errors import UsageError

GIB = float(2**30)


@dataclass(frozen=True)
class Purchase:
    """What adding `bytes_added` buys: the chance of passing the threshold within `within_days`, days until 10 and 50
    % of the futures have passed it (`inf`: not within the forecast's horizon), days gained over adding nothing (by
    the 10 % day; nan when both are beyond the horizon), and the price in the currency of the unit cost, None without
    one.
    """

    bytes_added: float
    probability_passed: float
    within_days: int
    days_10: float
    days_50: float
    days_gained: float
    price: float | None


def needed_bytes(
    told: Forecast, usable_bytes: float, *, within_days: int, risk: float = 0.05, threshold_ratio: float = 1.0
) -> float:
    """Least bytes to add so that the threshold is passed within `within_days` with a probability of at most `risk`; 0
    when that is so already. `threshold_ratio` 1.0 asks about a full disk. Raises UsageError outside 0 < risk < 1 or
    beyond the forecast's horizon, CannotTellError when it is refused.
    """
    if not 0 < risk < 1:
        raise UsageError(f"a risk is between 0 and 1, not {risk!r}")
    if told.refusal is not None:
        raise CannotTellError(f"there is no forecast: {told.refusal}")
    if not 1 <= within_days <= told.horizon_days:
        raise UsageError(f"{within_days!r} days is outside this forecast of {told.horizon_days} days")
    highest = np.sort(np.maximum(told.paths[:, :within_days].max(axis=1), told.last_value))
    # At most so many futures may touch the level; it has to lie above the highest of the others.
    allowed = math.floor(risk * len(highest))
    level = float(np.nextafter(highest[len(highest) - 1 - allowed], np.inf))
    return max(0.0, level / threshold_ratio - usable_bytes)


def purchases(
    told: Forecast,
    usable_bytes: float,
    *,
    within_days: int,
    amounts: Sequence[float] = (10 * GIB, 50 * GIB, 100 * GIB),
    threshold_ratio: float = 0.9,
    price_per_gib: float | None = None,
) -> list[Purchase]:
    """What adding nothing and each of `amounts` (bytes) buys, in this order. Raises as `needed_bytes` does."""
    rows: list[Purchase] = []
    for added in (0.0, *amounts):
        level = threshold_ratio * (usable_bytes + added)
        first, half, _ = told.days_to(level)
        start = rows[0].days_10 if rows else first
        rows.append(
            Purchase(
                bytes_added=added,
                probability_passed=told.probability_reached(level, within_days),
                within_days=within_days,
                days_10=first,
                days_50=half,
                days_gained=first - start if math.isfinite(start) else float("nan"),
                price=None if price_per_gib is None else price_per_gib * added / GIB,
            )
        )
    return rows


@dataclass(frozen=True)
class DaysBought:
    """What `bytes_added` more buys one partition: days until it is full without (`before`) and with them (`after`).

    `by` says whose answer it is. "futures": the day by which one future in ten has filled it; `inf` is beyond the
    forecast's horizon, so that `days` is at least `least`. "rate": a young or runaway partition, at the rate that it
    grew last; `inf` when it does not grow. "nothing": neither is known, and both are nan.
    """

    bytes_added: float
    before: float
    after: float
    by: Literal["futures", "rate", "nothing"]
    horizon_days: int

    @property
    def days(self) -> float:
        """Days gained; `inf` when it lasts beyond the horizon with what is added, nan when nothing is gained that can
        be told (it lasts beyond the horizon anyway, or nothing is known)."""
        return self.after - self.before if math.isfinite(self.before) else math.nan

    @property
    def least(self) -> float:
        """Days that are gained at least: `days`, or up to the horizon where it lasts longer; 0 when that is unknown."""
        if not math.isfinite(self.before):
            return 0.0
        return min(self.after, float(self.horizon_days)) - self.before if self.by == "futures" else self.days


def days_bought(expected: Outlook, bytes_added: float) -> DaysBought:
    """How many days `bytes_added` more (0 or more) buy this partition; ask an outlook with a horizon of a year, since
    days beyond the horizon are not counted.

    Judged by the full disk and by the 10 % day: the day to be safe by, not the day that is most likely. A partition
    that runs away, or is too young for a forecast, is judged by its rate. Of an outlook of inodes the answer is
    "nothing": bytes may add none. Raises UsageError for less than nothing.
    """
    if not bytes_added >= 0:
        raise UsageError(f"{bytes_added!r} bytes cannot be added")
    if expected.resource != "bytes" or not expected.usable > 0:
        return DaysBought(bytes_added, math.nan, math.nan, "nothing", expected.horizon_days)
    room = max(0.0, expected.usable - expected.used)
    per_day = _rate_per_day(expected)
    if per_day is not None:
        before, after = (left / per_day if per_day > 0 else math.inf for left in (room, room + bytes_added))
        return DaysBought(bytes_added, before, after, "rate", expected.horizon_days)
    told = expected.forecast
    if told is None or told.refusal is not None:
        return DaysBought(bytes_added, math.nan, math.nan, "nothing", expected.horizon_days)
    before, after = (
        max(0.0, told.days_to(level)[0] - expected.stale_days)
        for level in (expected.usable, expected.usable + bytes_added)
    )
    return DaysBought(bytes_added, before, after, "futures", expected.horizon_days)


def _rate_per_day(expected: Outlook) -> float | None:
    """Bytes a day where a rate speaks and no forecast: it runs away, or is hours old; None otherwise."""
    running: Event | None = next((one for one in expected.events if one.kind == "runaway"), None)
    if running is not None:
        return running.after * 24
    if expected.tier == "hours" and expected.rates is not None:
        return max(0.0, expected.rates.whole)
    return None
