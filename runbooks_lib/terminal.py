"""What the `runbook` command shows: tables and progress for people, JSON for programs. Remote text is never markup."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from runbooks_lib.config import Config, HostEntry

Tick = Callable[[str, str], None]  # host, state


def line(*columns: str, widths: Iterable[int] = ()) -> str:
    """One row: columns padded to `widths`, without invisible characters."""
    wide = [*widths, *([0] * len(columns))]
    return "  ".join(f"{plain(text):<{wide[place]}}" for place, text in enumerate(columns)).rstrip()


def plain(text: str) -> str:
    """Remote text as one line that cannot move the cursor or turn the text's direction."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def table(rows: list[tuple[str, ...]], header: tuple[str, ...] = ()) -> None:
    """Rows under each other, each column as wide as its longest cell but the last."""
    everything = [header, *rows] if header else rows
    if not everything:
        return
    widths = [max(len(plain(row[place])) for row in everything) for place in range(len(everything[0]) - 1)]
    for number, row in enumerate(everything):
        text = line(*row, widths=[*widths, 0])
        click.echo(click.style(text, bold=True) if header and number == 0 else text)


@contextmanager
def progress(verb: str, total: int, *, quiet: bool = False) -> Iterator[Tick]:
    """A progress line on a terminal's stderr; nothing where stderr is a file or a pipe."""
    if quiet or total < 2 or not sys.stderr.isatty():
        yield lambda _host, _state: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(verb, total=total, last="")

        def tick(host: str, state: str) -> None:
            bar.update(task, advance=1, last=line(host, state))

        yield tick


def show_inventory(config: Config, entries: list[HostEntry]) -> None:
    """The inventory as it was understood."""
    rows: list[tuple[str, ...]] = []
    for entry in entries:
        way = "example" if entry.example else "local" if entry.local else f"ssh {entry.ssh_name}"
        partitions = [
            f"{partition.mountpoint}{' (database)' if partition.database else ''} "
            f"{partition.threshold_ratio:.0%}, {partition.lead_time_days} days"
            for partition in entry.partitions.values()
        ]
        rows.append((entry.name, way, ", ".join(entry.groups) or "-", "; ".join(partitions) or "(all, by default)"))
    table(rows, ("HOST", "REACHED BY", "GROUPS", "PARTITIONS: THRESHOLD, LEAD TIME"))
    click.echo(f"\n{config.file}; history: {config.history.path or config.history.url}")


def show_script(script: Any) -> None:
    """A script's text on stdout, so that it can be piped and pinned; its digest on stderr."""
    click.echo(script.text, nl=False)
    click.echo(f"sha256 {script.sha256}", err=True)


def ask_to_trust(plan: Any, add: Callable[[Any], None]) -> None:
    """Shows what a host presented and adds it after a typed yes."""
    click.echo(plan.describe())
    if plan.already_known is not None:
        return
    if not sys.stdin.isatty():
        click.echo("Only a person at a terminal can say yes; nothing was added.", err=True)
        sys.exit(1)
    answer = click.prompt("Type yes to trust this key", default="no", show_default=False)
    if answer.strip().lower() != "yes":
        click.echo("Not added. Nothing was changed.")
        sys.exit(1)
    add(plan)
    click.echo(f"Added to {plan.path}.")


def as_json(value: Any) -> str:
    """Dataclasses, enums, times and mappings as indented JSON."""
    return json.dumps(_jsonable(value), indent=2, ensure_ascii=False)


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(key): _jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(each) for each in value]
    if isinstance(value, float) and value != value:
        return None
    return value
