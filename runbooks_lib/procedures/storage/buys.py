"""How much is enough, and how many days an amount buys, by the partition's own past."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from runbooks_lib.capacity import CannotTellError, outlook
from runbooks_lib.capacity.growth import Forecast
from runbooks_lib.capacity.plan import needed_bytes
from runbooks_lib.capacity.rates import Rates
from runbooks_lib.config import PartitionSettings
from runbooks_lib.errors import RunbookError
from runbooks_lib.facts.filesystems import Usage
from runbooks_lib.history.model import History
from runbooks_lib.history.volumes import past_of

RISK = 0.1  # the chance at which an amount is still called enough
_WITHOUT_A_PAST = 0.2  # of what there is: enough for a night, and told as such


@dataclass(frozen=True, eq=False)
class Expected:
    """A partition now, and what its past says. `forecast` or `rates` (bytes a day), or neither: then `why_not` says
    why. `horizon_days` is how far ahead anything is said."""

    usage: Usage
    threshold_ratio: float
    horizon_days: int
    forecast: Forecast | None = None
    rates: Rates | None = None
    why_not: str = ""

    @property
    def usable_bytes(self) -> int:
        """What ordinary users have: used + available."""
        return self.usage.used_bytes + self.usage.avail_bytes

    @property
    def over_bytes(self) -> int:
        """How much more must be free for the use to be at the threshold; 0 below it."""
        return max(0, math.ceil(self.usage.used_bytes / self.threshold_ratio) - self.usable_bytes)

    def days(self, added_bytes: int = 0) -> tuple[float, float] | None:
        """Days until the threshold is passed with `added_bytes` more: for one future in ten, and for half of them (by
        rates: at the fastest rate seen, and at the whole one's). `inf`: not within the horizon. None: cannot be told.
        """
        room = self.threshold_ratio * (self.usable_bytes + added_bytes) - self.usage.used_bytes
        if room <= 0:
            return (0.0, 0.0)
        if self.forecast is not None:
            first, half, _ = self.forecast.days_to(self.forecast.last_value + room)
            return (first, half)
        if self.rates is not None:
            return tuple(room / rate if rate > 0 else math.inf for rate in (self.rates.fastest, self.rates.whole))  # type: ignore[return-value]
        return None

    def wanted(self, days: int) -> tuple[int, str]:
        """Bytes to add so that the threshold is not passed within `days` in nine of ten futures, and by what that was
        computed; at least so many that the use comes below the threshold."""
        if self.forecast is not None:
            # The forecast begins where its last sample was; the host is where it is now.
            since = self.usage.used_bytes - self.forecast.last_value
            usable = self.usable_bytes - since / self.threshold_ratio
            amount = needed_bytes(
                self.forecast, usable, within_days=days, risk=RISK, threshold_ratio=self.threshold_ratio
            )
            return max(math.ceil(amount), self.over_bytes), f"by the forecast: nine of ten futures hold {days} days"
        if self.rates is not None and self.rates.fastest > 0:
            amount = self.rates.fastest * days / self.threshold_ratio
            return (
                max(self.over_bytes, math.ceil(self.over_bytes + amount)),
                f"by the fastest rate seen: it holds {days} days",
            )
        least = math.ceil(_WITHOUT_A_PAST * self.usable_bytes)
        return max(
            self.over_bytes + least, least
        ), f"a fifth of what there is, for {self.why_not or 'it does not grow'}"


def expected(
    history: History, host: str, mountpoint: str, usage: Usage, settings: PartitionSettings, *, now: datetime, days: int
) -> Expected:
    """What the history says of this partition, or of a thin pool (`group/pool`). Never raises for a history that says
    nothing: `why_not` tells."""
    horizon = max(90, days)
    plain = Expected(usage, settings.threshold_ratio, horizon)
    try:
        past = past_of(history, host, mountpoint, end=now)
        if past is None or not past.samples:
            return replace(plain, why_not="there is no past of it: `runbook collect` has never seen it")
        blind = replace(past, inodes_total=np.full(len(past.days), np.nan))  # only bytes are bought here
        told = outlook(blind, settings, now=now, horizon_days=horizon)
    except (RunbookError, CannotTellError) as error:
        return replace(plain, why_not=f"the history says nothing: {error.what}")
    running = next((event for event in told.events if event.kind == "runaway"), None)
    if running is not None:  # tonight's rate, and not what the past makes likely
        rate = running.after * 24
        return replace(plain, rates=Rates(rate, rate, rate), why_not="it runs away")
    if told.forecast is not None and told.forecast.refusal is None:
        return replace(plain, forecast=told.forecast)
    return replace(plain, rates=told.rates, why_not=told.refusal or "its past says nothing of its growth")


def in_words(days: tuple[float, float] | None, horizon_days: int) -> str:
    """`12 to 40 days`, `more than 90 days`, `none: over the threshold`, `cannot tell`."""
    if days is None:
        return "cannot tell"
    first, half = days
    if half <= 0:
        return "none: still over the threshold"
    if not math.isfinite(first) or first > horizon_days:
        return f"more than {horizon_days} days"
    if half < 2:
        return f"{first * 24:.0f} to {half * 24:.0f} hours"
    late = f"{half:.0f}" if math.isfinite(half) and half <= horizon_days else f"more than {horizon_days}"
    return f"{first:.0f} to {late} days"
