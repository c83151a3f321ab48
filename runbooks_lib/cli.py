"""The `runbook` command: thin, every verb is one call into a room."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbooks_lib import __version__
from runbooks_lib.errors import ExitCode, RunbookError, UsageError

if TYPE_CHECKING:
    from runbooks_lib.config import Config, HostEntry

# Rooms are imported inside the verbs, so that `runbook --help` stays quick.

_config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The inventory; default: $RUNBOOKS_CONFIG, runbooks.toml here or above, ~/.config/runbooks/runbooks.toml.",
)


def _selection(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--group", "-g", metavar="GROUP", help="Only the hosts of this group.")(command)
    return click.argument("names", nargs=-1, metavar="[HOST]...")(_config_option(command))


def _chosen(config_path: Path | None, names: tuple[str, ...], group: str | None) -> tuple[Config, list[HostEntry]]:
    from runbooks_lib import config

    loaded = config.load(config_path)
    entries = loaded.select(host=names or None, group=group)
    if not entries:
        raise UsageError("the inventory has no hosts", where=str(loaded.file), next="add a [hosts.NAME] to it")
    return loaded, entries


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="runbook")
def cli() -> None:
    """Runbooks for on-call engineers: read hosts over SSH, keep their past, say when a disk will be full, report it.

    \b
    Begin:      runbook init            an inventory from your ~/.ssh/config
                runbook hosts check     who can be reached, and what is missing
                runbook collect         read every host once and keep it
                runbook report disk-report
    Exit codes: 0 ok, 1 failed, 2 used wrongly, 3 a threshold is crossed.
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
@_selection
def hosts_list(config_path: Path | None, names: tuple[str, ...], group: str | None) -> None:
    """Show the inventory as it was understood."""
    from runbooks_lib import terminal

    loaded, entries = _chosen(config_path, names, group)
    terminal.show_inventory(loaded, entries)


@hosts.command("check")
@_selection
def hosts_check(config_path: Path | None, names: tuple[str, ...], group: str | None) -> None:
    """Connect to each host and say what works: address, host key, login, facts, the listed partitions.

    Nothing is stored and nothing is changed. Exit code 1 when a host is not right.
    """
    from runbooks_lib import terminal
    from runbooks_lib.history import collecting

    loaded, entries = _chosen(config_path, names, group)
    with terminal.progress("checking", len(entries)) as tick:
        rows = collecting.check(loaded, entries, on_progress=tick)
    terminal.show_checks(rows)
    if not all(row.ok for row in rows):
        sys.exit(ExitCode.FAILED)


@hosts.command("trust")
@click.argument("name", metavar="HOST")
@_config_option
def hosts_trust(config_path: Path | None, name: str) -> None:
    """Show the key that a host presents and, after a typed yes, add it to your known_hosts.

    Compare the fingerprint with one that you got another way: the console, the installer's log, a colleague
    (on the host: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub).
    """
    from runbooks_lib import terminal
    from runbooks_lib.hosts import trust

    loaded, entries = _chosen(config_path, (name,), None)
    offer = trust.offered_key(entries[0].ssh_name, config_file=loaded.ssh_config)
    terminal.ask_to_trust(offer)


@cli.command()
@_selection
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

    if show_script:
        terminal.show_script(collecting.script())
        return
    loaded, entries = _chosen(config_path, names, group)
    with terminal.progress("collecting", len(entries), quiet=quiet) as tick:
        rows = collecting.collect(loaded, entries, on_progress=tick)
    terminal.show_collected(rows, loaded, quiet=quiet)
    if not all(row.ok for row in rows):
        sys.exit(ExitCode.FAILED)


@cli.command()
@click.argument("name", metavar="HOST")
@_config_option
@click.option("--json", "as_json", is_flag=True, help="The whole snapshot as JSON.")
@click.option("--slow", is_flag=True, help="Also what is slow or needs root (LVM, PostgreSQL, …).")
def facts(config_path: Path | None, name: str, as_json: bool, slow: bool) -> None:
    """Read one host now and show what it says. Stores nothing."""
    from runbooks_lib import terminal
    from runbooks_lib.history import collecting

    loaded, entries = _chosen(config_path, (name,), None)
    terminal.show_facts(collecting.read_one(loaded, entries[0], slow=slow), as_json=as_json)


def main() -> None:
    """Entry point: errors are sentences on stderr and an exit code, never a traceback."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        click.echo("\nStopped. Nothing more was done.", err=True)
        sys.exit(ExitCode.FAILED)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except RunbookError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("\nStopped.", err=True)
        sys.exit(ExitCode.FAILED)
    except BrokenPipeError:
        # `runbook … | head`: the reader has what it wanted. Python would complain again while flushing at exit.
        sys.stderr.close()
        sys.exit(ExitCode.OK)


if __name__ == "__main__":
    main()
