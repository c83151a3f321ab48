"""Move a mounted btrfs to another disk, while it is used (btrfs-replace(8)).

The kernel copies, and writes to both meanwhile. A `btrfs replace` that was cut off goes on: at once when only its
program was killed, at the next mount after a power cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from runbooks_lib.procedures import other_disk
from runbooks_lib.procedures.storage.shell import TOOLS
from runbooks_lib.procedures.watching import io_pressure
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Check, Command, Known, Read, Runbook, Step, Undo, Watcher

_READ = """kind=$(findmnt -n -o FSTYPE --mountpoint "$MOUNT")
[ "$kind" = btrfs ] || { echo "no btrfs is mounted at $MOUNT" >&2; exit 3; }
btrfs filesystem show --raw "$MOUNT" || exit 3
"""
_DEVICE = re.compile(r"devid\s+(\d+) size (\d+) used \d+ path (\S+)")
_NAMES = """devices() { btrfs filesystem show --raw "$MOUNT" | sed -n 's/.* path //p' | sort | tr '\\n' ' '; }
status() { btrfs replace status -1 "$MOUNT" 2>&1; }
moving() { case $(status) in *'% done'*) return 0;; esac; return 1; }
settled() { while moving; do sleep 1; done; }
on() { ! moving && [ "$(devices)" = "$1 " ]; }
carry() { # FROM TO; without -f: a name that is another disk's by now has a signature, and is refused
  settled
  on "$2" || btrfs replace start -B "$1" "$2" "$MOUNT" </dev/null && on "$2"
}
"""
_LIES = """if on "$TO"; then yes "the filesystem on $MOUNT lies on $TO"; fi
moving && no "it is being replaced: $(status)"
no "the filesystem on $MOUNT lies on $(devices)"
"""
_FIT = """[ -b "$TO" ] || no "$TO is no block device"
command -v btrfs >/dev/null || no "btrfs is missing on the host"
moving && no "it is being replaced already: $(status)"
found=$(lsblk -n -r -p -o NAME,FSTYPE,MOUNTPOINT "$TO")
[ "$(echo $found)" = "$TO" ] || no "$TO is not empty: $found"
found=$(wipefs -n -p "$TO" | grep -v '^#')
[ -z "$found" ] || no "$TO has signatures: $found"
size=$(blockdev --getsize64 "$TO") || cannot_tell "how large $TO is"
[ "$size" -ge "$BYTES" ] || no "$TO has $((size / 1000000)) MB; $FROM has $((BYTES / 1000000))"
yes "$TO is empty, and has $((size / 1000000)) MB; $FROM has $((BYTES / 1000000))"
"""
_LASTS = """said=$(findmnt -s -n -o SOURCE "$MOUNT")
case $said in UUID=*|LABEL=*) yes "/etc/fstab mounts it by $said, which stays";; esac
case $said in '') yes "/etc/fstab does not name $MOUNT";; esac
no "/etc/fstab mounts it as $said: write UUID=$(findmnt -n -o UUID "$MOUNT") there first, the disk will be another"
"""
_BACK = """if moving; then btrfs replace cancel "$MOUNT" || true; settled; fi
on "$FROM" || carry "$TO" "$FROM"
"""
_IS_BACK = """if on "$FROM"; then yes "the filesystem on $MOUNT lies on $FROM, as before"; fi
no "the filesystem on $MOUNT lies on $(devices)"
"""
_PROGRESS = """status | sed -n 's/^\\([0-9.]*\\)% done.*/\\1/p' | grep . || echo 0
"""


def parse_devices(answer: bytes) -> list[dict[str, Any]]:
    """The filesystem's devices: `id`, `bytes` and `path` each. Raises ValueError."""
    found = [
        {"id": int(number), "bytes": int(size), "path": path} for number, size, path in _DEVICE.findall(text_of(answer))
    ]
    if not found:
        raise ValueError("btrfs named no device")
    return found


def _shell(known: Known) -> str:
    device = known.before["devices"][0]
    names = {"MOUNT": known.parameters["mountpoint"], "FROM": device["path"], "BYTES": device["bytes"]}
    names["TO"] = known.parameters["disk"]
    return TOOLS + "".join(f"{name}={word(value)}\n" for name, value in names.items()) + _NAMES


def _check(title: str, text: str) -> Check:
    return Check(title, lambda known: _shell(known) + text, root=True, deadline_seconds=120)


def _alone(known: Known) -> str:
    paths = [each["path"] for each in known.before["devices"]]
    if len(paths) > 1:
        return f"no 'it lies on several disks, which are replaced one by one, by hand: '{word(' '.join(paths))}\n"
    return f"yes 'it lies on one disk: '{word(paths[0])}\n"


def _command(text: str) -> Any:
    def commands(known: Known) -> Sequence[Command]:
        affects = f"the disk under {known.parameters['mountpoint']}; nothing in it"
        return [Command(_shell(known) + text, affects, root=True)]

    return commands


def _percent(answer: bytes) -> list[int]:
    return [int(float(answer) * 100), 10000]


REPLACE = Step(
    name="replace",
    title="Move the filesystem to the other disk, while it is used",
    why="Nothing that uses the filesystem notices: no path, no mount and no process changes.",
    reads=(
        Read(
            "devices",
            lambda known: f"{TOOLS}MOUNT={word(known.parameters['mountpoint'])}\n{_READ}",
            parse_devices,
            root=True,
            deadline_seconds=120,
        ),
    ),
    prechecks=(
        Check("it lies on one disk", _alone),
        _check("the other disk is empty and large enough", _FIT),
        _check("a reboot will find it", _LASTS),
    ),
    commands=_command('carry "$FROM" "$TO"\n'),
    verify=_check("the filesystem lies on the other disk", _LIES),
    undo=Undo(_command(_BACK), _check("the filesystem lies where it was", _IS_BACK), takes="as long as the way there"),
    deadline_seconds=24 * 3600,
    verify_seconds=60,
    detached=True,
    progress=Read("progress", lambda known: _shell(known) + _PROGRESS, _percent, root=True),
    watchers=(Watcher(io_pressure(), every_seconds=10),),
    expect=lambda _: "as long as the disks take for all of it; it stays in use, and nobody is cut off",
)


RUNBOOK = Runbook(
    name="replace-btrfs-disk",
    version="1",
    title="Move a mounted btrfs to another disk, with no downtime",
    purpose="The disk under a btrfs is to be left, and another disk is empty and at least as large. Databases, build "
    "servers, anything: nothing is stopped.",
    not_when="The filesystem lies on several disks; the old disk fails already: save what can be read first. What lies "
    "on the other disk is lost: it must be empty.",
    takes="As long as the disks need to copy what is used.",
    undo_takes="As long again: back to the old disk.",
    parameters=other_disk.parameters("the empty disk that it goes to, such as /dev/vdb"),
    steps=(REPLACE,),
    refuses=other_disk.refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]),),
)
