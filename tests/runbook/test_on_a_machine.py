"""What only a whole machine has: systemd, root beside an ordinary user, file systems with a UUID, a reboot."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.runbook import detached, job, journal, lock, runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import carry_out, open_run, resume
from runbooks_lib.runbook.run import Options, Run, Stopped, target
from runbooks_lib.runbook.state import RunState
from runbooks_lib.runbook.step import Command, Runbook, Step, Undo
from runbooks_lib.runbook.undo import undo, undo_digest
from runbooks_lib.training.lab.machine import Machine
from tests.runbook.operators import Scripted
from tests.runbook.synthetic import at, book, write_step

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


class Desk:
    """A desk with its own runs; on the machine it is `user`, in a directory of the test's own."""

    def __init__(self, machine: Machine, host: SshHost, path: Path, work: str) -> None:
        self.machine, self.host, self.runs = machine, host, path
        self.parameters = {"directory": work, "text": "new"}
        self.places = Places()

    def options(self, *answers: str) -> Options:
        return Options(self.runs, self.places, Scripted(answers))

    def approved(self, runbook: Runbook) -> Run:
        aim = target(runbook, self.host, self.parameters)
        run = open_run(aim, replace(self.options(), approve=aim.plan().digest))
        assert isinstance(run, Run)
        return run

    def again(self, runbook: Runbook) -> Run:
        directory = runs.directories(self.runs)[0]
        aim = target(runbook, self.host, self.parameters)
        return resume(directory, aim, replace(self.options(), approve=runs.state_of(directory).digest))

    def interrupted(self, runbook: Runbook) -> None:
        """The stop button, right after the job of the only step has been started."""
        run = self.approved(runbook)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(detached, "follow", _interrupt)
            with pytest.raises(Stopped, match="its job goes on on the host"):
                carry_out(run)

    def pull_the_cable_when(self, name: str) -> None:
        while self.text(name) == "none":
            time.sleep(0.2)
        self.machine.hang_up()
        self.machine.cable(plugged=False)

    @property
    def state(self) -> RunState:
        return runs.state_of(runs.directories(self.runs)[0])

    def undo(self, runbook: Runbook) -> str:
        directory = runs.directories(self.runs)[0]
        run = resume(directory, target(runbook, self.host, self.parameters), self.options())
        return undo(run, approve=undo_digest(runbook, run.state))

    def text(self, name: str) -> str:
        return self.machine.sh(f"cat {self.parameters['directory']}/{name} 2>/dev/null || echo none").strip()


def login(machine: Machine, user: str | None = None) -> SshHost:
    return SshHost(machine.name, settings_source=partial(resolve, config_file=machine.ssh_config, user=user))


@pytest.fixture
def work(machine: Machine) -> Iterator[str]:
    directory = f"/var/tmp/rb-{secrets.token_hex(6)}"
    machine.sh(f"mkdir -m 0777 {directory}")
    yield directory
    machine.sh(f"rm -rf {directory} /run/lock/runbooks-lock*")


@pytest.fixture
def desk(machine: Machine, work: str, tmp_path: Path) -> Iterator[Desk]:
    host = login(machine)
    yield Desk(machine, host, tmp_path / "runs", work)
    host.close()


def long_step(seconds: int) -> Step:
    """As root, detached: with one child in a session of its own, which no process group holds."""

    def commands(known):  # type: ignore[no-untyped-def]
        text = f"setsid sleep {seconds}.125 & sleep {seconds}.25; printf %s new >{at(known, 'long')}"
        return [Command(text, "long", root=True)]

    step = write_step("long", "long")
    assert isinstance(step.undo, Undo)
    undo = replace(step.undo, commands=lambda known: [Command(f"rm -f {at(known, 'long')}", "long", root=True)])
    return replace(step, commands=commands, detached=True, undo=undo, deadline_seconds=900)


def sleeping(machine: Machine, seconds: str) -> int:
    return int(machine.sh(f"pgrep -fc '[s]leep {seconds}' || true", changes=False).strip())


def test_roots_long_command_is_a_unit_that_outlives_every_login(desk: Desk) -> None:
    runbook = book(long_step(25))
    desk.interrupted(runbook)
    units = desk.machine.sh("systemctl list-units --no-legend --plain 'runbook-*'", changes=False)
    assert units.count("active running") == 1, units
    desk.host.close()
    desk.machine.sh("loginctl terminate-user oncall; sleep 1", check=False)
    desk.machine.hang_up()
    assert sleeping(desk.machine, "25.25") == 1
    carry_out(desk.again(runbook))
    assert desk.text("long") == "new"
    entries = journal.read(runs.directories(desk.runs)[0] / journal.NAME).entries
    assert sum(entry.kind == "change" for entry in entries) == 1
    assert sleeping(desk.machine, "25.125") == 0, "systemd ends what a unit leaves behind"
    desk.undo(runbook)
    assert desk.text("long") == "none"


def test_cancelling_a_unit_ends_what_has_left_its_process_group_too(desk: Desk) -> None:
    runbook = book(long_step(600))
    desk.interrupted(runbook)
    assert (sleeping(desk.machine, "600.125"), sleeping(desk.machine, "600.25")) == (1, 1)
    said = detached.cancel(desk.again(runbook))
    assert "its process group is gone" in said
    assert (sleeping(desk.machine, "600.125"), sleeping(desk.machine, "600.25")) == (0, 0)
    units = desk.machine.sh("systemctl list-units --no-legend --plain --all 'runbook-*'", changes=False)
    assert units.strip() == ""
    desk.undo(runbook)


def test_a_step_with_commands_of_root_and_of_the_user_is_settled_in_both_records(desk: Desk) -> None:
    """The cable is pulled while the user's command runs: nobody there sees that the connection is gone."""

    def commands(known):  # type: ignore[no-untyped-def]
        slow = f"echo begun >{at(known, 'mark')}; sleep 45.5; printf %s new >{at(known, 'both')}"
        return [Command("true", "nothing", root=True), Command(slow, "both")]

    both = write_step("both", "both")
    run = desk.approved(book(replace(both, commands=commands, deadline_seconds=15)))
    pulling = threading.Thread(target=desk.pull_the_cable_when, args=("mark",))
    pulling.start()
    with pytest.raises(Stopped, match="cannot be told"):
        carry_out(run)
    pulling.join()
    desk.machine.cable(plugged=True)
    desk.host.close()
    state = desk.state.step("both")
    assert (state.as_root, state.open_changes) == ({"both.1.1"}, ("both.1.2",))
    run = desk.again(book(both))
    run.settle(both, state)
    became = [entry.data for entry in run.journal.entries if entry.kind == "changed"][-1]
    assert (became["change"], became["became"]) == ("both.1.2", "cut")
    assert sleeping(desk.machine, "45.5") == 0
    run.close()
    desk.undo(book(both))


def test_two_people_with_accounts_of_their_own_have_the_host_one_after_the_other(
    desk: Desk, machine: Machine, work: str, tmp_path: Path
) -> None:
    machine.sh(
        "id second >/dev/null 2>&1 || useradd --create-home second\n"
        "install -d -o second -g second -m 0700 ~second/.ssh\n"
        "install -o second -g second -m 0600 ~oncall/.ssh/authorized_keys ~second/.ssh/authorized_keys\n"
    )
    host = login(machine, "second")
    other = Desk(machine, host, tmp_path / "other-runs", work)
    first = desk.approved(book(write_step("one", "one")))
    with pytest.raises(lock.HostBusy, match="it is held by"):
        other.approved(book(write_step("two", "two"), version="2"))
    assert desk.text("two") == "none"
    carry_out(first)
    carry_out(other.approved(book(write_step("two", "two"), version="2")))
    carry_out(desk.approved(book(write_step("three", "three"), version="3")))
    assert [desk.text(name) for name in ("one", "two", "three")] == ["new", "new", "new"]
    owners = machine.sh(f"stat -c '%n %U' {work}/one {work}/two", changes=False)
    assert owners.split()[1::2] == ["oncall", "second"]
    host.close()


def test_a_reboot_frees_the_lock_and_a_job_that_died_with_it_is_not_taken_for_done(desk: Desk) -> None:
    runbook = book(long_step(600))
    desk.interrupted(runbook)
    desk.host.close()
    desk.machine.power_cut()
    desk.machine.wait_ready()
    again = desk.again(runbook)
    found = job.look(desk.host, desk.places, run=again.name, change="long.1.1", root=True)
    assert found.state is job.JobState.NONE
    mended = book(replace(long_step(1), verify_seconds=5.0))
    again.close()
    again = resume(
        runs.directories(desk.runs)[0],
        target(mended, desk.host, desk.parameters),
        desk.options("long"),
    )
    carry_out(again)
    assert desk.text("long") == "new"


def test_the_identity_holds_the_machine_its_keys_and_its_file_systems(desk: Desk, machine: Machine) -> None:
    aim = target(
        book(write_step("one", "one"), touches=lambda _: ["/srv/db", "/srv/db/not/there"]), desk.host, desk.parameters
    )
    told = machine.sh("cat /etc/machine-id; findmnt -no UUID /srv/db; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    machine_id, uuid, fingerprint = told.split()[0], told.split()[1], told.split()[3]
    assert aim.identity.machine_id == machine_id
    assert aim.identity.filesystems == (uuid, uuid)
    assert any(fingerprint in key for key in aim.identity.host_keys)
