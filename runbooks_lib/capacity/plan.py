"""How much to add, and what an amount buys: the paragraph that a manager signs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runbooks_lib.capacity.growth import CannotTellError, Forecast
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
