"""Remove the old data of a move, when the new place has proven itself: a restart, a reboot, a backup.

The directory is known by its name, which ends in `.relocated`, and by the note that the move has left in it. It is
taken for the last copy until what the note says has become of it is there and in use. A note that names tablespaces
and WAL (`also: …`) is believed where the old data's own symlinks lead there and no server uses the place. The note
belongs to the database's user, so that these are removed with that user's rights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runbooks_lib.parameters import Parameter
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Check, Command, Known, NoUndo, Read, Runbook, Step

_SHELL = """cd / || exit 1
LC_ALL=C; export LC_ALL
nl='
'
note=; [ -L "$K/RELOCATED" ] || note=$(cat -- "$K/RELOCATED" 2>/dev/null)
"""
_OURS = """[ -d "$K" ] && [ ! -L "$K" ] || no "$K is no directory"
[ -n "$note" ] || no "no move has left its note in $K: it is not known what this is"
[ ! -e "$K/PG_VERSION" ] || no "a server could be started on $K"
printf '%s\\n' "$note"
also() { echo "and $1, $(du -skx -- "$1" | cut -f 1) kB"; }
left also
yes "$(du -sk -- "$K" | cut -f 1) kB"
"""
_UNUSED = """unused() { # DIRECTORY
  for each in /proc/[0-9]*; do
    case $(readlink "$each/cwd" "$each"/fd/* 2>/dev/null)$nl in
      *"$1/"*|*"$1$nl"*) no "process ${each#/proc/} uses $1";;
    esac
    for link in "$each/cwd/pg_wal" "$each"/cwd/pg_tblspc/*/PG_*; do
      [ ! "$link" -ef "$1" ] || no "the server in $(readlink -- "$each/cwd"), process ${each#/proc/}, keeps data in $1"
    done
  done
}
unused "$K" && left unused
yes "no process uses it"
"""
# A place that has been moved on has left a note of its own. The identifier is what pg_control begins with
# (src/include/catalog/pg_control.h). Where the old path was a link already, it was not `${K%.relocated}`.
_LIVES_ON = """now_in() { sed -n '1s/^This was the [a-z]* until [^;]*; it is now in \\(.*\\)\\.$/\\1/p' "$1/RELOCATED" 2>/dev/null; }
T=$(now_in "$K")
for each in 1 2 3 4 5 6 7 8 9; do
  [ -e "$T" ] || [ ! -e "$T.relocated/RELOCATED" ] || T=$(now_in "$T.relocated")
done
[ -n "$T" ] || no "its note does not say where it is now: this may be the last copy"
[ -d "$T" ] || no "it should be in $T, and that is not there: is its partition mounted? this may be the last copy"
[ -n "$(ls -A -- "$T")" ] || no "it should be in $T, and that is empty: this may be the last copy"
who=
identifier() { od -An -N8 -tu8 -- "$1/global/pg_control" 2>/dev/null; }
if [ -e "$K/global/pg_control" ]; then
  [ "$(identifier "$T")" = "$(identifier "$K")" ] || no "$T does not hold this database: this may be the last copy"
  { read -r who <"$T/postmaster.pid"; } 2>/dev/null && [ "/proc/$who/cwd" -ef "$T" ] ||
    no "no server runs in $T: start it first; until then this may be the last good copy"
elif [ -e "${K%.relocated}" ]; then
  [ "${K%.relocated}" -ef "$T" ] || no "${K%.relocated} does not lead to $T: this may be the last copy"
else
  for each in /proc/[0-9]*; do
    case $(readlink "$each/cwd" "$each"/fd/* 2>/dev/null)$nl in *"$T/"*|*"$T$nl"*) who=${each#/proc/}; break;; esac
  done
  [ -n "$who" ] || no "${K%.relocated} is not there, and no process uses $T: this may be the last copy"
fi
yes "it is in $T${who:+, where process $who uses it}"
"""  # noqa: E501
# A clock that is stepped takes the time of the boot along; the boot's own name does not change. Older notes have none.
_REBOOTED = """[ "$WITHOUT" = 0 ] || yes "as you say, without a reboot since"
was=$(sed -n 's/^boot: //p' "$K/RELOCATED") is=$(cat /proc/sys/kernel/random/boot_id)
moved=$(stat -c %Y -- "$K/RELOCATED") booted=$(sed -n 's/^btime //p' /proc/stat)
if [ -n "$was" ]; then [ "$was" != "$is" ]; else [ "$booted" -gt "$moved" ]; fi ||
  no "the host has not been restarted since the move: whether the new place comes back is not known; restart it at a \
good time, or say without_reboot"
yes "the host was restarted since, and came back"
"""
_LEFT = """[ -d "$K" ] || exit 0
sed -n 's/^also: //p' "$K/RELOCATED" | while IFS= read -r place; do
  for link in "$K/pg_wal" "$K"/pg_tblspc/*/PG_*; do
    if [ -L "$K/pg_wal" ] || [ "$link" != "$K/pg_wal" ]; then
      [ ! "$link" -ef "$place" ] || printf '%s\\n' "$place"
    fi
  done
done
exit 0
"""
# A place may be a mount point, and its parent somebody else's: it stays, empty.
_REMOVE = """empty() { # DIRECTORY, with the rights of the old data's user
  [ -d "$1" ] || return 0
  setpriv --reuid="$(stat -c %U -- "$K")" --regid="$(stat -c %G -- "$K")" --init-groups -- \\
    find "$1" -xdev -mindepth 1 -maxdepth 1 ! -name lost+found -exec rm -rf -- {} + &&
    { rmdir -- "$1" 2>/dev/null || true; }
}
[ ! -d "$K" ] || left empty || { echo "something could not be removed; $K is kept" >&2; exit 1; }
rm -rf -- "$K"
"""
_GONE = """[ ! -e "$K" ] || no "$K is there"
gone() { [ ! -d "$1" ] || [ -z "$(find "$1" -mindepth 1 -maxdepth 1 ! -name lost+found)" ] || no "$1 is not empty"; }
left gone
yes "$K is gone"
"""


def _text(text: str, known: Known) -> str:
    calls = "".join(f' && "$@" {word(place)}' for place in known.before.get("left", ()))
    names = f"K={word(known.parameters['kept'])}\nWITHOUT={int(known.parameters['without_reboot'])}\n"
    return f"{names}left() {{ :{calls}; }}\n{_SHELL}{text}"


def _lines(answer: bytes) -> list[str]:
    """The tablespaces and WAL that were left outside of the old data."""
    return sorted(set(text_of(answer).splitlines()))


def _check(title: str, text: str) -> Check:
    return Check(title, lambda known: _text(text, known), root=True, deadline_seconds=120)


REMOVE = Step(
    name="remove",
    title="Remove the old data",
    why="It takes room that something else needs, and nobody will go back to it.",
    reads=(Read("left", lambda known: _text(_LEFT, known), _lines, root=True),),
    prechecks=(
        _check("it is what a move has left", _OURS),
        _check("nobody uses it", _UNUSED),
        _check("the new place is there and in use", _LIVES_ON),
        _check("the new place has survived a reboot", _REBOOTED),
    ),
    commands=lambda known: [
        Command(_text(_REMOVE, known), ", ".join([known.parameters["kept"], *known.before["left"]]), root=True)
    ],
    verify=_check("the old data is gone", _GONE),
    undo=NoUndo("removed data does not come back.", "restore the backup that you named."),
    point_of_no_return=True,
    deadline_seconds=3600,
    detached=True,
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    """Why these parameters make no sense; empty when they do."""
    kept = str(parameters["kept"])
    if not kept.startswith("/") or not kept.endswith(".relocated") or "\n" in kept or "/../" in kept:
        return "kept must be the absolute path of the old data; it ends in .relocated"
    if not str(parameters["backup"]).strip():
        return "backup must say which backup was taken from the new place, and when"
    return ""


RUNBOOK = Runbook(
    name="remove-relocated",
    version="3",
    title="Remove the old data of a move",
    purpose="A database or a directory was moved, the new place has proven itself, and the old data takes room.",
    not_when="No backup was taken from the new place yet, or the host was not restarted since: then the old data may "
    "still be wanted.",
    takes="Seconds; minutes for many files.",
    undo_takes="There is none: what is removed is gone.",
    parameters=(
        Parameter("kept", "str", str, "", "the old data, an absolute path that ends in .relocated"),
        Parameter("backup", "str", str, "", "which backup was taken from the new place, and when"),
        Parameter(
            "without_reboot", "bool", bool, False, "remove it although the host was not restarted since the move"
        ),
    ),
    steps=(REMOVE,),
    refuses=_refuses,
    touches=lambda parameters: (str(parameters["kept"]),),
    notebook="incident/remove-relocated-data.ipynb",
)
