"""What several verbs of the `runbook` command share: naming the inventory, and choosing hosts from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbooks_lib.errors import UsageError

if TYPE_CHECKING:
    from runbooks_lib.config import Config, HostEntry


class Verbs(click.Group):
    """A group that finds a verb also where it stands deeper: after `check` it names `runbook hosts check`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            deeper = [f"`runbook {path}`" for path in _paths(self) if path.split()[-1] == args[0]]
            if not deeper:
                raise
            raise click.UsageError(f"{error.format_message()} There is {' and '.join(deeper)}.", ctx) from None


def _paths(group: click.Group, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _paths(command, f"{before}{name} ")
        yield f"{before}{name}"


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
