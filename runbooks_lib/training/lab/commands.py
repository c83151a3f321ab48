"""`runbook lab-host …`: practice machines from the command line; each verb is one call into the lab."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runbooks_lib.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from runbooks_lib.training.lab.machine import Machine

# The lab is imported inside the verbs, so that `runbook --help` stays quick.

DEFAULT_NAME = "builds-01"
_name = click.argument("name", default=DEFAULT_NAME)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show(machine: Machine) -> None:
    record = machine.record
    ports = ", ".join(f"{service} 127.0.0.1:{port}" for service, port in record.ports.items())
    state = "up" if record.running and record.ready else "starting" if record.running else "ended"
    click.echo(f"{record.name}: {state}, {record.role} on {record.filesystem}, {record.acceleration}")
    click.echo(f"  ports:   {ports}")
    click.echo(f"  memory:  {record.memory_mb} MB; disk: {machine.disk_bytes() / 1e6:.0f} MB")
    if record.link:
        click.echo(f"  link:    {record.link[0]}, address {record.link_address}")
    click.echo(f"  age:     {record.age_seconds / 60:.0f} min; booted in {record.boot_seconds:.1f} s")


@click.group("lab-host")
def lab_host() -> None:
    """Practice machines: real Debian hosts in qemu, with LVM, PostgreSQL and systemd, that may be broken.

    \b
    runbook lab-host up                    a build server with its database on a small volume
    runbook lab-host fault disk-full-log   break it
    runbook lab-host reset                 as if nothing had been
    runbook lab-host down
    """


@lab_host.command()
@_name
@click.option("--role", "role_name", default="build-server", show_default=True, help="build-server or database.")
@click.option("--filesystem", default="ext4", show_default=True, help="Of the database's volume: ext4 or xfs.")
@click.option("--link", metavar="LINK", help="Join it with the other machine that names this link.")
@click.option(
    "--memory",
    "memory_mb",
    default=1024,
    show_default=True,
    metavar="MB",
    type=click.IntRange(512, 16384),
    help="Of the machine.",
)
@click.option(
    "--database",
    "database_mb",
    default=0,
    show_default=True,
    metavar="MB",
    type=click.IntRange(0, 65536),
    help="Put so much more into its database, on a volume and on disks that are bigger by as much.",
)
def up(name: str, role_name: str, filesystem: str, link: str | None, memory_mb: int, database_mb: int) -> None:
    """Start a machine; the first time its image is built (minutes)."""
    from runbooks_lib.training.lab import lab

    lab.end_left_overs()
    machine = lab.up(
        name,
        role_name=role_name,
        filesystem=filesystem,
        link=link,
        memory_mb=memory_mb,
        database_mb=database_mb,
        say=_say,
    )
    _show(machine)
    click.echo(f"  use it:  runbook lab-host ssh {name}   or   ssh -F {machine.ssh_config} {name}")


@lab_host.command()
def prepare() -> None:
    """Build the image and the disks of every role now (minutes), so that each `up` takes seconds."""
    from runbooks_lib.training.lab import lab

    begin = time.monotonic()
    lab.prepare(say=_say)
    click.echo(f"the image and the roles' disks are there, after {time.monotonic() - begin:.0f} s")


@lab_host.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="All machines of this lab.")
def down(name: str | None, everything: bool) -> None:
    """End a machine and remove its files."""
    from runbooks_lib.training.lab import lab

    if bool(name) == everything:
        raise UsageError("name one machine, or say --all")
    found = lab.machines() if everything else [lab.find(str(name))]
    failed = [machine.name for machine in found if not machine.end()]
    for machine in found:
        click.echo(f"{machine.name}: {'could not be ended' if machine.name in failed else 'ended'}")
    if failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


@lab_host.command("list")
def list_machines() -> None:
    """The machines that are up, after ending those that nobody holds any more."""
    from runbooks_lib.training.lab import lab

    for ended in lab.end_left_overs():
        click.echo(f"{ended.name}: {'ended' if ended.gone else 'could NOT be ended'}, for {ended.why}")
    found = lab.machines()
    for machine in found:
        _show(machine)
    if not found:
        click.echo("no practice machine is up")


@lab_host.command()
@_name
def status(name: str) -> None:
    """Ports, disk use, and the faults that are there right now."""
    from runbooks_lib.training.lab import faults, lab

    machine = lab.find(name)
    _show(machine)
    present = faults.present(machine)
    click.echo(f"  faults:  {', '.join(present) or 'none'}")


@lab_host.command(context_settings={"ignore_unknown_options": True})
@_name
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, command: tuple[str, ...]) -> None:
    """A shell on the machine, or one command there."""
    from runbooks_lib.training.lab import lab

    machine = lab.find(name)
    os.execvp("ssh", ["ssh", "-F", str(machine.ssh_config), name, *command])  # noqa: S606


@lab_host.command()
@_name
def reset(name: str) -> None:
    """Back to the state after `up`, memory and disks."""
    from runbooks_lib.training.lab import lab

    seconds = lab.find(name).reset()
    click.echo(f"{name}: as it was after `up`, in {seconds:.1f} s")


@lab_host.command()
@click.argument("fault_name", metavar="[FAULT]", required=False)
@click.option("--on", "name", default=DEFAULT_NAME, show_default=True, metavar="NAME", help="The machine.")
@click.option("--remove", is_flag=True, help="Take the fault away again.")
@click.option("--observe", is_flag=True, help="Only look whether it is there.")
def fault(fault_name: str | None, name: str, remove: bool, observe: bool) -> None:
    """Break a machine; without FAULT, the list of what can be done to it."""
    from runbooks_lib.training.lab import faults, lab

    if not fault_name:
        for one in faults.FAULTS.values():
            click.echo(f"{one.name:<22} {one.sentence}")
        return
    wanted, machine = faults.fault(fault_name), lab.find(name)
    begin = time.monotonic()
    if remove:
        faults.remove(machine, wanted.name)
    observation = wanted.observe(machine) if remove or observe else faults.inject(machine, wanted.name)
    said = "is there" if observation.present else "is not there"
    click.echo(f"{wanted.name} {said} ({time.monotonic() - begin:.1f} s): {observation.words}")
    if observation.present == remove and not observe:
        raise click.exceptions.Exit(ExitCode.FAILED)


@lab_host.command()
@_name
@click.option("--seconds", default=60, show_default=True, type=click.IntRange(1, 86400), help="How long.")
@click.option("--clients", default=4, show_default=True, type=click.IntRange(1, 40), help="How many at once.")
@click.option("--rate", default=50.0, show_default=True, help="Commits a second of all clients together.")
@click.option("--log", type=click.Path(path_type=Path), help="Keep each acknowledged number in this file.")
def load(name: str, seconds: int, clients: int, rate: float, log: Path | None) -> None:
    """Write to the machine's database, and tell whether anything acknowledged was lost."""
    from runbooks_lib.training.lab import lab
    from runbooks_lib.training.lab.load import Load

    machine = lab.find(name)
    with Load([machine.address("postgres")], clients=clients, commits_per_second=rate, log=log) as running:
        time.sleep(seconds)
    gap, verdict = running.longest_gap(), running.verify()
    click.echo(f"{verdict.acknowledged} commits acknowledged, {len(verdict.lost)} of them lost,")
    click.echo(f"{len(verdict.invented)} rows that were refused; {verdict.unknown} without an answer")
    click.echo(
        f"longest gap {gap.seconds:.2f} s, {gap.after_seconds:.1f} s after the start; failures {running.refusals}"
    )
    if not verdict.ok:
        raise click.exceptions.Exit(ExitCode.FAILED)


@lab_host.command()
def clean() -> None:
    """Remove the images that no machine uses; the next `up` builds them again."""
    from runbooks_lib.training.lab import lab

    click.echo(f"{lab.clean() / 1e6:.0f} MB removed")
