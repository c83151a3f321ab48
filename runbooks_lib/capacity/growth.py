"""The forecast of one series: a bundle of possible futures, and the questions that can be asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from runbooks_lib.capacity import paths
from runbooks_lib.capacity.daily import DailyValues, Floats, to_daily
from runbooks_lib.errors import RunbookError, UsageError

Tier = Literal["hours", "days", "months", "full"]

HISTORY_DAYS = 366  # a year of daily increments; what is older says little about the next 90 days
MONTHS_TIER_DAYS, FULL_TIER_DAYS = 90, 180
_FEWEST_DAYS, _FEWEST_SAMPLES = 7, 50  # below both, a day's difference is one anecdote
_MOST_MISSING = 0.5
_LONGEST_HORIZON_DAYS = 1830


class CannotTellError(RunbookError):
    """A question was put to a forecast that was refused; the message is the reason of the refusal."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """Possible futures of one series, and what they say.

    `refusal` is None, or the reason why nothing is said; the questions then raise CannotTellError. Bytes here are
    whatever unit the samples had. Day 1 is the day after the last sample. Every answer is counted over the same
    futures, so that quantiles do not cross and a higher level or a shorter time is never more likely.
    """

    tier: Tier
    horizon_days: int
    last_day: np.datetime64 | None
    last_value: float
    history_days: int
    missing_ratio: float
    paths: Floats  # (futures, horizon_days), values at the end of each day; empty when refused
    refusal: str | None = None

    @overload
    def quantile(self, q: float, day: int) -> float: ...
    @overload
    def quantile(self, q: npt.ArrayLike, day: npt.ArrayLike) -> float | Floats: ...
    def quantile(self, q: npt.ArrayLike, day: npt.ArrayLike) -> float | Floats:
        """Value that the series stays under with probability `q` at the end of day `day`, never below zero.

        Scalars give a float; arrays give shape q.shape + day.shape. Raises UsageError outside 0..1 or 1..horizon_days,
        CannotTellError when refused.
        """
        self._must_tell()
        levels, columns = np.asarray(q, dtype=np.float64), self._columns(day)
        if levels.size and not (levels.min() >= 0 and levels.max() <= 1):
            raise UsageError(f"a quantile is between 0 and 1, not {q!r}")
        answer = np.maximum(np.quantile(self.paths[:, columns], levels, axis=0), 0.0)
        return float(answer) if answer.ndim == 0 else answer

    def probability_reached(self, level_bytes: float, within_days: float) -> float:
        """Probability, 0..1, that the series touches `level_bytes` on any day up to `within_days`; 1 if it is there
        now.

        Raises UsageError beyond the horizon, CannotTellError when refused.
        """
        self._must_tell()
        if self.last_value >= level_bytes:
            return 1.0
        within = int(self._columns(np.floor(within_days)))
        return float((self.paths[:, : within + 1].max(axis=1) >= level_bytes).mean())

    def days_to(self, level_bytes: float) -> tuple[float, float, float]:
        """Days until 10, 50 and 90 % of the futures have touched `level_bytes`: 0 if it is there now, `inf` where not
        within the horizon. Raises CannotTellError when refused.
        """
        self._must_tell()
        if self.last_value >= level_bytes:
            return (0.0, 0.0, 0.0)
        reached = self.paths >= level_bytes
        first = np.sort(np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf))
        at10, at50, at90 = (float(first[int(np.ceil(q * len(first))) - 1]) for q in (0.1, 0.5, 0.9))
        return (at10, at50, at90)

    def _must_tell(self) -> None:
        if self.refusal is not None:
            raise CannotTellError(f"there is no forecast: {self.refusal}")

    def _columns(self, day: npt.ArrayLike) -> npt.NDArray[np.intp]:
        days = np.asarray(day)
        if days.size and not (days.min() >= 1 and days.max() <= self.horizon_days):
            raise UsageError(f"day {day!r} is outside this forecast, which reaches from day 1 to {self.horizon_days}")
        return days.astype(np.intp) - 1


def forecast(times: npt.ArrayLike, used_bytes: npt.ArrayLike, *, horizon_days: int = 90, seed: int = 0) -> Forecast:
    """What one series will do: quantiles, probabilities and dates up to `horizon_days` days after its last sample.

    `times` is datetime64 (UTC) of any spacing and order, gaps allowed; `used_bytes` has the same length. The last year
    is used, as daily maxima; missing days are interpolated. The same input and seed give the same answer. Where nothing
    can be said (no samples, a past of hours, most days missing) `refusal` holds the reason. Raises UsageError on
    arguments of the wrong kind. The method and its measured limits: docs/forecasting.md.
    """
    if not 1 <= horizon_days <= _LONGEST_HORIZON_DAYS:
        raise UsageError(f"horizon_days is {horizon_days!r}; it must be between 1 and {_LONGEST_HORIZON_DAYS}")
    daily = daily_values(times, used_bytes)
    if not daily.samples:
        return _refused("hours", horizon_days, None, refusal_of(daily))
    return forecast_daily(daily, horizon_days=horizon_days, seed=seed)


def daily_values(times: npt.ArrayLike, used_bytes: npt.ArrayLike) -> DailyValues:
    """The last year of the samples as daily maxima; no days at all when no sample is usable.

    Raises UsageError when `times` is not datetime64 or the lengths differ.
    """
    try:
        return to_daily(times, used_bytes, keep_days=HISTORY_DAYS)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the samples cannot be read: {error}") from error


def forecast_daily(daily: DailyValues, *, horizon_days: int, seed: int = 0) -> Forecast:
    """As `forecast`, from daily values."""
    tier, refusal = tier_of(daily), refusal_of(daily)
    if refusal is not None:
        return _refused(tier, horizon_days, daily, refusal)
    growth = paths.futures(daily.values, horizon_days, seed)
    return Forecast(
        tier=tier,
        horizon_days=horizon_days,
        last_day=daily.last_day,
        last_value=float(daily.values[-1]),
        history_days=len(daily.values),
        missing_ratio=daily.missing_ratio,
        paths=daily.values[-1] + growth,
    )


def tier_of(daily: DailyValues) -> Tier:
    """How much may be said after so long a past: see docs/forecasting.md."""
    if daily.span_days < 1 or (len(daily.values) < _FEWEST_DAYS and daily.samples < _FEWEST_SAMPLES):
        return "hours"
    if len(daily.values) < 3:  # two changes at least
        return "hours"
    if daily.span_days < MONTHS_TIER_DAYS:
        return "days"
    return "months" if daily.span_days < FULL_TIER_DAYS else "full"


def refusal_of(daily: DailyValues) -> str | None:
    """Why nothing can be forecast from these days, or None."""
    if not daily.samples:
        return "there is no usable sample"
    if tier_of(daily) == "hours":
        return _too_young(daily)
    if daily.missing_ratio > _MOST_MISSING:
        return f"{daily.missing_ratio * 100:.0f} % of the days since the first sample have no data"
    return None


def _too_young(daily: DailyValues) -> str:
    if daily.samples == 1:
        return "there is one sample; growth needs two"
    hours = daily.span_days * 24
    length = f"{hours:.0f} hours" if hours < 48 else f"{daily.span_days:.0f} days"
    return f"{daily.samples} samples over {length} say how fast it grew, not what comes next"


def _refused(tier: Tier, horizon_days: int, daily: DailyValues | None, reason: str | None) -> Forecast:
    return Forecast(
        tier=tier,
        horizon_days=horizon_days,
        last_day=None if daily is None else daily.last_day,
        last_value=np.nan if daily is None else float(daily.values[-1]),
        history_days=0 if daily is None else len(daily.values),
        missing_ratio=0.0 if daily is None else daily.missing_ratio,
        paths=np.empty((0, horizon_days)),
        refusal=reason,
    )
