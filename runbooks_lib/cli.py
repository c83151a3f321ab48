"""The `runbook` command: thin, every verb is one call into a room."""

from __future__ import annotations

import select
import signal
import sys
from pathlib import Path

import click

from runbooks_lib import __version__
from runbooks_lib.cli_capacity import annotate, backtest, needs
from runbooks_lib.cli_history import history
from runbooks_lib.cli_notify import notify
from runbooks_lib.cli_options import Verbs, chosen, config_option, selection
from runbooks_lib.cli_relieve import relieve
from runbooks_lib.cli_triage import triage
from runbooks_lib.errors import ExitCode, RunbookError, UsageError
from runbooks_lib.runbook import commands as engine
from runbooks_lib.training.lab.commands import lab_host

# Rooms are imported inside the verbs, so that `runbook --help` stays quick.


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="runbook")
def cli() -> None:
    """Runbooks for on-call engineers: read hosts over SSH, keep their past, say when a disk will be full, report it.

    \b
    Begin:      runbook init            an inventory from your ~/.ssh/config
                runbook hosts check     who can be reached, and what is missing
                runbook collect         read every host once and keep it
                runbook report disk-report
    Exit codes: 0 ok, 1 failed, 2 used wrongly, 3 someone is needed.
    """


@cli.command()
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("runbooks.toml"), show_default=True)
@click.option("--ssh-config", type=click.Path(path_type=Path), help="Read the hosts from here, not ~/.ssh/config.")
def init(output: Path, ssh_config: Path | None) -> None:
    """Write a starter inventory from ~/.ssh/config. Never overwrites a file."""
    from runbooks_lib import init_config

    written = init_config.write(output, ssh_config=ssh_config)
    click.echo(written.sentence)


@cli.group()
def hosts() -> None:
    """The hosts of the inventory: list, check, trust."""


@hosts.command("list")
@selection
def hosts_list(config_path: Path | None, names: tuple[str, ...], group: str | None) -> None:
    """Show the inventory as it was understood."""
    from runbooks_lib import terminal

    loaded, entries = chosen(config_path, names, group)
    terminal.show_inventory(loaded, entries)


@hosts.command("check")
@selection
def hosts_check(config_path: Path | None, names: tuple[str, ...], group: str | None) -> None:
    """Connect to each host and say what works: address, host key, login, facts, the listed partitions.

    Nothing is stored and nothing is changed. What of the SSH configuration is not followed here is said too. Exit code
    1 when a host is not right.
    """
    from runbooks_lib import terminal
    from runbooks_lib.history import collecting

    loaded, entries = chosen(config_path, names, group)
    with terminal.progress("checking", len(entries)) as tick:
        rows = collecting.check(loaded, entries, on_progress=tick)
    terminal.show_checks(rows)
    if not all(row.ok for row in rows):
        sys.exit(ExitCode.FAILED)


@hosts.command("trust")
@click.argument("name", metavar="HOST")
@config_option
def hosts_trust(config_path: Path | None, name: str) -> None:
    """Show the key that a host presents and, after a typed yes, add it to your known_hosts.

    Compare the fingerprint with one that you got another way: the console, the installer's log, a colleague
    (on the host: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub).
    """
    from runbooks_lib import terminal
    from runbooks_lib.hosts import trust

    loaded, (entry,) = chosen(config_path, (name,), None)
    offer = trust.offered_key(entry.ssh_name, config_file=loaded.ssh_config, user=entry.user, port=entry.port)
    terminal.ask_to_trust(offer, trust.add)


@cli.command()
@selection
@click.option("--show-script", is_flag=True, help="Print the script that would run on the hosts; run nothing.")
@click.option("--quiet", "-q", is_flag=True, help="Only say what went wrong.")
def collect(
    config_path: Path | None, names: tuple[str, ...], group: str | None, show_script: bool, quiet: bool
) -> None:
    """Read hosts over SSH once and keep what they said in the history.

    One connection and one POSIX sh script per host; it only reads, and needs no root and no installation there.
    Exit code 1 when a host was not read; the others are stored all the same.
    """
    from runbooks_lib import terminal
    from runbooks_lib.history import collecting
    from runbooks_lib.hosts.shares import processes_for

    if show_script:
        terminal.show_script(collecting.script())
        return
    loaded, entries = chosen(config_path, names, group)
    with terminal.progress("collecting", len(entries), quiet=quiet) as tick:
        rows = collecting.collect(loaded, entries, on_progress=tick, processes=processes_for(len(entries)))
    terminal.show_collected(rows, loaded, quiet=quiet)
    if not all(row.ok for row in rows):
        sys.exit(ExitCode.FAILED)


@cli.command()
@click.argument("name", metavar="HOST")
@config_option
@click.option("--json", "as_json", is_flag=True, help="The whole snapshot as JSON.")
@click.option(
    "--slow", is_flag=True, help="Also what is slow or needs root: LVM, PostgreSQL, deleted files, kernel log."
)
@click.option("--directories", "walk", metavar="MOUNT", help="Also the biggest directories of this mount point (20 s).")
def facts(config_path: Path | None, name: str, as_json: bool, slow: bool, walk: str | None) -> None:
    """Read one host now and show what it says. Stores nothing.

    Root is used only for --slow and --directories, by `sudo -n` or the inventory's `sudo_password`; where it is
    refused, each fact says what could not be read.
    """
    from runbooks_lib import terminal_facts
    from runbooks_lib.history import collecting

    loaded, (entry,) = chosen(config_path, (name,), None)
    snapshot, slow_snapshot = collecting.read_one(loaded, entry, slow=slow, walk=walk)
    terminal_facts.show_facts(snapshot, slow_snapshot, as_json_text=as_json)


cli.add_command(history)
cli.add_command(lab_host)
engine.add_to(cli)
cli.add_command(backtest)
cli.add_command(annotate)
cli.add_command(notify)
cli.add_command(relieve)
cli.add_command(triage)
cli.add_command(needs)


@cli.command()
@click.argument("name", required=False, metavar="[REPORT]")
@click.option("-p", "given", multiple=True, metavar="NAME=VALUE", help="A parameter; again for more, or for a list.")
@click.option("--parameters", "describe", is_flag=True, help="List the report's parameters and run nothing.")
@click.option("--deadline", type=float, default=900.0, show_default=True, help="Seconds after which it is stopped.")
@click.option("--if-due", is_flag=True, help="Run only if it has not run since it was last due (see `schedule`).")
@click.option(
    "--notify/--no-notify",
    default=None,
    help="Tell the inventory's channels what has changed; default: when it is the scheduled report.",
)
@config_option
def report(
    name: str | None,
    given: tuple[str, ...],
    describe: bool,
    deadline: float,
    if_due: bool,
    notify: bool | None,
    config_path: Path | None,
) -> None:
    """Run a report and publish its page; without a name, list the reports there are.

    Parameters are checked before anything starts. Exit code 3 when a threshold is crossed or work must begin. A message
    goes out when that begins and when it ends ([notify] in the inventory), not with each run.
    """
    from runbooks_lib import config, parameters
    from runbooks_lib.reports import index, run, telling
    from runbooks_lib.reports import schedule as timers

    if name is None:
        for known in sorted(run.available()):
            click.echo(f"{known}  {run.find(known).title}")
        return
    found = run.find(name)
    if describe:
        click.echo(parameters.describe(found.parameters))
        return
    checked = parameters.check(found.parameters, parameters.assignments(given), report=found.name)
    loaded = config.load(config_path)
    if if_due and not timers.is_due(loaded.outputs, found.name):
        return
    result = run.run_report(name, checked, config=loaded, deadline_seconds=deadline)
    click.echo(result.sentence)
    if notify or (notify is None and telling.is_scheduled(loaded, result.record)):
        # The exit code is the report's: a message that does not get through is told here, in the index, and sent again.
        try:
            for delivery in telling.tell(loaded, result.record):
                told = "told" if delivery.ok else f"NOT told, the next run tries again: {delivery.error}"
                click.echo(f"{delivery.channel}: {told}", err=True)
            index.update(loaded.outputs)
        except RunbookError as error:
            click.echo(f"Nobody was told: {error}", err=True)
    sys.exit(result.exit_code)


@cli.command()
@config_option
@click.option("--report", "report_name", default="disk-report", show_default=True, help="The report to publish daily.")
@click.option("--at", default="05:30", show_default=True, help="When, in local time.")
@click.option("--every", type=int, default=5, show_default=True, help="Minutes between two collections.")
@click.option("-p", "given", multiple=True, metavar="NAME=VALUE", help="A parameter of the report.")
@click.option("--deadline", type=float, help="Seconds after which the report is stopped.  [default: as for report]")
@click.option("--cron/--systemd", "cron", default=None, help="Which timers; default: systemd where it runs.")
@click.option("--install", is_flag=True, help="Write them and start them. Without it nothing is written.")
@click.option("--remove", is_flag=True, help="Stop and remove them.")
def schedule(
    config_path: Path | None,
    report_name: str,
    at: str,
    every: int,
    given: tuple[str, ...],
    deadline: float | None,
    cron: bool | None,
    install: bool,
    remove: bool,
) -> None:
    """Collect every few minutes and report every day, by systemd timers or cron lines; missed runs are caught up.

    Shows exactly what would be written; --install writes it, --remove takes it away again.
    """
    from datetime import UTC, datetime

    from runbooks_lib import config, parameters
    from runbooks_lib.reports import run
    from runbooks_lib.reports import schedule as timers

    if install and remove:
        raise UsageError("--install and --remove together", true_now="nothing was done", next="give one of them")
    loaded = config.load(config_path)
    found = run.find(report_name)
    values = parameters.check(found.parameters, parameters.assignments(given), report=found.name)
    planned = timers.plan(
        loaded,
        now=datetime.now(UTC),
        report=found.name,
        at=at,
        every_minutes=every,
        arguments=[word for each in given for word in ("-p", each)],
        asked=run.asked(values),
        deadline_seconds=deadline,
        kind=None if cron is None else "cron" if cron else "systemd",
    )
    if remove:
        timers.remove(planned)
        click.echo("Removed.")
        return
    click.echo(planned.describe())
    if install:
        timers.install(planned)
        click.echo("Installed.")
    else:
        click.echo("Nothing was written. `runbook schedule --install` writes it.", err=True)
    if planned.advice:
        click.echo(planned.advice, err=True)


@cli.command()
@config_option
@click.option(
    "--ip", default="127.0.0.1", show_default=True, help="Another one needs --certificate, --key, --password."
)
@click.option("--port", type=click.IntRange(1, 65535), help="Default: 8888, or the next free one.")
@click.option("--certificate", type=click.Path(path_type=Path), help="TLS certificate (PEM).")
@click.option("--key", type=click.Path(path_type=Path), help="Its key (PEM).")
@click.option(
    "--password", metavar="REF", help='A password instead of a token, by reference: "env:NAME", "file:/path".'
)
@click.option("--browser/--no-browser", default=True, help="Open a browser (default where there is a screen).")
def lab(
    config_path: Path | None,
    ip: str,
    port: int | None,
    certificate: Path | None,
    key: Path | None,
    password: str | None,
    browser: bool,
) -> None:
    """Open JupyterLab with the notebooks, on this machine only. Ctrl-C ends it and its kernels.

    From another machine: ssh -L 8888:127.0.0.1:8888 THIS-MACHINE. Whoever reaches this server has your shell and your
    SSH keys, therefore any other address is refused without TLS and a password.
    """
    import webbrowser

    from runbooks_lib import config, jupyter, secrets

    loaded = config.load(config_path)
    ready = jupyter.prepare(
        loaded.outputs / "lab",
        config_file=loaded.file,
        ip=ip,
        port=port,
        certificate=certificate,
        key=key,
        password=None if password is None else secrets.resolve(password),
    )
    with jupyter.running(ready, log=ready.directory / "lab.log") as server:
        click.echo(ready.url_with_token if sys.stdout.isatty() else ready.url)
        if ready.token_file is not None:
            click.echo(f"The token stands in {ready.token_file}. Ctrl-C ends it.", err=True)
        if browser and sys.stdout.isatty():
            webbrowser.open(ready.url_with_token)
        try:
            status = server.wait()
        except KeyboardInterrupt:
            click.echo("Ended.", err=True)
            return
    if status:
        raise RunbookError(
            f"JupyterLab ended by itself (exit status {status})",
            where=str(ready.directory / "lab.log"),
            true_now="its kernels have ended too; what was saved is there",
            next="read what it said there, and start it again",
        )


@cli.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("outputs/demo"),
    show_default=True,
    help="Where everything of the demo is written.",
)
def demo(directory: Path) -> None:
    """Read this machine over real SSH, put example partitions beside it, publish the report of both.

    Starts an SSH server of its own on 127.0.0.1 for the duration, with keys made for it; needs no root.
    """
    from runbooks_lib.training import demo as first_report

    made = first_report.run(directory.absolute())
    click.echo(made.sentence)
    # The example is meant to need a person: that is no failure of the demo. Everything else than ok or 3 is.
    sys.exit(ExitCode.FAILED if made.run.exit_code is ExitCode.FAILED else ExitCode.OK)


def _stop(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")


_CHANGING = {"run", "resume", "undo", "cancel", "relieve", "lab-host"}  # what broke off there is no success


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader is gone; another pipe may have broken."""
    poll = select.poll()
    poll.register(1, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _shown(message: str) -> str:
    """A message for the terminal: what a host said stands in it, and may hold what steers one."""
    from runbooks_lib import terminal

    return terminal.plain_lines(message)


def main() -> None:
    """Entry point: errors are sentences on stderr and an exit code, never a traceback."""
    # A closed terminal and systemd's stop end a verb as Ctrl-C does: what it started is ended first.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    stdout = sys.stdout
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        # click makes an Abort of Ctrl-C. A round over many hosts says who was not reached (pool.Interrupted).
        why = str(stop.__cause__ or stop)
        click.echo(f"\n{_shown(why[:1].upper() + why[1:])}" if why else "\nStopped. Nothing more was done.", err=True)
        sys.exit(ExitCode.FAILED)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except RunbookError as error:
        click.echo(_shown(str(error)), err=True)
        sys.exit(error.exit_code)
    except SystemExit:
        # click makes exit code 1 of a broken pipe, and puts another stdout in its place. `runbook … | head`: the reader
        # has what it wanted.
        if sys.stdout is not stdout and _nobody_reads() and not _CHANGING & set(sys.argv[1:]):
            sys.exit(ExitCode.OK)
        raise


if __name__ == "__main__":
    main()
