"""What makes the new place last: its mount in /etc/fstab, by UUID, and the server's unit waiting for it.

A mount that is missing after a reboot leaves an empty directory; with `RequiresMountsFor=` (systemd.unit(5)) the server
waits for the mount, and does not start without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runbooks_lib.procedures.relocate_postgres import stages
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK, cluster
from runbooks_lib.procedures.relocate_postgres.fstab import fstab_word
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Check, Command, Known, Read, Step, Undo

LASTING = "lasting"
_DROP_IN = "relocated.conf"

_READ = """say() { printf '%s ' "$1"; printf %s "$2" | od -An -v -tx1 | tr -d ' \\n'; echo; }
parent=${T%/*}; parent=${parent:-/}
mount=$(findmnt -n -o TARGET -T "$parent") || exit 3
say mount "$mount"; say uuid "$(findmnt -n -o UUID -T "$parent")"; say kind "$(findmnt -n -o FSTYPE -T "$parent")"
say listed "$(findmnt -s -F "$FSTAB" -n -o SOURCE "$mount")"
exit 0
"""


def _parse(answer: bytes) -> dict[str, str]:
    found = {}
    for line in answer.decode("ascii").splitlines():
        name, _, value = line.partition(" ")
        found[name] = text_of(bytes.fromhex(value))
    return found


def fstab_line(mount: dict[str, Any]) -> str:
    """The line for /etc/fstab (fstab(5)). `nofail`: a host whose disk is missing comes up,
    so that somebody can log in; the server waits all the same."""
    return f"UUID={mount['uuid']} {fstab_word(str(mount['mount']))} {mount['kind']} defaults,nofail 0 2"


def _names(known: Known) -> str:
    mount = known.before["mount"]
    directory = f"/etc/systemd/system/{cluster(known).facts['unit']}.d"
    waits = [str(known.parameters["target"])]
    waits += [str(known.parameters["directory"])] if known.parameters["place_by"] == "bind" else []
    text = "# The database was moved; without this mount there is none.\n[Unit]\n"
    text += "".join(f'RequiresMountsFor="{each}"\n' for each in waits)
    return (
        stages.shell(known)
        + f"MOUNT={word(mount['mount'])}\nLINE={word(fstab_line(mount))}\n"
        + f"LISTED={word(mount['listed'])}\n"
        + f"DIR={word(directory)}\nFILE={word(f'{directory}/{_DROP_IN}')}\nTEXT={word(text.rstrip())}\n"
    )


_ADD = """[ -n "$LISTED" ] || enlist "$LINE" || fail "cannot write in ${FSTAB%/*}"
if [ -n "$UNIT" ]; then
  mkdir -p -- "$DIR" && printf '%s\\n' "$TEXT" >"$FILE.part" && sync -- "$FILE.part" && mv -f -- "$FILE.part" "$FILE" &&
    sync -- "$DIR" || fail "cannot write $FILE"
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || fail "systemd did not read its files anew"; fi
"""
_ADDED = """[ -n "$(findmnt -s -F "$FSTAB" -n -o SOURCE "$MOUNT")" ] || no "/etc/fstab does not name $MOUNT"
if [ -n "$UNIT" ]; then
  case " $(systemctl show -p RequiresMountsFor --value "$UNIT") " in
    *"$T"*) ;; *) no "$UNIT does not wait for $T";;
  esac
fi
yes "after a reboot $MOUNT is mounted by /etc/fstab (${LISTED:-$LINE}); ${UNIT:-whoever starts the server} waits for it"
"""
_REMOVE = """rm -f -- "$FSTAB.relocate" "$FILE.part"
[ -n "$LISTED" ] || delist "$LINE" || fail "cannot write in ${FSTAB%/*}"
if [ -n "$UNIT" ]; then rm -f -- "$FILE"; rmdir -- "$DIR" 2>/dev/null; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || fail "systemd did not read its files anew"; fi
exit 0
"""
_REMOVED = """if [ -z "$LISTED" ] && listed "$LINE"; then no "/etc/fstab has the new line"; fi
[ ! -e "$FSTAB.relocate" ] || no "a cut command left $FSTAB.relocate"
if [ -n "$UNIT" ]; then [ ! -e "$FILE" ] && [ ! -e "$FILE.part" ] || no "$FILE is there"; fi
yes "/etc/fstab and the unit are as they were"
"""
_FIT = """uuid=$(findmnt -n -o UUID -T "${T%/*}/")
[ -n "$LISTED" ] || [ -n "$uuid" ] || no "the filesystem of $T has no UUID, and /etc/fstab does not name $MOUNT"
case $LISTED in /dev/sd*|/dev/vd*|/dev/nvme*)
  no "/etc/fstab mounts $MOUNT as $LISTED, a name that can change at a reboot: write UUID=$uuid there";;
esac
yes "$MOUNT is ${LISTED:-UUID=$uuid}"
"""


def _commands(known: Known) -> Sequence[Command]:
    return [Command(_names(known) + _ADD, "/etc/fstab, a drop-in for the server's unit", root=True)]


LASTS = Step(
    name=LASTING,
    title="Make the new place come back after a reboot, before the database",
    why="Without its mount the old path would lead nowhere, and the server must wait and not guess.",
    needs=(LOOK,),
    reads=(Read("mount", lambda known: stages.shell(known) + _READ, _parse, root=True),),
    prechecks=(Check("the mount has a lasting name", lambda known: _names(known) + _FIT, root=True),),
    commands=_commands,
    verify=Check("the new place comes back after a reboot", lambda known: _names(known) + _ADDED, root=True),
    undo=Undo(
        lambda known: [Command(_names(known) + _REMOVE, "/etc/fstab, the unit's drop-in", root=True)],
        Check("/etc/fstab and the unit are as they were", lambda known: _names(known) + _REMOVED, root=True),
        takes="a second",
    ),
    deadline_seconds=120,
)
