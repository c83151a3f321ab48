"""A partition made larger where it stands, into the free space behind it (sfdisk(8), partx(8)), while it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runbooks_lib.procedures.storage.shell import PATIENT_SECONDS, TOOLS, mount_words, on_mount, only, patient
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Command, Known, Read, Step, Undo

# Partitions begin and end at whole MiB: less than two of them behind one are nobody's loss.
SLACK_BYTES = 2 * 1024**2

# Sets `disk` and `number` of the partition `part`; both empty when it is none, or when there is nothing to do.
_PLACE = """disk= number=
[ -z "$part" ] || { here=$(readlink -f "/sys/class/block/$(basename "$(readlink -f "$part")")")
  [ ! -e "$here/partition" ] || { disk=/dev/$(basename "${here%/*}"); read -r number <"$here/partition"; }; }
"""
_READ = """[ -n "$number" ] || { echo none; exit 0; }
read -r size <"$here/size" && read -r unit <"${here%/*}/queue/logical_block_size" &&
  printf '%s %s %s %s\\n' "$disk" "$number" "$size" "$unit"
"""


# The table on the disk may be ahead of what the kernel knows, where a command was cut between the two.
_WRITTEN = """written=$(sfdisk -d "$disk" | sed -n "s|^/dev/${here##*/} : .* size= *\\([0-9]*\\),.*|\\1|p")
[ -n "$written" ] || cannot_tell "what the table on $disk says of $part"
"""


def _partition(answer: bytes) -> dict[str, Any] | None:
    """Disk, number, size and the disk's unit, or None. Raises ValueError."""
    words = text_of(answer).split()
    if words == ["none"]:
        return None
    disk, number, sectors, unit = words
    return {"disk": disk, "number": int(number), "bytes": int(sectors) * 512, "unit": int(unit)}


def step(part: Callable[[Known], str], own: Callable[[Known], str]) -> Step:
    """The step. `part`: shell text that sets `part`, the partition's device, or leaves it empty when no partition is
    to grow. `own`: shell text that prints how many bytes of it are used by what stands on it."""

    def place(known: Known) -> str:
        return on_mount(known) + part(known) + _PLACE

    def grown(known: Known) -> str:
        return place(known) + (
            '[ -n "$number" ] || yes "no partition is to grow"\n'
            'free=$(behind_partition "${here##*/}") || cannot_tell "what lies behind $part"\n'
            f'[ "$free" -ge {SLACK_BYTES} ] || yes "$free bytes lie behind $part"\n'
            'no "$free bytes lie behind $part"\n'
        )

    def may(known: Known) -> str:
        return place(known) + (
            '[ -n "$number" ] || yes "no partition is to grow"\n'
            "command -v sfdisk >/dev/null && command -v partx >/dev/null ||"
            ' no "sfdisk and partx are not both installed"\n'
            'label=$(sfdisk -d "$disk" 2>/dev/null | sed -n "s/^label: //p")\n'
            'case $label in gpt) ;; dos) [ "$number" -lt 5 ] ||'
            ' no "it is a logical partition: the extended one round it would have to grow first";;\n'
            ' *) no "the partition table is of the kind ${label:-unknown}";; esac\n'
            'said=$(echo ", +" | sfdisk --no-act --no-reread --force -N "$number" "$disk" 2>&1) ||'
            ' no "sfdisk would not do it: $said"\n'
            'yes "partition $number of $disk ($label), and sfdisk would do it"\n'
        )

    def grow(known: Known) -> list[Command]:
        return _resized(known, "+")

    def back(known: Known) -> list[Command]:
        was = known.before["partition"]
        if was is None:
            return []
        (command,) = _resized(known, str(was["bytes"] // was["unit"]))
        guard = (
            only("source_of", "type_of", "fs_bytes")
            + mount_words(known)
            + f"own=$({own(known)}) || {{ echo 'how much of it is used cannot be told' >&2; exit 1; }}\n"
            + f'[ "$own" -le {was["bytes"]} ] || {{ echo "the new space is used already ($own bytes)" >&2; exit 1; }}\n'
        )
        return [Command(guard + command.text, command.affects, root=True)]

    def is_back(known: Known) -> str:
        was = known.before["partition"]
        if was is None:
            return "yes 'no partition had grown'\n"
        return place(known) + (
            'read -r size <"$here/size" || cannot_tell "how large $part is"\n'
            + _WRITTEN
            + f"size=$((size * 512)) written=$((written * {was['unit']})) was={was['bytes']}\n"
            '[ $size -le $was ] && [ $written -le $was ] && yes "$part has $size bytes, as before"\n'
            'no "$part has $size bytes, and $written in the table on $disk; it had $was"\n'
        )

    return Step(
        name="partition",
        title="Make the partition larger, into the free space behind it",
        why="What stands on a partition can grow no further than the partition.",
        reads=(
            Read(
                "partition", lambda known: place(known) + _READ, _partition, root=True, deadline_seconds=PATIENT_SECONDS
            ),
        ),
        prechecks=(patient("the partition may grow", may),),
        commands=grow,
        verify=patient("nothing lies free behind the partition", grown),
        undo=Undo(back, patient("the partition has its old size", is_back), takes="a second"),
        deadline_seconds=180,
    )


def _resized(known: Known, size: str) -> list[Command]:
    was = known.before["partition"]
    if was is None:
        return []
    disk, number = word(was["disk"]), was["number"]
    # The kernel is told of this one partition: to read the table anew it would want the whole disk unused.
    text = f"""{TOOLS}echo ', {size}' | sfdisk -q --no-reread --no-tell-kernel --force -N {number} {disk} || exit 1
partx --update --nr {number} {disk}
"""
    return [Command(text, f"partition {number} of {was['disk']}", root=True)]
