"""The first step: what there is to move. It only reads; every other step goes by what it saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runbooks_lib.procedures.disk_rates import copying_seconds, pause_words, rates_words, read_rates
from runbooks_lib.procedures.relocate_postgres.apart import WAL_LINK
from runbooks_lib.procedures.relocate_postgres.cluster import LOOK, Cluster, cluster_of, parse_cluster, read_cluster
from runbooks_lib.procedures.relocate_postgres.offers import offers, read_disks
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Check, Known, NoUndo, Read, Step

# Commands, connection strings and what extensions define may hold a password, and the journal would keep it: of what is
# no number, choice or path a digest is enough to see that it is as before.
SETTINGS = """old "select name || '=' || case
  when vartype <> 'string' or name ~ '^[^.]*_(directory|directories|file)$' then replace(setting, chr(10), ' ')
  else 'sha256:' || encode(sha256(convert_to(setting, getdatabaseencoding())), 'hex') end from pg_settings
  where name not in ('in_hot_standby', 'transaction_read_only') order by name"
"""
_COUNT = """said=$(as "$BIN/psql" -XAtqw -v ON_ERROR_STOP=1 -h "$SOCKETS" -p "$PORT" -U "$OWNER" -d "$DATABASE" -c \\
  "select count(*) || ' rows, sum ' || coalesce(sum(hashtextextended(x::text, 0)::numeric), 0) from $NAME x") || exit 3
printf '%s: %s\\n' "$TABLE" "$said"
"""


def _size(known: Known) -> str:
    """The data without its WAL: of that, a copy brings along only what it needs."""
    real = word(known.before["cluster"]["real"])
    return (
        f"cd -- {real} && du -skx . | {{ read -r all x; wal=0; [ -L pg_wal ] || wal=$(du -skx pg_wal | cut -f 1); "
        "echo $(((all - wal) * 1024)); }\n"
    )


def _apart_sizes(known: Known) -> str:
    """Of each tablespace, the part of it that is this server's."""
    of = _cluster_of(known)
    text = f"R={word(of.real)}\n"
    for each in of.facts["tablespaces"]:
        link = word(f"pg_tblspc/{each['oid']}")
        text += f'echo {link} "$(du -skxc -- "$R"/{link}/PG_*/ | tail -n 1)"\n'
    return text


def _rates(known: Known) -> str:
    """Measures each place that is copied; nothing of a database that lies at the target already."""
    of = _cluster_of(known)
    if of.moved_before:
        return "exit 0\n"
    text = f'R={word(of.real)}\nrates . {word(of.target)} "$R"\n'
    for each in of.apart:
        if each.link != WAL_LINK:
            text += f'rates {word(each.link)} {word(each.goes)} "$R"/{word(each.link)}/PG_*/\n'
    return text


def _sizes(answer: bytes) -> dict[str, int]:
    """Bytes by link."""
    rows = [line.split() for line in text_of(answer).splitlines()]
    return {link: int(kilobytes) * 1024 for link, kilobytes, *_ in rows}


def _lines(answer: bytes) -> list[str]:
    return text_of(answer).splitlines()


def settings_text(of: Cluster) -> str:
    """Shell text that prints every setting, one `name=value` a line."""
    return of.shell() + SETTINGS


def tables_text(of: Cluster, tables: Sequence[str]) -> str:
    """Shell text that prints, for each `database.schema.table`, how many rows it has and a sum over all of them that
    does not depend on their order."""
    text = of.shell()
    for table in tables:
        database, _, name = table.partition(".")
        text += f"TABLE={word(table)}\nDATABASE={word(database)}\nNAME={word(name)}\n{_COUNT}"
    return text


def _looked(known: Known) -> Mapping[str, Any]:
    """What this step saw, also where a later one asks. Runs of earlier versions have measured nothing."""
    return {"rates": {}, **known.outputs.get(LOOK, known.before)}


def expected_seconds(known: Known) -> str:
    """How long the copying will take, in words: whole seconds."""
    looked = _looked(known)
    size = looked["size_bytes"] + sum(looked["apart_bytes"].values())
    least, most = copying_seconds(looked["rates"], size, int(known.parameters["throttle_mb"]))
    return f"{least:.0f} to {most:.0f}"


def expected_pause(known: Known) -> str:
    """How long clients will wait, in words."""
    return pause_words(_looked(known)["rates"])


def _cluster_of(known: Known) -> Cluster:
    return cluster_of(known.parameters, known.before["cluster"])


def _outputs(known: Known) -> dict[str, Any]:
    return {
        name: known.before[name] for name in ("cluster", "size_bytes", "apart_bytes", "rates", "settings", "tables")
    }


def _seen(known: Known) -> str:
    """Yes, with what a person wants to know before saying yes. The same cluster must be in one of its three places."""
    of = _cluster_of(known)
    apart_bytes = known.before["apart_bytes"]
    megabytes = (known.before["size_bytes"] + sum(apart_bytes.values())) / 1e6
    said = (
        f"PostgreSQL {of.facts['version'] // 10000} in {of.real}, port {of.facts['port']}, "
        f"{of.facts['unit'] or 'without systemd'}: {megabytes:.0f} MB; copying takes about "
        f"{expected_seconds(known)} s, clients wait {expected_pause(known)}; "
        f"last backup, as you say: {known.parameters['backup']}"
    )
    said += f"\n{rates_words(_looked(known)['rates'])}" * (not of.moved_before)
    said += "\n" + (
        "data checksums are on: every page is verified while it is copied"
        if "data_checksums=on" in known.before["settings"]
        else "data checksums are off: a damaged page is copied as it is; amcheck looks at tables and indexes"
    )
    if (dropped := of.facts.get("dropped")) and not of.moved_before:
        said += (
            f"\nits environment also has {', '.join(dropped)}: the switch starts it without what its unit does not "
            "give; a restart by its usual way brings them back"
        )
    for each in of.apart:
        size = f" ({apart_bytes[each.link] / 1e6:.0f} MB)" if each.link in apart_bytes else ""
        said += f"\n{each.name}{size} lies in {each.lies}" + (f" and goes to {each.goes}" * (each.lies != each.goes))
    said = "\n".join([*([] if of.moved_before else offers(known.before["disks"])), said])
    return (
        of.shell()  # noqa: S608 (no SQL is made from values)
        + """for each in "$P" "$K" "$T"; do
  [ -e "$each/global/pg_control" ] || continue
  control "$each"; field 'Database system identifier'
  [ "$value" = "$ID" ] || continue
"""
        + f'  printf "%s\\n" {word(said)}\n\n'
        + """  [ -d "$P/" ] || { yes "it is in $each now"; }
  runs "$P/" || yes "no server runs on $P now"
  old "select 'connected: ' || coalesce(string_agg(each, ', '), 'nobody') from (select usename || ' from '
    || coalesce(host(client_addr), 'this host') || ' x ' || count(*) as each from pg_stat_activity
    where backend_type = 'client backend' and pid <> pg_backend_pid() group by usename, client_addr) x" 2>/dev/null
  yes "it is in $each now"
done
cannot_tell "the cluster $ID is in none of $P, $K and $T"
"""
    )


LOOKING = Step(
    name=LOOK,
    title="Look at the database",
    why="Everything that follows goes by what is really there.",
    reads=(
        Read("cluster", read_cluster, parse_cluster, root=True),
        Read("size_bytes", _size, int, root=True, deadline_seconds=600),
        Read("apart_bytes", _apart_sizes, _sizes, root=True, deadline_seconds=600),
        read_rates(_rates, without=WAL_LINK),
        read_disks(lambda known: str(known.before["cluster"]["real"])),
        Read("settings", lambda known: settings_text(_cluster_of(known)), _lines, root=True),
        Read(
            "tables",
            lambda known: tables_text(_cluster_of(known), known.parameters["tables"]),
            _lines,
            root=True,
            deadline_seconds=600,
        ),
    ),
    prechecks=(Check("the server answers", lambda _: "no 'it was not looked at'"),),
    commands=lambda _: (),
    outputs=_outputs,
    verify=Check("the database was looked at", _seen, root=True),
    undo=NoUndo("it only looked.", "nothing.", harmless=True),
    deadline_seconds=30,
)
