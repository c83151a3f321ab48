"""`runbook triage`: users say it is slow; what is wrong with this host, ranked, within ten seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runbooks_lib.cli_options import chosen, config_option
from runbooks_lib.errors import ExitCode

if TYPE_CHECKING:
    from runbooks_lib.diagnosis.diagnosis import Diagnosis


@click.command()
@click.argument("name", metavar="HOST")
@click.option("--json", "as_json", is_flag=True, help="The ranked findings as JSON.")
@config_option
def triage(name: str, as_json: bool, config_path: Path | None) -> None:
    """Say what is wrong with a host: findings ranked with their evidence, and the notebook that mends each.

    Reads the host (twice, a few seconds apart), its database, its services and its past; changes and stores nothing.
    What could not be told is listed, never passed over. If some of it answers late, a terminal shows what is known
    after eight seconds, and all of it at the end. Exit code 3 when something is red.
    """
    from runbooks_lib import terminal
    from runbooks_lib.diagnosis import telling
    from runbooks_lib.diagnosis.triage import triage as look

    def early(known: Diagnosis) -> None:
        click.echo(f"{telling.text(known)}\n\nThe rest is waited for; Ctrl-C ends that.\n", err=True)

    loaded, (entry,) = chosen(config_path, (name,), None)
    # Nobody reads a pipe while it fills.
    found = look(loaded, entry.name, early=early if sys.stderr.isatty() and not as_json else None)
    click.echo(terminal.as_json(telling.as_data(found)) if as_json else telling.text(found))
    if found.red:
        sys.exit(ExitCode.THRESHOLD)
