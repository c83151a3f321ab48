"""What the `runbook` command shows: tables and progress for people, JSON for programs. Remote text is never markup."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

import click

from runbooks_lib import words

if TYPE_CHECKING:
    from runbooks_lib.config import Config, HostEntry
    from runbooks_lib.history.collecting import Archives, Row, Seen
    from runbooks_lib.history.forgetting import Forgotten
    from runbooks_lib.history.import_prometheus import ServerImport
    from runbooks_lib.history.model import History
    from runbooks_lib.history.writing import Imported

Tick = Callable[[str, str], None]  # host, state


def line(*columns: str, widths: Iterable[int] = ()) -> str:
    """One row: columns padded to `widths`, without invisible characters."""
    wide = [*widths, *([0] * len(columns))]
    return "  ".join(f"{plain(text):<{wide[place]}}" for place, text in enumerate(columns)).rstrip()


def plain(text: str) -> str:
    """Remote text as one line that cannot move the cursor or turn the text's direction."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ()) -> None:
    """Rows under each other, each column as wide as its longest cell but the last."""
    everything = [header, *rows] if header else list(rows)
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
    from runbooks_lib.capacity.workdays import lead_time

    rows: list[tuple[str, ...]] = []
    for entry in entries:
        way = "example" if entry.example else "local" if entry.local else f"ssh {entry.ssh_name}"
        partitions = [
            f"{partition.mountpoint}{' (database)' if partition.database else ''} "
            f"{partition.threshold_ratio:.0%}, {lead_time(partition)}"
            for partition in entry.partitions.values()
        ]
        rows.append((entry.name, way, ", ".join(entry.groups) or "-", "; ".join(partitions) or "(all, by default)"))
    table(rows, ("HOST", "REACHED BY", "GROUPS", "PARTITIONS: THRESHOLD, LEAD TIME"))
    _show_notes((entry.name, entry.notes) for entry in entries)
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
        click.echo("Not added; only the whole word yes adds it. Nothing was changed.")
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
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither
    return value


# -- hosts -------------------------------------------------------------------------------------------------------------


def show_checks(rows: list[Row]) -> None:
    """A row a host: what was read, or what is wrong and what to do."""
    shown: list[tuple[str, ...]] = []
    for row in rows:
        if row.seen is None:
            shown.append((row.host, row.state, f"{row.seconds:.1f} s", "see below"))
            continue
        state = "ok" if row.ok else "ok, but"
        about = f"{row.seen.system}, {_count(row.partitions, 'partition')}"
        shown.append((row.host, state, f"{row.seconds:.1f} s", about))
    table(shown, ("HOST", "STATE", "TIME", ""))
    for row in rows:
        for doubt in row.doubts:
            click.echo(f"{plain(row.host)}: {plain(doubt)}")
    _show_notes((row.host, row.notes) for row in rows)
    _show_failures(rows)
    well = sum(row.ok for row in rows)
    click.echo(f"\n{well} of {_count(len(rows), 'host')} are right. Nothing was stored.")


def _show_notes(noted: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """What is not followed of the way to hosts, once for all that say it."""
    hosts: dict[str, list[str]] = {}
    for host, notes in noted:
        for note in notes:
            hosts.setdefault(note, []).append(plain(host))
    for note, names in hosts.items():
        click.echo(f"{words.listing(names, limit=5)}: {plain(note)}")


def show_collected(rows: list[Row], config: Config, *, quiet: bool = False) -> None:
    """A row a host, the failures with what to do, and where the numbers are; for a log one dated line a failure."""
    if quiet:
        now = datetime.now(UTC)
        for row in rows:
            if row.message:
                click.echo(
                    f"{now:%Y-%m-%dT%H:%M:%SZ} {line(row.host, row.state, row.message.splitlines()[0])}", err=True
                )
        return
    table(
        [
            (row.host, row.state, f"{row.seconds:.1f} s", _fullest(row.seen) if row.seen else "see below")
            for row in rows
        ],
        ("HOST", "STATE", "TIME", "FULLEST"),
    )
    _show_failures(rows)
    read = sum(row.seen is not None for row in rows)
    click.echo(f"\n{read} of {_count(len(rows), 'host')} read and kept in {config.history.path}")


def _show_failures(rows: list[Row]) -> None:
    for row in rows:
        if row.message:
            click.echo(f"\n{plain(row.host)}: {row.state}", err=True)
            for text in row.message.splitlines():
                click.echo(f"  {plain(text)}", err=True)


def _fullest(seen: Seen) -> str:
    if not seen.fullest:
        return "no file system with a size"
    return f"{seen.fullest} {seen.fullest_ratio:.0%} of {_count(seen.partitions, 'partition')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def plain_lines(text: str) -> str:
    """As `plain`, line by line."""
    return "\n".join(plain(each) for each in text.split("\n"))


def size(amount: float) -> str:
    """Bytes in the largest fitting unit: `3.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit always returns")


# -- history -----------------------------------------------------------------------------------------------------------


def show_history(history: History, config: Config) -> None:
    """A row a partition: days of past, the last numbers, where they came from."""
    rows: list[tuple[str, ...]] = []
    for instance, mountpoint in history.filesystems():
        # A server is asked for what it answers quickly; our own file for all that it has.
        past = history.filesystem(instance, mountpoint, days=36_500 if config.history.path else 400)
        if past is None or not len(past.days):
            continue
        used = f"{size(float(past.used_bytes_max[-1]))} of {size(float(past.size_bytes[-1]))}"
        rows.append(
            (instance, mountpoint, f"{past.days[0]} to {past.days[-1]}", str(len(past.days)), used,
             "; ".join(past.origins))
        )  # fmt: skip
    if rows:
        table(rows, ("HOST", "PARTITION", "FROM, TO", "DAYS", "LAST", "WHERE FROM"))
    else:
        click.echo("The history is empty. `runbook collect` begins one, `runbook history import` brings one.")
    click.echo(f"\n{config.history.path or config.history.url}")


def show_imported(imported: Imported) -> None:
    """What an import brought, in one sentence."""
    first, last = _day_of(imported.first_time), _day_of(imported.last_time)
    click.echo(
        f"{imported.origin}: {_count(imported.samples, 'sample')} of {', '.join(map(plain, imported.instances))}, "
        f"{first} to {last}."
    )


def show_forgotten(gone: Forgotten, *, dry: bool) -> None:
    """What an import's removal takes away (`dry`: would take away), host by host."""
    first, last = _day_of(gone.first_time), _day_of(gone.last_time)
    table(
        [
            (part.instance, part.mountpoint or "(not of a partition)", _count(part.days_gone, "day"),
             f"{_count(part.days_kept, 'day')} stay: others brought them too" if part.days_kept else "")
            for part in gone.parts
        ],
        ("HOST", "PARTITION", "WOULD GO" if dry else "GONE", ""),
    )  # fmt: skip
    if dry:
        click.echo(f"\n{plain(gone.origin)}, {first} to {last}. Nothing was removed; --yes removes it for good.")
    else:
        click.echo(f"\nRemoved: {plain(gone.origin)}, {first} to {last}.")


def _day_of(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def show_archives(rows: list[Archives]) -> None:
    """What came of each host's sar archives."""
    for row in rows:
        if row.imported is None:
            click.echo(f"{plain(row.host)}: {row.state}\n  {plain_lines(row.message)}", err=True)
            continue
        found = row.imported.imported
        if found is not None:
            show_imported(found)
        else:
            click.echo(f"{plain(row.host)}: its {_count(row.imported.archives, 'archive')} held nothing of use")
        for archive, why in row.imported.skipped:
            click.echo(f"  left out {plain(archive)}: {plain(why)}", err=True)
        if row.message:
            click.echo(f"  {plain(row.message)}", err=True)


def show_server_import(brought: ServerImport, url: str) -> None:
    """What came from a server, host by host."""
    table([(host, _count(number, "sample")) for host, number in brought.samples.items()])
    for host in brought.empty:
        click.echo(f"{plain(host)}: the server has nothing of it", err=True)
    for warning in brought.warnings:
        click.echo(plain(warning), err=True)
    click.echo(f"Imported {_count(len(brought.samples), 'host')} from {plain(url)}.")
