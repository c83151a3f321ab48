"""Where the database is between its old and its new place, as shell functions.

`here`: the old directory is where it was. `between`: it was renamed, and the old path leads nowhere yet. `placed`: the
old path leads to the target. Where the old directory is still there, `….relocated` is of an earlier move.
"""

from __future__ import annotations

from runbooks_lib.procedures.relocate_postgres import placing
from runbooks_lib.procedures.relocate_postgres.cluster import cluster
from runbooks_lib.runbook.step import Check, Command, Known

# Root writes in $W, and the account may be able to put something else beside the new place.
_STAGE = """[ ! -L "$W" ] && { [ ! -e "$W" ] || [ -O "$W" ]; } || fail "$W is there, and root has not made it"
if placed; then stage=placed
elif [ -d "$K" ] && [ -z "$(ls -A -- "$R" 2>/dev/null)" ]; then stage=between; else stage=here; fi
"""


def shell(known: Known) -> str:
    """The names, the functions and the stage: how every script after the first step begins."""
    of = cluster(known)
    return of.shell() + placing.shell(of, str(known.parameters["place_by"])) + _STAGE


def command(known: Known, text: str, affects: str) -> Command:
    """A change, as root."""
    return Command(shell(known) + text, affects, root=True)


def check(title: str, text: str, *, deadline_seconds: float = 30.0) -> Check:
    """A question, as root."""
    return Check(title, lambda known: shell(known) + text, root=True, deadline_seconds=deadline_seconds)
