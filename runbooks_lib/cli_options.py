"""What several verbs of the `runbook` command share: naming the inventory, and choosing hosts from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbooks_lib.errors import UsageError

if TYPE_CHECKING:
    from runbooks_lib.config import Config, HostEntry


# In which order somebody new meets them. A verb that is not listed here stands under "More".
_SECTIONS = {
    "Hosts and their past": ("init", "hosts", "collect", "facts", "history", "annotate"),
    "Reports": ("report", "schedule", "notify", "needs", "backtest", "lab"),
    "In an incident": ("triage", "relieve"),
    "Runbooks that change a host": ("run", "plan", "resume", "cancel", "undo", "runs", "show", "lint"),
    "Practice": ("demo", "lab-host"),
}
_WHOLE_SENTENCE = 300


class Verbs(click.Group):
    """A group whose verbs stand in sections, and that finds a verb also where it stands deeper: after `check` it names
    `runbook hosts check`."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by section, each with its whole first sentence."""
        known = {name: self.commands[name] for name in self.list_commands(ctx) if not self.commands[name].hidden}
        listed = {name for names in _SECTIONS.values() for name in names}
        sections = {**_SECTIONS, "More": tuple(name for name in known if name not in listed)}
        width = max(map(len, known), default=0)
        for title, names in sections.items():
            rows = [
                (name.ljust(width), known[name].get_short_help_str(_WHOLE_SENTENCE)) for name in names if name in known
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

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
