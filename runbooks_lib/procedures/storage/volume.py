"""A logical volume extended: by its group's free extents, by another physical volume, or by a new empty disk
(lvextend(8), vgextend(8), pvcreate(8)). Then the filesystem on it is grown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from runbooks_lib.facts.fact import State
from runbooks_lib.facts.lvm import LogicalVolume, VolumeGroup, device_of
from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem, partition
from runbooks_lib.procedures.storage.lvs import logical_volume, lvs
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import PATIENT_SECONDS, TOOLS, mount_words, on_mount, only, patient
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Check, Command, Known, Read, Runbook, Step, Undo

MIB = 1024**2
_UNDO = (
    "until the filesystem is grown: the volume gets its old size back, and the disk leaves the group; afterwards none"
)


# -- what is offered ---------------------------------------------------------------------------------------------------


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:
    """Free extents, then volumes and disks that could join; each as large as wanted, or as there is."""
    lvm = seen.lvm.value
    if lvm is None:
        if seen.lvm.state is not State.ABSENT:
            yield Way("extend-volume", "Extend the logical volume", Safety.ADDS, refused=f"LVM: {seen.lvm.detail}")
        return
    found = next((each for each in lvm.logical_volumes if device_of(each) == seen.survey.source), None)
    if found is None:
        return
    group = next(each for each in lvm.volume_groups if each.name == found.group)
    blocked = _blocked(seen, found, group)
    free = group.free_extents * group.extent_bytes
    yield _way(seen, found, group, "extend-volume", "", free, want_bytes, blocked)
    for volume in lvm.physical_volumes:
        if not volume.group and not volume.missing:
            more = free + volume.size_bytes - group.extent_bytes
            yield _way(seen, found, group, f"add-volume:{volume.device}", volume.device, more, want_bytes, blocked)
    partitioners = seen.survey.tools >= {"sfdisk", "partx"}
    for own in seen.survey.volumes:
        larger = own.device_bytes + own.behind_bytes - own.size_bytes - 2 * group.extent_bytes
        if own.group == group.name and larger >= partition.SLACK_BYTES:
            cannot = own.behind_bytes >= partition.SLACK_BYTES and not partitioners
            why = "sfdisk and partx are not both installed on the host" if cannot else ""
            name = f"grow-volume:{own.device}"
            yield _way(seen, found, group, name, own.device, free + larger, want_bytes, blocked or why)
    for disk in seen.survey.disks:
        device, why = f"/dev/{disk.name}", disk.why_not
        if device in {volume.device for volume in lvm.physical_volumes} or why.startswith("it is"):
            continue  # a disk that is in use is nobody's news
        more = free + disk.size_bytes - 2 * group.extent_bytes
        why = f"{device} is not empty: {why}" if why else ""
        yield _way(seen, found, group, f"add-disk:{device}", device, more, want_bytes, blocked or why)


def _way(
    seen: Seen, volume: LogicalVolume, group: VolumeGroup, name: str, device: str, most: int, want: int, blocked: str
) -> Way:
    ratio, extent = seen.yield_ratio, group.extent_bytes
    added = min(most, math.ceil((want + seen.owed_bytes) / ratio))
    added = min(-(-added // (64 * MIB)) * 64 * MIB, most) // extent * extent
    what = f"Extend {group.name}/{volume.name}"
    measured = f"{group.free_extents} free extents of {extent // 1024} KiB in the group {group.name}"
    if device:
        onto = {"add-disk": "onto the empty disk", "grow-volume": "after growing"}
        what += f" {onto.get(name.partition(':')[0], 'onto')} {device}"
        measured += f", and the size of {device}"
    return Way(
        name,
        what,
        Safety.ADDS,
        gain_bytes=int(added * ratio),
        most_bytes=int(most // extent * extent * ratio),
        measured=measured,
        seconds=20 if device else 8,
        undo=_UNDO,
        runbook=RUNBOOK.name,
        parameters={
            "mountpoint": seen.mountpoint,
            "to_mib": (volume.size_bytes + added) // MIB,
            "device": device,
        },
        refused=blocked or ("" if added > 0 else f"the group {group.name} has no free extent"),
    )


def _blocked(seen: Seen, volume: LogicalVolume, group: VolumeGroup) -> str:
    if group.missing_volumes:
        return f"the group {group.name} lacks {group.missing_volumes} of its physical volumes: mend it first"
    if volume.kind == "thin":
        return f"{volume.name} is a thin volume: what it may hold is its pool's ({volume.pool}), and is raised by hand"
    if volume.kind != "linear":
        return f"{volume.name} is of the kind {volume.kind}, which is extended by hand"
    if any(each.origin == volume.name and each.group == volume.group for each in seen.lvm.require().logical_volumes):
        return f"{volume.name} has a snapshot: remove that first"
    if "lvextend" not in seen.survey.tools:
        return "lvextend is not installed on the host"
    return filesystem.grower(seen)


# -- what the steps read -----------------------------------------------------------------------------------------------

# LVM keeps a copy of its metadata below /etc/lvm, and does nothing when there is no room for it: then without.
_LVM = """lvm_do() { "$@" </dev/null || "$@" -A n </dev/null; }
"""
_GROUP_OF = """group=$(pvs --noheadings -o vg_name "$d" 2>/dev/null) && volume=yes || volume=no
group=$(echo $group)
"""
# A physical volume begins with a MiB of its own and ends with a whole extent.
_VOLUME_SLACK = 2
# pvremove wipes the label and leaves the metadata, so that the disk would not be empty when it is offered again.
_LEFT = """left() { [ -z "$(blkid -p "$d" 2>/dev/null)" ] &&
  dd if="$d" bs=1M count=1 2>/dev/null | grep -aqF ' LVM2 x[5A%r0N*>'; }
"""


_READ_VOLUME = Read(
    "volume",
    lambda known: on_mount(known) + lvs('"$source"'),
    logical_volume,
    root=True,
    deadline_seconds=PATIENT_SECONDS,
)


def _device(answer: bytes) -> dict[str, Any]:
    """What the device was before: its group, whether it was a physical volume at all, of how many bytes. Raises
    ValueError."""
    volume, size, *group = answer.decode("ascii").split()
    return {"volume": volume == "yes", "bytes": int(size), "group": "".join(group)}


_READ_DEVICE = Read(
    "device",
    lambda known: (
        on_mount(known)
        + f"""d={word(known.parameters["device"])}
[ -n "$d" ] || {{ echo no 0; exit 0; }}
[ -b "$d" ] || {{ echo "$d is no block device" >&2; exit 3; }}
{_GROUP_OF}size=0
[ $volume = no ] || size=$(pvs --noheadings --nosuffix --units b -o pv_size "$d") || exit 3
echo $volume $size $group
"""
    ),
    _device,
    root=True,
    deadline_seconds=PATIENT_SECONDS,
)


def _part(known: Known) -> str:
    """Sets `part`: the device, if it is a physical volume of this group already."""
    return f"""d={word(known.parameters["device"])} part=
if [ -n "$d" ] && [ -b "$d" ]; then
{_GROUP_OF}  vg=$(lvs --noheadings -o vg_name "$source") && [ "$group" = "$(echo $vg)" ] && part=$d
fi
"""


def _part_used(known: Known) -> str:
    return f"pvs --noheadings --nosuffix --units b -o pv_size {word(known.parameters['device'])} | tr -d ' '"


def _full_name(known: Known) -> str:
    volume = known.before["volume"]
    return f"{volume['group']}/{volume['name']}"


def _wanted_extents(known: Known) -> int:
    """The size that is wanted, in extents, rounded up."""
    return -(-int(known.parameters["to_mib"]) * MIB // int(known.before["volume"]["extent_bytes"]))


_EXTENTS = """have=$(lvs --noheadings --nosuffix --units b -o lv_size {name}) || {tell}
have=$((have / {extent}))
"""


def _extents(known: Known, tell: str) -> str:
    """Sets `have`, the volume's extents now, as LVM says."""
    return _EXTENTS.format(name=word(_full_name(known)), extent=known.before["volume"]["extent_bytes"], tell=tell)


# -- add ---------------------------------------------------------------------------------------------------------------


def _added(known: Known) -> str:
    return (
        on_mount(known)
        + f"""d={word(known.parameters["device"])} mine={word(known.before["volume"]["group"])}
[ -n "$d" ] || yes "no disk is to be added"
[ -b "$d" ] || cannot_tell "$d is no block device"
{_GROUP_OF}if [ "$group" = "$mine" ]; then
  dev=$(pvs --noheadings --nosuffix --units b -o dev_size "$d") &&
    own=$(pvs --noheadings --nosuffix --units b -o pv_size "$d") || cannot_tell "how large $d is"
  [ $((dev - own)) -lt {_VOLUME_SLACK * known.before["volume"]["extent_bytes"]} ] ||
    no "LVM uses $((own)) of the $((dev)) bytes of $d"
  yes "$d is in the group $mine, with its whole size"
fi
[ -z "$group" ] || cannot_tell "$d is in the group $group"
no "$d is in no group"
"""
    )


def _may_join(known: Known) -> str:
    return (
        on_mount(known)
        + f"""d={word(known.parameters["device"])}
{_GROUP_OF}mine={word(known.before["volume"]["group"])}
[ "$group" != "$mine" ] || yes "$d is in the group $mine already, and is larger than LVM knows"
[ -z "$group" ] || no "$d is in the group $group"
if [ $volume = yes ]; then yes "$d is a physical volume in no group"; fi
why=$(not_empty "$d") && yes "$d is empty: no partition, no signature, nothing but zeros where it was looked at"
no "$d is not empty: $why"
"""
    )


def _add(known: Known) -> list[Command]:
    device, group = str(known.parameters["device"]), known.before["volume"]["group"]
    if not device:
        return []
    # Nobody answers pvcreate's question about a signature that has come meanwhile: then it does nothing.
    text = f"""{TOOLS}{_LVM}d={word(device)}
pvs "$d" >/dev/null 2>&1 || pvcreate -q "$d" </dev/null || exit 1
{_GROUP_OF}mine={word(group)}
if [ "$group" = "$mine" ]; then lvm_do pvresize -q "$d"; else lvm_do vgextend -q "$mine" "$d"; fi
"""
    return [Command(text, f"{device}, and the volume group {group}", root=True)]


def _take_out(known: Known) -> list[Command]:
    device, group = str(known.parameters["device"]), known.before["volume"]["group"]
    if not device:
        return []
    was = known.before["device"]
    if was["group"] == group:
        text = f"{TOOLS}{_LVM}lvm_do pvresize -q -y --setphysicalvolumesize {was['bytes']}b {word(device)}\n"
        return [Command(text, f"the physical volume {device}", root=True)]
    text = f"""{TOOLS}{_LVM}d={word(device)}
{_GROUP_OF}[ "$group" != {word(group)} ] || lvm_do vgreduce -q {word(group)} "$d" || exit 1
"""
    if not was["volume"]:
        text += f"""{_LEFT}if pvs "$d" >/dev/null 2>&1; then pvremove -q "$d" </dev/null || exit 1; fi
! left || dd if=/dev/zero of="$d" bs=1M count=1 conv=notrunc,fsync 2>/dev/null
"""
    return [Command(text, f"{device}, and the volume group {group}", root=True)]


def _taken_out(known: Known) -> str:
    was = known.before["device"]
    kept = "yes" if was["volume"] else "no"
    if was["group"] == known.before["volume"]["group"]:
        return on_mount(known) + (
            f"size=$(pvs --noheadings --nosuffix --units b -o pv_size {word(known.parameters['device'])}) ||"
            " cannot_tell 'how large it is'\n"
            f'[ $((size)) -le {was["bytes"]} ] && yes "it has $((size)) bytes, as before"\n'
            f'no "it has $((size)) bytes; it had {was["bytes"]}"\n'
        )
    return (
        on_mount(known)
        + f"""d={word(known.parameters["device"])}
[ -n "$d" ] || yes "no disk was added"
[ -b "$d" ] || cannot_tell "$d is no block device"
{_GROUP_OF}[ -z "$group" ] || no "$d is in the group $group"
[ $volume = {kept} ] || no "whether $d is a physical volume: $volume"
{"" if was["volume"] else _LEFT + '! left || no "$d still holds what LVM wrote at its beginning"'}
yes "$d is in no group, as before"
"""
    )


ADD = Step(
    name="add",
    title="Give the volume group the disk",
    why="The group's free extents are not enough. The disk is empty and nobody's, or the group's own and larger now.",
    needs=("partition",),
    reads=(_READ_VOLUME, _READ_DEVICE),
    prechecks=(patient("the disk may join", _may_join),),
    commands=_add,
    verify=patient("the disk is in the group", _added),
    undo=Undo(_take_out, patient("the disk is in no group", _taken_out), takes="a second"),
    deadline_seconds=180,
)


# -- extend ------------------------------------------------------------------------------------------------------------


def _plain(known: Known) -> str:
    volume = known.before["volume"]
    return (
        on_mount(known)
        + f"layout={word(volume['layout'])} attributes={word(volume['attributes'])}\n"
        + """[ "$layout" = linear ] || no "it is of the kind $layout, which is extended by hand"
case $attributes in -w?-a*) yes "it is linear, active and has no snapshot: $attributes";; esac
no "it is not a plain, writable, active volume: $attributes (lvs(8), lv_attr)"
"""
    )


def _room(known: Known) -> str:
    volume = known.before["volume"]
    return (
        on_mount(known)
        + _extents(known, "cannot_tell 'the size of the volume'")
        + f"""free=$(vgs --noheadings -o vg_free_count {word(volume["group"])}) || cannot_tell "the free extents"
need=$(({_wanted_extents(known)} - have)) free=$((free))
[ $need -le $free ] || no "it needs $need extents and the group has $free"
said=$(lvextend --test -q -l {_wanted_extents(known)} {word(_full_name(known))} </dev/null 2>&1) ||
  no "LVM would not do it: $said"
yes "it needs $need of the group's $free free extents, and LVM's own test says that it would do it"
"""
    )


def _extend(known: Known) -> list[Command]:
    text = (
        TOOLS
        + _LVM
        + _extents(known, "exit 1")
        + f"[ $have -ge {_wanted_extents(known)} ] || "
        + f"lvm_do lvextend -q -l {_wanted_extents(known)} {word(_full_name(known))}\n"
    )
    return [Command(text, f"the logical volume {_full_name(known)}", root=True)]


def _extended(known: Known) -> str:
    wanted = _wanted_extents(known)
    return (
        on_mount(known)
        + _extents(known, "cannot_tell 'the size of the volume'")
        + f'[ $have -ge {wanted} ] && yes "{_full_name(known)} has $have extents, of {wanted} wanted"\n'
        + f'no "{_full_name(known)} has $have extents, of {wanted} wanted"\n'
    )


def _reduce(known: Known) -> list[Command]:
    """Back to the old size, as long as the filesystem has not been grown into the new one."""
    old = known.before["volume"]["extents"]
    text = (
        only("source_of", "type_of", "fs_bytes")
        + mount_words(known)
        + _LVM
        + _extents(known, "exit 1")
        + f"""[ $have -gt {old} ] || exit 0
own=$(fs_bytes "$type" "$source" "$m") || {{ echo "how large the filesystem is cannot be told" >&2; exit 1; }}
[ "$own" -le {old * known.before["volume"]["extent_bytes"]} ] || {{
  echo "the filesystem uses the new space already ($own bytes): the volume is not made smaller" >&2; exit 1; }}
lvm_do lvreduce -q -f -l {old} {word(_full_name(known))}
"""
    )
    return [Command(text, f"the logical volume {_full_name(known)}", root=True)]


def _reduced(known: Known) -> str:
    old = known.before["volume"]["extents"]
    return (
        on_mount(known)
        + _extents(known, "cannot_tell 'the size of the volume'")
        + f'[ $have -le {old} ] && yes "{_full_name(known)} has $have extents, as before"\n'
        + f'no "{_full_name(known)} has $have extents; it had {old}"\n'
    )


EXTEND = Step(
    name="extend",
    title="Extend the logical volume",
    why="The filesystem can only grow into a larger device.",
    needs=("add",),
    reads=(_READ_VOLUME,),
    prechecks=(
        Check("the volume is a plain one", _plain),
        patient("the group has the room", _room),
    ),
    commands=_extend,
    verify=patient("the volume has the size", _extended),
    undo=Undo(_reduce, patient("the volume has its old size", _reduced), takes="a second"),
    deadline_seconds=180,
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    """Why these parameters make no sense; empty when they do."""
    device = str(parameters["device"])
    if device and not device.startswith("/dev/"):
        return "device must be a path below /dev, or empty for the group's free extents"
    return filesystem.refuses(parameters)


RUNBOOK = Runbook(
    name="extend-volume",
    version="1",
    title="Extend a logical volume and its filesystem, online",
    purpose="A filesystem on a logical volume fills up, and its volume group has free extents or may get a disk.",
    not_when="The volume is thin, mirrored or has a snapshot; a physical volume is missing; somebody else uses the "
    "empty disk (a shared disk of a SAN looks empty too).",
    takes="Seconds. Nothing stops, no connection is cut.",
    undo_takes="A second, until the filesystem is grown; that step is not undone, and says so before it.",
    parameters=(
        filesystem.MOUNTPOINT,
        Parameter(
            "to_mib", "int", int, 0, "the volume's new size in MiB, at least 0", lowest=0,
        ),
        Parameter("device", "str", str, "", "a disk or physical volume to add first; empty: the group's free extents"),
    ),
    steps=(partition.step(_part, _part_used), ADD, EXTEND, filesystem.step("extend")),
    refuses=_refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]),),
)  # fmt: skip
