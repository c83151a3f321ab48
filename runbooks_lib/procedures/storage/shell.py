"""Shell text that several ways share. It only reads."""

from __future__ import annotations

from importlib.resources import files

from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Known

LOOK = files(__package__).joinpath("look.sh").read_text(encoding="utf-8")


def on_mount(known: Known) -> str:
    """`look.sh`, and `m`, `type` and `source` of the runbook's mount point. Ends with status 3 when nothing is mounted
    there: for a check that means "cannot tell"."""
    return (
        f"{LOOK}m={word(known.parameters['mountpoint'])}\n"
        'type=$(type_of "$m") && source=$(source_of "$m") || { echo "nothing is mounted at $m" >&2; exit 3; }\n'
    )


def absolute(path: object) -> bool:
    """Whether a parameter is an absolute path of one line."""
    return str(path).startswith("/") and "\0" not in str(path)
