"""What makes the new place last: its mount in /etc/fstab, by UUID, and the server's unit waiting for it.

A mount that is missing after a reboot leaves an empty directory; with `RequiresMountsFor=` (systemd.unit(5)) the server
waits for the mount, and does not start without it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any

from runbooks_lib.procedures.relocate_postgres import labels, stages
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK, cluster
from runbooks_lib.procedures.relocate_postgres.fstab import fstab_word
from runbooks_lib.runbook.quoting import text_of, word, words
from runbooks_lib.runbook.step import Check, Command, Known, Read, Step, Undo

LASTING = "lasting"
UNITS = "/etc/systemd/system"  # a test names another
_DROP_IN = "relocated.conf"

_READ = """say() { printf '%s ' "$1"; printf %s "$2" | od -An -v -tx1 | tr -d ' \\n'; echo; }
tell() { # x x DIRECTORY
  parent=${3%/*}; parent=${parent:-/}
  mount=$(findmnt -n -o TARGET -T "$parent") || exit 3
  say mount "$mount"; say uuid "$(findmnt -n -o UUID -T "$parent")"; say kind "$(findmnt -n -o FSTYPE -T "$parent")"
  say root "$(findmnt -n -o FSROOT -T "$parent")"
  say listed "$(findmnt -s -F "$FSTAB" -n -o SOURCE "$mount")"
}
tell x x "$T" && apart tell
exit 0
"""


def _drop_in(known: Known) -> str:
    """The file of the unit's drop-in; an earlier move may have left one."""
    return f"{UNITS}/{cluster(known).facts['unit']}.d/{_DROP_IN}"


def _parse(answer: bytes) -> list[dict[str, str]]:
    """Each mount once: its `mount` point, `uuid`, `kind`, `root` (what of its file system is mounted there), and what
    `/etc/fstab` has `listed` for it."""
    found: dict[str, dict[str, str]] = {}
    for line in answer.decode("ascii").splitlines():
        name, _, value = line.partition(" ")
        text = text_of(bytes.fromhex(value))
        if name == "mount":
            mount = found.setdefault(text, {})
        mount[name] = text
    return list(found.values())


def _whole(answer: bytes) -> str:
    return text_of(answer).rstrip("\n")


def fstab_line(mount: dict[str, Any]) -> str:
    """The line for /etc/fstab (fstab(5)). `nofail`: a host whose disk is missing comes up,
    so that somebody can log in; the server waits all the same."""
    part = f",subvol={fstab_word(str(mount['root']))}" if mount["kind"] == "btrfs" and mount["root"] != "/" else ""
    return f"UUID={mount['uuid']} {fstab_word(str(mount['mount']))} {mount['kind']} defaults{part},nofail 0 2"


def _bound(mount: dict[str, Any]) -> str:
    """The directory of a file system that a bind mount shows; empty for a whole one, and for a subvolume."""
    return "" if mount["kind"] == "btrfs" or mount["root"] == "/" else str(mount["root"])


def _names(known: Known) -> str:
    calls = "".join(
        f' && "$@" {words(mount["mount"], fstab_line(mount), mount["listed"], _bound(mount))}'
        for mount in known.before["mounts"]
    )
    file = _drop_in(known)
    waits = [str(known.parameters["target"]), *(each.goes for each in cluster(known).apart)]
    waits += [str(known.parameters["directory"])] if known.parameters["place_by"] == "bind" else []
    text = "# The database was moved; without this mount there is none.\n[Unit]\n"
    text += "".join(f'RequiresMountsFor="{each}"\n' for each in waits)
    return (
        stages.shell(known)
        + labels.shell()
        + f'mounts() {{ :{calls}; }}\nK_OR_R=$R; [ ! -d "$K" ] || K_OR_R=$K\n'
        + f"DIR={word(posixpath.dirname(file))}\nFILE={word(file)}\nTEXT={word(text.rstrip())}\n"
        + f"OLD={word(known.before['drop_in'])}\n"
        + _SAME
    )


# A line for the mount point may be that of another filesystem. A tag that no device bears stays as it is written.
_SAME = """same() { # MOUNT UUID SOURCE
  now=$(findmnt -v -n -o SOURCE "$1") then=$(findmnt -e -s -F "$FSTAB" -n -o SOURCE "$1")
  [ -z "$now" ] || [ "$3" = "UUID=$2" ] || [ "$then" = "$now" ] || [ "$then" -ef "$now" ] ||
    { [ -n "$2" ] && [ "$(lsblk -dno UUID -- "$then" 2>/dev/null)" = "$2" ]; }; }
"""
_ADD = """add() { [ -n "$3" ] || enlist "$2" || fail "cannot write in ${FSTAB%/*}"; }
mounts add
kept() { rule "$@" || fail "SELinux took no rule for $3"; }
kept x "$R" "$T" && apart kept
if [ -n "$UNIT" ]; then
  mkdir -p -- "$DIR" && printf '%s\\n' "$TEXT" >"$FILE.part" && sync -- "$FILE.part" && mv -f -- "$FILE.part" "$FILE" &&
    sync -- "$DIR" || fail "cannot write $FILE"
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || fail "systemd did not read its files anew"; fi
"""
_ADDED = """named() {
  said=$(findmnt -s -F "$FSTAB" -n -o SOURCE "$1"); [ -n "$said" ] || no "/etc/fstab does not name $1"
  uuid=$(findmnt -n -o UUID "$1")
  same "$1" "$uuid" "$said" || no "/etc/fstab mounts $said on $1, where UUID=$uuid is mounted now"
  echo "after a reboot $1 is mounted by /etc/fstab (${3:-$2})"
}
mounts named
kept() { ! selinux || lasting "$@" || no "after a relabelling SELinux would give $3 another type than $2"; }
if [ "$R" != "$T" ]; then kept x "$K_OR_R" "$T" && apart kept; fi
waits() { # x x DIRECTORY
  case $(systemctl show -p RequiresMountsFor --value "$UNIT") in *"$3"*) ;; *) no "$UNIT does not wait for $3";; esac
}
if [ -n "$UNIT" ]; then waits x x "$T" && apart waits; fi
yes "${UNIT:-whoever starts the server} waits for it"
"""
_REMOVE = """rm -f -- "$FSTAB.relocate" "$FILE.part"
drop() { [ -n "$3" ] || delist "$2" || fail "cannot write in ${FSTAB%/*}"; }
mounts drop
unkept() { unrule "$@" || fail "SELinux did not drop its rule for $3"; }
unkept x "$R" "$T" && apart unkept
if [ -n "$UNIT" ] && [ -n "$OLD" ]; then printf '%s\\n' "$OLD" >"$FILE.part" && mv -f -- "$FILE.part" "$FILE" &&
  sync -- "$FILE" "$DIR" || fail "cannot write $FILE"
elif [ -n "$UNIT" ]; then rm -f -- "$FILE"; rmdir -- "$DIR" 2>/dev/null; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || fail "systemd did not read its files anew"; fi
exit 0
"""
_REMOVED = """dropped() { if [ -z "$3" ] && listed "$2"; then no "/etc/fstab has the new line for $1"; fi; }
mounts dropped
[ ! -e "$FSTAB.relocate" ] || no "a cut command left $FSTAB.relocate"
if [ -n "$UNIT" ]; then
  [ ! -e "$FILE.part" ] || no "a cut command left $FILE.part"
  [ "$(cat -- "$FILE" 2>/dev/null)" = "$OLD" ] || no "$FILE is not as it was"
fi
yes "/etc/fstab and the unit are as they were"
"""
_FIT = """lasts() {
  uuid=$(findmnt -n -o UUID "$1")
  [ -z "$3" ] || same "$1" "$uuid" "$3" ||
    no "/etc/fstab mounts $3 on $1, where UUID=$uuid is mounted now: correct its line"
  [ -n "$3" ] || [ -z "$4" ] ||
    no "$1 shows $4 of the file system UUID=$uuid (a bind mount): write its line into /etc/fstab first"
  [ -n "$3" ] || [ -n "$uuid" ] || no "the filesystem on $1 has no UUID, and /etc/fstab does not name it"
  case $3 in /dev/sd*|/dev/vd*|/dev/nvme*)
    no "/etc/fstab mounts $1 as $3, a name that can change at a reboot: write UUID=$uuid there";;
  esac
  echo "$1 is ${3:-UUID=$uuid}"
}
mounts lasts
yes "each mount has a lasting name"
"""


def _commands(known: Known) -> Sequence[Command]:
    return [Command(_names(known) + _ADD, "/etc/fstab, a drop-in for the server's unit", root=True)]


LASTS = Step(
    name=LASTING,
    title="Make the new place come back after a reboot, before the database",
    why="Without its mount the old path would lead nowhere, and the server must wait and not guess.",
    needs=(LOOK,),
    reads=(
        Read("mounts", lambda known: stages.shell(known) + _READ, _parse, root=True),
        Read("drop_in", lambda known: f"cat -- {word(_drop_in(known))} 2>/dev/null; exit 0\n", _whole, root=True),
    ),
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
