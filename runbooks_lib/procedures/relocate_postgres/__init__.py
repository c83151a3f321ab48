"""Move a PostgreSQL database to another partition of its host, with about a second of downtime.

`looking` reads what there is, `prechecks` say whether it may be moved, `copying` and `following` make a local standby
on the new partition, `lasting` makes it come back after a reboot, `switching` is the short moment, `proving` looks
whether it is the same database. The procedure was measured; see docs/relocate.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.relocate_postgres import apart
from runbooks_lib.procedures.relocate_postgres.copying import COPYING
from runbooks_lib.procedures.relocate_postgres.following import FOLLOWING
from runbooks_lib.procedures.relocate_postgres.lasting import LASTS
from runbooks_lib.procedures.relocate_postgres.looking import LOOKING
from runbooks_lib.procedures.relocate_postgres.paths import PATH, refuses_paths
from runbooks_lib.procedures.relocate_postgres.placing import WAYS
from runbooks_lib.procedures.relocate_postgres.proving import PROVING, TIDYING
from runbooks_lib.procedures.relocate_postgres.switching import SWITCHING
from runbooks_lib.procedures.watching import IO_PRESSURE
from runbooks_lib.runbook.step import Runbook

_TABLE = re.compile(r'[\w-]+\.[\w"]+\.[\w" -]+\Z')


def _refuses(parameters: Mapping[str, Any]) -> str:
    """Why these parameters make no sense; empty when they do."""
    if why := refuses_paths(parameters):
        return why
    directory, target = str(parameters["directory"]), str(parameters["target"])
    if why := apart.refuses(directory, target, parameters["tablespaces"], str(parameters["wal"]), PATH):
        return why
    for table in parameters["tables"]:
        if not _TABLE.match(table):
            return f"tables: {table!r} is not of the form db.schema.table"
    return ""


RUNBOOK = Runbook(
    name="relocate-database",
    version="3",
    title="Move a database to another partition of its host",
    purpose="The partition under a PostgreSQL database is full, or slow, and the host has a better one. Clients wait "
    "about a second; the old path stays valid.",
    not_when="The disk fails (copy what can be read first); the database has replication slots or unlogged tables (the "
    "prechecks say so); somebody makes or drops tablespaces meanwhile; both partitions are in one volume group "
    "(`pvmove` needs no downtime at all); or the disk is so full that WAL may stop: relieve it first.",
    takes="As long as copying the database takes, at the rate of the disks or of throttle_mb, plus a minute; clients "
    "wait about a second of it.",
    undo_takes="Seconds, at any time before the new place has taken its first write; after that there is none.",
    parameters=(
        Parameter("directory", "str", str, "", "the database directory, as its server names it; an absolute path"),
        Parameter("target", "str", str, "", "the new directory, on another filesystem; an absolute path"),
        Parameter(
            "place_by", "Literal['symlink', 'bind', 'data_directory']", str, "symlink",
            "how the old path leads to the new place", choices=WAYS,
        ),
        Parameter(
            "tablespaces", "list[str]", str, [],
            "where tablespaces go: NAME=/new/directory each; others go beside the target", is_list=True,
        ),
        Parameter(
            "wal", "str", str, "",
            "where the WAL goes: empty: stays on its partition; inside: with the data; or a new directory",
        ),
        Parameter("backup", "str", str, "", "which backup you would restore if all else fails, and when it was taken"),
        Parameter(
            "throttle_mb", "int", int, 0, "copy at most so many MB a second, 0 to 1024; 0 is no limit", lowest=0,
            highest=1024,
        ),
        IO_PRESSURE,
        Parameter(
            "pgbouncer_port", "int", int, 0, "the port of a pgbouncer in front that is to pause, 0 to 65535; 0 is none",
            lowest=0, highest=65535,
        ),
        Parameter(
            "tables", "list[str]", str, [],
            "tables that nobody writes to, to be summed before and after: db.schema.table", is_list=True,
        ),
        Parameter(
            "amcheck", "bool", bool, False,
            "look at every table and index with pg_amcheck, before copying and afterwards",
        ),
    ),
    steps=(LOOKING, COPYING, FOLLOWING, LASTS, SWITCHING, PROVING, TIDYING),
    refuses=_refuses,
    touches=lambda parameters: (str(parameters["target"]),),
    notebook="incident/relocate-database.ipynb",
    says="switch",
)  # fmt: skip
