"""A thin pool extended by its group's free extents (lvmthin(7), lvextend(8)): when it is full, every volume of it stops
writing, whatever df says there."""

from __future__ import annotations

import math
from collections.abc import Iterator

from runbooks_lib.capacity.sentences import amount
from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem
from runbooks_lib.procedures.storage.lvs import logical_volume, lvs
from runbooks_lib.procedures.storage.seen import Pool, Seen
from runbooks_lib.procedures.storage.shell import PATIENT_SECONDS, TOOLS, on_mount, patient
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Command, Known, NoUndo, Read, Runbook, Step

MIB = 1024**2
_METADATA_RATIO = 0.9  # above it more data blocks would fill the metadata first


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:
    """The pool of the mount point's thin volume, by as much as is wanted or as there is. The gain is what all volumes
    of the pool can write more together."""
    pool = seen.pool
    if pool is None:
        return
    group, extent = pool.group, pool.group.extent_bytes
    most = group.free_extents * extent
    added = min(-(-math.ceil(want_bytes) // (64 * MIB)) * 64 * MIB, most) // extent * extent
    yield Way(
        "extend-pool",
        f"Extend the thin pool {pool.name}, which {seen.mountpoint} takes its blocks from",
        Safety.ADDS,
        gain_bytes=added,
        most_bytes=most,
        measured=f"{group.free_extents} free extents of {extent // 1024} KiB in the group {group.name}, and "
        f"{amount(pool.usage.free_bytes)} left in the pool",
        seconds=10,
        undo="none: LVM does not make a thin pool smaller",
        runbook=RUNBOOK.name,
        parameters={"mountpoint": seen.mountpoint, "to_mib": (pool.usage.size_bytes + added) // MIB},
        refused=_refused(seen, pool, added),
    )


def instead(seen: Seen, way: Way) -> str:
    """Why another way buys nothing while the pool is the limit; empty when it is not."""
    if not seen.pool_is_limit or way.name == "extend-pool" or seen.pool is None:
        return ""
    return (
        f"its thin pool {seen.pool.name} is the limit: it has {amount(seen.pool.usage.free_bytes)} left, and gets "
        "nothing back from a file that goes until `fstrim` is run"
    )


def _refused(seen: Seen, pool: Pool, added: int) -> str:
    if pool.group.missing_volumes:
        return f"the group {pool.group.name} lacks {pool.group.missing_volumes} of its physical volumes: mend it first"
    if not seen.pool_is_limit:
        left, room = amount(pool.usage.free_bytes), amount(seen.usage.avail_bytes)
        return f"the pool {pool.name} has {left} left, and the filesystem takes no more than {room}"
    if pool.metadata_ratio is None or pool.metadata_ratio > _METADATA_RATIO:
        return (
            f"the pool's metadata is {(pool.metadata_ratio or 1) * 100:.0f} % full, which stops it as well: extend "
            "that first, by hand (lvextend --poolmetadatasize)"
        )
    if "lvextend" not in seen.survey.tools:
        return "lvextend is not installed on the host"
    return "" if added > 0 else f"the group {pool.group.name} has no free extent"


# -- what the step reads -----------------------------------------------------------------------------------------------

_READ_POOL = Read(
    "pool",
    lambda known: (
        on_mount(known)
        + 'said=$(lvs --noheadings --separator / -o vg_name,pool_lv "$source") && said=$(echo $said) || exit 3\n'
        + 'case $said in */) echo "$source is no thin volume" >&2; exit 3;; esac\n'
        + lvs('"$said"')
    ),
    logical_volume,
    root=True,
    deadline_seconds=PATIENT_SECONDS,
)


def _name(known: Known) -> str:
    return f"{known.before['pool']['group']}/{known.before['pool']['name']}"


def _wanted(known: Known) -> int:
    """The size that is wanted, in extents, rounded up."""
    return -(-int(known.parameters["to_mib"]) * MIB // int(known.before["pool"]["extent_bytes"]))


def _extents(known: Known, tell: str) -> str:
    """Sets `have`, the pool's extents now, as LVM says."""
    return (
        f"have=$(lvs --noheadings --nosuffix --units b -o lv_size {word(_name(known))}) || {tell}\n"
        f"have=$((have / {known.before['pool']['extent_bytes']}))\n"
    )


def _room(known: Known) -> str:
    pool = known.before["pool"]
    return (
        on_mount(known)
        + _extents(known, "cannot_tell 'the size of the pool'")
        + f"""free=$(vgs --noheadings -o vg_free_count {word(pool["group"])}) || cannot_tell "the free extents"
need=$(({_wanted(known)} - have)) free=$((free))
[ $need -le $free ] || no "it needs $need extents and the group has $free"
said=$(lvextend --test -q -l {_wanted(known)} {word(_name(known))} </dev/null 2>&1) || no "LVM would not do it: $said"
yes "it needs $need of the group's $free free extents, and LVM's own test says that it would do it"
"""
    )


def _extend(known: Known) -> list[Command]:
    # LVM keeps a copy of its metadata below /etc/lvm, and does nothing when there is no room for it: then without.
    text = (
        TOOLS
        + _extents(known, "exit 1")
        + f"""[ $have -ge {_wanted(known)} ] ||
  lvextend -q -l {_wanted(known)} {word(_name(known))} </dev/null ||
  lvextend -q -A n -l {_wanted(known)} {word(_name(known))} </dev/null
"""
    )
    return [Command(text, f"the thin pool {_name(known)}", root=True)]


def _extended(known: Known) -> str:
    said = f'"{_name(known)} has $have extents, of {_wanted(known)} wanted"'
    return (
        on_mount(known)
        + _extents(known, "cannot_tell 'the size of the pool'")
        + f"[ $have -ge {_wanted(known)} ] && yes {said}\nno {said}\n"
    )


EXTEND = Step(
    name="extend-pool",
    title="Extend the thin pool",
    why="Every volume of it takes its blocks from there, and stops writing when there are none.",
    reads=(_READ_POOL,),
    prechecks=(patient("the group has the room", _room),),
    commands=_extend,
    verify=patient("the pool has the size", _extended),
    undo=NoUndo(
        "LVM does not make a thin pool smaller (lvreduce(8)).",
        "nothing has to be: leave the space, or move the volumes to another pool in a maintenance window.",
    ),
    point_of_no_return=True,
    deadline_seconds=180,
)

RUNBOOK = Runbook(
    name="extend-pool",
    version="1",
    title="Extend a thin pool, online",
    purpose="The thin pool that a mount point's volume takes its blocks from fills up, and its volume group has free "
    "extents.",
    not_when="The pool's metadata is what is full (lvs -a -o metadata_percent): extend that first. Or the pool is full "
    "of blocks that nobody uses any more: `fstrim` gives those back.",
    takes="Seconds. Nothing stops, no connection is cut.",
    undo_takes="It is not undone: LVM does not make a thin pool smaller.",
    parameters=(
        filesystem.MOUNTPOINT,
        Parameter("to_mib", "int", int, 0, "the pool's new size in MiB, at least 0", lowest=0),
    ),
    steps=(EXTEND,),
    refuses=filesystem.refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]),),
)
