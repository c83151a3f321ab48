"""`runbook relieve`: every safe way to more space for one mount point, and what each buys."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from runbooks_lib.cli_options import chosen, config_option
from runbooks_lib.errors import ExitCode


@click.command()
@click.argument("name", metavar="HOST")
@click.argument("mountpoint")
@click.option("--days", type=click.IntRange(1, 1825), default=30, show_default=True, help="How long it shall hold.")
@click.option("--add-gib", type=click.FloatRange(min=0), default=0.0, help="So much, and not what the forecast says.")
@click.option("--file", "files", multiple=True, metavar="PATH", help="A file that could be moved away; again for more.")
@click.option("--json", "as_json", is_flag=True, help="The ways as JSON.")
@config_option
def relieve(
    name: str,
    mountpoint: str,
    days: int,
    add_gib: float,
    files: tuple[str, ...],
    as_json: bool,
    config_path: Path | None,
) -> None:
    """List the safe ways to more space for a mount point, each measured on the host.

    Changes nothing. The safest and quickest come first. How much is wanted is computed from the host's past. Exit code
    3 when no way alone gives that. `runbook run` does one of them, with the parameters that stand with it.
    """
    from runbooks_lib import terminal
    from runbooks_lib.hosts.opening import open_host
    from runbooks_lib.procedures.storage import relief

    loaded, (entry,) = chosen(config_path, (name,), None)
    host = open_host(entry, loaded)
    try:
        found = relief.find(
            host, mountpoint, config=loaded, entry=entry, days=days, add_bytes=int(add_gib * 2**30), files=files
        )  # fmt: skip
    finally:
        host.close()
    click.echo(terminal.as_json(relief.as_data(found)) if as_json else relief.text(found))
    if found.wanted_bytes and not found.enough:
        sys.exit(ExitCode.THRESHOLD)
