"""One partition's outlook: from its past to a state, dates, chances, a day to begin by, and a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import numpy as np

from runbooks_lib.capacity import events, rates, sentences, workdays
from runbooks_lib.capacity.daily import DailyValues, Floats
from runbooks_lib.capacity.events import Days, Event
from runbooks_lib.capacity.growth import (
    Forecast,
    Tier,
    daily_values,
    forecast_daily,
    refusal_of,
    tier_of,
)
from runbooks_lib.capacity.rates import Rates
from runbooks_lib.facts.lvm import THIN_POOL

if TYPE_CHECKING:
    from runbooks_lib.config import PartitionSettings
    from runbooks_lib.history import FilesystemHistory, Series

State = Literal["crossed", "act", "watch", "ok", "cannot tell"]
Resource = Literal["bytes", "inodes", "metadata"]
Dates = tuple[date | None, date | None, date | None]

# Chances are never said to be lower than these (7, 30, 90 days): what the backtest saw come true where less was said,
# and no past holds every accident; twice as much below 90 days of history (docs/forecasting.md).
FLOORS: Mapping[int, float] = {7: 0.02, 30: 0.05, 90: 0.08}
STALE_DAYS = 30  # an older last sample says nothing about today
_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_IMAGES = frozenset({"squashfs", "iso9660", "udf", "erofs", "cramfs"})
_TINY_BYTES = 1 << 30
_DAYS_TIER_LONGEST = 30
_RANK = {"crossed": 0, "act": 1, "watch": 2, "cannot tell": 3, "ok": 4}


@dataclass(frozen=True, eq=False)
class Outlook:
    """Everything that the report says about one partition or thin pool, in the unit of `resource` (bytes, inodes, or
    bytes of a thin pool's metadata).

    `usable` is the size without the reserve, so that `used / usable` is df's Use%. `days_to_threshold` counts from
    now until 10, 50 and 90 % of the futures have passed `threshold_level` (`inf`: not within the horizon) and `dates`
    are the days on which that is. `probability_full` is keyed by 7, 30 and 90 days, never below `FLOORS`; nan where
    the past is too short for such a reach. `start_by` is the 10 % date minus the lead time, a working day.
    `without_step` are the days as if the one-off step among the `events` had not been. In the `hours` tier there are
    `rates` and no chances.
    """

    instance: str
    mountpoint: str
    database: bool
    resource: Resource
    used: float
    size: float
    usable: float
    threshold_ratio: float
    threshold_level: float
    lead_time_days: int
    horizon_days: int
    state: State
    days_to_threshold: tuple[float, float, float] | None
    dates: Dates | None
    probability_full: dict[int, float] | None
    start_by: date | None
    tier: Tier
    confidence: str
    rates: Rates | None
    flat_now: bool
    events: tuple[Event, ...]
    without_step: tuple[float, float, float] | None
    forecast: Forecast | None
    days: Days
    used_max: Floats
    refusal: str | None
    origins: tuple[str, ...]
    stale_days: int
    fstype: str
    level_only: str | None  # why only the level is judged and no forecast made, e.g. "it lives in memory"
    sentence: str = ""


def outlook(
    history: FilesystemHistory,
    settings: PartitionSettings,
    *,
    now: datetime,
    horizon_days: int = 90,
    excluded_days: Collection[date] = (),
) -> Outlook:
    """What will become of one partition, seen at `now` (timezone-aware), up to `horizon_days` ahead.

    Bytes and inodes (of a thin pool: bytes and metadata) are both judged and the worse is returned. A resize moves the
    threshold and is no growth; changes on `excluded_days` (a person said that they were one-off) are taken out. Never
    raises for odd data: what cannot be said is in `refusal`, and the level is judged all the same.
    """
    size, reserved = _latest(history.size_bytes), np.nan_to_num(_latest(history.reserved_bytes))
    usable = np.asarray(history.size_bytes, dtype=np.float64) - np.nan_to_num(history.reserved_bytes)
    used = np.asarray(history.used_bytes_max, dtype=np.float64)
    asked = _Question(
        history=history,
        settings=settings,
        now=now,
        horizon_days=horizon_days,
        excluded_days=frozenset(excluded_days),
        resource="bytes",
        size=size,
        usable=size - float(reserved),
        usable_by_day=usable,
        used_by_day=used,
        recent=history.recent,
    )
    by_bytes = asked.answer()
    second: Resource = "metadata" if history.fstype == THIN_POOL else "inodes"
    inodes = np.asarray(history.inodes_total, dtype=np.float64)
    total = _latest(inodes)
    if not total > 0:  # btrfs and others make inodes as they go, and report none
        return by_bytes
    inodes_used = np.asarray(history.inodes_used_max, dtype=np.float64)
    asked = replace(
        asked, resource=second, size=total, usable=total, usable_by_day=inodes, used_by_day=inodes_used, recent=None
    )
    by_inodes = asked.answer()
    return by_inodes if _worse(by_inodes, by_bytes) else by_bytes


def _worse(one: Outlook, other: Outlook) -> bool:
    """Whether `one` needs a person sooner. Inodes that cannot be judged never hide bytes that can."""
    if _RANK[one.state] != _RANK[other.state]:
        return _RANK[one.state] < _RANK[other.state] and one.state != "cannot tell"
    days_one, days_other = one.days_to_threshold, other.days_to_threshold
    if one.state in {"act", "watch"} and days_one is not None and days_other is not None:
        return days_one < days_other
    return one.state == "crossed" and one.used / one.usable > other.used / other.usable


@dataclass(frozen=True)
class _Question:
    """One resource of one partition, and how its outlook is found."""

    history: FilesystemHistory
    settings: PartitionSettings
    now: datetime
    horizon_days: int
    excluded_days: frozenset[date]
    resource: Resource
    size: float
    usable: float
    usable_by_day: Floats
    used_by_day: Floats
    recent: Series | None

    def answer(self) -> Outlook:
        known = np.isfinite(self.used_by_day)
        days, used_max = np.asarray(self.history.days)[known], self.used_by_day[known]
        used = self._used_now(used_max)
        stale = max(0, (self.now.date() - self._last_day(days)).days) if len(days) else 0
        resized = events.resizes(self.history.days, self.usable_by_day, self.history.source_changed)
        happened = [*resized, *events.gaps(days)]
        blank = self._blank(days, used_max, used, stale, tuple(happened))
        level_only = self._level_only()
        reason = self._cannot_judge(len(days), stale)
        if reason is not None or level_only is not None:
            return self._told(replace(blank, refusal=reason, level_only=level_only, state=self._by_level(used, reason)))
        daily = self._daily(days, used_max)
        if tier_of(daily) == "hours":
            return self._told(self._from_rates(blank, daily, days, used_max))
        return self._told(self._from_forecast(blank, days, used_max, happened))

    # -- the present ---------------------------------------------------------------------------------------------------

    def _used_now(self, used_max: Floats) -> float:
        if self.recent is not None:
            values = np.asarray(self.recent.values, dtype=np.float64)
            values = values[np.isfinite(values)]
            if len(values):
                return float(values[-1])
        return float(used_max[-1]) if len(used_max) else np.nan

    @staticmethod
    def _last_day(days: Days) -> date:
        return events.to_date(days[-1])

    def _level_only(self) -> str | None:
        fstype = self.history.fstype
        if fstype in _IMAGES:
            return "a read-only image is always full"
        if self.settings.listed:
            return None
        if fstype in _MEMORY:
            return "it lives in memory and is empty after a boot"
        if self.resource == "bytes" and self.size < _TINY_BYTES:
            return "it is smaller than 1 GiB and not listed in the inventory"
        return None

    def _cannot_judge(self, days: int, stale: int) -> str | None:
        if not days:
            return "there is no usable sample of it"
        if stale > STALE_DAYS:
            return f"its last sample is {stale} days old"
        if not self.usable > 0:
            return "its size is not known"
        return None

    def _by_level(self, used: float, reason: str | None) -> State:
        if self.history.fstype in _IMAGES:
            return "ok"
        if (
            self.usable > 0
            and used >= self.settings.threshold_ratio * self.usable
            and (reason is None or "old" not in reason)
        ):
            return "crossed"
        return "ok" if reason is None else "cannot tell"

    def _blank(self, days: Days, used_max: Floats, used: float, stale: int, happened: tuple[Event, ...]) -> Outlook:
        return Outlook(
            instance=self.history.instance,
            mountpoint=self.history.mountpoint,
            database=self.settings.database,
            resource=self.resource,
            used=used,
            size=self.size,
            usable=self.usable,
            threshold_ratio=self.settings.threshold_ratio,
            threshold_level=self.settings.threshold_ratio * self.usable,
            lead_time_days=self.settings.lead_time_days,
            horizon_days=self.horizon_days,
            state="cannot tell",
            days_to_threshold=None,
            dates=None,
            probability_full=None,
            start_by=None,
            tier="hours",
            confidence="",
            rates=None,
            flat_now=False,
            events=happened,
            without_step=None,
            forecast=None,
            days=days,
            used_max=used_max,
            refusal=None,
            origins=tuple(self.history.origins),
            stale_days=stale,
            fstype=self.history.fstype,
            level_only=None,
        )

    # -- the future ----------------------------------------------------------------------------------------------------

    def _daily(self, days: Days, used: Floats) -> DailyValues:
        daily = daily_values(days, used)
        if self.recent is not None and len(self.recent.times) > 1:
            times = self.recent.times.astype("datetime64[s]").astype(np.int64)
            length = float(times[-1] - times[0]) / 86_400
            # Two UTC days may hold one night: the samples know how long the past really is.
            if len(days) <= 3:
                return replace(daily, samples=max(daily.samples, len(times)), span_days=length)
        return daily

    def _from_rates(self, blank: Outlook, daily: DailyValues, days: Days, used_max: Floats) -> Outlook:
        if self.recent is not None and len(self.recent.times) > 1:
            times, values = self.recent.times, np.asarray(self.recent.values, dtype=np.float64)
        else:
            times, values = days.astype("datetime64[s]"), used_max
        seen = rates.observed(times, values)
        length_days = float((times[-1] - times[0]) / np.timedelta64(1, "s")) / 86_400 if len(times) > 1 else 0.0
        state: State = "cannot tell"
        if blank.used >= blank.threshold_level:
            state = "crossed"
        elif seen is not None and seen.whole > 0:
            room = blank.threshold_level - blank.used
            # Not further ahead than the past is long: what two hours say of tomorrow is no better than "no growth".
            if room / seen.whole <= length_days:
                state = "act"
            elif seen.fastest > 0 and room / seen.fastest <= length_days:
                state = "watch"
        return replace(
            blank,
            state=state,
            rates=seen,
            flat_now=rates.flat_now(times, values),
            refusal=refusal_of(daily),
            confidence="Too young for a chance: only the rates seen so far.",
        )

    def _from_forecast(self, blank: Outlook, days: Days, used_max: Floats, happened: list[Event]) -> Outlook:
        happened = happened + events.resets(days, used_max)
        habit = events.clean_ups(days, used_max)
        step = [] if habit else events.steps(days, used_max, at_least=0.02 * self.usable)
        other_source = {one.day for one in happened if one.kind == "source"}
        step = [one for one in step if one.day not in self.excluded_days | other_source]
        running = None
        if self.recent is not None:
            running = rates.runaway(self.recent.times, np.asarray(self.recent.values, dtype=np.float64), self.usable)
        if running is not None:
            happened.append(
                Event(
                    "runaway",
                    self.now.date(),
                    running.usual_per_hour,
                    running.now_per_hour,
                    since_hours=running.since_hours,
                )
            )
        happened += [*step, *([habit] if habit else [])]
        reach = self.horizon_days + blank.stale_days
        taken_out = self.excluded_days | {one.day for one in happened if one.kind in ("reset", "source")}
        told = self._forecast(days, used_max, taken_out, habit, reach)
        refusal = told.refusal
        if refusal is not None:
            state: State = "crossed" if blank.used >= blank.threshold_level else "cannot tell"
            return replace(blank, tier=told.tier, refusal=refusal, state=state, events=_in_order(happened))
        spans = self._from_now(told.days_to(blank.threshold_level), blank.stale_days)
        dates: Dates = tuple(self._date(span) for span in spans)  # type: ignore[assignment]
        start_by = None if dates[0] is None else workdays.begin_by(dates[0], self.settings)
        without = None
        if step:
            other = self._forecast(days, used_max, taken_out | {step[0].day}, habit, reach)
            if other.refusal is None:
                without = self._from_now(other.days_to(blank.threshold_level), blank.stale_days)
        return replace(
            blank,
            tier=told.tier,
            state=self._state(blank, start_by, running is not None),
            days_to_threshold=spans,
            dates=dates,
            # Days know nothing of what fills it within hours, and would say that it is safe.
            probability_full=self._chances(told, blank.stale_days) if running is None else None,
            start_by=start_by,
            confidence=_confidence(told, blank.stale_days),
            events=_in_order(happened),
            without_step=without,
            forecast=told,
        )

    def _forecast(
        self, days: Days, used_max: Floats, taken_out: Collection[date], habit: Event | None, reach: int
    ) -> Forecast:
        daily = daily_values(days, used_max)
        if taken_out:
            daily = replace(daily, values=events.without(daily, taken_out))
        if habit is not None:
            daily = replace(daily, values=events.crests(daily.values))
        return forecast_daily(daily, horizon_days=reach)

    def _state(self, blank: Outlook, start_by: date | None, running_away: bool) -> State:
        if blank.used >= blank.threshold_level:
            return "crossed"
        if running_away or (start_by is not None and start_by <= self.now.date()):
            return "act"
        return "watch" if start_by is not None else "ok"

    def _from_now(self, spans: tuple[float, float, float], stale: int) -> tuple[float, float, float]:
        low, middle, high = (max(0.0, span - stale) for span in spans)
        return (low, middle, high)

    def _date(self, span: float) -> date | None:
        return self.now.date() + timedelta(days=int(span)) if np.isfinite(span) else None

    def _chances(self, told: Forecast, stale: int) -> dict[int, float]:
        reach = reach_days(told)
        chances = {}
        young = 2.0 if told.tier == "days" else 1.0
        for within, least in FLOORS.items():
            floor = young * least
            if within > reach or within + stale > told.horizon_days:
                chances[within] = float("nan")
            else:
                chances[within] = max(floor, told.probability_reached(self.usable, within + stale))
        return chances

    def _told(self, told: Outlook) -> Outlook:
        return replace(told, sentence=sentences.sentence(told, today=self.now.date()))


def reach_days(told: Forecast) -> int:
    """How many days ahead a chance is said: half the history below 180 days, and at most 30 of them below 90."""
    if told.tier == "full":
        return told.horizon_days
    half = told.history_days // 2
    return min(half, _DAYS_TIER_LONGEST) if told.tier == "days" else half


def _confidence(told: Forecast, stale: int) -> str:
    words = {
        "days": f"Low confidence: only {told.history_days} days of history.",
        "months": f"Fair confidence: {told.history_days} days of history; half a year is better.",
        "full": "",
    }.get(told.tier, "")
    parts = [words] if words else []
    if told.missing_ratio > 0.05:
        parts.append(f"{told.missing_ratio * 100:.0f} % of the days have no data and were interpolated.")
    if stale > 2:
        parts.append(f"The last sample is {stale} days old.")
    return " ".join(parts)


def _in_order(happened: list[Event]) -> tuple[Event, ...]:
    return tuple(sorted(happened, key=lambda event: event.day))


def _latest(values: Floats) -> float:
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known[-1]) if len(known) else np.nan
