"""The copy: `pg_basebackup` into the target, with a replication slot, while the database works on.

`-X stream` fetches the WAL of the copying's duration beside the data, and the slot keeps what the standby will want
next (the manual, pg_basebackup). A copy that was cut off is of no use and is begun anew; `complete` is written when all
of it is on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from runbooks_lib.procedures.relocate_postgres import stages
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK
from runbooks_lib.procedures.relocate_postgres.prechecks import LEAST_FREE_BYTES, PRECHECKS, TARGET_HAS_ROOM
from runbooks_lib.runbook.step import Check, Command, Known, Read, Step, Undo, Watcher

COPY = "copy"
PROBE_BLOCKS, PROBE_MB = 50, 32

# Measured before the copy: how long the target takes to make 8 kB safe, and how fast it takes what comes in one go.
_TRY_TARGET = f"""up() {{ read -r now x </proc/uptime; now=${{now%.*}}${{now#*.}}; }}
up; begin=$now
dd if=/dev/zero of="$W/probe" bs=8192 count={PROBE_BLOCKS} oflag=dsync 2>/dev/null || fail "cannot write in $W"
up; echo "the target makes 8 kB safe in $(((now - begin) * 10 / {PROBE_BLOCKS})) ms"
begin=$now
dd if=/dev/zero of="$W/probe" bs=1048576 count={PROBE_MB} conv=fdatasync 2>/dev/null || fail "cannot write in $W"
up; echo "and takes $(({PROBE_MB} * 100 / (now - begin + 1))) MB/s"
rm -f -- "$W/probe"
"""
_COPY = """[ $stage = here ] || exit 0
[ ! -s "$W/complete" ] || exit 0
runs "$T" && fail "a server runs on $T"
if [ ! -s "$W/cluster" ]; then
  [ -z "$(ls -A -- "$W" 2>/dev/null | grep -vx 'cluster.*')" ] || fail "$W is not of a move"
  [ ! -d "$T" ] || [ -z "$(ls -A -- "$T")" ] || fail "$T is not empty"
  install -d -m 0700 -- "$W" && printf '%s\\n' "$ID" >"$W/cluster.part" && sync -- "$W/cluster.part" &&
    mv -- "$W/cluster.part" "$W/cluster" && sync -- "$W" "${W%/*}" || fail "cannot make $W"
fi
[ "$(cat "$W/cluster" 2>/dev/null)" = "$ID" ] || fail "$W is not of a move of this database"
"""
_FETCH = """rm -rf -- "$T" && install -d -m 0700 -o "$OWNER" -g "$GROUP" -- "$T" || fail "cannot make $T"
old "select pg_create_physical_replication_slot('$SLOT', true)
  where not exists (select from pg_replication_slots where slot_name = '$SLOT')" >/dev/null || fail "no slot was made"
as "$BIN/pg_basebackup" -h "$SOCKETS" -p "$PORT" -U "$OWNER" -w -D "$T" -X stream -S "$SLOT" -c fast -P $RATE \\
  >"$W/copy.log" 2>&1 </dev/null || fail "pg_basebackup: $(tail -n 3 "$W/copy.log" | tr '\\r' '\\n' | tail -n 3)"
: >"$T/standby.signal" && chown "$OWNER:$GROUP" -- "$T/standby.signal" && sync -- "$T" || fail "cannot write in $T"
date -u +%Y-%m-%dT%H:%M:%SZ >"$W/complete.part" && sync -- "$W/complete.part" && mv -- "$W/complete.part" "$W/complete"
"""
_COPIED = """[ $stage = here ] || yes "the database is at $T already, or on its way"
[ -s "$W/complete" ] || no "there is no whole copy in $T"
[ -s "$T/PG_VERSION" ] && [ "$(cat "$W/cluster")" = "$ID" ] || no "$T holds no copy of the cluster $ID"
control "$T"; field 'Database system identifier'
[ "$value" = "$ID" ] || no "$T is of the cluster $value"
yes "$T holds a copy of the cluster $ID, whole since $(cat "$W/complete")"
"""
_REMOVE = """[ $stage = here ] || fail "the database is not at its old place"
runs "$T" && fail "a server runs on $T"
old "select pg_drop_replication_slot('$SLOT')
  where exists (select from pg_replication_slots where slot_name = '$SLOT')" >/dev/null ||
  fail "the slot $SLOT could not be dropped; while it is there, WAL is kept for it"
[ -d "$W" ] || exit 0
if [ ! -s "$W/cluster" ]; then rm -f -- "$W/cluster.part" && rmdir -- "$W" || fail "$W is not of a move"; exit 0; fi
[ "$(cat "$W/cluster")" = "$ID" ] || fail "$W is not of a move of this database"
rm -rf -- "$T" && rm -rf -- "$W"
"""
_REMOVED = """[ $stage = here ] || no "the database is not at its old place"
[ ! -e "$W" ] || no "$W is there"
said=$(old "select count(*) from pg_replication_slots where slot_name = '$SLOT'") || cannot_tell "psql gave no answer"
[ "$said" = 0 ] || no "the slot $SLOT is there"
yes "nothing is left of the copy, and no slot keeps WAL"
"""
_SOURCE_HAS_ROOM = f"""set -- $(stat -f -c '%a %S' -- "$P/"); free=$(($1 * $2))
[ $free -ge {LEAST_FREE_BYTES // 2} ] || no "$((free / 1000000)) MB are left where the database is"
yes "$((free / 1000000)) MB are left"
"""
_SLOT_HOLDS = """said=$(old "select wal_status from pg_replication_slots where slot_name = '$SLOT'") || cannot_tell "psql gave no answer"
case $said in lost|unreserved) no "the server has given up the WAL for the slot: $said";; esac
yes "the WAL for the copy is kept (${said:-no slot yet})"
"""  # noqa: E501
_PROGRESS = """old "select coalesce(max(backup_streamed), 0) || ' ' || coalesce(max(backup_total), 0)
  from pg_stat_progress_basebackup"
"""


def _pressure(known: Known) -> str:
    """Pressure stall information (the kernel's Documentation/accounting/psi.rst)."""
    return (
        "full=$(sed -n 's/^full avg10=[0-9.]* avg60=\\([0-9]*\\).*/\\1/p' /proc/pressure/io 2>/dev/null)\n"
        '[ -n "$full" ] || yes "this kernel tells no I/O pressure"\n'
        f'[ "$full" -le {int(known.parameters["most_io_pressure"])} ] || '
        'no "for a minute all work has waited for disks $full % of the time: use throttle_mb"\n'
        'yes "all work waits for disks $full % of the time"\n'
    )


def _copy(known: Known) -> Sequence[Command]:
    throttle = int(known.parameters["throttle_mb"])
    rate = f"RATE={'--max-rate=' + str(throttle) + 'M' if throttle else ''}\n"
    affects = f"{known.parameters['target']}; a replication slot in the database"
    return [stages.command(known, rate + _COPY + _TRY_TARGET + _FETCH, affects)]


def _done_and_total(answer: bytes) -> list[int | str]:
    done, total = (int(each) for each in answer.split())
    return [done, total, "bytes"]


# While it is copied, and while the standby catches up.
ROOM = (
    Watcher(TARGET_HAS_ROOM),
    Watcher(stages.check("the database has room", _SOURCE_HAS_ROOM)),
    Watcher(stages.check("the database keeps the copy's WAL", _SLOT_HOLDS), every_seconds=15),
)

COPYING = Step(
    name=COPY,
    title="Copy the database to the new partition while it works on",
    why="The copy takes long, and nobody waits for it.",
    needs=(LOOK,),
    prechecks=PRECHECKS,
    commands=_copy,
    verify=stages.check("the copy is whole", _COPIED),
    undo=Undo(
        lambda known: [stages.command(known, _REMOVE, "the copy and its slot")],
        stages.check("nothing is left of the copy", _REMOVED),
        takes="seconds",
    ),
    deadline_seconds=24 * 3600,
    detached=True,
    progress=Read("progress", lambda known: stages.shell(known) + _PROGRESS, _done_and_total, root=True),
    watchers=(
        *ROOM,
        Watcher(
            Check("the disks are not overwhelmed", _pressure),
            every_seconds=10,
        ),
    ),
)
