"""One partition in one or two plain sentences, with dates, for somebody who is tired."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, timedelta
from typing import TYPE_CHECKING

from runbooks_lib.facts.lvm import THIN_POOL

if TYPE_CHECKING:
    from runbooks_lib.capacity.events import Event
    from runbooks_lib.capacity.partition import Outlook

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_RECENTLY_DAYS = 14
_NAME_LIMIT = 80


def sentence(told: Outlook, *, today: date) -> str:
    """What a person must know about this partition: where it stands, when it passes its threshold, when to begin.

    A year stands with a date that is not in the present one. Names of hosts and mount points are made printable; a page
    still has to escape them.
    """
    parts = [_headline(told, today), *_remarks(told, today)]
    text = " ".join(part for part in parts if part)
    return text[0].upper() + text[1:]


def day(when: date, today: date) -> str:
    """`9 December`; with its year when that is not the present one."""
    text = f"{when.day} {_MONTHS[when.month - 1]}"
    return text if when.year == today.year else f"{text} {when.year}"


def between(first: date, last: date, today: date) -> str:
    """`on 9 December`, `between 9 and 31 December`, `between 20 December and 3 January 2027`."""
    if first == last:
        return f"on {day(first, today)}"
    if (first.year, first.month) == (last.year, last.month):
        return f"between {first.day} and {day(last, today)}"
    return f"between {day(first, today)} and {day(last, today)}"


def amount(value: float, resource: str = "bytes") -> str:
    """Three digits and a unit: `1.9 TiB`, `512 GiB`; inodes as `3.2 million inodes`."""
    if not math.isfinite(value):
        return "an unknown amount"
    if resource == "inodes":
        for name, size in (("million", 1e6), ("thousand", 1e3)):
            if abs(value) >= size:
                return f"{value / size:.3g} {name} inodes"
        return f"{value:.0f} inodes"
    for name, size in (("PiB", 2**50), ("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(value) >= size:
            return f"{_three_digits(value / size)} {name}"
    return f"{value:.0f} B"


def _three_digits(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _plain(name: str) -> str:
    shown = "".join(c if c.isprintable() and c != "`" else f"\\x{ord(c):02x}" for c in name)
    return shown if len(shown) <= _NAME_LIMIT else f"{shown[:38]}…{shown[-40:]}"


def _percent(ratio: float) -> str:
    if 0.99 < ratio < 1:
        return f"{math.floor(ratio * 1000) / 10:.1f} %"
    return f"{ratio * 100:.0f} %"


def name(told: Outlook) -> str:
    """`` `/srv/db` on tc-db-01 `` or `` thin pool `vg0/pool0` on tc-db-01 ``, made printable."""
    kind = "thin pool " if told.fstype == THIN_POOL else ""
    return f"{kind}`{_plain(told.mountpoint)}` on {_plain(told.instance)}"


def _of(told: Outlook) -> str:
    """` of its inodes`, ` of its metadata`, or nothing where bytes are meant."""
    return "" if told.resource == "bytes" else f" of its {told.resource}"


def _limit(told: Outlook) -> str:
    """`90 %`, `90 % of its inodes`, `90 % of its metadata`: what it will pass."""
    return f"{_percent(told.threshold_ratio)}{_of(told)}"


def _headline(told: Outlook, today: date) -> str:
    if told.level_only is not None:
        if not math.isfinite(told.used) or not told.usable > 0:
            return f"{name(told)}: its level is not known, and no forecast is made: {told.level_only}."
        over = f", over its threshold of {_limit(told)}" if told.state == "crossed" else ""
        return f"{name(told)} is {_percent(told.used / told.usable)} full{over}. No forecast: {told.level_only}."
    return _HEADLINES[told.state](told, today)


def _crossed(told: Outlook, today: date) -> str:
    left = max(0.0, told.usable - told.used)
    if told.used >= told.usable:
        return f"{name(told)} is full: {_NOTHING_LEFT[told.resource]}."
    used = f"{_percent(told.used / told.usable)}{_of(told)} used"
    stands = f"{name(told)} is over its threshold: {used} ({_percent(told.threshold_ratio)} allowed)"
    stands += f", {amount(left, told.resource)} left"
    return f"{stands}; {_until_full(told, today)}."


_NOTHING_LEFT = {
    "bytes": "no free space is left",
    "inodes": "no inodes are left",
    "metadata": "no metadata is left",
}


def _until_full(told: Outlook, today: date) -> str:
    if told.forecast is None:
        rate = 0.0 if told.rates is None else told.rates.whole
        if rate > 0 and not told.flat_now:
            return f"at the rate seen so far it is full in {_span((told.usable - told.used) / rate)}"
        return "when it will be full cannot be told"
    low, middle, _ = told.forecast.days_to(told.usable)
    if not math.isfinite(low):
        return f"it is not expected to be full within {told.horizon_days} days"
    first = today + timedelta(days=int(max(0.0, low - told.stale_days)))
    if not math.isfinite(middle):
        return f"it could be full from {day(first, today)} on (10 %)"
    half = today + timedelta(days=int(max(0.0, middle - told.stale_days)))
    if half == first:
        return f"it will probably be full by {day(half, today)}"
    return f"it could be full by {day(first, today)} (10 %) and probably is by {day(half, today)}"


def _expected(told: Outlook, today: date) -> str:
    """For `act` and `watch`: when it passes, and when to begin."""
    runaway = _event(told, "runaway")
    if runaway is not None:
        hours = (told.usable - told.used) / runaway.after
        rate = f"{amount(runaway.after, told.resource)} an hour for {_hours(runaway.since_hours or 0)}"
        if told.stale_days:
            return (
                f"{name(told)} was filling by {rate} when it was last measured: at that rate it is full by now. See"
                f" whether it is, and what writes there."
            )
        full = f"at this rate it is full in {_span(hours / 24)}"
        return f"{name(told)} has been filling by {rate}: {full}. Find what writes there now."
    if told.dates is None:
        return _too_young(told, today)
    first, middle, last = told.dates
    if first is None:
        return _calm(told, today)
    limit = _limit(told)
    if last is not None:
        passes = f"will pass {limit} {between(first, last, today)} (80 %)"
    elif middle is not None:
        passes = f"will probably pass {limit}: by {day(middle, today)} (50 %)"
        passes += f", at the earliest on {day(first, today)} (10 %)"
    else:
        passes = f"may pass {limit} from {day(first, today)} on (10 %)"
        passes += f", but probably not within {told.horizon_days} days"
    if told.tier == "days":
        passes += ", if it goes on as in its few days so far"
    return f"{name(told)} {passes}; {_begin(told, today)}."


def _begin(told: Outlook, today: date) -> str:
    if told.start_by is None or told.start_by > today:
        return "keep an eye on it" if told.start_by is None else f"begin by {day(told.start_by, today)}"
    if told.start_by == today:
        return "begin today"
    return f"begin now, {day(told.start_by, today)} was the day to begin"


def _calm(told: Outlook, today: date) -> str:  # noqa: ARG001 (one signature for all states)
    used = f"{_percent(told.used / told.usable)}{_of(told)} used"
    if len(told.used_max) and told.used_max.max() == told.used_max.min():
        return f"{name(told)} has not changed in {len(told.used_max)} days: {used}, no trend."
    limit = _percent(told.threshold_ratio)
    return f"{name(told)} is not expected to pass {limit} within {told.horizon_days} days ({used} now)."


def _too_young(told: Outlook, today: date) -> str:
    if told.tier != "hours" or told.rates is None:
        return f"{name(told)}: no forecast, since {told.refusal or 'its growth is not known'}."
    begin = f"{name(told)} is too young to forecast ({_reason(told)})"
    stands = f"{_percent(told.used / told.usable)} used"
    room = told.threshold_level - told.used
    fast, whole = told.rates.fastest, told.rates.whole
    if fast <= 0:
        return f"{begin}: {stands} and not growing so far."
    if told.flat_now and told.state not in {"act", "watch"}:
        return f"{begin}: {stands}, flat now after growing by up to {amount(fast, told.resource)} a day."
    soon = _moment(room / fast, today)
    if whole <= 0:
        fastest = f"at the fastest rate seen it would pass {_limit(told)} {soon}"
        return f"{begin}: {stands}; {fastest}, on the whole it does not grow."
    late = _moment(room / whole, today)
    flat = " It is flat now." if told.flat_now else ""
    if soon == late:
        return f"{begin}: {stands}; at the present rate it passes {_limit(told)} {soon}.{flat}"
    return (
        f"{begin}: {stands}; it passes {_limit(told)} {soon} at the fastest rate seen, {late} at the mean rate.{flat}"
    )


def _cannot_tell(told: Outlook, today: date) -> str:
    if told.tier == "hours" and told.rates is not None and told.usable > 0:
        return _too_young(told, today)
    stands = f": {_percent(told.used / told.usable)} used" if told.usable > 0 and math.isfinite(told.used) else ""
    return f"Cannot tell about {name(told)}{stands}: {_reason(told)}."


def _reason(told: Outlook) -> str:
    return told.refusal or "too little is known of its past"


_HEADLINES: dict[str, Callable[[Outlook, date], str]] = {
    "crossed": _crossed,
    "act": _expected,
    "watch": _expected,
    "ok": _calm,
    "cannot tell": _cannot_tell,
}


# -- what else must be known to believe it -----------------------------------------------------------------------------


def _remarks(told: Outlook, today: date) -> list[str]:
    said = []
    step = _event(told, "step")
    if step is not None and told.without_step is not None and _event(told, "runaway") is None:
        jump = f"On {day(step.day, today)} it rose by {amount(step.change, told.resource)} in one day"
        said.append(f"{jump}; {_if_one_off(told, told.without_step[0], today)}.")
    resize = _event(told, "resize")
    if resize is not None and (today - resize.day).days <= _RECENTLY_DAYS:
        verb = "grew" if resize.change > 0 else "shrank"
        change = f"from {amount(resize.before, told.resource)} to {amount(resize.after, told.resource)}"
        said.append(f"It {verb} on {day(resize.day, today)} {change}; the new size counts.")
    reset = _event(told, "reset")
    if reset is not None and (today - reset.day).days <= 90:
        said.append(
            f"It was emptied or made anew on {day(reset.day, today)}"
            f" ({amount(reset.before, told.resource)} to {amount(reset.after, told.resource)});"
            " the growth before that may not come back."
        )
    habit = _event(told, "clean-ups")
    if habit is not None and habit.every_days is not None and told.state != "ok":
        said.append(
            f"It is cleaned up about every {habit.every_days:.0f} days; the highest points are what counts here."
        )
    if told.stale_days > 2 and told.refusal is None:
        said.append(f"Its last sample is {told.stale_days} days old.")
    return said


def _if_one_off(told: Outlook, without: float, today: date) -> str:
    """The other answer: what is expected if the step does not count."""
    limit = _percent(told.threshold_ratio)
    if told.state == "crossed":
        return "was that a one-off?"
    if not math.isfinite(without):
        if told.state == "ok":
            return "the answer is the same without it"
        return f"if that was a one-off, {limit} is not expected within {told.horizon_days} days"
    first = day(today + timedelta(days=int(without)), today)
    return f"if that was a one-off, it may pass {limit} from {first} on (10 %)"


def _event(told: Outlook, kind: str) -> Event | None:
    """The latest event of a kind."""
    return next((event for event in reversed(told.events) if event.kind == kind), None)


def _moment(days: float, today: date) -> str:
    """`in about 3 hours`, `on 9 December`, `years from now`."""
    if days < 2:
        return f"in about {_span(days)}"
    if days > 3 * 365:
        return "years from now"
    return f"about {day(today + timedelta(days=int(days)), today)}"


def _span(days: float) -> str:
    """A length of time in its largest fitting unit: `40 minutes`, `5 hours`, `3 days`."""
    minutes = max(0.0, days) * 24 * 60
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        return f"{minutes:.0f} minutes" if round(minutes) != 1 else "1 minute"
    if minutes < 48 * 60:
        return _hours(minutes / 60)
    return f"{minutes / 1440:.0f} days"


def _hours(hours: float) -> str:
    return "an hour" if round(hours) == 1 else f"{hours:.0f} hours"
