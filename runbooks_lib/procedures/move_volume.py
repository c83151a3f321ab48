"""Move a mounted logical volume to another disk of its volume group, while it is used (pvmove(8)).

pvmove mirrors the volume's extents onto the other disk, and lets go of the old ones when both are alike; what is
written meanwhile goes to both. It is the kernel that copies: a killed pvmove, or a power cut, leaves a mirror that
works, and pvmove goes on with it when it is called again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runbooks_lib.procedures import other_disk
from runbooks_lib.procedures.storage.shell import TOOLS
from runbooks_lib.procedures.watching import io_pressure
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Check, Command, Known, Read, Runbook, Step, Undo, Watcher

_FIELDS = "vg_name,lv_name,lv_uuid,lv_attr,segtype,seg_size_pe,devices"
_READ = """source=$(findmnt -n -o SOURCE --mountpoint "$MOUNT") || { echo "nothing is mounted at $MOUNT" >&2; exit 3; }
lvs --segments --reportformat json -o "$FIELDS" "$source" || exit 3
"""
_NAMES = """moving() { lvs -a --noheadings -o lv_name "$GROUP" 2>/dev/null | grep -q pvmove; }
elsewhere() { # another group in which pvmove is under way
  lvs -a --noheadings -o vg_name,lv_name 2>/dev/null | grep pvmove | while read -r group _; do
    [ "$group" = "$GROUP" ] || echo "$group"; done | head -n 1; }
devices() { # where the volume lies, one device a line
  lvs --segments --noheadings -o devices "$GROUP/$VOLUME" | tr ',' '\\n' | sed 's/ //g;s/(.*//' | sort -u; }
same() { [ "$(lvs --noheadings -o lv_uuid "$GROUP/$VOLUME" 2>/dev/null | tr -d ' ')" = "$UUID" ]; }
on() { # DISK: all of it
  same || return 2
  [ "$(devices)" = "$1" ] && ! moving; }
carry() { # FROM TO
  if moving; then pvmove -i 5 || return 1; fi
  if on "$2"; then return 0; fi
  pvmove -i 5 -n "$VOLUME" "$1" "$2" </dev/null
}
"""
_LIES = """if on "$TO"; then yes "$GROUP/$VOLUME lies on $TO, all of it"; fi
same || cannot_tell "the volume $GROUP/$VOLUME is not what it was"
moving && no "pvmove is under way"
no "$GROUP/$VOLUME lies on $(devices | tr '\\n' ' ')"
"""
_FIT = """[ "$TO" != "$FROM" ] || no "it lies on $TO already"
set -- $(pvs --noheadings --units b --nosuffix -o vg_name,pv_free,pv_missing "$TO" 2>/dev/null)
[ "${1:-}" = "$GROUP" ] || no "$TO is not in the volume group $GROUP (vgextend $GROUP $TO, when it is an empty disk)"
[ $# = 2 ] || no "$TO is missing"
extent=$(lvs --noheadings --units b --nosuffix -o vg_extent_size "$GROUP/$VOLUME" | tr -d ' ')
need=$((EXTENTS * extent))
[ "$2" -ge $need ] || no "$TO has $(($2 / 1000000)) MB of free extents, and $((need / 1000000)) MB are needed"
yes "$TO has $(($2 / 1000000)) MB of free extents in the group $GROUP, and $((need / 1000000)) MB are needed"
"""
_READY = """moving && no "pvmove is under way in the group $GROUP: pvmove goes on with it, pvmove --abort ends it"
command -v pvmove >/dev/null || no "pvmove is missing on the host"
dmsetup targets 2>/dev/null | grep -q '^mirror ' || modprobe -n -q dm-mirror 2>/dev/null ||
  no "this kernel has no dm-mirror, by which pvmove copies"
lost=$(vgs --noheadings -o vg_missing_pv_count "$GROUP" | tr -d ' ')
[ "$lost" = 0 ] || no "the group $GROUP lacks $lost of its physical volumes: mend it first"
yes "pvmove can copy"
"""
# Without a disk `pvmove --abort` ends every move on the host, somebody else's as well.
_BACK = """if moving; then
  other=$(elsewhere)
  [ -z "$other" ] || { echo "pvmove is under way in $other too, and --abort would end it: wait for it" >&2; exit 1; }
  pvmove --abort || exit 1
fi
for disk in $(devices); do [ "$disk" = "$FROM" ] || pvmove -i 5 -n "$VOLUME" "$disk" "$FROM" </dev/null || exit 1; done
"""
_IS_BACK = """if on "$FROM"; then yes "$GROUP/$VOLUME lies on $FROM, as before"; fi
moving && no "pvmove is under way"
no "$GROUP/$VOLUME lies on $(devices | tr '\\n' ' ')"
"""
_PROGRESS = """done=$(lvs -a --noheadings -o lv_name,copy_percent "$GROUP" | sed -n 's/.*pvmove[^ ]* *//p' | head -n 1)
echo "${done:-0}"
"""
_HEALTHY = """lost=$(vgs --noheadings -o vg_missing_pv_count "$GROUP" | tr -d ' ') || cannot_tell "vgs gave no answer"
[ "$lost" = 0 ] || no "a physical volume of $GROUP is missing"
yes "all physical volumes of $GROUP are there"
"""


def parse_volume(answer: bytes) -> dict[str, Any]:
    """The volume's `group`, `name`, `uuid`, `kind`, `attributes`, `extents`, and the `devices` under it. Raises
    ValueError."""
    try:
        rows = [row for part in json.loads(answer)["report"] for row in part["seg"]]
        devices = {each.partition("(")[0] for row in rows for each in row["devices"].split(",")}
        return {
            "group": rows[0]["vg_name"],
            "name": rows[0]["lv_name"],
            "uuid": rows[0]["lv_uuid"],
            "attributes": rows[0]["lv_attr"],
            "kind": "/".join(sorted({row["segtype"] for row in rows})),
            "extents": sum(int(row["seg_size_pe"]) for row in rows),
            "devices": sorted(devices),
        }
    except (LookupError, TypeError) as error:
        raise ValueError(f"lvs did not report one volume: {error}") from None


def _shell(known: Known) -> str:
    volume = known.before["volume"]
    names = {
        "GROUP": volume["group"],
        "VOLUME": volume["name"],
        "UUID": volume["uuid"],
        "EXTENTS": volume["extents"],
        "FROM": volume["devices"][0],
        "TO": known.parameters["disk"],
    }
    return TOOLS + "".join(f"{name}={word(value)}\n" for name, value in names.items()) + _NAMES


def _check(title: str, text: str) -> Check:
    return Check(title, lambda known: _shell(known) + text, root=True, deadline_seconds=120)


def _plain(known: Known) -> str:
    volume = known.before["volume"]
    name = f"{volume['group']}/{volume['name']}"
    if volume["kind"] != "linear" or volume["attributes"][0] != "-" or volume["attributes"][4] != "a":
        name += f" is {volume['kind']}, {volume['attributes']} (lvs(8), lv_attr): only a plain, active, linear one is"
        return f"no {word(name + ' moved')}\n"
    if len(volume["devices"]) != 1:
        return f"no {word(name + ' lies on several disks, and is moved by hand: ' + ' '.join(volume['devices']))}\n"
    return f"yes {word(name + ' is linear, and lies on ' + volume['devices'][0] + ' alone')}\n"


def _command(text: str) -> Any:
    def commands(known: Known) -> Sequence[Command]:
        volume = known.before["volume"]
        return [
            Command(_shell(known) + text, f"where {volume['group']}/{volume['name']} lies; nothing in it", root=True)
        ]

    return commands


def _percent(answer: bytes) -> list[int]:
    return [int(float(answer.decode("ascii").replace(",", ".")) * 100), 10000]


MOVE = Step(
    name="move",
    title="Move the volume's extents to the other disk, while it is used",
    why="Nothing that uses the filesystem notices: no path, no mount and no process changes.",
    reads=(
        Read(
            "volume",
            lambda known: f"{TOOLS}MOUNT={word(known.parameters['mountpoint'])} FIELDS={_FIELDS}\n{_READ}",
            parse_volume,
            root=True,
            deadline_seconds=120,
        ),
    ),
    prechecks=(
        Check("it is a plain volume", _plain),
        _check("pvmove can copy", _READY),
        _check("the other disk has room in the same group", _FIT),
    ),
    commands=_command('carry "$FROM" "$TO"\n'),
    verify=_check("the volume lies on the other disk, all of it", _LIES),
    undo=Undo(_command(_BACK), _check("the volume lies where it was", _IS_BACK), takes="as long as the way there"),
    deadline_seconds=24 * 3600,
    verify_seconds=60,
    detached=True,
    progress=Read("progress", lambda known: _shell(known) + _PROGRESS, _percent, root=True),
    watchers=(
        Watcher(_check("all disks of the group are there", _HEALTHY), every_seconds=15),
        Watcher(io_pressure(), every_seconds=10),
    ),
    expect=lambda _: "as long as the disks take for all of it; it stays in use, and nobody is cut off",
)


RUNBOOK = Runbook(
    name="move-volume",
    version="1",
    title="Move a mounted logical volume to another disk of its group, with no downtime",
    purpose="The disk under a filesystem is to be left - it is slow, old, or full of others - and another disk of the "
    "same volume group has room. Databases, build servers, anything: nothing is stopped.",
    not_when="The other disk is not in the volume group yet (vgextend first, when it is empty); the volume is thin, a "
    "RAID or has a snapshot; the old disk fails already: save what can be read first.",
    takes="As long as the disks need to copy the volume's whole size, used or not.",
    undo_takes="As long again: pvmove back.",
    parameters=other_disk.parameters("the physical volume that it goes to, such as /dev/vdb"),
    steps=(MOVE,),
    refuses=other_disk.refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]),),
)
