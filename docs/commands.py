"""Prints docs/commands.md: every verb of `runbook` with its own help. Called by `make docs`."""

from __future__ import annotations

import click

from runbooks_lib.cli import cli

HEAD = """\
# Every command

Made by `make docs` from the commands' own help; a test fails when it is not up to date.
"""


def text() -> str:
    """The whole page."""
    return HEAD + "".join(_section(cli, "runbook", None))


def _section(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    settings = {**command.context_settings, "max_content_width": 100}
    context = click.Context(command, info_name=name.rsplit(" ", 1)[-1], parent=parent, **settings)
    command._help_option = None  # click keeps the one of the first context that asked, which may have been another
    context.terminal_width = 100
    parts = [f"\n## {name}\n\n```\n{context.get_help()}\n```\n"]
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            parts += _section(command.commands[word], f"{name} {word}", context)
    return parts


if __name__ == "__main__":
    print(text(), end="")
