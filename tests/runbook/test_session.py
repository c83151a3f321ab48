"""What a notebook's cells may meet: run twice, out of order, interrupted, in two kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook import journal, runs
from runbooks_lib.runbook import session as session_module
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import open_run
from runbooks_lib.runbook.run import Options, Refused, Run, Stopped, target
from runbooks_lib.runbook.session import Session, session_on
from runbooks_lib.runbook.step import Check, Runbook
from runbooks_lib.training.practice_host import PracticeHost
from tests.runbook.bench import Bench
from tests.runbook.operators import Scripted
from tests.runbook.synthetic import book, write_step

BOOK = book(write_step("one", "one"), write_step("two", "two"))


def session(bench: Bench, *answers: str, **changes: object) -> Session:
    options = replace(Options(bench.runs, bench.places, Scripted(answers)), **changes)  # type: ignore[arg-type]
    return session_on(BOOK, bench.host, bench.parameters, options)


def changes(bench: Bench) -> int:
    return sum(
        entry.kind == "change"
        for directory in runs.directories(bench.runs)
        for entry in journal.read(directory / journal.NAME).entries
    )


def test_cells_that_are_run_again_change_nothing_again(bench: Bench) -> None:
    for work in (session(bench, "one", "two"), session(bench)):  # the second is the opening cell run again
        work.plan()
        work.step("one")
        work.step("one")
        work.step("two")
    session(bench).finish()
    session(bench).step("one")
    assert changes(bench) == 2


def test_finish_before_the_last_step_is_refused(bench: Bench) -> None:
    work = session(bench, "one", "stop")
    work.step("one")
    with pytest.raises(RunbookError, match="not done yet: two"):
        work.finish()
    with pytest.raises(Stopped):
        work.step("two")


def test_what_another_kernel_has_done_is_proven_before_the_end(bench: Bench) -> None:
    """The kernel was started anew, the first cell was left out, and its step is so no more."""
    work = session(bench, "one")
    work.step("one")
    session_module._let_go_of_all()  # the kernel ends
    session_module._held.clear()
    (bench.directory / "one").unlink()
    later = session(bench, "two")
    later.step("two")
    with pytest.raises(Stopped, match="stopped at `one`: it was done, and is so no more"):
        later.finish()
    assert runs.state_of(runs.directories(bench.runs)[0]).outcome == "open"
    mended = session(bench, "one")
    mended.step("one")
    mended.finish()
    assert runs.state_of(runs.directories(bench.runs)[0]).outcome == "done"
    (bench.directory / "two").unlink()
    with pytest.raises(Refused, match=r"`two` was done at .*, and is so no more"):
        session(bench).finish()


def test_what_a_step_needs_is_proven_before_it(bench: Bench) -> None:
    steps = (BOOK.steps[0], replace(BOOK.steps[1], needs=("one",)))
    needy = replace(BOOK, steps=steps)
    aim = target(needy, bench.host, bench.parameters)
    first = open_run(aim, bench.options("one"))
    assert isinstance(first, Run)
    first.do(steps[0])
    first.close()
    (bench.directory / "one").unlink()
    again = open_run(aim, bench.options("two"))
    assert isinstance(again, Run)
    with pytest.raises(Stopped, match="stopped at `one`: it was done, and is so no more"):
        again.do(steps[1])
    again.close()
    assert bench.text("two") is None


def test_again_runs_done_work_once_more_with_its_reason(bench: Bench) -> None:
    work = session(bench, "one", "two")
    work.step("one")
    work.step("two")
    work.finish()
    (bench.directory / "one").write_text("somebody else")
    with pytest.raises(Refused, match="is so no more"):
        session(bench).step("one")
    with pytest.raises(UsageError, match="wants a reason"):
        session(bench).again(" ")
    once_more = session(bench, "one")
    once_more.again("it was overwritten")
    once_more.step("one")
    once_more.step("two")
    once_more.finish()
    assert bench.text("one") == "new"
    begun = journal.read(runs.directories(bench.runs)[0] / journal.NAME).entries[0]
    assert begun.data["again"] == "it was overwritten"


def test_the_stop_button_tells_what_is_done_and_leaves_the_way_open(bench: Bench) -> None:
    class Interrupting(Scripted):
        def ask(self, question: str) -> str:
            if "(two)" in question:
                raise KeyboardInterrupt
            return super().ask(question)

    work = session(bench, operator=Interrupting(["one"]))
    work.step("one")
    with pytest.raises(Stopped, match="interrupted in `two`") as stopped:
        work.step("two")
    assert "nothing of it is running" in str(stopped.value)
    later = session(bench, "two")
    later.step("one")
    later.step("two")
    later.finish()
    assert changes(bench) == 2


def test_undo_and_cancel_begin_no_run(bench: Bench) -> None:
    work = session(bench)
    work.undo()
    work.cancel()
    assert runs.directories(bench.runs) == []
    work = session(bench, "one", "two", "two", "one")
    for name in ("one", "two"):
        work.step(name)
    work.finish()
    operator = Scripted(["two", "one"])
    session(bench, operator=operator).undo()
    assert list(bench.directory.iterdir()) == []
    session(bench, operator=operator).undo()
    session(bench, operator=operator).cancel()
    assert "There is nothing to take back" in operator.said[-2]
    assert "Nothing of it is running" in operator.said[-1]
    assert len(runs.directories(bench.runs)) == 1


def test_the_headline_says_in_one_line_how_far_the_work_is(bench: Bench) -> None:
    def now(*answers: str, book: Runbook = BOOK, **changes: object) -> Session:
        options = replace(Options(bench.runs, bench.places, Scripted(answers)), **changes)  # type: ignore[arg-type]
        return session_on(replace(book, says="two"), bench.host, bench.parameters, options)

    nobody = Scripted(present=False)
    title = BOOK.title[:1].lower() + BOOK.title[1:]
    assert Session(None, Options(bench.runs)).headline == "PLAN ONLY: nothing is changed; no host is chosen"
    planned = now(operator=nobody)
    assert planned.headline == f"PLAN ONLY on {bench.host.name}: {title}; 2 steps would run"
    assert not planned.blocked
    shut = replace(BOOK, steps=(replace(BOOK.steps[0], prechecks=(Check("it may", lambda _: "no 'not today'"),)),))
    blocked = now(book=shut, operator=nobody)
    assert blocked.headline.endswith("blocked at `one`: it may? no: not today")
    assert blocked.blocked
    work = now("one", "stop", "two")
    work.step("one")
    with pytest.raises(Stopped):
        work.step("two")
    assert work.headline == f"Not finished on {bench.host.name}: {title}; stopped: you said stop"
    work = now("two")
    work.step("two")
    work.finish()
    assert work.headline == f"Done on {bench.host.name}: {title}; two holds it"


OPERATOR = """
import sys, json
from functools import partial
from pathlib import Path
from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import Finished, carry_out, open_run, prove
from runbooks_lib.runbook.run import Options, target
from tests.runbook.operators import Scripted
from tests.runbook.test_session import BOOK
case = json.loads(sys.argv[1])
host = SshHost(case["host"], settings_source=partial(resolve, config_file=Path(case["ssh_config"])))
try:
    aim = target(BOOK, host, case["parameters"])
    plan = aim.plan()
    print("ready", flush=True)
    sys.stdin.readline()
    options = Options(Path(case["runs"]), Places((case["place"],)), Scripted(), approve=case["approve"])
    found = open_run(aim, options, plan)
    print("proved" if isinstance(found, Finished) else "ran" if carry_out(found) else "")
except RunbookError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("same_machine", [True, False])
def test_of_two_operators_at_once_exactly_one_runs(
    bench: Bench, practice: PracticeHost, host: SshHost, places: Places, quick_path: Path, same_machine: bool
) -> None:

    digest = session(bench)._aim.plan().digest  # type: ignore[union-attr]
    programs = []
    for number in range(2):
        case = {
            "host": host.name,
            "ssh_config": str(practice.ssh_config),
            "parameters": bench.parameters,
            "runs": str(quick_path / "runs" if same_machine else quick_path / f"runs-{number}"),
            "place": places.candidates[0],
            "approve": digest,
        }
        programs.append(
            subprocess.Popen(
                [sys.executable, "-c", OPERATOR, json.dumps(case)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
                env=dict(os.environ),
            )
        )
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()
    said = sorted(program.communicate(timeout=60)[0].strip() for program in programs)
    assert said.count("ran") == 1, said
    assert bench.text("one") == bench.text("two") == "new"
    written = [
        entry
        for path in quick_path.glob("runs*/*/journal.jsonl")
        for entry in journal.read(path).entries
        if entry.kind == "change"
    ]
    assert len(written) == 2
