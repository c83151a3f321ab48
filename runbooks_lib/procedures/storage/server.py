"""What the ways through PostgreSQL share: the WAL that somebody keeps, and letting the server itself remove it.

Nothing here touches a file under pg_wal. When nobody keeps a segment any more, PostgreSQL removes or recycles it at the
next checkpoint (PostgreSQL manual, "WAL Configuration")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runbooks_lib.facts.postgres import PostgresDetails
from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import absolute, on_mount, only, patient
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Command, Known, NoUndo, Step

DATA_DIRECTORY = Parameter("data_directory", "str", str, "", "the server's data directory, an absolute path")
_STILL_KEPT = 3  # segments that a busy server may be behind with


def servers_on(seen: Seen) -> list[tuple[PostgresDetails, Mapping[str, Any]]]:
    """The servers whose WAL lies on this mount point, with their settings; without those that did not answer."""
    return [
        (server, seen.survey.servers[server.data_directory])
        for server in seen.postgres.value or ()
        if server.data_directory in seen.survey.servers
        and seen.holds(server.wal_directory or server.data_directory)
    ]  # fmt: skip


def kept_otherwise(server: PostgresDetails, settings: Mapping[str, Any], *, but: str) -> tuple[int, str]:
    """Bytes of WAL that stay when `but` (a slot's name, or "the archiver") keeps none, and who keeps them."""
    keepers = [(int(settings["max_wal"]), "max_wal_size")]
    keepers += [(slot.retained_bytes or 0, f"the slot {slot.name}") for slot in server.slots or () if slot.name != but]
    archiver = server.archiver
    if archiver is not None and archiver.failing and but != "the archiver":
        keepers.append(((archiver.waiting or 0) * int(settings["segment"]), "the archiver, which fails"))
    return max(keepers)


def on_server(known: Known) -> str:
    """Functions, mount and `sql`, psql to the runbook's server. Ends with status 3 when the server is not there, or
    another one answers in its place."""
    return on_mount(known) + _server(known)


def to_server(known: Known) -> str:
    """`sql` alone, for what changes something."""
    return only("server", "sql", "serves") + _server(known)


def _server(known: Known) -> str:
    return (
        f"data={word(known.parameters['data_directory'])}\n"
        'server "$data" || { echo "no server runs on $data" >&2; exit 3; }\n'
        'serves "$data" || { echo "the server on port $port does not serve $data" >&2; exit 3; }\n'
    )


# Segments older than the last checkpoint's redo point, less those that wal_keep_size wants: whoever keeps them.
_KEPT = """kept=$(sql -c "select greatest(0, count(*) - (pg_size_bytes(current_setting('wal_keep_size'))
    / pg_size_bytes(current_setting('wal_segment_size')))) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}\\$'
    and substr(name, 9) < (select substr(redo_wal_file, 9) from pg_control_checkpoint())")
"""


_WHO_KEEPS = """[ -n "$kept" ] || cannot_tell "how many segments are kept"
sum=$(sql -c 'select coalesce(sum(size), 0) from pg_ls_waldir()')
[ "$kept" -gt "$most" ] || yes "$kept segments are kept behind the last checkpoint; the WAL is $sum bytes"
who=$(sql -F ' ' -c "select slot_name, active, restart_lsn from pg_replication_slots where restart_lsn is not null
    order by restart_lsn limit 3")
ready=$(sql -c "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'")
no "$kept segments are kept behind the last checkpoint; slots: ${who:-none}; $ready wait for the archiver"
"""


def _removed(known: Known) -> str:
    return on_server(known) + f"most={_STILL_KEPT}\n" + _KEPT + _WHO_KEEPS


def _release(known: Known) -> list[Command]:
    text = to_server(known) + (
        "for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do\n"
        f"  sql -c checkpoint || exit 1\n  {_KEPT}"
        f'  [ "$kept" -gt {_STILL_KEPT} ] || exit 0\n  sleep 3\ndone\n'
    )
    return [Command(text, "PostgreSQL's own removal of WAL that nobody keeps", root=True)]


def release(*needs: str) -> Step:
    """The step after which PostgreSQL has removed the WAL by itself."""
    return Step(
        name="release",
        title="Let PostgreSQL remove the WAL that nobody keeps any more",
        why="It does so at a checkpoint; waiting for the next one may take minutes.",
        needs=needs,
        prechecks=(
            patient(
                "the server answers",
                lambda known: on_server(known) + 'sql -c "select 1" >/dev/null && yes "it does"\nno "it does not"\n',
            ),
        ),
        commands=_release,
        verify=patient("no old WAL is kept", _removed),
        undo=NoUndo("A checkpoint takes nothing away that anybody needs.", "nothing.", harmless=True),
        verify_seconds=20,
        deadline_seconds=300,
    )


def refuses(parameters: Mapping[str, Any]) -> str:
    """Why these parameters make no sense; empty when they do."""
    if not absolute(parameters["data_directory"]):
        return "data_directory must be an absolute path, without //, /./, /../ or a / at its end"
    return filesystem.refuses(parameters)


def touches(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The filesystems of a plan's identity."""
    return (str(parameters["mountpoint"]), str(parameters["data_directory"]))
