"""How much to add, what an amount buys, what it costs: the paragraph that a manager signs is `plan_for(…).sentence`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from runbooks_lib.capacity.growth import CannotTellError, Forecast
from runbooks_lib.capacity.partition import Outlook, outlook, reach_days
from runbooks_lib.capacity.sentences import amount, day, name
from runbooks_lib.capacity.workdays import lead_time
from runbooks_lib.errors import UsageError

if TYPE_CHECKING:
    from runbooks_lib.config import PartitionSettings, PlanSettings
    from runbooks_lib.history import FilesystemHistory

GIB = float(2**30)


@dataclass(frozen=True)
class Purchase:
    """What adding `bytes_added` buys: the chance of passing the level within `within_days`, days until 10 and 50 % of
    the futures have passed it (`inf`: not within the forecast's horizon), days gained over adding nothing (by the 10 %
    day; nan when both are beyond the horizon), and the price in the currency of the unit cost, None without one.
    """

    bytes_added: float
    probability_passed: float
    within_days: int
    days_10: float
    days_50: float
    days_gained: float
    price: float | None


def needed_bytes(
    told: Forecast,
    usable_bytes: float,
    *,
    within_days: int,
    risk: float = 0.05,
    threshold_ratio: float = 1.0,
    usable_share: float = 1.0,
) -> float:
    """Least bytes to add so that the threshold is passed within `within_days` with a probability of at most `risk`; 0
    when that is so already. `threshold_ratio` 1.0 asks about a full disk; of what is added `usable_share` can be used.
    Raises UsageError outside 0 < risk < 1 or beyond the forecast's horizon, CannotTellError when it is refused.
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
    return max(0.0, (level / threshold_ratio - usable_bytes) / usable_share)


def purchases(
    told: Forecast,
    usable_bytes: float,
    *,
    within_days: int,
    amounts: Sequence[float] = (10 * GIB, 50 * GIB, 100 * GIB),
    threshold_ratio: float = 0.9,
    price_per_gib: float | None = None,
    usable_share: float = 1.0,
) -> list[Purchase]:
    """What adding nothing and each of `amounts` (bytes) buys, in this order; of what is added `usable_share` can be
    used. Raises as `needed_bytes` does."""
    rows: list[Purchase] = []
    for added in (0.0, *amounts):
        level = threshold_ratio * (usable_bytes + added * usable_share)
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


# -- the paragraph that a manager signs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What to add to one partition so that it is not full before `until`, but for a chance of `risk`.

    `chance` is that of being full by then with nothing added. `needed_bytes` is what to add, in whole GiB, 0 when
    nothing need be. `begin_by` is the outlook's day to begin. `choices` are nothing, what is needed, and the amounts
    asked about; their prices are in `currency`, None without a price. Where no plan can be made the first three are
    None, `choices` is empty and `refusal` is the reason. `sentence` says all this in a paragraph.
    """

    instance: str
    mountpoint: str
    until: date
    risk: float
    chance: float | None
    needed_bytes: float | None
    begin_by: date | None
    choices: tuple[Purchase, ...]
    currency: str
    refusal: str | None
    sentence: str

    @property
    def price(self) -> float | None:
        """What the needed amount costs."""
        return self.choices[1].price if self.choices else None


def plan_for(
    history: FilesystemHistory,
    settings: PartitionSettings,
    wanted: PlanSettings,
    *,
    now: datetime,
    until: date | None = None,
    excluded_days: Collection[date] = (),
) -> Plan:
    """How much to add to a partition, by when to begin, what each choice buys and costs.

    `until` defaults to `wanted.days` from now. A plan reaches at most half as far as the past is long, or five years
    where the past is half a year and more; what reaches further, or cannot be forecast at all, is refused with its
    reason. Raises UsageError when `until` is not after today.
    """
    today = now.date()
    until = today + timedelta(days=wanted.days) if until is None else until
    within = (until - today).days
    if within < 1:
        raise UsageError(f"a plan until {until} ends before it begins: today is {today}")
    # The longest horizon that a forecast has; a plan for 20 years is refused below, with its reason.
    expected = outlook(history, settings, now=now, horizon_days=min(within, _LONGEST_DAYS), excluded_days=excluded_days)
    blank = Plan(
        expected.instance, expected.mountpoint, until, wanted.risk, None, None, expected.start_by, (), wanted.currency,
        _why_not(expected, within), "",
    )  # fmt: skip
    told = expected.forecast
    if blank.refusal is not None or told is None:
        return replace(blank, sentence=f"No plan for {name(expected)}: {blank.refusal or 'there is no forecast'}.")
    asked = within + expected.stale_days
    share = _usable_share(history, expected)
    needed = needed_bytes(told, expected.usable, within_days=asked, risk=wanted.risk, usable_share=share)
    needed = math.ceil(needed / GIB) * GIB
    amounts = [needed, *(gib * GIB for gib in wanted.amounts_gib)]
    choices = purchases(
        told, expected.usable, within_days=asked, amounts=amounts, threshold_ratio=1.0,
        price_per_gib=wanted.price_per_gib, usable_share=share,
    )  # fmt: skip
    made = replace(
        blank, chance=choices[0].probability_passed, needed_bytes=needed, choices=tuple(choices),
    )  # fmt: skip
    return replace(made, sentence=_paragraph(made, expected, settings, today))


_LONGEST_DAYS = 1825


def _usable_share(history: FilesystemHistory, expected: Outlook) -> float:
    """How much of what is added can be used: ext4 that grows keeps its reserve's share of it, 5 % by default."""
    size = float(history.size_bytes[-1]) if len(history.size_bytes) else math.nan
    if not history.fstype.startswith("ext") or not 0 < expected.usable < size:
        return 1.0
    return expected.usable / size


def _why_not(expected: Outlook, within: int) -> str | None:
    if expected.level_only is not None:
        return expected.level_only
    if expected.resource != "bytes":
        return f"its {expected.resource} run out first, and more space alone may not add any"
    if expected.forecast is None or expected.forecast.refusal is not None:
        return expected.refusal or "it is too young to forecast"
    if any(event.kind == "runaway" for event in expected.events):
        return "something fills it within hours now; find what writes there first"
    longest = reach_days(expected.forecast) if expected.tier != "full" else _LONGEST_DAYS
    if within > longest:
        return f"its past of {expected.forecast.history_days} days carries a plan for {longest} days, not for {within}"
    return None


def _paragraph(made: Plan, expected: Outlook, settings: PartitionSettings, today: date) -> str:
    """The plan in words: what to add and by when, what it buys, what the other amounts would."""
    end, risk, chance = day(made.until, today), _percent(made.risk), _percent(made.chance or 0.0)
    if not made.needed_bytes:
        return (
            f"Nothing need be added to {name(expected)} until {end}: the chance that it is full by then is {chance}"
            f" ({risk} is accepted)."
        )
    begin = ""
    if made.begin_by is not None:
        late = made.begin_by <= today
        begin = f", begin {'now' if late else f'by {day(made.begin_by, today)}'} ({lead_time(settings)} are needed)"
    _, needed, *others = made.choices
    others = [one for one in others if not math.isnan(one.days_gained)]  # what lasts anyway gains no days
    bill = "" if needed.price is None else f" It costs {money(needed.price, made.currency)}."
    other = f" {_others(others, made.currency)}." if others else ""
    return (
        f"Add {amount(needed.bytes_added)} to {name(expected)}{begin}: then the chance that it is full by {end} is at"
        f" most {risk}; with nothing added it is {chance}.{bill}{other}"
    )


def gain(one: Purchase) -> str:
    """What a purchase buys: `23 days`, or `until then`: to the end of the plan, but for a chance of one in ten."""
    if math.isinf(one.days_gained):
        return "until then"
    if math.isnan(one.days_gained):
        return "nothing that can be told"
    return f"{one.days_gained:.0f} day{'' if round(one.days_gained) == 1 else 's'}"


def _others(choices: Sequence[Purchase], currency: str) -> str:
    """What the other amounts would buy; those that last to the end are named together."""
    buys = [f"{_priced(one, currency)} buy {gain(one)}" for one in choices if not math.isinf(one.days_gained)]
    enough = [_priced(one, currency) for one in choices if math.isinf(one.days_gained)]
    lasting = [f"{_joined(enough)} last until then"] if enough else []
    return "; ".join(([_joined(buys)] if buys else []) + lasting)


def _priced(one: Purchase, currency: str) -> str:
    price = "" if one.price is None else f" ({money(one.price, currency)})"
    return f"{amount(one.bytes_added)}{price}"


def money(price: float, currency: str) -> str:
    """A price in words: `7.68 EUR`, `12,500 EUR a month`."""
    number = f"{price:,.0f}" if price >= 100 else f"{price:.2f}"
    return f"{number} {currency}".strip()


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _percent(ratio: float) -> str:
    """Whole percents, and never that something is sure."""
    if ratio > 0.99:
        return "over 99 %"
    return f"{ratio * 100:.0f} %" if ratio >= 0.01 else "under 1 %"
