"""The copy: `pg_basebackup` into the target, with a replication slot, while the database works on.

`-X stream` fetches the WAL of the copying's duration beside the data, and the slot keeps what the standby will want
next (the manual, pg_basebackup). A copy that was cut off is of no use and is begun anew; `complete` is written when all
of it is on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from runbooks_lib.procedures.relocate_postgres import labels, stages
from runbooks_lib.procedures.relocate_postgres.apart import mapping_words
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK, cluster
from runbooks_lib.procedures.relocate_postgres.looking import expected_seconds
from runbooks_lib.procedures.relocate_postgres.prechecks import LEAST_FREE_BYTES, PRECHECKS, TARGET_HAS_ROOM
from runbooks_lib.procedures.watching import io_pressure
from runbooks_lib.runbook.quoting import word, words
from runbooks_lib.runbook.step import Check, Command, Known, Read, Step, Undo, Watcher

COPY = "copy"
PROBE_BLOCKS, PROBE_MB = 50, 32

# Measured before the copy: how long the target takes to make 8 kB safe, and how fast it takes what comes in one go.
_TRY_TARGET = f"""up() {{ read -r now x </proc/uptime; now=${{now%.*}}${{now#*.}}; }}
up; begin=$now
dd if=/dev/zero of="$W/probe" bs=8192 count={PROBE_BLOCKS} oflag=dsync 2>/dev/null || fail "cannot write in $W"
up; safe=$(((now - begin) * 10 / {PROBE_BLOCKS})) begin=$now
dd if=/dev/zero of="$W/probe" bs=1048576 count={PROBE_MB} conv=fdatasync 2>/dev/null || fail "cannot write in $W"
up; echo "the target makes 8 kB safe in $safe ms and takes $(({PROBE_MB} * 100 / (now - begin + 1))) MB/s"
rm -f -- "$W/probe"
"""
_COPY = """[ $stage = here ] || exit 0
[ ! -s "$W/complete" ] || exit 0
runs "$T" && fail "a server runs on $T"
if [ ! -s "$W/cluster" ]; then
  [ -z "$(ls -A -- "$W" 2>/dev/null | grep -vx 'cluster.*')" ] || fail "$W is not of a move"
  empty() { [ ! -d "$3" ] || [ -z "$(ls -A -- "$3")" ] || fail "$3 is not empty"; }
  empty x x "$T" && apart empty
  install -d -m 0700 -- "$W" && printf '%s\\n' "$ID" >"$W/cluster.part" && sync -- "$W/cluster.part" &&
    mv -- "$W/cluster.part" "$W/cluster" && sync -- "$W" "${W%/*}" || fail "cannot make $W"
fi
[ "$(cat "$W/cluster" 2>/dev/null)" = "$ID" ] || fail "$W is not of a move of this database"
"""
# A new place that the database itself has come to use meanwhile is nobody's to empty.
_CLEAR = """clear() { # x x DIRECTORY
  for each in "$R" "$R/pg_wal" "$R"/pg_tblspc/*; do
    [ ! "$each" -ef "$3" ] || fail "the database uses $3 by now"
  done
  rm -rf -- "$3"
}
"""
_SAME_TABLESPACES = """same() { # the server's tablespaces, to those that were looked at
  said=$(old "select coalesce(string_agg(oid::text, ' ' order by oid), '') from pg_tablespace
    where oid not in (1663, 1664)") || return 2
  [ "$said" = "$TABLESPACES" ]
}
"""
# By choice. What it finds was there before the move; a copy would bring it along.
_AMCHECK = """as "$BIN/pg_amcheck" -h "$SOCKETS" -p "$PORT" -U "$OWNER" -w --all --install-missing \\
  >"$W/amcheck.log" 2>&1 ||
  fail "pg_amcheck found something before the move: $(tail -n 3 "$W/amcheck.log")"
echo "pg_amcheck found nothing in any database before the move"
"""
_UNSLOT = """unslot() { old "select pg_drop_replication_slot('$SLOT')
  where exists (select from pg_replication_slots where slot_name = '$SLOT')" >/dev/null; }
"""
# The account may write beside the new place: what it puts there meanwhile is not to be followed by root. A copy that
# ends by itself takes its slot along; the sender may hold that for a moment. Nobody can do so for one that was killed.
_FETCH = """fresh() { clear "$@" && mkdir -m "$(stat -c %a -- "$2")" -- "$3" && chown -h -- "$OWNER:$GROUP" "$3" &&
  label "$2" "$3" || fail "cannot make $3"; }
fresh x "$R" "$T" && apart fresh
unkept() { x=$?; [ ! -s "$W/complete" ] || exit $x
  i=0; until unslot 2>/dev/null; do
    i=$((i+1)); [ $i -lt 20 ] || { echo "the slot $SLOT keeps WAL from now on: undo now" >&2; exit $x; }
    sleep 0.5
  done; exit $x; }
trap unkept EXIT; trap 'exit 143' HUP INT TERM
old "select pg_create_physical_replication_slot('$SLOT', true)
  where not exists (select from pg_replication_slots where slot_name = '$SLOT')" >/dev/null || fail "no slot was made"
up; begin=$now
fetch -h "$SOCKETS" -p "$PORT" -U "$OWNER" -w -D "$T" -X stream -S "$SLOT" -c fast -P $RATE \\
  >"$W/copy.log" 2>&1 </dev/null || fail "pg_basebackup: $(tail -n 3 "$W/copy.log" | tr '\\r' '\\n' | tail -n 3)"
as touch -- "$T/standby.signal" && sync -- "$T" || fail "cannot write in $T"
up; echo "the copying took $(((now - begin) / 100)) s" | tee "$W/took"
date -u +%Y-%m-%dT%H:%M:%SZ >"$W/complete.part" && sync -- "$W/complete.part" && mv -- "$W/complete.part" "$W/complete"
"""
_COPIED = """[ $stage != placed ] || yes "the database is at $T already"
[ $stage != between ] || [ ! -s "$W/complete" ] || yes "the database is on its way to $T"
if [ ! -s "$W/complete" ]; then
  [ ! -d "$W" ] || [ "$(old "select count(*) from pg_replication_slots where slot_name = '$SLOT'")" != 1 ] ||
    no "there is no whole copy in $T, and the slot $SLOT keeps WAL: resume, or undo now"
  no "there is no whole copy in $T"
fi
[ -s "$T/PG_VERSION" ] && [ "$(cat "$W/cluster")" = "$ID" ] || no "$T holds no copy of the cluster $ID"
control "$T"; field 'Database system identifier'
[ "$value" = "$ID" ] || no "$T is of the cluster $value"
linked() { [ "$(readlink -- "$T/$1")" = "$3" ] && [ -d "$3" ] || no "$T/$1 does not lead to $3"; }
apart linked
[ ! -s "$W/took" ] || echo "$(cat -- "$W/took"); $EXPECTED were expected"
yes "$T holds a copy of the cluster $ID, whole since $(cat "$W/complete")"
"""
_REMOVE = """[ $stage = here ] || fail "the database is not at its old place"
runs "$T" && fail "a server runs on $T"
unslot || fail "the slot $SLOT could not be dropped; while it is there, WAL is kept for it"
[ -d "$W" ] || exit 0
if [ ! -s "$W/cluster" ]; then rm -f -- "$W/cluster.part" && rmdir -- "$W" || fail "$W is not of a move"; exit 0; fi
[ "$(cat "$W/cluster")" = "$ID" ] || fail "$W is not of a move of this database"
clear x x "$T" && apart clear && rm -rf -- "$W"
"""
_REMOVED = """[ $stage = here ] || no "the database is not at its old place"
[ ! -e "$W" ] || no "$W is there"
gone() { [ ! -e "$3" ] || [ -z "$(ls -A -- "$3")" ] || no "$3 is not empty"; }
gone x x "$T" && apart gone
said=$(old "select count(*) from pg_replication_slots where slot_name = '$SLOT'") || cannot_tell "psql gave no answer"
[ "$said" = 0 ] || no "the slot $SLOT is there"
yes "nothing is left of the copy, and no slot keeps WAL"
"""
_SOURCE_HAS_ROOM = f"""for each in "$R/" "$R/pg_wal/" "$R"/pg_tblspc/*/; do
  [ -d "$each" ] || continue
  set -- $(stat -f -c '%a %S' -- "$each"); free=$(($1 * $2))
  [ $free -ge {LEAST_FREE_BYTES // 2} ] || no "$((free / 1000000)) MB are left in $each, where the database is; \
the slot $SLOT keeps WAL there from now on: undo now"
  echo "$((free / 1000000)) MB are left in $each"
done
yes "the database has room"
"""
_NO_NEW_TABLESPACE = """same; case $? in
  0) yes "the tablespaces are as they were";;
  1) no "tablespaces were made or dropped since it was looked at: undo, and begin anew";;
  *) cannot_tell "psql gave no answer";;
esac
"""
_SLOT_HOLDS = """said=$(old "select wal_status from pg_replication_slots where slot_name = '$SLOT'") || cannot_tell "psql gave no answer"
case $said in lost|unreserved) no "the server has given up the WAL for the slot: $said";; esac
yes "the WAL for the copy is kept (${said:-no slot yet})"
"""  # noqa: E501
_PROGRESS = """old "select coalesce(max(backup_streamed), 0) || ' ' || coalesce(max(backup_total), 0)
  from pg_stat_progress_basebackup"
"""


def _copy(known: Known) -> Sequence[Command]:
    throttle = int(known.parameters["throttle_mb"])
    rate = f"RATE={'--max-rate=' + str(throttle) + 'M' if throttle else ''}\n"
    affects = f"{known.parameters['target']}; a replication slot in the database"
    mapping = f'fetch() {{ as "$BIN/pg_basebackup" "$@" {words(*mapping_words(cluster(known).apart))}; }}\n'
    check = _AMCHECK if known.parameters["amcheck"] else ""
    text = rate + mapping + _COPY + check + _TRY_TARGET + _CLEAR + labels.shell() + _UNSLOT + _FETCH
    return [stages.command(known, text, affects)]


def _copied(known: Known) -> str:
    return f"EXPECTED={word(expected_seconds(known) + ' s')}\n{stages.shell(known)}{_COPIED}"


def same_tablespaces(known: Known) -> str:
    """The shell function `same`: no tablespace was made or dropped since the first step. A standby on the same host
    would follow a new one into the directory of the old server."""
    oids = sorted(int(each["oid"]) for each in cluster(known).facts["tablespaces"])
    return f"TABLESPACES={word(' '.join(map(str, oids)))}\n{_SAME_TABLESPACES}"


NO_NEW_TABLESPACE = Check(
    "the tablespaces are as they were looked at",
    lambda known: stages.shell(known) + same_tablespaces(known) + _NO_NEW_TABLESPACE,
    root=True,
)


def _done_and_total(answer: bytes) -> list[int | str]:
    done, total = (int(each) for each in answer.split())
    return [done, total, "bytes"]


# While it is copied, and while the standby catches up.
ROOM = (
    Watcher(TARGET_HAS_ROOM),
    Watcher(stages.check("the database has room", _SOURCE_HAS_ROOM)),
    Watcher(NO_NEW_TABLESPACE),
    Watcher(stages.check("the database keeps the copy's WAL", _SLOT_HOLDS), every_seconds=15),
)

COPYING = Step(
    name=COPY,
    title="Copy the database to the new partition while it works on",
    why="The copy takes long, and nobody waits for it.",
    needs=(LOOK,),
    prechecks=PRECHECKS,
    commands=_copy,
    verify=Check("the copy is whole", _copied, root=True),
    undo=Undo(
        lambda known: [stages.command(known, _CLEAR + _UNSLOT + _REMOVE, "the copy and its slot")],
        stages.check("nothing is left of the copy", _REMOVED),
        takes="seconds",
    ),
    deadline_seconds=24 * 3600,
    detached=True,
    progress=Read("progress", lambda known: stages.shell(known) + _PROGRESS, _done_and_total, root=True),
    watchers=(
        *ROOM,
        Watcher(io_pressure(), every_seconds=10),
    ),
    expect=lambda known: f"the copying takes about {expected_seconds(known)} s; clients share the disks with it",
)
