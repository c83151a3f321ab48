"""What several verbs of the `runbook` command share: naming the inventory, and choosing hosts from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbooks_lib.errors import UsageError

if TYPE_CHECKING:
    from runbooks_lib.config import Config, HostEntry

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The inventory; default: $RUNBOOKS_CONFIG, runbooks.toml here or above, ~/.config/runbooks/runbooks.toml.",
)


def selection(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--group", "-g", metavar="GROUP", help="Only the hosts of this group.")(command)
    return click.argument("names", nargs=-1, metavar="[HOST]...")(config_option(command))


def chosen(config_path: Path | None, names: tuple[str, ...], group: str | None) -> tuple[Config, list[HostEntry]]:
    from runbooks_lib import config

    loaded = config.load(config_path)
    entries = loaded.select(host=names or None, group=group)
    if not entries:
        raise UsageError("the inventory has no hosts", where=str(loaded.file), next="add a [hosts.NAME] to it")
    return loaded, entries
