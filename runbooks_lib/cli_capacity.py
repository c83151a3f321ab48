"""`runbook backtest`, `runbook needs` and `runbook annotate`: how good forecasts would have been, how much to add, and
what a person knows of a day."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click

from runbooks_lib.cli_options import chosen, config_option, selection
from runbooks_lib.errors import ExitCode, UsageError


@click.command()
@selection
def backtest(config_path: Path | None, names: tuple[str, ...], group: str | None) -> None:
    """How good the forecasts for these partitions would have been, next to simpler ones.

    Forecasts again and again from points in the past, knowing only what was known then. Stores nothing. Exit code 1
    when no partition has a past that is long enough.
    """
    from datetime import UTC

    from runbooks_lib import terminal
    from runbooks_lib.history import open_history
    from runbooks_lib.reports import disk_backtest

    loaded, entries = chosen(config_path, names, group)
    known = open_history(loaded.history)
    try:
        told = disk_backtest.run(known, entries, now=datetime.now(UTC))
    finally:
        known.close()
    for line in told.before:
        click.echo(line)
    if told.rows:
        click.echo()
        terminal.table(list(told.rows), told.header)
        click.echo()
    for line in told.after:
        click.echo(line)
    if not told.rows:
        sys.exit(ExitCode.FAILED)


@click.command()
@selection
@click.option("--partition", metavar="MOUNTPOINT", help="Only what is mounted there.")
@click.option(
    "--until",
    default="",
    metavar="DATE",
    help="To last until this day, or to the end of this year (default: [plan] days).",
)
@click.option("--risk", type=float, help="The chance of a full disk that is accepted, such as 0.05.")
@click.option("--price", type=float, help="What a GiB costs, for the bill.")
def needs(
    config_path: Path | None,
    names: tuple[str, ...],
    group: str | None,
    partition: str | None,
    until: str,
    risk: float | None,
    price: float | None,
) -> None:
    """How much space to add to which partition, by when to begin, what it buys and what it costs.

    From the history; connects to no host and changes nothing. Lead times, risk and price come from the inventory
    ([defaults] and [plan]). Exit code 1 when no plan can be made for any partition.
    """
    from datetime import UTC

    from runbooks_lib import config
    from runbooks_lib.history import open_history
    from runbooks_lib.reports import disk_plan

    loaded, entries = chosen(config_path, names, group)
    wanted = config.plan_settings(loaded.plan, risk=risk, price_per_gib=price)
    known = open_history(loaded.history)
    try:
        told = disk_plan.run(
            known, entries, wanted, now=datetime.now(UTC), until=disk_plan.until_of(until), mountpoint=partition
        )
    finally:
        known.close()
    if not told.plans:
        place = f" at {partition}" if partition else ""
        raise UsageError(
            f"the history knows no partition{place} of these hosts", next="`runbook history info` lists them"
        )
    for line in (*told.paragraphs, *told.lines):
        click.echo(line)
    if not told.made:
        sys.exit(ExitCode.FAILED)


@click.command()
@click.argument("host")
@click.argument("mountpoint")
@click.argument("day", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY")
@click.argument("text", required=False)
@click.option("--exclude", is_flag=True, help="What changed on that day was a one-off: take it out of forecasts.")
@click.option("--remove", is_flag=True, help="Take away what was noted for that partition and day.")
@config_option
def annotate(
    host: str,
    mountpoint: str,
    day: datetime,
    text: str | None,
    exclude: bool,
    remove: bool,
    config_path: Path | None,
) -> None:
    """Note what happened to a partition on a day (UTC, YYYY-MM-DD); reports show it.

    With --exclude the day's change is taken out of forecasts, and the report gives both answers.
    """
    import getpass
    from datetime import UTC, timedelta

    from runbooks_lib.history import SqliteHistory
    from runbooks_lib.history import notes as kept

    if remove and (text or exclude):
        raise UsageError("--remove takes neither a text nor --exclude", true_now="nothing was changed")
    if not remove and not (text or "").strip():
        raise UsageError(
            "an annotation needs a text", true_now="nothing was stored", next='give one: "restored a dump"'
        )
    loaded, (entry,) = chosen(config_path, (host,), None)
    if loaded.history.path is None:
        raise UsageError(
            f"the history is the server {loaded.history.url}, not a file of ours",
            true_now="nothing was stored",
            next="annotations need `path` in [history]",
        )
    store = SqliteHistory(loaded.history.path)
    try:
        if (entry.name, mountpoint) not in store.filesystems(entry.name):
            raise UsageError(
                f"the history knows no partition {mountpoint} of {entry.name}",
                true_now="nothing was changed",
                next="`runbook history info` lists them",
            )
        begin = day.replace(tzinfo=UTC)
        if remove:
            gone = [
                one
                for one in kept.annotations_of(store, entry.name, mountpoint)
                if one.mountpoint == mountpoint and one.start.date() == begin.date()
            ]
            for one in gone:
                kept.remove_annotation(store, one.id)
            if not gone:
                raise UsageError(
                    f"nothing is noted for {mountpoint} on {begin:%Y-%m-%d}", true_now="nothing was removed"
                )
            click.echo(f"Removed {len(gone)} from {begin:%Y-%m-%d}.")
            return
        kept.annotate(
            store,
            entry.name,
            begin,
            begin + timedelta(hours=23, minutes=59, seconds=59),
            text=(text or "").strip(),
            author=getpass.getuser(),
            kind="exclude" if exclude else "note",
            mountpoint=mountpoint,
        )
        click.echo(
            f"Noted for {mountpoint} on {entry.name}, {begin:%Y-%m-%d}"
            + ("; that day's change is taken out of forecasts." if exclude else ".")
        )
    finally:
        store.close()
