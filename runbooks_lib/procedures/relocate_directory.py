"""Move the directory of a service to another partition by copying it, for everything that cannot have a standby.

Hot passes of rsync while the service works, then a short cold pass in its safe form: by time of change to the
nanosecond, and by checksum for every file that was touched since the last hot pass began. A time alone may lie: a file
may change twice within one tick of the file system's clock, and a program may set it back.

Nothing is removed: the old directory is renamed and stays. The old path leads to the new place as in
`relocate_postgres`, whose parts are used here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.disk_rates import copying_seconds, rates_words, read_rates
from runbooks_lib.procedures.relocate_postgres import prechecks, stages
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK, cluster
from runbooks_lib.procedures.relocate_postgres.lasting import LASTING, LASTS
from runbooks_lib.procedures.relocate_postgres.offers import offers, read_disks
from runbooks_lib.procedures.relocate_postgres.paths import refuses_paths
from runbooks_lib.procedures.relocate_postgres.switching import NOTE
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Check, Command, Known, NoUndo, Read, Runbook, Step, Undo, Watcher

COPY, SWITCH, TIDY = "copy", "switch", "tidy"
STOP_SECONDS = 600

_READ = """cd / || exit 1
say() {{ printf '%s ' "$1"; printf %s "$2" | od -An -v -tx1 | tr -d ' \\n'; echo; }}
P={directory}; UNIT={unit}
[ -d "$P" ] || {{ echo "$P is no directory" >&2; exit 3; }}
R=$(readlink -f -- "$P") || exit 3
[ "$(systemctl show -p LoadState --value "$UNIT")" = loaded ] || {{ echo "systemd knows no unit $UNIT" >&2; exit 3; }}
say real "$R"; say owner "$(stat -c %U -- "$R")"; say group "$(stat -c %G -- "$R")"
link=; [ ! -L "$P" ] || link=$(readlink -- "$P")
say link "$link"
"""


def _parse(answer: bytes) -> dict[str, str]:
    found = dict.fromkeys(("exe", "port", "sockets", "config_file"), "")
    for line in answer.decode("ascii").splitlines():
        name, _, value = line.partition(" ")
        found[name] = text_of(bytes.fromhex(value))
    return found


def _facts(known: Known) -> dict[str, Any]:
    """In the shape of a `cluster`; the mark of the move is the old path."""
    directory = str(known.parameters["directory"])
    mark = hashlib.sha256(directory.encode(errors="surrogateescape")).hexdigest()[:16]
    return {**known.before["directory"], "unit": known.parameters["unit"], "identifier": mark}


def _expected_seconds(known: Known) -> str:
    """How long the first pass will take, in words: whole seconds. Runs of earlier versions have measured nothing."""
    looked = {"rates": {}, **known.outputs.get(LOOK, known.before)}
    least, most = copying_seconds(looked["rates"], looked["size_bytes"], int(known.parameters["throttle_mb"]))
    return f"{least:.0f} to {most:.0f} s"


def _copied(title: str) -> Check:
    def script(known: Known) -> str:
        return f"EXPECTED={word(_expected_seconds(known))}\n{stages.shell(known)}{_COPIED}"

    return Check(title, script, root=True)


def _rates(known: Known) -> str:
    lies, target = known.before["directory"]["real"], known.parameters["target"]
    return "exit 0\n" if lies == target else f"rates . {word(target)} {word(lies)}\n"


def _looked(known: Known) -> str:
    size = int(known.before["size_bytes"])
    lies, backup = known.before["directory"]["real"], known.parameters["backup"]
    said = f"{size / 1e6:.0f} MB in {lies}; last backup, as you say: {backup}"
    if lies != known.parameters["target"]:
        said += f"\nthe first pass takes about {_expected_seconds(known)}\n{rates_words(known.before['rates'])}"
    mine = Known(known.parameters, {}, {LOOK: {"cluster": _facts(known)}})
    said = "\n".join([*offers(known.before["disks"]), said])
    return stages.shell(mine) + f'yes {word(said)}"; $UNIT is $(systemctl is-active "$UNIT")"\n'


_ROOM = """parent=${{T%/*}}; parent=${{parent:-/}}
set -- $(stat -f -c '%a %S %d %c' -- "$parent"); free=$(($1 * $2)) inodes=$3 all=$4
[ $free -ge {need} ] || no "$parent has $((free / 1000000)) MB free, and $(({need} / 1000000)) MB are needed"
files=$(find "$R" -xdev | wc -l)
[ $all = 0 ] || [ $inodes -gt $((files + files / 10 + 100)) ] || no "$parent has $inodes inodes free, and $files files come"
yes "$((free / 1000000)) MB free, $(({need} / 1000000)) MB needed"
"""  # noqa: E501
_RUNNING = """command -v rsync >/dev/null || no "rsync is missing on the host"
[ "$(systemctl is-active "$UNIT")" = active ] || no "$UNIT is not running: what it needs to run cannot be told"
said=$(find "$R" -xdev -type s 2>/dev/null | head -n 1)
yes "$UNIT runs${said:+; sockets such as $said are made anew by it}"
"""
_RSYNC = "rsync -aHAXS --numeric-ids --delete --modify-window=-1 --one-file-system $RATE"
# 24: files vanished while they were copied, which they may.
_PASS = f"""pass() {{ {_RSYNC} "$@" -- "$SOURCE/" "$T/"; x=$?; [ $x = 0 ] || [ $x = 24 ]; }}
"""
_COPY = """[ $stage = here ] || exit 0
[ ! -s "$W/complete" ] || exit 0
if [ ! -s "$W/cluster" ]; then
  [ -z "$(ls -A -- "$W" 2>/dev/null | grep -vx 'cluster.*')" ] || fail "$W is not of a move"
  [ ! -d "$T" ] || [ -z "$(ls -A -- "$T")" ] || fail "$T is not empty"
  install -d -m 0700 -- "$W" && printf '%s\\n' "$ID" >"$W/cluster.part" && sync -- "$W/cluster.part" &&
    mv -- "$W/cluster.part" "$W/cluster" && sync -- "$W" "${W%/*}" || fail "cannot make $W"
fi
[ "$(cat "$W/cluster" 2>/dev/null)" = "$ID" ] || fail "$W is not of a move of $P"
SOURCE=$R
up; begin=$now
pass || fail "rsync ended with status $x"
up; echo "the first pass took $(((now - begin) / 100)) s" | tee "$W/took"
: >"$W/stamp" && sleep 1 && pass || fail "rsync ended with status $x"
date -u +%Y-%m-%dT%H:%M:%SZ >"$W/complete.part" && sync -f -- "$T" && mv -- "$W/complete.part" "$W/complete"
"""
_COPIED = """[ $stage != placed ] || yes "the directory is at $T already"
[ $stage != between ] || [ ! -s "$W/complete" ] || yes "the directory is on its way to $T"
[ -s "$W/complete" ] && [ -e "$W/stamp" ] || no "there is no whole copy in $T"
[ ! -s "$W/took" ] || echo "$(cat -- "$W/took"); $EXPECTED were expected"
yes "$T holds a copy, of $(cat "$W/complete")"
"""
_REMOVE = """[ $stage = here ] || fail "the directory is not at its old place"
[ -d "$W" ] || exit 0
if [ ! -s "$W/cluster" ]; then rm -f -- "$W/cluster.part" && rmdir -- "$W" || fail "$W is not of a move"; exit 0; fi
[ "$(cat "$W/cluster")" = "$ID" ] || fail "$W is not of a move of $P"
rm -rf -- "$T" && rm -rf -- "$W"
"""
_REMOVED = """[ $stage = here ] || no "the directory is not at its old place"
[ ! -e "$W" ] || no "$W is there"
yes "nothing is left of the copy"
"""
_FUNCTIONS = f"""up() {{ read -r now x </proc/uptime; now=${{now%.*}}${{now#*.}}; }}
used() {{ for each in /proc/[0-9]*; do case $(readlink "$each/cwd" "$each"/fd/* 2>/dev/null)$nl in
  *"$1/"*|*"$1$nl"*) who=${{each#/proc/}}; return 0;; esac; done; return 1; }}
back() {{ systemctl start "$UNIT"; fail "$*; $UNIT is started again at its old place"; }}
cold() {{ # SOURCE; the copy is then the same, proven
  SOURCE=$1
  pass || {{ why="rsync ended with status $x"; return 1; }}
  (cd -- "$SOURCE" && find . -xdev -type f '(' -newer "$W/stamp" -o -cnewer "$W/stamp" ')' -print0) >"$W/touched" &&
    {_RSYNC.replace(" --delete", "")} --checksum --from0 --files-from="$W/touched" -- "$SOURCE/" "$T/" ||
    {{ why="rsync ended with status $?"; return 1; }}
  said=$({_RSYNC} -n -i -- "$SOURCE/" "$T/") && [ -z "$said" ] || {{ why="the copy differs: $said"; return 1; }}
  echo "gate: nothing differs; $(tr -cd '\\000' <"$W/touched" | wc -c) files were compared byte by byte"
}}
"""
_SWITCH = """begin=
if [ $stage = here ] && [ ! -e "$W/started" ]; then
  [ -e "$W/stamp" ] || fail "there is no copy; nothing was changed"
  prepare || fail "cannot write beside $P; nothing was changed"
  up; begin=$now
  systemctl stop "$UNIT" || back "$UNIT did not stop"
  ! used "$R" || back "process $who still uses $R"
  cold "$R" || back "the gate is shut: $why"
  sync -f -- "$T" || back "the copy is not safe on the disk"
  mv -T -- "$R" "$K" || back "cannot rename $R"
  stage=between
elif [ $stage = between ]; then
  cold "$K" || fail "the gate is shut: $why; take it back: undo"
fi
if [ $stage = between ]; then place || fail "the old path could not be led to $T; resume, or take it back"; fi
sync -- "${K%/*}" "${P%/*}" || fail "the renames are not safe on the disk; resume"
: >"$W/started" && sync -- "$W/started" "$W" || fail "cannot write in $W; resume, or take it back"
systemctl start "$UNIT" || fail "$UNIT does not start at its new place: journalctl -u $UNIT; mend that, then resume"
up; [ -z "$begin" ] || echo "$UNIT stood still for $(((now - begin) * 10)) ms"
printf 'This was the directory until %s; it is now in %s.\\nNothing here changes any more.\\nboot: %s\\n' \\
  "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$T" "$(cat /proc/sys/kernel/random/boot_id)" | note
forget
"""
_SWITCHED = """[ $stage = placed ] || no "the directory is not at $T"
[ "$(systemctl is-active "$UNIT")" = active ] || no "$UNIT does not run"
[ ! -d "$W" ] || [ -e "$W/started" ] || no "it was not started by the switch"
yes "$UNIT runs, and $P leads to $T"
"""
_PASSED = """[ ! -e "$W/started" ] || yes "$UNIT has been started at the new place"
[ -d "$W" ] || yes "the marks of the move are gone: it was finished"
no "$UNIT has not been started at the new place"
"""
_BACK = """[ ! -e "$W/started" ] || fail "$UNIT has been started at the new place"
if [ $stage != here ]; then displace && mv -T -- "$K" "$R" || fail "$K could not be given its old name"; fi
forget; sync -- "${R%/*}" "${P%/*}"
systemctl start "$UNIT"
"""
_IS_BACK = """[ $stage = here ] && [ -d "$R" ] || no "the directory is not at its old place"
[ ! -L "$P.relocate" ] || no "a cut command left $P.relocate"
[ "$(systemctl is-active "$UNIT")" = active ] || no "$UNIT does not run"
yes "$UNIT runs, and $R is where it was"
"""
_TIDIED = """[ $stage = placed ] || no "the directory is not at $T"
[ ! -e "$W" ] || no "$W is there"
yes "only the old data is left: $K"
"""


def _commands(text: str, affects: str) -> Any:
    def commands(known: Known) -> Sequence[Command]:
        throttle = int(known.parameters["throttle_mb"])
        rate = f"RATE={'--bwlimit=' + str(throttle) + 'M' if throttle else ''}\n"
        return [Command(stages.shell(known) + rate + _PASS + NOTE + _FUNCTIONS + text, affects, root=True)]

    return commands


def _room(known: Known) -> str:
    return stages.shell(known) + _ROOM.format(need=prechecks.needed_bytes(known))


STEPS = (
    Step(
        name=LOOK,
        title="Look at the directory and its service",
        why="Everything that follows goes by what is really there.",
        reads=(
            Read(
                "directory",
                lambda known: _READ.format(
                    directory=word(known.parameters["directory"]), unit=word(known.parameters["unit"])
                ),
                _parse,
                root=True,
            ),
            Read(
                "size_bytes",
                lambda known: (
                    f"du -skx -- {word(known.before['directory']['real'])} | {{ read -r k x; echo $((k * 1024)); }}\n"
                ),
                int,
                root=True,
                deadline_seconds=600,
            ),
            read_rates(_rates),
            read_disks(lambda known: str(known.before["directory"]["real"])),
        ),
        prechecks=(Check("the host answers", lambda _: "no 'it was not looked at'"),),
        commands=lambda _: (),
        outputs=lambda known: {
            "cluster": _facts(known),
            "size_bytes": known.before["size_bytes"],
            "rates": known.before["rates"],
        },
        verify=Check("the directory was looked at", _looked, root=True),
        undo=NoUndo("it only looked.", "nothing.", harmless=True),
        deadline_seconds=30,
    ),
    Step(
        name=COPY,
        title="Copy the directory twice while its service works on",
        why="The second time takes only what changed meanwhile, and the last time will take less.",
        needs=(LOOK,),
        prechecks=(
            stages.check("the service runs, and rsync is there", _RUNNING),
            prechecks.NO_MOUNT,
            prechecks.APART,
            prechecks.FREE_PLACE,
            Check("there is room", _room, root=True),
            prechecks.LABELS,
            prechecks.SANDBOX,
            prechecks.MENTIONED,
        ),
        commands=_commands(_COPY, "the target"),
        verify=_copied("there is a copy"),
        undo=Undo(
            _commands(_REMOVE, "the copy"), stages.check("nothing is left of the copy", _REMOVED), takes="seconds"
        ),
        deadline_seconds=24 * 3600,
        detached=True,
        watchers=(Watcher(prechecks.TARGET_HAS_ROOM),),
        expect=lambda known: f"the first pass takes about {_expected_seconds(known)}; the service works on meanwhile",
    ),
    LASTS,
    Step(
        name=SWITCH,
        title="Stop the service, copy the rest, prove that nothing differs, start it on the copy",
        why="The old path must lead to the new place, and no byte may be lost.",
        needs=(LOOK, LASTING, COPY),
        prechecks=(_copied("the copy is there"),),
        commands=_commands(_SWITCH, "the service, the old path"),
        verify=stages.check("the service runs at its new place", _SWITCHED),
        undo=Undo(
            _commands(_BACK, "the old path, the service"),
            stages.check("the service runs at its old place", _IS_BACK),
            takes="seconds, and only until the service has been started at the new place",
        ),
        point_of_no_return=True,
        passed=stages.check("the service has been started at the new place", _PASSED),
        deadline_seconds=6 * 3600,
        detached=True,
        expect=lambda known: (
            "the service stands still for the last pass: seconds where little changes, up to the time of the first "
            f"({_expected_seconds(known)}) where every file does"
        ),
    ),
    Step(
        name=TIDY,
        title="Remove the marks of the move; the old data stays",
        why="A later move must find no marks of this one.",
        needs=(LOOK, SWITCH),
        prechecks=(stages.check("the service runs at its new place", _SWITCHED),),
        commands=_commands('[ $stage = placed ] || exit 1\nrm -rf -- "$W"\n', "the directory with this move's marks"),
        verify=stages.check("only the old data is left", _TIDIED),
        undo=NoUndo("only marks of the copying were removed.", "nothing.", harmless=True),
        deadline_seconds=60,
    ),
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    """Why these parameters make no sense; empty when they do."""
    if not str(parameters["unit"]).endswith(".service"):
        return "unit must be the service's unit, such as mariadb.service"
    return refuses_paths(parameters)


RUNBOOK = Runbook(
    name="relocate-directory",
    version="3",
    title="Move a service's directory to another partition of its host",
    purpose="The partition under a service is full, or slow, and the service cannot have a standby: MariaDB, a build "
    "server's data, or a PostgreSQL that relocate-database refuses.",
    not_when="Both partitions are in one volume group (`pvmove` needs no downtime at all); the directory belongs to "
    "several services; or a PostgreSQL could be moved by relocate-database, in a second.",
    takes="Copying takes as long as the disks do; the service stands still for the last pass: seconds when little "
    "changes, up to the time of the first pass when much does.",
    undo_takes="Seconds, until the service has been started at the new place; after that there is none.",
    parameters=(
        Parameter("unit", "str", str, "", "the service's unit, such as mariadb.service"),
        Parameter("directory", "str", str, "", "the directory as the service names it; an absolute path"),
        Parameter("target", "str", str, "", "the new directory, on another filesystem; an absolute path"),
        Parameter(
            "place_by", "Literal['symlink', 'bind']", str, "symlink", "how the old path leads to the new place",
            choices=("symlink", "bind"),
        ),
        Parameter("backup", "str", str, "", "which backup you would restore if all else fails, and when it was taken"),
        Parameter(
            "throttle_mb", "int", int, 0, "copy at most so many MB a second, 0 to 1024; 0 is no limit", lowest=0,
            highest=1024,
        ),
    ),
    steps=STEPS,
    refuses=_refuses,
    touches=lambda parameters: (str(parameters["target"]),),
)  # fmt: skip

__all__ = ["RUNBOOK", "cluster"]
