"""What moving a service needs of the engine: one short command in which it is down, a long copy that is watched, steps
whose commands rest on what an earlier one will have done, and a point of no return."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from runbooks_lib.hosts.host import Result, Script
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook import detached, runs
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.resume import carry_out, open_run, resume
from runbooks_lib.runbook.run import Refused, Run, target
from runbooks_lib.runbook.step import Check, Command, Known, NoUndo, Read, Step, Undo, Watcher
from runbooks_lib.runbook.undo import undo_text
from tests.hosts.processes import wait_for
from tests.runbook.bench import Bench
from tests.runbook.marks import mark
from tests.runbook.synthetic import at, book


def _new(known: Known) -> str:
    return word(str(known.outputs["prepare"]["place"]))


def _copied(known: Known) -> str:
    return f"cmp -s {at(known, 'old')}/data {_new(known)}/data && yes 'both are the same'; no 'the new one lacks some'"


def _current(known: Known, name: str) -> str:
    up = f"[ ! -e {at(known, 'down')} ]"
    return f"[ \"$(readlink {at(known, 'current')})\" = {name} ] && {up} && yes 'it is {name}'; no 'it is not {name}'"


def _switch(known: Known, name: str, pause: str = "") -> Sequence[Command]:
    here = at(known, "")
    text = f"cd {here} || exit 1; : >down; {pause} ln -sfn {name} next && mv -fT next current || exit 1; rm -f down"
    return [Command(text, "current: the service is down meanwhile")]


def _is_there(known: Known) -> str:
    return f"[ -d {at(known, 'old')} ] && yes 'it is'; no 'it is not'"


PREPARE = Step(
    name="prepare",
    title="Make the new place",
    why="The copy needs one.",
    prechecks=(Check("the old place is there", _is_there),),
    commands=lambda known: [Command(f"mkdir -p {at(known, 'new')}", "new")],
    outputs=lambda known: {"place": f"{known.parameters['directory']}/new"},
    verify=Check("the new place is there", lambda known: f"[ -d {at(known, 'new')} ] && yes 'it is'; no 'it is not'"),
    undo=Undo(
        lambda known: [Command(f"rm -rf {at(known, 'new')}", "new")],
        Check("the new place is gone", lambda known: f"[ -e {at(known, 'new')} ] && no 'it is there'; yes 'it is not'"),
        takes="no time",
    ),
    deadline_seconds=10,
)
COPY = Step(
    name="copy",
    title="Copy",
    why="So that the switch is short.",
    needs=("prepare",),
    prechecks=(
        Check("the new place is empty", lambda known: f"[ -e {_new(known)}/data ] && no 'it is not'; yes 'it is'"),
    ),
    commands=lambda known: [Command(f"sleep 1; cp {at(known, 'old')}/data {_new(known)}/data", "the new place")],
    verify=Check("the copy is whole", _copied),
    undo=NoUndo("the new place goes as a whole.", "undo the step before.", harmless=True),
    deadline_seconds=60,
    detached=True,
    progress=Read("progress", lambda _: "echo 1048576 4194304", lambda data: [*map(int, data.split()), "bytes"]),
    watchers=(Watcher(Check("the old place is there", _is_there), every_seconds=0.1),),
)
SWITCH = Step(
    name="switch",
    title="Switch",
    why="The service must find its data in the new place.",
    needs=("prepare", "copy"),
    prechecks=(Check("the copy is whole", _copied),),
    commands=lambda known: _switch(known, "new"),
    verify=Check("the new place is used", lambda known: _current(known, "new")),
    undo=Undo(
        lambda known: _switch(known, "old"), Check("the old is used", lambda known: _current(known, "old")), "1 s"
    ),
    deadline_seconds=30,
)
RETIRE = Step(
    name="retire",
    title="Remove the old place",
    why="Its room is wanted.",
    needs=("switch",),
    prechecks=(Check("the new place is used", lambda known: _current(known, "new")),),
    commands=lambda known: [Command(f"rm -rf {at(known, 'old')}", "the old place")],
    verify=Check("it is gone", lambda known: f"[ -e {at(known, 'old')} ] && no 'it is there'; yes 'it is gone'"),
    undo=NoUndo("what was written since is in the new place only.", "move it by a run of its own."),
    point_of_no_return=True,
    deadline_seconds=30,
)
MOVE = book(PREPARE, COPY, SWITCH, RETIRE, name="move")


@pytest.fixture
def service(bench: Bench) -> Bench:
    (bench.directory / "old").mkdir()
    (bench.directory / "old/data").write_text("rows")
    (bench.directory / "current").symlink_to("old")
    return bench


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "SAY_SECONDS", 0.2)


class Looking:
    """The host, and whether the service was down whenever a script began or ended."""

    def __init__(self, host: SshHost, bench: Bench) -> None:
        self.host, self.down, self.name = host, bench.directory / "down", host.name
        self.seen: list[tuple[str, bool]] = []

    def run(self, script: Script, **how: Any) -> Result:
        self.seen.append((script.name, self.down.exists()))
        result = self.host.run(script, **how)
        self.seen.append((script.name, self.down.exists()))
        return result

    def close(self) -> None:
        self.host.close()


def test_the_plan_foretells_every_command_and_the_digest_stays(service: Bench) -> None:
    aim = target(MOVE, service.host, service.parameters)
    plan = aim.plan()
    assert {step.verdict for step in plan.steps} == {Verdict.WOULD_RUN}
    assert f"{service.directory}/new/data" in plan.steps[1].commands[0].text
    assert plan.steps[2].later == ("the copy is whole",)
    assert aim.plan().digest == plan.digest


def test_nothing_of_the_engine_is_inside_the_downtime(service: Bench) -> None:
    """Every check, every line of the journal and every look comes before the one script that switches, or after it."""
    looking = Looking(service.host, service)
    aim = replace(target(MOVE, service.host, service.parameters), host=looking)
    run = open_run(aim, service.options(approve=aim.plan().digest))
    assert isinstance(run, Run)
    down_when_written: list[bool] = []
    run.journal.tell(lambda _: down_when_written.append(looking.down.exists()))
    carry_out(run)
    assert (service.directory / "current").readlink().name == "new"
    assert sum(name == "change switch.1.1" for name, _ in looking.seen) == 2
    assert not any(down for _, down in looking.seen)
    assert not any(down_when_written)
    assert "1 MiB of 4 MiB (25 %)" in run.options.operator.text  # type: ignore[attr-defined]


def test_a_detached_switch_is_finished_by_the_host_when_the_connection_is_cut_in_it(service: Bench) -> None:
    marked = mark()
    pause = f"export {marked}; sleep 1.5;"
    switch = replace(SWITCH, detached=True, commands=lambda known: _switch(known, "new", pause))
    book_ = book(PREPARE, COPY, switch, RETIRE, name="move")
    run = service.approved(book_)

    def cut() -> None:
        wait_for(marked, 1, seconds=30)
        service.host.close()

    cutting = threading.Thread(target=cut)
    cutting.start()
    carry_out(run)
    cutting.join()
    assert (service.directory / "current").readlink().name == "new"
    assert not (service.directory / "down").exists()
    assert service.kinds().count("change") == 4


def test_across_the_point_of_no_return_nothing_is_undone_and_before_it_everything(service: Bench) -> None:
    broken = replace(RETIRE, prechecks=(Check("it may go", lambda _: "no 'not today'"),))
    with pytest.raises(Exception, match="not today"):
        carry_out(service.approved(book(PREPARE, COPY, SWITCH, broken, name="move")))
    service.undo(MOVE)
    assert (service.directory / "current").readlink().name == "old"
    assert not (service.directory / "new").exists()

    carry_out(service.approved(MOVE))
    state = runs.state_of(runs.directories(service.runs)[0])
    with pytest.raises(Refused, match="point of no return") as refused:
        undo_text(MOVE, state)
    assert "move it by a run of its own" in str(refused.value)
    with pytest.raises(Refused):
        service.undo(MOVE)
    assert (service.directory / "current").readlink().name == "new"
    assert not (service.directory / "old").exists()


def test_a_half_undone_move_is_carried_on(service: Bench) -> None:
    """The undo of the first step fails once; the second undo begins where the first ended."""
    failing = replace(
        PREPARE,
        undo=Undo(
            lambda known: [Command(f"[ -e {at(known, 'may')} ] && rm -rf {at(known, 'new')}", "new")],
            Check("gone", lambda known: f"[ -e {at(known, 'new')} ] && no 'it is there'; yes 'it is not'"),
            takes="no time",
        ),
    )
    move = book(failing, COPY, SWITCH, name="move")
    carry_out(service.approved(move))
    with pytest.raises(Exception, match="the undo stopped at `prepare`"):
        service.undo(move)
    assert (service.directory / "current").readlink().name == "old"
    with pytest.raises(Exception, match="a run is not turned round twice"):
        carry_out(
            resume(
                runs.directories(service.runs)[0],
                target(move, service.host, service.parameters),
                service.options("switch"),
            )
        )
    (service.directory / "may").touch()
    service.undo(move)
    assert not (service.directory / "new").exists()
    assert service.kinds().count("undone") == 3
