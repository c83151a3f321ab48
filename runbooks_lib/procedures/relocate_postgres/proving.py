"""After the switch: is it the same database with the same settings, whole, and one timeline further?"""

from __future__ import annotations

from collections.abc import Sequence

from runbooks_lib.procedures.relocate_postgres import stages
from runbooks_lib.procedures.relocate_postgres.apart import WAL_LINK
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK, cluster
from runbooks_lib.procedures.relocate_postgres.looking import SETTINGS, tables_text
from runbooks_lib.procedures.relocate_postgres.switching import SWITCH
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Check, Command, Known, NoUndo, Step

PROVE = "prove"
TIDY = "tidy"
CHECK_SECONDS = 4 * 3600

_SAME = """[ $stage = placed ] || no "the database is not at $T"
runs "$AT" || no "no server runs on $AT"
control "$T"; field 'Database system identifier'
[ "$value" = "$ID" ] || no "it is the cluster $value, not $ID"
timeline=$(old 'select timeline_id from pg_control_checkpoint()') || cannot_tell "psql gave no answer"
echo "cluster $ID, timeline $timeline (was $TIMELINE), started with $AT, it lies in $(readlink -f -- "/proc/$pid/cwd")"
now=$(settings) || cannot_tell "psql gave no answer"
new=$(printf '%s\\n' "$now" | grep -vxF -e "$BEFORE" | grep -vxF -e "data_directory=$AT")
[ -z "$new" ] || no "settings are others than before: $(printf '%s\\n' "$new" | cut -d= -f1 | tr '\\n' ' ')"
echo "all $(printf '%s\\n' "$now" | grep -c .) settings are as before"
lies() { # LINK x PLACE NAME
  case $1 in
    pg_wal) at=$(readlink -- "$T/pg_wal");;
    *) at=$(old "select pg_tablespace_location(${1#*/})") || cannot_tell "psql gave no answer";;
  esac
  [ "$at" = "$3" ] || no "$4 lies in ${at:-the data}, not in $3"
  echo "$4 lies in $3"
}
apart lies
[ "$WAL" = apart ] || [ ! -L "$T/pg_wal" ] || no "the WAL lies in $(readlink -- "$T/pg_wal"), not in the data"
"""
_PROVEN = """[ ! -d "$W" ] || [ -s "$W/proven" ] || no "tables and indexes were not looked at yet"
yes "it is the same database"
"""
_AT_NEW_PLACE = stages.check("the database is at its new place", '[ $stage = placed ] && yes "it is"; no "it is not"\n')
_TABLES = """now=$(tables) || fail "a table could not be read"
new=$(printf '%s\\n' "$now" | grep -vxF -e "$ROWS")
[ -z "$new" ] || fail "not as before (name tables that nobody writes to): $new; before: $ROWS"
printf '%s\\n' "$now"
"""
_AMCHECK = """as "$BIN/pg_amcheck" -h "$SOCKETS" -p "$PORT" -U "$OWNER" -w --all --install-missing ||
  fail "pg_amcheck found something; the old data is in $K"
echo "pg_amcheck found nothing in any database"
"""
_CLEAN = """[ ! -e "$W" ] && [ ! -e "$NEW" ] || no "$W or $NEW is there"
yes "only the old data is left: $K, $(cat "$K/RELOCATED" 2>/dev/null || echo 'removed by now')"
"""


def _same(known: Known) -> str:
    looked = known.outputs[LOOK]
    of = cluster(known)
    names = {"TIMELINE": str(of.facts["timeline"]), "BEFORE": "\n".join(looked["settings"])}
    names["WAL"] = "apart" if WAL_LINK in {each.link for each in of.apart} else "inside"
    text = stages.shell(known) + "".join(f"{name}={word(value)}\n" for name, value in names.items())
    return f"{text}settings() {{ {SETTINGS}}}\n{_SAME}{_PROVEN}"


def _prove(known: Known) -> Sequence[Command]:
    rows = known.outputs[LOOK]["tables"]
    text = stages.shell(known) + '[ $stage = placed ] || fail "the database is not at $T"\n'
    if rows:
        counting = tables_text(cluster(known), known.parameters["tables"])
        text += f"ROWS={word(chr(10).join(rows))}\ntables() {{ (\n{counting}) }}\n{_TABLES}"
    if known.parameters["amcheck"]:
        text += _AMCHECK
    return [Command(text + 'date >"$W/proven"\n', "nothing but a mark that it was done", root=True)]


PROVING = Step(
    name=PROVE,
    title="Prove that it is the same database",
    why="What was promised is looked at, not believed.",
    needs=(LOOK, SWITCH),
    prechecks=(_AT_NEW_PLACE,),
    commands=_prove,
    verify=Check("it is the same database", _same, root=True),
    undo=NoUndo("it only looked.", "nothing.", harmless=True),
    deadline_seconds=CHECK_SECONDS,
    detached=True,
)

TIDYING = Step(
    name=TIDY,
    title="Remove the marks of the move; the old data stays",
    why="A later move must find no marks of this one.",
    needs=(LOOK, SWITCH, PROVE),
    prechecks=(_AT_NEW_PLACE,),
    commands=lambda known: [
        Command(
            stages.shell(known) + '[ $stage = placed ] || exit 1\nrm -rf -- "$W" "$NEW"\n',
            "the directory with the marks of this move",
            root=True,
        )
    ],
    verify=stages.check("only the old data is left", _CLEAN),
    undo=NoUndo("only marks and logs of the copying were removed.", "nothing.", harmless=True),
    deadline_seconds=60,
)
