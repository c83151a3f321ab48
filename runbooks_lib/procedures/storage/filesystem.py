"""A filesystem grown online into the whole of its device (resize2fs(8), xfs_growfs(8), btrfs-filesystem(8)).

`GROW` is also the last step of everything that makes the device larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runbooks_lib.capacity.sentences import amount
from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import partition
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import TOOLS, absolute, on_mount, patient
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Command, Known, NoUndo, Read, Runbook, Step

# What may stay unused at a device's end: ext4 leaves out a last block group that is too small for its own tables (some
# MiB), XFS a last allocation group below 64 blocks.
SLACK_BYTES = 8 * 1024**2
GROWERS = {
    "ext2": "resize2fs", "ext3": "resize2fs", "ext4": "resize2fs", "xfs": "xfs_growfs", "btrfs": "btrfs"
}  # fmt: skip
MOUNTPOINT = Parameter("mountpoint", "str", str, "", "the mount point, an absolute path")


def grower(seen: Seen) -> str:
    """Why this filesystem cannot be grown here and now; empty when it can."""
    fstype, options = seen.filesystem.fstype, seen.filesystem.super_options
    tool = GROWERS.get(fstype)
    if tool is None:
        return f"{fstype} is not grown online by anything that is known here"
    if seen.filesystem.read_error:
        return f"it must be mended first, for it cannot be read: {seen.filesystem.read_error}"
    if tool not in seen.survey.tools:
        return f"{tool} is not installed on the host"
    if seen.filesystem.read_only or "ro" in options:
        return "it is mounted read-only" + (f": {why}" if (why := seen.filesystem.read_only_flip) else "")
    if "errors recorded" in seen.filesystem.detail:
        return f"it must be mended first: {seen.filesystem.detail}"
    if seen.survey.filesystem_bytes is None or seen.survey.device_bytes is None:
        return "how much of its device it uses could not be read"
    return ""


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:  # noqa: ARG001 - a filesystem takes its device as it is
    """Growing into a device that is larger already, or into a partition that can be made larger."""
    device, own = seen.survey.device_bytes, seen.survey.filesystem_bytes
    behind = seen.survey.behind_bytes or 0
    behind = behind if behind >= partition.SLACK_BYTES else 0
    if device is None or own is None or device + behind - own < SLACK_BYTES:
        return
    first = f" after the partition is made larger by the {amount(behind)} behind it" if behind else ""
    refused = grower(seen)
    if behind and not seen.survey.tools >= {"sfdisk", "partx"}:
        refused = refused or "sfdisk and partx are not both installed on the host"
    yield Way(
        "grow-filesystem",
        f"Grow the {seen.filesystem.fstype} into the whole of {seen.survey.source}{first}",
        Safety.ADDS,
        gain_bytes=int((device + behind - own) * seen.yield_ratio),
        measured="the device's size, what lies free behind it, and what the filesystem uses of it",
        seconds=5,
        undo="none: a filesystem is not made smaller while it is used"
        + ("; until it is grown the partition gets its old size back" if behind else ""),
        runbook=RUNBOOK.name,
        parameters={"mountpoint": seen.mountpoint},
        refused=refused,
    )


def kind(answer: bytes) -> dict[str, str]:
    """Type and device of a mount, from two lines. Raises ValueError."""
    fstype, source, *rest = text_of(answer).splitlines()
    if rest or fstype not in GROWERS or not source.startswith("/dev/"):
        raise ValueError(f"a {fstype} on {source} is not grown here")
    return {"type": fstype, "source": source}


KIND = Read("filesystem", lambda known: on_mount(known) + 'printf \'%s\\n\' "$type" "$source"\n', kind)


def grow(known: Known) -> list[Command]:
    """The one command that grows it."""
    mountpoint, kind = word(known.parameters["mountpoint"]), known.before["filesystem"]
    text = {
        "resize2fs": f"resize2fs {word(kind['source'])}",
        "xfs_growfs": f"xfs_growfs -d {mountpoint}",
        "btrfs": f"btrfs filesystem resize max {mountpoint}",
    }[GROWERS[kind["type"]]]
    return [Command(f"{TOOLS}{text} </dev/null", f"the filesystem on {kind['source']}", root=True)]


def _grown(known: Known) -> str:
    return (
        on_mount(known)
        + f"""own=$(fs_bytes "$type" "$source" "$m") && device=$(blockdev --getsize64 "$source") ||
  cannot_tell "how large the filesystem and its device are"
[ $((device - own)) -lt {SLACK_BYTES} ] && yes "it uses $own of the $device bytes of $source"
no "it uses $own of the $device bytes of $source"
"""
    )


def sound(known: Known) -> str:
    """resize2fs refuses a filesystem with recorded errors, and so must whoever plans with it."""
    return (
        on_mount(known)
        + """options=,$(findmnt -n -o OPTIONS -M "$m" | tail -n 1),
case $options in *,ro,* | *,emergency_ro,* | *,shutdown,*) no "it is mounted read-only: $options";; esac
case $type in ext*) state=$(dumpe2fs -h "$source" 2>/dev/null | sed -n 's/^Filesystem state: *//p')
  case $state in "") cannot_tell "its superblock cannot be read";; *error*) no "its superblock says: $state";; esac
esac
yes "writable, and no error is recorded"
"""
    )


def _may(known: Known) -> str:
    """ext4 wants CAP_SYS_RESOURCE for growing (bit 24; ext4_resize_begin in the kernel), XFS and btrfs CAP_SYS_ADMIN
    (bit 21). Containers often lack them."""
    return (
        on_mount(known)
        + """mine=; while read -r key value; do [ "$key" != CapEff: ] || mine=$value; done </proc/self/status
[ -n "$mine" ] || cannot_tell "which capabilities root has here"
case $type in ext*) bit=0x1000000 name=CAP_SYS_RESOURCE;; *) bit=0x200000 name=CAP_SYS_ADMIN;; esac
[ $((0x$mine & bit)) -ne 0 ] && yes "root has $name"
no "root lacks $name here: is this a container?"
"""
    )


def step(*needs: str) -> Step:
    """Growing as a step, after those that make the device larger."""
    return Step(
        name="grow",
        title="Grow the filesystem into its device, while it is used",
        why="Only then can anybody write into the new space. Nothing stops, and nothing is moved.",
        needs=needs,
        reads=(KIND,),
        prechecks=(
            patient("it is writable and sound", sound),
            patient("root may grow it", _may),
        ),
        commands=grow,
        verify=patient("the filesystem uses its whole device", _grown),
        undo=NoUndo(
            "A filesystem is not made smaller while it is used: XFS cannot, ext4 only unmounted, and a btrfs would "
            "have to move its data.",
            "nothing has to be: leave the space, or move the data to a smaller volume in a maintenance window.",
        ),
        point_of_no_return=True,
        deadline_seconds=900,
    )


def refuses(parameters: Mapping[str, Any]) -> str:
    """Why the mount point makes no sense; empty when it does."""
    return (
        ""
        if absolute(parameters["mountpoint"])
        else "mountpoint must be an absolute path, without //, /./, /../ or a / at its end"
    )


RUNBOOK = Runbook(
    name="grow-filesystem",
    version="1",
    title="Grow a filesystem into its device",
    purpose="The device under a mount point is larger than the filesystem on it.",
    not_when="The filesystem has recorded errors (fsck comes first), or the host is a container.",
    takes="Seconds; a minute for terabytes.",
    undo_takes="It is not undone: a filesystem is not made smaller while it is used.",
    parameters=(MOUNTPOINT,),
    steps=(
        partition.step(lambda _: "part=$source\n", lambda _: 'fs_bytes "$type" "$source" "$m"'),
        step("partition"),
    ),
    refuses=refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]),),
)
