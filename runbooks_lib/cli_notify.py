"""`runbook notify …`: trying the channels, sending a text, telling of a failed unit, silences."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from runbooks_lib.cli_options import config_option
from runbooks_lib.errors import ExitCode, UsageError


@click.group()
def notify() -> None:
    """Messages to the channels of the inventory ([notify.channels.NAME]), and Alertmanager silences.

    \b
    runbook notify test              a test message to every channel
    runbook notify send "a text"     a text of yours
    runbook notify silence HOST --minutes 30 --comment "disk is exchanged"
    """


@notify.command("test")
@click.argument("channels", nargs=-1, metavar="[CHANNEL]...")
@config_option
def notify_test(channels: tuple[str, ...], config_path: Path | None) -> None:
    """Send a test message to every channel, or those named, and say what came of it. Exit code 1 when one failed."""
    text = "Nothing has happened. Whoever reads this can be told."
    _send("Test of the runbook notifications", text, channels, config_path)


@notify.command("send")
@click.argument("text")
@click.option("--subject", default="A message from the runbooks", show_default=True, help="Its first line.")
@click.option("--channel", "channels", multiple=True, metavar="CHANNEL", help="Only this one; again for more.")
@click.option("--occasion", help="Such as CHG-1234: told once to each channel, however often this is run.")
@click.option("--forget", multiple=True, metavar="OCCASION", help="Told anew when it comes again; again for more.")
@config_option
def notify_send(
    text: str,
    subject: str,
    channels: tuple[str, ...],
    occasion: str | None,
    forget: tuple[str, ...],
    config_path: Path | None,
) -> None:
    """Send a text to every channel, or those named. Exit code 1 when one failed."""
    if occasion is not None and channels:
        raise UsageError("--occasion goes to every channel", true_now="nothing was sent", next="leave out --channel")
    _send(subject, text, channels, config_path, occasion=occasion, forget=forget)


@notify.command("sent")
@click.argument("occasion")
@config_option
def notify_sent(occasion: str, config_path: Path | None) -> None:
    """Say whether every channel has taken an occasion's message. Sends nothing."""
    from runbooks_lib import config
    from runbooks_lib.notification.occasions import parts, untold

    loaded = config.load(config_path)
    if loaded.notify.channels and (found := parts(loaded, occasion)):
        for each in found:
            unaware = ", ".join(untold(loaded, each))
            click.echo(f"{each}: " + (f"not told: {unaware}" if unaware else "told"))
        return
    missing = untold(loaded, occasion)
    if not loaded.notify.channels:
        click.echo("nobody: the inventory has no channel")
    elif missing:
        click.echo(f"not told: {', '.join(missing)}")
    else:
        click.echo(f"told: {', '.join(loaded.notify.channels)}")


@notify.command("unit-failed")
@click.argument("unit")
@click.option("--report", "report_name", default="disk-report", show_default=True, help="The report that it runs.")
@config_option
def notify_unit_failed(unit: str, report_name: str, config_path: Path | None) -> None:
    """Tell every channel that a report's systemd unit has failed; the timers of `runbook schedule` call this.

    A report that failed by itself has said so already: then nothing is sent. This is for one that was killed, or that
    could not begin.
    """
    from runbooks_lib import config
    from runbooks_lib.reports import index

    loaded = config.load(config_path)
    last = index.newest(loaded.outputs, report_name)
    if not loaded.notify.channels or (last is not None and last.state in ("failed", "timed out")):
        return
    _send(
        f"{report_name} did not run to its end",
        f"{unit} failed: it was killed, or could not begin. On the machine: journalctl -u {unit}",
        (),
        config_path,
        state="failed",
    )


@notify.command("silence")
@click.argument("name", metavar="HOST", required=False)
@click.option("--minutes", type=click.IntRange(1, 7 * 1440), help="How long, from now.")
@click.option("--comment", help="Why; others read it in Alertmanager.")
@click.option("--occasion", help="Such as CHG-1234: one silence for it, however often this is run.")
@click.option(
    "--list",
    "listing",
    is_flag=True,
    help="The silences that are in force; with HOST, --occasion, --minutes only those.",
)
@click.option("--end", "ended", metavar="ID", help="End this silence now.")
@click.option("--end-all-of", "over", metavar="OCCASION", help="End the occasion's silences now; with HOST its own.")
@config_option
def notify_silence(
    name: str | None,
    minutes: int | None,
    comment: str | None,
    occasion: str | None,
    listing: bool,
    ended: str | None,
    over: str | None,
    config_path: Path | None,
) -> None:
    """Silence a host's alerts in Alertmanager for a while; it ends by itself.

    Prints the silence's id. --end takes it away before its time.
    """
    import getpass
    from datetime import UTC, datetime, timedelta

    from runbooks_lib import config, terminal
    from runbooks_lib.notification.alertmanager import Silences

    loaded = config.load(config_path)
    silences = Silences.of(loaded.notify)
    host = loaded.select(host=name)[0].name if name else None
    if listing:
        found = silences.active(occasion, instance=host, minutes=minutes or 0)
        rows = [(each.id, f"{each.ends:%Y-%m-%d %H:%M} UTC", each.matchers, each.comment) for each in found]
        if occasion:
            for each in found:
                click.echo(f"until {each.ends:%Y-%m-%d %H:%M} UTC: alerts with {each.matchers}")
        elif rows:
            terminal.table(rows, ("ID", "UNTIL", "ALERTS WITH", "WHY"))
        click.echo(f"{len(found)} in force at {silences.url}")
        return
    if ended is not None:
        silences.end(ended)
        click.echo(f"Ended: {ended}")
        return
    if over is not None:
        gone = silences.active(over, instance=host)
        for each in gone:
            silences.end(each.id)
        click.echo(f"Ended: {', '.join(each.id for each in gone) or 'nothing was in force'}")
        return
    if not name or not minutes or not comment:
        raise UsageError(
            "a host, --minutes and --comment are needed",
            true_now="nothing was silenced",
            next='runbook notify silence HOST --minutes 30 --comment "why"; or --list, or --end ID',
        )
    (entry,) = loaded.select(host=name)
    now = datetime.now(UTC)
    present = silences.active(occasion, instance=entry.name, minutes=minutes) if occasion else []
    if present:
        click.echo(f"{present[0].id} (in force until {present[0].ends:%H:%M} UTC)")
        return
    made = silences.begin(
        entry.name,
        start=now,
        end=now + timedelta(minutes=minutes),
        comment=comment,
        author=getpass.getuser(),
        occasion=occasion or "",
    )
    click.echo(made)


def _send(
    subject: str,
    text: str,
    channels: tuple[str, ...],
    config_path: Path | None,
    state: str = "information",
    occasion: str | None = None,
    forget: tuple[str, ...] = (),
) -> None:
    from runbooks_lib import config, terminal
    from runbooks_lib.notification.message import message
    from runbooks_lib.notification.occasions import tell_once
    from runbooks_lib.notification.sending import send

    loaded = config.load(config_path)
    if not loaded.notify.channels:
        raise UsageError(
            "the inventory has no channel",
            true_now="nothing was sent",
            next="add [notify.channels.NAME]; docs/notify.md shows each kind",
        )
    told = message(subject, text, state="failed" if state == "failed" else "information", source="runbook notify")
    came = (
        send(loaded.notify, told, only=channels or None)
        if occasion is None
        else tell_once(loaded, told, occasion, forget)
    )
    terminal.table([(each.channel, "took it" if each.ok else f"FAILED: {each.error}") for each in came])
    if occasion is not None and not came:
        click.echo("Every channel has been told before.")
    if not all(each.ok for each in came):
        sys.exit(ExitCode.FAILED)
