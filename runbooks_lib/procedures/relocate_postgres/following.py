"""The standby: a second server on the copy, on a socket of its own, that follows the database until the switch.

Everything that only this stage needs stands on its command line and not in a file: nothing of it is left afterwards.
It takes little memory and listens on no network address.
"""

from __future__ import annotations

from collections.abc import Sequence

from runbooks_lib.procedures.relocate_postgres import stages
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK, Cluster, cluster, server_arguments
from runbooks_lib.procedures.relocate_postgres.copying import COPY, ROOM
from runbooks_lib.runbook.quoting import word, words
from runbooks_lib.runbook.step import Check, Command, Known, Step, Undo

FOLLOW = "follow"
CLOSE_BYTES = 16 * 1024 * 1024  # one segment: replayed in a fraction of a second
CATCH_UP_SECONDS = 3600.0

# A server that was killed leaves its lock file, and processes that end a moment later. The copy is ours: when nobody is
# in it any more, the file is removed, and a process that has got the number of the dead one is no hindrance.
_START = """[ $stage = here ] && runs "$R" || exit 0
runs "$T" && exit 0
[ -s "$W/complete" ] && [ -e "$T/standby.signal" ] || fail "there is no whole copy in $T"
alone() { for each in /proc/[0-9]*; do [ ! "$each/cwd" -ef "$T" ] || return 1; done; }
i=0; until alone; do i=$((i+1)); [ $i -lt 100 ] || fail "processes of a dead server are still in $T"; sleep 0.2; done
rm -f -- "$T/postmaster.pid"
rm -rf -- "$NEW" "$NEW.sh" && install -d -m 0700 -o "$OWNER" -g "$GROUP" -- "$NEW" || fail "cannot make $NEW"
printf '%s\\n' "$START" >"$NEW.sh" || fail "cannot write $NEW.sh"
if [ -d /run/systemd/system ]; then
  systemctl reset-failed "$STANDBY.service" 2>/dev/null
  systemd-run --quiet --collect --unit="$STANDBY" -p KillSignal=SIGINT -p KillMode=mixed -p TimeoutStopSec=60 \\
    /bin/sh "$NEW.sh" </dev/null || fail "the standby's unit did not start"
else setsid /bin/sh "$NEW.sh" </dev/null >/dev/null 2>&1 &
fi
i=0; until runs "$T"; do
  i=$((i+1)); [ $i -lt 200 ] || fail "it did not start: $(tail -n 3 "$W/standby.log")"
  sleep 0.2
done
rm -f -- "$NEW.sh"
"""
_FOLLOWS = f"""[ $stage != placed ] || yes "the database is at $T already"
[ $stage != between ] || [ ! -s "$W/complete" ] || yes "the database is on its way to $T"
runs "$R" || yes "the database is stopped: its switch has begun, and decides"
runs "$T" || {{ said=$(tail -n 3 "$W/standby.log" 2>/dev/null); no "no server runs on the copy${{said:+: $said}}"; }}
said=$(old "select state || ' ' || pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint from pg_stat_replication
  where application_name = '$SLOT' order by pid limit 1") || cannot_tell "psql gave no answer"
case $said in
  '') no "the standby is not connected: $(tail -n 3 "$W/standby.log")";;
  'streaming '*) [ "${{said#* }}" -le {CLOSE_BYTES} ] || no "the standby is ${{said#* }} bytes behind";;
  *) no "the standby is not streaming yet: $said";;
esac
yes "the standby is ${{said#* }} bytes behind"
"""  # noqa: S608 (our own names)
_STOP = """[ $stage = here ] || fail "the database is not at its old place"
if runs "$T"; then
  kill -INT "$pid"
  i=0; while runs "$T"; do i=$((i+1)); [ $i -lt 300 ] || fail "the standby does not stop"; sleep 0.2; done
fi
rm -rf -- "$NEW" "$NEW.sh"
"""
_STOPPED = """[ $stage = here ] || no "the database is not at its old place"
runs "$T" && no "the standby runs"
[ ! -e "$NEW" ] || no "$NEW is there"
yes "no server runs on the copy"
"""
_MEMORY = """free=$(sed -n 's/^MemAvailable: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)
[ "${free:-0}" -ge 131072 ] || no "only ${free:-0} kB of memory are available; a second server needs 128 MB for a while"
yes "${free} kB of memory are available"
"""


def standby_arguments(of: Cluster) -> list[str]:
    """The server's own arguments, then what makes it a quiet standby for a while."""
    connection = f"host={_quoted(of.old_sockets)} port={of.facts['port']} user={_quoted(str(of.facts['owner']))}"
    settings = {
        "data_directory": of.target,
        "listen_addresses": "",
        "unix_socket_directories": of.sockets,
        "unix_socket_permissions": "0700",
        "external_pid_file": "",
        "primary_conninfo": f"{connection} application_name={of.slot}",
        "primary_slot_name": of.slot,
        "hot_standby": "on",
        "recovery_min_apply_delay": "0",
        "restore_command": "",
        "archive_mode": "off",
        "archive_cleanup_command": "",
        "recovery_end_command": "",
        "shared_buffers": "64MB",
        "huge_pages": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "cluster_name": of.slot,
    }
    more = [each for name, value in settings.items() for each in ("-c", f"{name}={value}")]
    return [*server_arguments(of, of.target), *more]


def _quoted(value: str) -> str:
    """A value in a connection string (the manual, "Connection Strings")."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _start(known: Known) -> Sequence[Command]:
    of = cluster(known)
    script = (
        f"cd / && umask 077 && exec >>{word(of.work + '/standby.log')} 2>&1 </dev/null\n"
        f"exec setpriv --reuid={word(str(of.facts['owner']))} --regid={word(str(of.facts['group']))} --init-groups -- "
        f"env {words(*of.facts['environment'])} {word(str(of.facts['exe']))} {words(*standby_arguments(of))}"
    )
    return [stages.command(known, f"START={word(script)}\n{_START}", f"a second server on {of.target}")]


FOLLOWING = Step(
    name=FOLLOW,
    title="Let a standby on the copy follow the database",
    why="When it is a moment behind and no more, the switch takes a moment and no more.",
    needs=(LOOK, COPY),
    prechecks=(Check("there is memory for a second server", lambda _: _MEMORY),),
    commands=_start,
    verify=stages.check("the standby follows", _FOLLOWS),
    undo=Undo(
        lambda known: [stages.command(known, _STOP, "the standby")],
        stages.check("no standby runs", _STOPPED),
        takes="a second",
    ),
    deadline_seconds=60,
    verify_seconds=CATCH_UP_SECONDS,
    watchers=ROOM,
    expect=lambda _: "as long as what was written meanwhile takes to follow, mostly seconds; clients notice nothing",
)
