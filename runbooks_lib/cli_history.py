"""`runbook history …`: what is kept, bringing a past from elsewhere, copies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runbooks_lib.cli_options import chosen, config_option, selection
from runbooks_lib.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from runbooks_lib.history import SqliteHistory


@click.group()
def history() -> None:
    """What hosts said before: what is kept, bringing a past from elsewhere, copies."""


@history.command("info")
@config_option
def history_info(config_path: Path | None) -> None:
    """Which hosts and partitions the history knows, since when, and from where the numbers came."""
    from runbooks_lib import config, terminal
    from runbooks_lib.history import open_history

    loaded = config.load(config_path)
    known = open_history(loaded.history)
    try:
        terminal.show_history(known, loaded)
    finally:
        known.close()


@history.command("backup")
@click.argument("target", type=click.Path(path_type=Path))
@config_option
def history_backup(target: Path, config_path: Path | None) -> None:
    """Copy the history file to TARGET, consistently, even while it is written. Never overwrites a file."""
    _own_history(config_path).backup(target)
    click.echo(f"Copied to {target}.")


@history.command("check")
@config_option
def history_check(config_path: Path | None) -> None:
    """Read the whole history file and say whether it is sound. Exit code 1 when it is not."""
    known = _own_history(config_path)
    mistakes = known.check()
    for mistake in mistakes:
        click.echo(mistake, err=True)
    if mistakes:
        sys.exit(ExitCode.FAILED)
    click.echo(f"{known.path}: sound.")


@history.command("forget")
@click.argument("origin")
@click.option("--yes", is_flag=True, help="Remove it; without this only what would go is shown.")
@config_option
def history_forget(origin: str, yes: bool, config_path: Path | None) -> None:
    """Take an import back: remove what ORIGIN brought ("imported from usage.csv"; `history info` names them).

    Days for which there are other numbers too stay as they are: a value does not know who brought it. What was
    collected is never removed. `history backup` keeps a copy before.
    """
    from runbooks_lib import terminal
    from runbooks_lib.history import forgetting

    known = _own_history(config_path)
    try:
        terminal.show_forgotten(forgetting.forget(known, origin, dry=not yes), dry=not yes)
    finally:
        known.close()


@history.group("import")
def history_import() -> None:
    """Bring a past from elsewhere. Importing again is harmless; where numbers came from is kept, and an import can be
    taken back (`history forget`)."""


@history_import.command("csv")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--host", metavar="HOST", help="The host, where the file has no column `instance`.")
@click.option("--mountpoint", metavar="PATH", help="The partition, where the file has no column `mountpoint`.")
@config_option
def history_import_csv(file: Path, host: str | None, mountpoint: str | None, config_path: Path | None) -> None:
    """A CSV file, plain or gzip: time,used_bytes[,size_bytes,avail_bytes,inodes_used,inodes_total].

    All of it or nothing; every line that cannot be read is told with its number. docs/history.md lists the columns.
    """
    from runbooks_lib import config, terminal
    from runbooks_lib.history.import_csv import import_csv

    brought = import_csv(_own_history(config_path), file, instance=host, mountpoint=mountpoint)
    terminal.show_imported(brought)
    unknown = [name for name in brought.instances if name not in config.load(config_path).hosts]
    if unknown:
        click.echo(f"Not in the inventory, so no report shows it yet: {', '.join(unknown)}", err=True)


@history_import.command("sysstat")
@selection
def history_import_sysstat(config_path: Path | None, names: tuple[str, ...], group: str | None) -> None:
    """The hosts' own sar archives (package sysstat), read over SSH with sadf."""
    from runbooks_lib import terminal
    from runbooks_lib.history import collecting

    loaded, entries = chosen(config_path, names, group)
    known = _own_history(config_path)
    with terminal.progress("reading archives", len(entries)) as tick:
        rows = collecting.import_archives(loaded, entries, known, on_progress=tick)
    terminal.show_archives(rows)
    if not all(row.imported for row in rows):
        sys.exit(ExitCode.FAILED)


@history_import.command("prometheus")
@click.argument("url")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How far back.")
@click.option("--step", type=click.IntRange(15, 86400), default=300, show_default=True, help="Seconds between values.")
@click.option("--label", default="instance", show_default=True, help="The label that names the host.")
@click.option("--host", "names", multiple=True, metavar="HOST", help="Only this host (again for more); default: all.")
@click.option("--user", help="For basic authentication.")
@click.option("--password", metavar="REF", help='Its password, by reference: "env:NAME" or "file:/path".')
@click.option("--token", metavar="REF", help='A bearer token, by reference: "env:NAME" or "file:/path".')
@config_option
def history_import_prometheus(
    url: str,
    days: int,
    step: int,
    label: str,
    names: tuple[str, ...],
    user: str | None,
    password: str | None,
    token: str | None,
    config_path: Path | None,
) -> None:
    """A Prometheus-compatible server (Prometheus, VictoriaMetrics, Thanos, Mimir) that scrapes node_exporter."""
    from datetime import UTC, datetime, timedelta

    from runbooks_lib import terminal
    from runbooks_lib.history.import_prometheus import import_prometheus
    from runbooks_lib.history.prometheus_api import PrometheusApi

    known = _own_history(config_path)
    now = datetime.now(UTC)
    brought = import_prometheus(
        known,
        PrometheusApi(url, user=user, password=password, token=token),
        start=now - timedelta(days=days),
        end=now,
        instances=names or None,
        instance_label=label,
        step_seconds=step,
    )
    terminal.show_server_import(brought, url)


def _own_history(config_path: Path | None) -> SqliteHistory:
    from runbooks_lib import config
    from runbooks_lib.history import SqliteHistory

    loaded = config.load(config_path)
    if loaded.history.path is None:
        raise UsageError(
            f"the history is the server {loaded.history.url}, not a file of ours",
            where=str(loaded.file),
            true_now="nothing was done",
            next="to keep a history of our own, name a path instead of a url under [history]",
        )
    return SqliteHistory(loaded.history.path)
