"""Doing a way as a headless run does it: plan, approve the digest, carry out; and taking it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runbooks_lib.hosts.host import Host
from runbooks_lib.procedures.storage import survey
from runbooks_lib.procedures.storage.way import Way
from runbooks_lib.runbook import runs
from runbooks_lib.runbook.catalogue import find_runbook
from runbooks_lib.runbook.plan import Plan
from runbooks_lib.runbook.resume import carry_out, open_run, resume
from runbooks_lib.runbook.run import Options, Refused, Run, Target, target
from runbooks_lib.runbook.undo import undo, undo_digest
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine
from tests.runbook.operators import Scripted

GIB = 2**30
PATIENCE = 180.0  # seconds for a few commits


def quiet_options(directory: Path) -> Options:
    """Nobody is there to be asked."""
    return Options(directory, operator=Scripted(present=False))


def ways_by_name(host: Host, mountpoint: str, want_bytes: int = GIB) -> dict[str, Way]:
    return {way.name: way for way in survey.ways(survey.look(host, mountpoint), want_bytes)}


def aim_at(host: Host, name: str, parameters: Mapping[str, Any]) -> Target:
    return target(find_runbook(name), host, parameters)


def plan_of(host: Host, name: str, parameters: Mapping[str, Any]) -> Plan:
    return aim_at(host, name, parameters).plan()


def done(host: Host, name: str, parameters: Mapping[str, Any], options: Options) -> Run:
    """Plan, approve exactly that, carry out."""
    aim = aim_at(host, name, parameters)
    plan = aim.plan()
    assert not plan.blocked, [(step.name, step.because) for step in plan.blocked]
    run = open_run(aim, replace(options, approve=plan.digest), plan)
    assert isinstance(run, Run)
    carry_out(run)
    return run


def undone(host: Host, name: str, parameters: Mapping[str, Any], options: Options) -> None:
    """Take the newest run back."""
    aim = aim_at(host, name, parameters)
    directory = runs.directories(options.runs)[0]
    run = resume(directory, aim, options)
    try:
        digest = undo_digest(aim.runbook, run.state)
    except Refused:
        run.close()  # undo itself lets go of it; the next way wants the host's lock
        raise
    undo(run, approve=digest)


def available(machine: Machine, mountpoint: str = "/srv/db") -> int:
    """Bytes that an ordinary user may write, by df and not by our own facts."""
    return int(machine.sh(f"df --block-size=1 --output=avail {mountpoint} | tail -n 1", changes=False))


def spare_disk(machine: Machine) -> str:
    """The kernel's name of the machine's empty disk."""
    return machine.sh("readlink -f /dev/disk/by-id/virtio-spare", changes=False).strip()


def fill(machine: Machine, where: str) -> None:
    """To the last block that root may have: most of it at once, the rest by writing."""
    machine.sh(
        f"""cd {where}; n=0
for mib in 1024 256 64 16 4 1; do
    while fallocate -l ${{mib}}M filler-$n 2>/dev/null; do n=$((n + 1)); done; rm -f filler-$n
done
cat /dev/zero >filler-last 2>/dev/null; cat /dev/zero >>filler-last 2>/dev/null; :""",
        deadline_seconds=180,
    )


def oracle(machine: Machine) -> Load:
    """Clients that write all the time, with patience: a practice machine under emulation shares its CPUs."""
    return Load([machine.address("postgres")], clients=2, commits_per_second=10, timeout_seconds=30)
