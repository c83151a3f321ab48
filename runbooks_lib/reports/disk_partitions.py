"""The selected hosts' partitions out of the history: which count, what is expected of them, what cannot be said."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from runbooks_lib import words
from runbooks_lib.capacity import Outlook, Plan, outlook, plan_for
from runbooks_lib.config import HostEntry, PartitionSettings, PlanSettings
from runbooks_lib.history import Collection, FilesystemHistory, History, SqliteHistory, notes, volumes
from runbooks_lib.history.model import EXAMPLE
from runbooks_lib.history.notes import Annotation
from runbooks_lib.reports import disk_volumes
from runbooks_lib.reports.disk_page import Unsaid

_RANK = {"crossed": 0, "act": 1, "watch": 2, "cannot tell": 3, "ok": 4}
_NEEDS_A_PERSON = frozenset({"crossed", "act"})
_LONGEST_EXCLUDED = 366
_TWINS_APART = timedelta(hours=1)  # two mounts of one device are seen at one time; older than a fortnight, in one hour
_GONE = "Unmounted or renamed? If it is gone for good, the inventory need not list it."
_UNSEEN = "Is it mounted there, and spelled as `df` spells it?"

# What a partition is not: file systems in memory, of the kernel, and read-only images that are full by nature.
_NOT_PARTITIONS = frozenset(
    {"tmpfs", "devtmpfs", "ramfs", "squashfs", "iso9660", "udf", "erofs", "cramfs", "efivarfs", "autofs", "fuse.lxcfs"}
)


@dataclass(frozen=True, eq=False)  # it holds arrays, which have no single equality
class Partition:
    """One partition of the report: its past, what is expected of it, how the inventory wants it watched."""

    history: FilesystemHistory
    outlook: Outlook
    settings: PartitionSettings
    note: str = ""  # what the inventory says about the host
    annotations: tuple[Annotation, ...] = ()
    with_excluded: Outlook | None = None  # the other answer, where a person took days out of the forecast
    plan: Plan | None = None  # what to add, where it was asked for

    @property
    def name(self) -> str:
        """ "`/srv/db` on tc-db-01", safe to show."""
        return words.place(self.outlook.mountpoint, self.outlook.instance)

    @property
    def needs_a_person(self) -> bool:
        """True when its threshold is crossed or work on it must begin."""
        return self.outlook.state in _NEEDS_A_PERSON

    @property
    def used_ratio(self) -> float:
        """What df calls Use%, 0..1: used / (used + available), of the resource that is worse; nan when not known."""
        return self.outlook.used / self.outlook.usable if self.outlook.usable > 0 else math.nan

    @property
    def example(self) -> bool:
        """True when any of its numbers were made up (`training.example_past`)."""
        return EXAMPLE in self.outlook.origins


@dataclass(frozen=True)
class HostReading:
    """What the history says about one host. `known` is False when it has never heard of it."""

    partitions: tuple[Partition, ...]
    unsaid: tuple[Unsaid, ...]
    left_out: tuple[str, ...]  # looked past on purpose, with the reason
    known: bool
    groups: tuple[str, ...] = ()  # of each volume group a sentence: who can still be given space


def read_host(
    history: History,
    entry: HostEntry,
    *,
    now: datetime,
    horizon_days: int = 90,
    stale: timedelta,
    wanted: PlanSettings | None = None,
    until: date | None = None,
) -> HostReading:
    """One host's partitions with their outlooks, and what cannot be said about it; `stale` is the age that is told.
    With `wanted` each partition has its plan (see `plan_for`)."""
    collection = history.last_collection(entry.name)
    pasts, left_out = _partitions_of(_pasts(history, entry.name, now), entry)
    newest = max((past.last_time for past in pasts), default=None)
    unsaid = _unsaid_host(entry, collection, pasts, newest, now, stale)
    partitions = []
    for past in pasts:
        name = words.place(past.mountpoint, entry.name)
        if newest is not None and newest - past.last_time > stale:
            why = f"not seen for {words.span(now - past.last_time)}, while the host was."
            unsaid.append(Unsaid(name, why, _GONE, missing=past.mountpoint in entry.partitions))
            continue
        settings = entry.partition(past.mountpoint)
        expected = outlook(past, settings, now=now, horizon_days=horizon_days)
        noted = _noted(history, past, now)
        excluded = _excluded(noted)
        other = None
        if excluded:
            other, expected = (
                expected,
                outlook(past, settings, now=now, horizon_days=horizon_days, excluded_days=excluded),
            )
        plan = None
        if wanted is not None:
            plan = plan_for(past, settings, wanted, now=now, until=until, excluded_days=excluded)
        partitions.append(Partition(past, expected, settings, entry.note, noted, other, plan))
        if expected.refusal is not None:
            unsaid.append(Unsaid(name, f"no forecast: {words.message(expected.refusal)}"))
    partitions, group_sentences = _with_lvm(history, entry.name, partitions, now)
    seen = {past.mountpoint for past in pasts}
    known = bool(pasts) or collection is not None
    unsaid += [
        Unsaid(
            words.place(mountpoint, entry.name), "listed in the inventory, but never seen on the host.", _UNSEEN, True
        )
        for mountpoint in entry.partitions
        if known and mountpoint not in seen
    ]
    return HostReading(tuple(partitions), tuple(unsaid), tuple(left_out), known, group_sentences)


def _with_lvm(
    history: History, instance: str, partitions: list[Partition], now: datetime
) -> tuple[list[Partition], tuple[str, ...]]:
    """The partitions of a host with what LVM adds to their sentences, and a sentence for each volume group."""
    groups = volumes.groups_of(history, instance, now=now)
    if not groups:
        return partitions, ()
    devices = {one.history.mountpoint: one.history.device for one in partitions}
    told = disk_volumes.with_pools({one.history.mountpoint: one.outlook for one in partitions}, devices, groups)
    plans = [one.plan for one in partitions if one.plan is not None]
    sentences = disk_volumes.group_sentences(plans, devices, groups, instance=instance, now=now)
    return [replace(one, outlook=told[one.history.mountpoint]) for one in partitions], tuple(sentences)


def pasts_of(history: History, entry: HostEntry, *, now: datetime, days: int = 400) -> list[FilesystemHistory]:
    """The pasts of what counts as this host's partitions, each device once, up to `days` long."""
    return _partitions_of(_pasts(history, entry.name, now, days), entry)[0]


def worst_first(partition: Partition) -> tuple[int, bool, bool, date, float, str, str]:
    """A sort key: crossed, to begin, watched, unknown, well; listed ones first and made-up ones last; then who must
    begin first, and who is fullest."""
    expected = partition.outlook
    return (
        _RANK[expected.state],
        not partition.settings.listed,
        partition.example,
        expected.start_by or date.max,
        0.0 if math.isnan(partition.used_ratio) else -partition.used_ratio,
        expected.instance,
        expected.mountpoint,
    )


def _pasts(history: History, instance: str, now: datetime, days: int = 400) -> list[FilesystemHistory]:
    found = [
        *(history.filesystem(*place, end=now, days=days) for place in history.filesystems(instance)),
        *(
            volumes.pool_past(history, *pool, end=now, days=days)
            for pool in volumes.pools_of(history, instance, now=now)
        ),
    ]
    return [past for past in found if past is not None and past.samples]


def _partitions_of(pasts: list[FilesystemHistory], entry: HostEntry) -> tuple[list[FilesystemHistory], list[str]]:
    """What counts as a partition, each device once; and the names of what was left out, with the reason."""
    kept: list[FilesystemHistory] = []
    left_out: list[str] = []
    devices: dict[str, str] = {}
    last_on: dict[str, datetime] = {}
    for past in pasts:
        last_on[past.device] = max(past.last_time, last_on.get(past.device, past.last_time))
    # Mounted twice is seen twice at one time. A device that was mounted elsewhere once is no twin of where it is now.
    gone = {past.mountpoint for past in pasts if last_on[past.device] - past.last_time > _TWINS_APART}

    def order(past: FilesystemHistory) -> tuple[bool, bool, int]:
        return past.mountpoint not in entry.partitions, past.mountpoint in gone, len(past.mountpoint)

    for past in sorted(pasts, key=order):
        name = words.place(past.mountpoint, entry.name)
        listed = past.mountpoint in entry.partitions
        layered = past.fstype == "overlay" and past.mountpoint != "/"
        if not listed and (past.fstype in _NOT_PARTITIONS or layered):
            left_out.append(f"{name} ({words.plain(past.fstype)})")
            continue
        # One file system mounted twice (bind mounts, a container's /etc/hosts) fills once. Only a block device tells:
        # `overlay` or `none` is the name of many.
        twin = devices.get(past.device) if past.device.startswith("/dev/") else None
        if twin is not None and not listed:
            left_out.append(f"{name} (the same device as {twin})")
            continue
        if past.mountpoint not in gone:
            devices.setdefault(past.device, f"`{words.plain(past.mountpoint)}`")
        kept.append(past)
    return kept, left_out


def excluded_days_of(history: History, past: FilesystemHistory, now: datetime) -> frozenset[date]:
    """The days that people took out of this partition's forecasts (`runbook annotate --exclude`)."""
    return _excluded(_noted(history, past, now))


def _noted(history: History, past: FilesystemHistory, now: datetime) -> tuple[Annotation, ...]:
    """What people noted about it within its past; a server keeps no annotations."""
    if not isinstance(history, SqliteHistory) or not len(past.days):
        return ()
    first = past.days[0].astype(date)
    found = notes.annotations_of(history, past.instance, past.mountpoint)
    return tuple(one for one in found if one.end.date() >= first and one.start <= now)


def _excluded(noted: tuple[Annotation, ...]) -> frozenset[date]:
    return frozenset(
        one.start.date() + timedelta(days=number)
        for one in noted
        if one.kind == "exclude"
        for number in range(min((one.end.date() - one.start.date()).days, _LONGEST_EXCLUDED) + 1)
    )


def _unsaid_host(
    entry: HostEntry,
    collection: Collection | None,
    pasts: list[FilesystemHistory],
    newest: datetime | None,
    now: datetime,
    stale: timedelta,
) -> list[Unsaid]:
    """Whether this host was reached, and how fresh its numbers are."""
    name = entry.name
    if collection is not None and collection.state != "ok":
        why = f"not reached on {words.moment(collection.time)}: {words.message(collection.message, where=name)}"
        rest = "Nothing is known of its disks."
        if newest is not None:
            rest = f"What stands here rests on numbers of {words.moment(newest)}."
        return [Unsaid(name, why, rest)]
    if newest is None and collection is None:
        return [Unsaid(name, "never collected, nothing is known of its disks.", "`runbook collect` reads it.")]
    if newest is None:
        return [Unsaid(name, "reached, but it named no partition.", "`runbook hosts check` says more.")]
    if all(EXAMPLE in past.origins for past in pasts):
        return []
    if now - newest > stale:
        age = words.span(now - newest)
        return [Unsaid(name, f"its newest numbers are {age} old.", "Is the timer of `runbook schedule` running?")]
    return []
