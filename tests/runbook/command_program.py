"""The engine's verbs as a program of their own, with the synthetic runbook among the others."""

from __future__ import annotations

import sys

import click

from runbooks_lib.errors import RunbookError
from runbooks_lib.runbook import catalogue, commands
from runbooks_lib.runbook.step import NoUndo
from tests.runbook.synthetic import book, write_step


@click.group()
def group() -> None:
    """As the real command is."""


def main() -> None:
    commands.add_to(group)
    known = catalogue.all_runbooks()
    last = write_step("last", "last", point_of_no_return=True, undo=NoUndo("it is the last one.", "nothing."))
    known["synthetic"] = book(write_step("one", "one"), write_step("two", "two"), last)
    catalogue.all_runbooks = lambda *_: known
    try:
        group(standalone_mode=False)
    except RunbookError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))


if __name__ == "__main__":
    main()
