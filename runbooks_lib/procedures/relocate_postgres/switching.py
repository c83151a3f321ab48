"""The switch: everything between the last write on the old place and the first on the new one, as one command.

stop → gate → stop the standby → fence and rename the old directory → the old path leads to the new place → start →
promote. It runs detached, so that a lost connection does not stop it in the middle; run again after having been cut off
anywhere it goes on from where things are (`stages`).

The gate: the old server was shut down cleanly, the standby has replayed beyond its last checkpoint, and after the
standby's own shutdown both control files name the same checkpoint of the same cluster. Until the standby is promoted
nothing was written anywhere that the old directory does not hold: the way back is one step. From then on there is none.
The renames are made durable before anything can be written: a power cut must not bring the old directory back.
"""

from __future__ import annotations

from collections.abc import Sequence

from runbooks_lib.procedures.relocate_postgres import stages, starting
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK, cluster
from runbooks_lib.procedures.relocate_postgres.copying import NO_NEW_TABLESPACE, same_tablespaces
from runbooks_lib.procedures.relocate_postgres.following import FOLLOW
from runbooks_lib.procedures.relocate_postgres.lasting import LASTING
from runbooks_lib.procedures.relocate_postgres.looking import expected_pause
from runbooks_lib.procedures.relocate_postgres.prechecks import ARCHIVER, AS_CONFIGURED, BEHIND, NOTHING_BEHIND
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Check, Command, Known, Step, Undo

SWITCH = "switch"
STOP_SECONDS = 300
PAUSE_SECONDS = 20
ARCHIVE_SECONDS = 30

_WAIT = """do $$ declare n int := 0; begin
while exists (select from pg_stat_wal_receiver) or pg_last_wal_receive_lsn() is distinct from pg_last_wal_replay_lsn() loop
  perform pg_sleep(0.02); n := n + 1; if n > 15000 then raise 'not replayed within 5 minutes'; end if;
end loop; end $$"""  # noqa: E501

_FUNCTIONS = f"""up() {{ read -r now x </proc/uptime; now=${{now%.*}}${{now#*.}}; }}
bouncer() {{ [ "$BOUNCER" = 0 ] || timeout {PAUSE_SECONDS} setpriv --reuid="$OWNER" --regid="$GROUP" --init-groups -- \\
  "$BIN/psql" -XAtqw -h /var/run/postgresql -p "$BOUNCER" -U pgbouncer -d pgbouncer -c "$1" >/dev/null; }}
resumed() {{ # whether pgbouncer's clients go on, in `said` why not; one that was not paused, or has ended, holds nobody
  [ "$BOUNCER" != 0 ] || return 0
  i=0; until said=$(bouncer RESUME 2>&1); do
    case $said in *'not paused'*|*'Connection refused'*|*'No such file or directory'*) return 0;; esac
    i=$((i+1)); [ $i -lt 5 ] || return 1; sleep 1
  done; }}
gone() {{ # DIRECTORY PROCESS: waits until the server is gone. Where systemd reaps it, tail waits with one process
  [ -z "$UNIT" ] || timeout 60 tail -s 0.01 --pid="$2" -f /dev/null 2>/dev/null
  i=0; while [ -e "$1/postmaster.pid" ] || [ "/proc/$2/cwd" -ef "$1" ]; do
    i=$((i+1)); [ $i -lt {STOP_SECONDS * 50} ] || return 1; sleep 0.02; done; }}
stopped() {{ if runs "$1"; then kill -INT "$pid"; gone "$1" "$pid"; fi; }}
lsn() {{ echo $(((0x${{1%/*}} << 32) + 0x${{1#*/}})); }}
answers() {{ # DIRECTORY: waits for the words that its server gives to a question, as long as there is one
  i=0; until said=$(old "$2" 2>/dev/null) && [ "$said" = "$3" ]; do
    runs "$1" || return 1
    i=$((i+1)); [ $i -lt 600 ] || return 1; sleep 0.02; done; }}
waiting() {{ # DIRECTORY MOST: how many more segments than that wait for the archiver, in `ready`
  ready=0; [ "$ARCHIVES" != off ] || return 1
  for each in "$1"/pg_wal/archive_status/*.ready; do [ ! -e "$each" ] || ready=$((ready+1)); done
  [ $ready -gt "$2" ]; }}
gate() {{ # DIRECTORY of the old server, which is down
  stopped "$T" || {{ why="the standby does not stop"; return 1; }}
  control "$1"; field 'Database cluster state'; state=$value
  field 'Latest checkpoint location'; last=$value; field 'Database system identifier'; id=$value
  [ "$state" = 'shut down' ] || {{ why="the old server was not shut down cleanly: $state"; return 1; }}
  control "$T"; field 'Database cluster state'; state=$value; field 'Minimum recovery ending location'; reached=$value
  field 'Database system identifier'
  [ "$id" = "$ID" ] && [ "$value" = "$ID" ] || {{ why="they are two clusters: $id, $value, not $ID"; return 1; }}
  field 'Latest checkpoint location'
  case $state in 'shut down in recovery'|'in archive recovery') ;; *) why="the copy is $state"; return 1;; esac
  [ "$value" = "$last" ] && [ "$(lsn "$reached")" -gt "$(lsn "$last")" ] || {{
    why="the standby has not replayed the old server's last checkpoint $last: it is at $value, $reached"; return 1; }}
  if unlogged "$1"; then why="an unlogged table was made: $said"; return 1; fi
  for each in "$1"/pg_replslot/*/; do
    case $each in */"$SLOT"/|*'/*/') ;; *) why="a slot was made: $each"; return 1;; esac
  done
  # Its end waits for the archiver, and what is left is what the archiver could not take.
  if waiting "$1" 0; then why="WAL is not archived yet: $ready segments in $1/pg_wal/archive_status"; return 1; fi
  echo "gate: both are at checkpoint $last of cluster $ID; the standby replayed to $reached"
}}
back() {{ # nothing was placed: the database goes on where it was
  echo "$*; the database is started again at its old place" >&2
  if start "$R" && answers "$R" 'select pg_is_in_recovery()' f; then echo "it runs" >&2; fi
  resumed || echo "pgbouncer does not resume, and its clients wait: $said" >&2
  unready; exit 1
}}
"""
# Its directory belongs to the account, which may have put a link there.
NOTE = """note() { as sh -c 'cat >"$1.new" && mv -fT -- "$1.new" "$1"' sh "$K/RELOCATED"; }
"""
_SWITCH = """begin=
if [ $stage = here ] && [ -e "$R/PG_VERSION" ] && runs "$R"; then
  runs "$T" || fail "the standby does not run; nothing was changed"
  same || fail "tablespaces were made or dropped since it was looked at, or it does not answer; nothing was changed"
  ! behind || fail "$why; nothing was changed"
  i=0; while waiting "$R" 1; do # a server whose archiver is behind takes as long to stop
    i=$((i+1)); [ $i -lt $ARCHIVE_TRIES ] || fail "WAL is not archived yet: $ready segments; nothing was changed"
    sleep 0.1
  done
  ready || fail "systemd did not take the drop-in; nothing was changed"
  prepare || fail "cannot write beside $P; nothing was changed"
  : >"$W/gate" && old checkpoint && new checkpoint && old checkpoint ||
    { unready; fail "no checkpoint could be made; nothing was changed"; }
  as "$BIN/psql" -XAtqw -v ON_ERROR_STOP=1 -h "$NEW" -p "$PORT" -U "$OWNER" -d postgres -c "select 'waiting'" \\
    -c "$WAIT" -c 'select pg_last_wal_replay_lsn()' >"$W/gate" 2>&1 </dev/null & waiter=$!
  i=0; until [ -s "$W/gate" ]; do
    i=$((i+1)); [ $i -lt 600 ] || { unready; fail "the standby does not answer; nothing was changed"; }
    sleep 0.05
  done
  bouncer PAUSE || {
    resumed || fail "pgbouncer neither pauses nor resumes: $said; see whether its clients wait"
    unready; fail "pgbouncer did not pause: its sessions hold on; nothing was changed"; }
  runs "$R"; up; begin=$now
  kill -INT "$pid"; gone "$R" "$pid" || fail "the old server was told to stop and does not; resume when it has"
  up; stopped=$now
  wait "$waiter" || back "the standby did not replay all: $(tail -n 1 "$W/gate")"
fi
if [ $stage = here ]; then
  gate "$R" || back "the gate is shut: $why"
  up; gated=$now
  [ ! -e "$R/PG_VERSION" ] || mv -fT -- "$R/PG_VERSION" "$R/PG_VERSION.relocated" || back "cannot write in $R"
  mv -T -- "$R" "$K" || { mv -fT -- "$R/PG_VERSION.relocated" "$R/PG_VERSION"; back "cannot rename $R"; }
  stage=between
elif [ $stage = between ]; then
  gate "$K" || fail "the gate is shut: $why; take it back: undo"
fi
if [ $stage = between ]; then
  place || fail "the old path could not be led to $T; resume, or take it back"
fi
if [ -e "$T/standby.signal" ]; then # a cut may have come before this, and nothing may be written before it
  sync -- "$K" "${K%/*}" "${P%/*}" || fail "the renames are not safe on the disk; resume"
fi
up; placed=$now
[ -n "$begin" ] || ready
start "$AT" || fail "the server does not start on $AT; see its log; resume, or take it back"
up; started=$now
i=0; while [ -e "$T/standby.signal" ] && ! as "$BIN/pg_ctl" promote -W -s -D "$T" 2>/dev/null; do
  runs "$T" || fail "the server on $P has ended; see its log; take it back: undo"
  i=$((i+1)); [ $i -lt 600 ] || fail "the server on $P cannot be promoted; see its log; resume, or take it back"
  sleep 0.02
done
answers "$T" 'select pg_is_in_recovery()' f || {
  runs "$T" || fail "the server on $P has ended; see its log; take it back: undo"
  fail "the server on $P was promoted and takes no writes; see its log; resume"; }
resumed || fail "the database takes writes on $AT, and pgbouncer does not resume: $said; its clients wait: resume"
up
[ -z "$begin" ] || echo "writes stood still for $(((now - begin) * 10)) ms: stop $(((stopped - begin) * 10)), \\
gate $(((gated - stopped) * 10)), place $(((placed - gated) * 10)), start $(((started - placed) * 10)), \\
promote $(((now - started) * 10))" >"$W/pause"
cat "$W/pause" 2>/dev/null
unready
stay() { for each in "$K/$1/"PG_*/; do [ ! -d "$each" ] || printf 'also: %s\\n' "$2/$(basename -- "$each")"; done
  [ "$1" != pg_wal ] || printf 'also: %s\\n' "$2"; }
[ ! -d "$K" ] || {
  printf 'This was the database until %s; it is now in %s.\\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$T"
  printf 'Nothing here changes any more.\\nboot: %s\\n' "$(cat /proc/sys/kernel/random/boot_id)"; left stay; } | note
rm -rf -- "$NEW" "$NEW.sh"; rm -f -- "$W/gate"; forget
"""
_SWITCHED = """[ $stage = placed ] || no "the database is not at $T"
runs "$T" || no "no server runs on $T"
[ ! -e "$T/standby.signal" ] || no "the server on $T is still a standby"
said=$(old "$WHO") || no "it gives no answer"
[ "$said" = "false $ID" ] || no "it answers: $said"
[ ! -e "$K/PG_VERSION" ] || no "the old directory $K could be started"
[ ! -e "$NEW" ] && { [ -z "$UNIT" ] || [ ! -e "$DROP/zz-relocate.conf" ]; } ||
  no "a cut command left the drop-in or $NEW"
[ ! -s "$W/pause" ] || echo "$(cat "$W/pause"); expected: $EXPECTED"
yes "the server on $AT takes writes in $T; it is the cluster $ID"
"""
_PASSED = """[ $stage = placed ] || no "the database is not at $T"
control "$T"; field 'Database cluster state'
case $value in
  'shut down in recovery'|'in archive recovery') no "the server on $T has taken no write: it is $value";;
  'in production'|'shut down'|'shutting down'|'in crash recovery')
    yes "the server on $T has been promoted: it is $value";;
  *) cannot_tell "the server on $T is $value";;
esac
"""
_BACK = """if [ $stage != here ]; then
  ready; stopped "$T" || fail "the server on $T does not stop"
  control "$T"; field 'Database cluster state'
  case $value in 'shut down in recovery'|'in archive recovery') ;; *)
    [ $stage != placed ] || start "$AT"; unready
    fail "the server on $T has been promoted ($value): going back would lose what was written there";; esac
  [ -d "$K" ] || fail "neither $R nor $K is what it was"
  displace && mv -T -- "$K" "$R" || fail "$K could not be given its old name"
fi
forget; rm -f -- "$R/RELOCATED"
[ ! -e "$R/PG_VERSION.relocated" ] || mv -fT -- "$R/PG_VERSION.relocated" "$R/PG_VERSION" || fail "cannot write in $R"
sync -- "$R" "${R%/*}" "${P%/*}"
start "$P" && answers "$R" 'select pg_is_in_recovery()' f ||
  fail "the server does not start at its old place; see its log"
resumed || fail "the database runs at its old place, and pgbouncer does not resume: $said; its clients wait: undo again"
unready
"""
_IS_BACK = """[ $stage = here ] || no "the database is not at its old place"
[ -s "$R/PG_VERSION" ] || no "$R cannot be started"
for each in "$P" "$CONF" "$FSTAB"; do
  [ ! -L "$each.relocate" ] && [ ! -e "$each.relocate" ] || no "a cut command left $each.relocate"
done
[ -z "$UNIT" ] || [ ! -e "$DROP/zz-relocate.conf" ] || no "a cut command left its drop-in"
runs "$R" || no "no server runs on $R"
said=$(old "$WHO") || no "it gives no answer"
[ "$said" = "false $ID" ] || no "it answers: $said"
yes "the server in $R takes writes, as before"
"""


def _shell(known: Known) -> str:
    of = cluster(known)
    names = {
        "WAIT": _WAIT,
        "WHO": "select pg_is_in_recovery() || ' ' || (select system_identifier from pg_control_system())",
        "BOUNCER": str(known.parameters["pgbouncer_port"]),
        "ARCHIVES": "off" if "archive_mode=off" in known.outputs[LOOK]["settings"] else "on",
        "ARCHIVE_TRIES": str(ARCHIVE_SECONDS * 10),
    }
    head = "".join(f"{name}={word(value)}\n" for name, value in names.items())
    head += same_tablespaces(known) + BEHIND + NOTE
    return stages.shell(known) + head + starting.shell(of, str(known.parameters["place_by"])) + _FUNCTIONS


def _commands(known: Known) -> Sequence[Command]:
    of = cluster(known)
    return [Command(_shell(known) + _SWITCH, f"{of.directory}, its server, {of.kept}", root=True)]


def _check(title: str, text: str) -> Check:
    return Check(title, lambda known: _shell(known) + text, root=True)


def _switched(known: Known) -> str:
    return f"EXPECTED={word(expected_pause(known))}\n{_shell(known)}{_SWITCHED}"


SWITCHING = Step(
    name=SWITCH,
    title="Stop, prove that the copy has everything, start on the copy, take writes",
    why="The old path must lead to the new place, and no acknowledged write may be lost.",
    needs=(LOOK, LASTING, FOLLOW),
    prechecks=(
        stages.check("the standby still follows", 'runs "$T" && yes "it runs"; no "no standby runs on $T"\n'),
        NO_NEW_TABLESPACE,
        NOTHING_BEHIND,
        ARCHIVER,
        AS_CONFIGURED,
    ),
    commands=_commands,
    verify=Check("the server on the new place takes writes", _switched, root=True),
    undo=Undo(
        lambda known: [Command(_shell(known) + _BACK, "the old path, the server", root=True)],
        _check("the server runs at its old place", _IS_BACK),
        takes="seconds, and only until the new place has taken the first write",
    ),
    point_of_no_return=True,
    passed=_check("the new place has taken its first write", _PASSED),
    deadline_seconds=900,
    verify_seconds=30,
    detached=True,
    expect=lambda known: f"clients wait {expected_pause(known)}, and are cut off once",
)
