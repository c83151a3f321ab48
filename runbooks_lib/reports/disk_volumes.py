"""LVM in the capacity report: what a full thin pool stops, and which partitions a volume group can still give to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta

from runbooks_lib import words
from runbooks_lib.capacity import Outlook, Plan
from runbooks_lib.capacity.sharing import Share, shares
from runbooks_lib.facts.lvm import THIN_POOL
from runbooks_lib.history.volumes import Volume, VolumeGroup

_FRESH = timedelta(hours=26)
_RANK = {"crossed": 0, "act": 1, "watch": 2, "cannot tell": 3, "ok": 4}


def with_pools(
    outlooks: Mapping[str, Outlook], devices: Mapping[str, str], groups: Sequence[VolumeGroup]
) -> dict[str, Outlook]:
    """The outlooks of one host, by mount point (of a thin pool `group/pool`), each saying what the other knows.

    `devices` gives each mount point's device. A pool that needs a person names the partitions that stop with it; a
    partition whose pool is worse off says so, since `df` does not show it.
    """
    pool_of = _pools(devices, groups)
    told = dict(outlooks)
    for place, one in outlooks.items():
        if one.fstype == THIN_POOL:
            hit = sorted(mountpoint for mountpoint, pool in pool_of.items() if pool == place)
            if hit and one.state != "ok":
                names = words.listing([f"`{words.plain(name)}`" for name in hit])
                stop = "stops" if len(hit) == 1 else "stop"
                told[place] = _more(one, f"When it is full, {names} {stop} writing, whatever df shows there.")
        elif (pool := outlooks.get(pool_of.get(place, ""))) is not None and _RANK[pool.state] < _RANK[one.state]:
            name, used = words.plain(pool.mountpoint), words.percent(pool.used / pool.usable)
            told[place] = _more(one, f"It draws from thin pool `{name}` ({used} full), which counts first.")
    return told


def group_sentences(
    plans: Sequence[Plan], devices: Mapping[str, str], groups: Sequence[VolumeGroup], *, instance: str, now: datetime
) -> list[str]:
    """One sentence for each volume group on which partitions (or thin pools) of this host lie: what it has left, and
    who can still be given what the plans say. Thin volumes take from their pool and are not asked about."""
    told = []
    for group in groups:
        own = {volume.device for volume in group.volumes if not volume.pool}
        pools = {f"{group.name}/{volume.pool}" for volume in group.volumes if volume.pool}
        members = [one for one in plans if devices.get(one.mountpoint) in own or one.mountpoint in pools]
        if members:
            told.append(_group_sentence(group, members, instance, now))
    return told


def _group_sentence(group: VolumeGroup, members: Sequence[Plan], instance: str, now: datetime) -> str:
    since = "" if now - group.time <= _FRESH else f" (as of {words.day(group.time.date(), today=now.date())})"
    name = f"`{words.plain(group.name)}` on {words.plain(instance)}"
    has = f"Volume group {name} has {words.amount(group.free_bytes)} left{since}"
    needing = sorted((one for one in members if one.needed_bytes), key=lambda one: one.begin_by or date.max)
    unknown = [_place(one) for one in members if one.needed_bytes is None]
    but = f" What {words.listing(unknown)} may need is not known." if unknown else ""
    if not needing:
        calm = [_place(one) for one in members if one.needed_bytes == 0]
        return f"{has}{f'; nothing need be added to {words.listing(calm)}' if calm else ''}.{but}"
    found = shares(group.free_bytes, [(_place(one), one.needed_bytes or 0.0) for one in needing])
    return f"{has}: {'; '.join(_share(one) for one in found)}.{but}"


def _share(one: Share) -> str:
    needed, left = words.amount(one.needed_bytes), words.amount(one.left_bytes)
    if one.given:
        return f"{one.name} can be given the {needed} that it needs"
    return f"{one.name} cannot: it needs {needed}, and {f'{left} are' if one.left_bytes else 'nothing is'} left then"


def _place(one: Plan) -> str:
    return f"`{words.plain(one.mountpoint)}`"


def _pools(devices: Mapping[str, str], groups: Sequence[VolumeGroup]) -> dict[str, str]:
    """The thin pool (`group/pool`) that each mount point's volume draws from."""
    by_device: dict[str, Volume] = {volume.device: volume for group in groups for volume in group.volumes}
    found = {place: by_device[device] for place, device in devices.items() if device in by_device}
    return {place: f"{volume.group}/{volume.pool}" for place, volume in found.items() if volume.pool}


def _more(one: Outlook, remark: str) -> Outlook:
    return replace(one, sentence=f"{one.sentence} {remark}")
