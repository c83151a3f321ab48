"""What to add: the plan of each partition and the bill of all, in words for a page and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from runbooks_lib import words
from runbooks_lib.capacity import Plan, plan_for
from runbooks_lib.capacity.plan import money
from runbooks_lib.capacity.sentences import amount
from runbooks_lib.config import HostEntry, PlanSettings
from runbooks_lib.errors import UsageError
from runbooks_lib.history import History, volumes
from runbooks_lib.reports import disk_volumes
from runbooks_lib.reports.disk_partitions import excluded_days_of, pasts_of


@dataclass(frozen=True)
class Needs:
    """The plans of some partitions: `paragraphs` for those that need space, `total` for all of them ("" for fewer than
    two), `enough` names those that need none and `unplanned` says of which no plan can be made, and why; `groups` say
    to whom volume groups can still give."""

    plans: tuple[Plan, ...]
    paragraphs: tuple[str, ...]
    total: str
    enough: str
    unplanned: tuple[str, ...]
    groups: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """What stands below the paragraphs."""
        return [line for line in (self.total, *self.groups, self.enough, *self.unplanned) if line]

    @property
    def made(self) -> bool:
        """True when a plan could be made for at least one partition."""
        return len(self.unplanned) < len(self.plans)


def until_of(text: str) -> date | None:
    """`2027-06-30` as that day, `2027` as its last day, None for nothing. Raises UsageError for anything else."""
    if not text:
        return None
    try:
        return date.fromisoformat(f"{text}-12-31" if len(text) == 4 else text)
    except ValueError as error:
        raise UsageError(f"{text!r} is neither a day such as 2027-06-30 nor a year such as 2027") from error


def run(
    history: History,
    entries: Sequence[HostEntry],
    wanted: PlanSettings,
    *,
    now: datetime,
    until: date | None = None,
    mountpoint: str | None = None,
) -> Needs:
    """Plans for every partition of these hosts, or only for those mounted at `mountpoint`. Raises UsageError when
    `until` is not after today."""
    plans: list[Plan] = []
    groups: list[str] = []
    for entry in entries:
        pasts = pasts_of(history, entry, now=now)
        own = [
            plan_for(
                past,
                entry.partition(past.mountpoint),
                wanted,
                now=now,
                until=until,
                excluded_days=excluded_days_of(history, past, now),
            )
            for past in pasts
        ]
        devices = {past.mountpoint: past.device for past in pasts}
        known = volumes.groups_of(history, entry.name, now=now)
        if mountpoint is None:  # who can be given space depends on all that share it
            groups += disk_volumes.group_sentences(own, devices, known, instance=entry.name, now=now)
        plans += [one for one in own if mountpoint in {None, one.mountpoint}]
    return told(plans, groups, today=now.date())


def told(plans: Sequence[Plan], groups: Sequence[str] = (), *, today: date) -> Needs:
    """The plans in words, those that must begin first in front; `groups` are sentences about volume groups."""
    needing = sorted((one for one in plans if one.needed_bytes), key=lambda one: (one.begin_by or date.max, one.until))
    enough = [words.place(one.mountpoint, one.instance) for one in plans if one.needed_bytes == 0]
    total = ""
    if len(needing) > 1:
        added = amount(sum(one.needed_bytes or 0.0 for one in needing))
        prices = [one.price for one in needing if one.price is not None]
        bill = f", {money(sum(prices), needing[0].currency)}" if len(prices) == len(needing) else ""
        total = f"In all: {added} on {words.count(len(needing), 'partition')}{bill}."
    calm = ""
    if enough:
        ends = max(one.until for one in plans)
        calm = f"Nothing need be added until {words.day(ends, today=today)} to {words.listing(enough)}."
    return Needs(
        tuple(plans),
        tuple(words.sentence(one.sentence) for one in needing),
        total,
        calm,
        tuple(words.sentence(one.sentence) for one in plans if one.needed_bytes is None),
        tuple(groups),
    )
