"""Plan, approve, do, verify - over real SSH."""

from __future__ import annotations

import getpass
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.host import HostUnreachable, Result, Script
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook import journal, lock, runs, story
from runbooks_lib.runbook.beginning import begin
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.resume import Finished, carry_out, open_run, prove, resume
from runbooks_lib.runbook.run import CannotTellNow, Refused, Run, Stopped, UndoWanted, target
from runbooks_lib.runbook.step import Check, Command, Undo
from runbooks_lib.runbook.undo import undo
from runbooks_lib.training.practice_host import PracticeHost
from tests.runbook.bench import Bench
from tests.runbook.operators import Scripted
from tests.runbook.synthetic import NO_WAY_BACK, book, write_step

ONE, TWO = write_step("one", "one"), write_step("two", "two")


def test_a_plan_reads_everything_and_changes_nothing(bench: Bench) -> None:
    (bench.directory / "one").write_text("new")
    plan = target(book(ONE, TWO), bench.host, bench.parameters).plan()
    assert [step.verdict for step in plan.steps] == [Verdict.ALREADY_SO, Verdict.WOULD_RUN]
    assert "two" in plan.steps[1].commands[0].text
    assert [path.name for path in bench.directory.iterdir()] == ["one"]
    assert not bench.runs.exists()


def test_a_step_after_a_blocked_one_is_blocked(bench: Bench) -> None:
    never = replace(ONE, prechecks=(Check("pigs fly", lambda _: "no 'no pig is up'"),))
    plan = target(book(never, TWO), bench.host, bench.parameters).plan()
    assert [step.verdict for step in plan.steps] == [Verdict.BLOCKED, Verdict.BLOCKED]
    assert "pigs fly" in plan.steps[0].because
    assert "no pig is up" in plan.steps[0].because


@pytest.mark.parametrize(
    "script", ["exit 0", "exit 1", "true", "nosuchcommand", "if", "kill -9 $$", "yes", "echo; yes ''"]
)
def test_a_check_that_does_not_answer_cannot_tell(bench: Bench, script: str) -> None:
    plan = target(
        book(replace(ONE, verify=Check("all is well", lambda _: script))), bench.host, bench.parameters
    ).plan()
    assert plan.steps[0].verdict is Verdict.BLOCKED
    assert "cannot tell" in plan.steps[0].because


def test_an_approved_run_does_all_steps_and_journals_before_and_after(bench: Bench) -> None:
    carry_out(bench.approved(book(ONE, TWO)))
    assert (bench.text("one"), bench.text("two")) == ("new", "new")
    kinds = bench.kinds()
    assert kinds[:3] == ["begin", "approval", "locked"]
    for _ in range(2):
        place = kinds.index("before")
        assert kinds[place : place + 5] == ["before", "change", "changed", "checked", "done"]
        kinds = kinds[place + 5 :]
    assert kinds == ["finished", "unlocked"]
    holder = lock.look(bench.host, bench.places)
    assert holder is not None
    assert holder.free


def test_an_approval_of_another_plan_runs_nothing_and_shows_the_plan(bench: Bench) -> None:
    aim = target(book(ONE), bench.host, bench.parameters)
    old = aim.plan()
    (bench.directory / "one").write_text("changed meanwhile")
    changed = replace(ONE, commands=lambda known: [Command(f"true {known.before['old']}", "x")])
    aim = replace(aim, runbook=book(changed))
    with pytest.raises(Refused, match="another plan") as refused:
        open_run(aim, bench.options(approve=old.digest))
    assert "changed meanwhile" in str(refused.value)
    assert bench.text("one") == "changed meanwhile"
    assert runs.directories(bench.runs) == []


def test_an_approval_of_a_plan_that_was_made_here_is_told_what_differs(bench: Bench) -> None:
    kept = replace(ONE, commands=lambda known: [Command(f"true {known.before['old']}", "x")])
    (bench.directory / "one").write_text("then")
    aim = target(book(kept, TWO), bench.host, bench.parameters)
    old = aim.plan()
    runs.keep_plan(bench.runs, old)
    (bench.directory / "one").write_text("now")
    with pytest.raises(Refused, match="another plan") as refused:
        open_run(aim, bench.options(approve=old.digest))
    assert "steps[one].commands[1][1]: was true then, is true now" in str(refused.value)
    assert "two" not in str(refused.value)
    assert f"the digest now: {aim.plan().digest}" in str(refused.value)
    assert runs.directories(bench.runs) == []


def test_a_done_run_does_not_run_again_but_is_proven(bench: Bench) -> None:
    runbook = book(ONE)
    carry_out(bench.approved(runbook))
    before = (bench.directory / "one").stat().st_mtime_ns
    aim = target(runbook, bench.host, bench.parameters)
    found = open_run(aim, bench.options(approve="whatever"))
    assert isinstance(found, Finished)
    assert "proven now" in prove(found, aim)
    assert (bench.directory / "one").stat().st_mtime_ns == before


def test_a_done_step_that_is_so_no_more_is_refused_and_again_is_the_way_out(bench: Bench) -> None:
    runbook = book(ONE)
    carry_out(bench.approved(runbook))
    (bench.directory / "one").write_text("somebody else")
    aim = target(runbook, bench.host, bench.parameters)
    found = open_run(aim, bench.options())
    assert isinstance(found, Finished)
    with pytest.raises(Refused, match="is so no more") as refused:
        prove(found, aim)
    assert "again(" in str(refused.value)
    run = open_run(aim, bench.options(approve=aim.plan().digest, again="it was overwritten"))
    assert isinstance(run, Run)
    carry_out(run)
    assert bench.text("one") == "new"
    entries = journal.read(run.journal.path).entries
    assert entries[0].data["again"] == "it was overwritten"


def test_a_failing_command_stops_the_run_and_keeps_the_lock(bench: Bench) -> None:
    broken = replace(TWO, commands=lambda _: [Command("echo oh >&2; exit 7", "nothing")])
    with pytest.raises(Stopped, match="status 7") as stopped:
        carry_out(bench.approved(book(ONE, broken)))
    assert "oh" in str(stopped.value)
    assert "resume" in str(stopped.value)
    holder = lock.look(bench.host, bench.places)
    assert holder is not None
    assert not holder.free
    assert "undone" in bench.undo(book(ONE, broken))
    assert list(bench.directory.iterdir()) == []


def test_commands_that_end_well_are_not_believed_without_the_verify(bench: Bench) -> None:
    idle = replace(ONE, commands=lambda _: [Command("true", "nothing")])
    with pytest.raises(Stopped, match="not so that one holds the text"):
        carry_out(bench.approved(book(idle)))


def test_a_verify_that_cannot_tell_afterwards_stops_the_run(bench: Bench) -> None:
    verify = Check("it is so", lambda known: f"[ -e {known.parameters['directory']}/one ] && exit 4; no 'not yet'")
    with pytest.raises(CannotTellNow, match="cannot tell whether it is so"):
        carry_out(bench.approved(book(replace(ONE, verify=verify))))
    assert "done" not in bench.kinds()


def test_undo_brings_back_what_was_there_newest_first(bench: Bench) -> None:
    (bench.directory / "one").write_text("old\n\n")
    runbook = book(ONE, TWO)
    carry_out(bench.approved(runbook))
    said = bench.undo(runbook)
    assert said.index("two") < said.index("one")
    assert bench.text("one") == "old\n\n"
    assert bench.text("two") is None


def test_after_an_undo_the_same_work_may_begin_anew(bench: Bench) -> None:
    runbook = book(ONE)
    carry_out(bench.approved(runbook))
    bench.undo(runbook)
    carry_out(bench.approved(runbook))
    assert bench.text("one") == "new"
    assert len(runs.directories(bench.runs)) == 2


def test_undo_refuses_across_the_point_of_no_return(bench: Bench) -> None:
    runbook = book(ONE, replace(TWO, undo=NO_WAY_BACK, point_of_no_return=True))
    carry_out(bench.approved(runbook))
    with pytest.raises(Refused, match="point of no return") as refused:
        bench.undo(runbook)
    assert "restore the backup" in str(refused.value)
    assert (bench.text("one"), bench.text("two")) == ("new", "new")


@pytest.mark.parametrize("why", ["stop", "refused", "cannot tell"])
def test_an_undo_that_takes_nothing_back_leaves_a_done_run_done(bench: Bench, why: str) -> None:
    """Else a timer would do what somebody has thought of taking back, without being asked."""
    last = replace(TWO, undo=NO_WAY_BACK, point_of_no_return=True) if why == "refused" else TWO
    if why == "cannot tell":
        assert isinstance(TWO.undo, Undo)
        last = replace(TWO, undo=replace(TWO.undo, verify=Check("it is gone", lambda _: "exit 1")))
    runbook = book(ONE, last)
    carry_out(bench.approved(runbook))
    aim = target(runbook, bench.host, bench.parameters)
    directory = runs.directories(bench.runs)[0]
    with pytest.raises(Refused if why == "refused" else Stopped):
        undo(resume(directory, aim, bench.options("stop")), approve=None)
    assert runs.state_of(directory).outcome == "done"
    holder = lock.look(bench.host, bench.places)
    assert holder is not None
    assert holder.free
    (bench.directory / "one").unlink()
    assert isinstance(open_run(aim, bench.options(approve=runs.state_of(directory).digest)), Finished)


def test_a_point_of_no_return_inside_a_step_is_asked_of_the_host(bench: Bench) -> None:
    mark = bench.directory / "passed"
    asked = f"[ -e {word(str(mark))} ] && yes 'the mark is there'; no 'there is no mark'"
    runbook = book(ONE, replace(TWO, point_of_no_return=True, passed=Check("it is passed", lambda _: asked)))
    carry_out(bench.approved(runbook))
    mark.touch()
    with pytest.raises(Refused, match="has been passed: the mark is there"):
        bench.undo(runbook)
    assert (bench.text("one"), bench.text("two")) == ("new", "new")
    mark.unlink()
    bench.undo(runbook)
    assert bench.text("two") is None


def test_resume_refuses_another_host_other_parameters_another_version(bench: Bench) -> None:
    runbook = book(ONE, replace(TWO, commands=lambda _: [Command("exit 1", "nothing")]))
    with pytest.raises(Stopped):
        carry_out(bench.approved(runbook))
    directory = runs.directories(bench.runs)[0]
    aim = target(runbook, bench.host, bench.parameters)
    for other, said in (
        (replace(aim, identity=replace(aim.identity, machine_id="f" * 32)), "host.machine_id"),
        (replace(aim, parameters={**aim.parameters, "text": "else"}), "parameters.text"),
        (replace(aim, runbook=replace(runbook, version="2")), "version"),
    ):
        with pytest.raises(Refused, match="not of the same work") as refused:
            resume(directory, other, bench.options())
        assert said in str(refused.value)


def test_resume_goes_on_from_the_first_step_that_is_not_so(bench: Bench) -> None:
    runbook = book(ONE, replace(TWO, commands=lambda _: [Command("exit 1", "nothing")]))
    with pytest.raises(Stopped):
        carry_out(bench.approved(runbook))
    (bench.directory / "one").unlink()
    mended = book(ONE, TWO)
    aim = target(mended, bench.host, bench.parameters)
    run = resume(runs.directories(bench.runs)[0], aim, bench.options("one", "two"))
    carry_out(run)
    assert (bench.text("one"), bench.text("two")) == ("new", "new")


def test_other_commands_than_the_approved_ones_do_not_run_on_resume(bench: Bench) -> None:
    with pytest.raises(Stopped):
        carry_out(bench.approved(book(replace(ONE, commands=lambda _: [Command("exit 1", "nothing")]))))
    directory = runs.directories(bench.runs)[0]
    state = runs.state_of(directory)
    aim = target(book(ONE), bench.host, bench.parameters)
    with pytest.raises(Stopped, match="not what was approved"):
        carry_out(resume(directory, aim, bench.options(approve=state.digest)))
    assert bench.text("one") is None


def test_a_second_operator_is_told_who_and_since_when(bench: Bench, tmp_path: Path) -> None:
    run = bench.approved(book(ONE))
    other = replace(bench.options(), runs=tmp_path / "other-machine")
    aim = target(book(TWO), bench.host, bench.parameters)
    with pytest.raises(lock.HostBusy, match=r"it is held by .*, since 20.*synthetic"):
        open_run(aim, other)
    assert bench.text("two") is None
    run.close()


def test_the_journal_says_who_by_user_and_by_the_key_that_logged_in(bench: Bench, practice: PracticeHost) -> None:
    runbook = book(ONE, replace(TWO, commands=lambda _: [Command("exit 1", "nothing")]))
    with pytest.raises(Stopped):
        carry_out(bench.approved(runbook))
    directory = runs.directories(bench.runs)[0]
    aim = target(book(ONE, TWO), bench.host, bench.parameters)
    carry_out(resume(directory, aim, bench.options("two")))
    listed = subprocess.run(["ssh-keygen", "-lf", practice.identity_file], capture_output=True, text=True, check=True)
    fingerprint = listed.stdout.split()[1]
    entries = journal.read(directory / journal.NAME).entries
    people = [entry.data["who"] for entry in entries if entry.kind in ("begin", "resumed")]
    assert len(people) == 2
    for person in people:
        assert person["user"] == getpass.getuser()
        assert person["ssh"]["key"] == f"ssh-ed25519 {fingerprint}"
        assert person["ssh"]["user"] == practice.user
    assert fingerprint in story.text(runs.state_of(directory), entries)


def test_a_stale_lock_is_taken_over_by_name_and_the_journal_tells_it(bench: Bench, tmp_path: Path) -> None:
    dead = bench.approved(book(TWO))
    dead.journal.close()
    for path in Path(bench.places.candidates[0]).glob("runbooks-lock*"):
        then = path.stat().st_mtime - 2 * lock.LEASE_SECONDS
        os.utime(path, (then, then))
    aim = target(book(ONE), bench.host, bench.parameters)
    here = bench.options(approve=aim.plan().digest, runs=tmp_path / "other-machine")
    with pytest.raises(lock.HostBusy, match="--take-over") as busy:
        open_run(aim, here)
    run = open_run(aim, replace(here, take_over=busy.value.holder.who))
    assert isinstance(run, Run)
    carry_out(run)
    told = story.text(run.state, run.journal.entries)
    assert f"taken over from {busy.value.holder.who}, since 20" in told
    assert dead.name in told


def test_a_beginning_that_is_interrupted_leaves_no_lock(bench: Bench) -> None:
    def interrupted(_: Run) -> None:
        raise KeyboardInterrupt

    aim = target(book(ONE), bench.host, bench.parameters)
    with pytest.raises(KeyboardInterrupt):
        open_run(aim, bench.options(approve=aim.plan().digest, on_begin=interrupted))
    holder = lock.look(bench.host, bench.places)
    assert holder is None or holder.free
    assert runs.state_of(runs.directories(bench.runs)[0]).outcome == "not begun"
    carry_out(bench.approved(book(ONE)))
    assert bench.text("one") == "new"


class Cut:
    """A host whose answer to one script is lost: `error` comes instead, when the script has run."""

    def __init__(self, host: SshHost, script: str, error: BaseException, *, lost: bool) -> None:
        self.host, self.script, self.error, self.lost, self.name = host, script, error, lost, host.name
        self.cut = False

    def run(self, script: Script, **how: Any) -> Result:
        if self.cut and self.lost:
            raise HostUnreachable(self.name, "the connection died")
        came = self.host.run(script, **how)
        if script.name == self.script and not self.cut:
            self.cut = True
            raise self.error
        return came

    def close(self) -> None:
        self.host.close()


@pytest.mark.parametrize("lost", [False, True])
def test_a_lock_that_was_taken_without_an_answer_bars_nobody(bench: Bench, lost: bool) -> None:
    """Ctrl-C while the answer was on its way; or the connection is gone for good, and the next run finds the lock."""
    error: BaseException = HostUnreachable("host", "the connection died") if lost else KeyboardInterrupt()
    aim = target(book(ONE), bench.host, bench.parameters)
    approve = aim.plan().digest
    with pytest.raises(type(error)):
        open_run(replace(aim, host=Cut(bench.host, "lock: acquire", error, lost=lost)), bench.options(approve=approve))
    assert runs.state_of(runs.directories(bench.runs)[0]).outcome == "not begun"
    holder = lock.look(bench.host, bench.places)
    assert holder is not None
    assert holder.free is not lost
    carry_out(bench.approved(book(ONE)))
    assert bench.text("one") == "new"


def test_what_never_began_is_planned_anew_with_its_prechecks(bench: Bench) -> None:
    """The change was announced, and Ctrl-C came before it was sent."""

    class Unsent(Cut):
        def run(self, script: Script, **how: Any) -> Result:
            if script.name == self.script:
                raise KeyboardInterrupt
            return super().run(script, **how)

    shut = bench.directory / "shut"
    may = Check("it may", lambda _: f"[ -e {shut} ] && no 'not any more'; yes 'it may'")
    runbook = book(replace(ONE, prechecks=(may,)))
    aim = target(runbook, bench.host, bench.parameters)
    cut = Unsent(bench.host, "change one.1.1", KeyboardInterrupt(), lost=False)
    run = open_run(replace(aim, host=cut), bench.options(approve=aim.plan().digest))
    assert isinstance(run, Run)
    with pytest.raises(Stopped, match="interrupted"):
        carry_out(run)
    directory = runs.directories(bench.runs)[0]
    state = runs.state_of(directory)
    assert (state.outcome, state.half_done, state.changed) == ("open", (), False)
    holder = lock.look(bench.host, bench.places)
    assert holder is not None
    assert holder.free, "nothing is half done"
    shut.touch()
    with pytest.raises(Stopped, match="blocked: it may\\? no: not any more"):
        carry_out(resume(directory, aim, bench.options(approve=state.digest)))
    assert bench.text("one") is None
    shut.unlink()
    carry_out(resume(directory, aim, bench.options(approve=state.digest)))
    assert bench.text("one") == "new"
    bench.undo(runbook)
    assert bench.text("one") is None


def test_a_host_that_could_not_be_given_back_is_told_and_taken_again(bench: Bench, tmp_path: Path) -> None:
    aim = target(book(ONE), bench.host, bench.parameters)
    cut = Cut(bench.host, "checked", HostUnreachable("host", "the connection died"), lost=True)
    run = open_run(replace(aim, host=cut), bench.options(approve=aim.plan().digest))
    assert isinstance(run, Run)
    run.do(ONE)
    run.finish("done")
    cut.cut = True
    run.close()
    assert "could not be given back" in run.options.operator.text  # type: ignore[attr-defined]
    told = story.text(run.state, journal.read(run.journal.path).entries)
    assert "✗ the host could not be given back: " in told
    other = target(book(TWO), bench.host, bench.parameters)
    with pytest.raises(lock.HostBusy):
        open_run(other, bench.options(approve=other.plan().digest, runs=tmp_path / "other-machine"))
    second = bench.approved(book(TWO), text="other")
    assert f"taken over from {getpass.getuser()}" in story.text(second.state, second.journal.entries)
    carry_out(second)
    assert bench.text("two") == "other"


@pytest.mark.parametrize("why", ["half done", "held by a process", "damaged"])
def test_a_lock_whose_run_may_go_on_is_not_taken(bench: Bench, why: str) -> None:
    broken = replace(ONE, commands=lambda _: [Command("exit 7", "nothing")])
    run = bench.approved(book(broken if why == "half done" else ONE))
    if why == "half done":
        with pytest.raises(Stopped):
            carry_out(run)
    elif why == "damaged":
        run.journal.close()
        run.journal.path.write_bytes(run.journal.path.read_bytes().replace(b"locked", b"lockeD"))
    other = target(book(TWO), bench.host, bench.parameters)
    with pytest.raises(lock.HostBusy):
        begin(other, bench.options(approve=other.plan().digest), other.plan())
    holder = lock.look(bench.host, bench.places)
    assert holder is not None
    assert (holder.run, holder.free) == (run.name, False)
    if why == "held by a process":
        run.close()


def test_the_same_run_in_a_second_process_is_refused(bench: Bench) -> None:
    run = bench.approved(book(ONE))
    aim = target(book(ONE), bench.host, bench.parameters)
    with pytest.raises(journal.JournalInUse):
        open_run(aim, bench.options())
    run.close()


def test_a_guided_run_asks_by_name_and_shows_what_it_will_do(bench: Bench) -> None:
    aim = target(book(ONE, TWO), bench.host, bench.parameters)
    operator = Scripted(["yes", "one", "skip", "skip not needed today"])
    run = open_run(aim, replace(bench.options(), operator=operator))
    assert isinstance(run, Run)
    carry_out(run)
    assert (bench.text("one"), bench.text("two")) == ("new", None)
    assert "'yes' is none of these" in operator.text
    assert "a reason must follow" in operator.text
    for part in ("Why: A test wants it.", "Runs:", "Affects: one", "Undo: takes no time", "undo would run"):
        assert part in operator.text
    assert run.state.step("two").note == "not needed today"


def test_at_and_past_the_point_of_no_return_the_hosts_name_is_typed(bench: Bench) -> None:
    final = replace(ONE, undo=NO_WAY_BACK, point_of_no_return=True)
    name = bench.host.name
    operator = Scripted(["zero", "one", name, "two", name])
    runbook = book(write_step("zero", "zero"), final, TWO)
    run = open_run(target(runbook, bench.host, bench.parameters), replace(bench.options(), operator=operator))
    assert isinstance(run, Run)
    carry_out(run)
    assert "'one' is none of these" in operator.text
    assert "'two' is none of these" in operator.text
    assert "\nPOINT OF NO RETURN" in operator.text
    assert "PAST THE POINT OF NO RETURN (`one`)" in operator.text
    assert (bench.text("one"), bench.text("two")) == ("new", "new")


def test_stop_and_undo_are_answers(bench: Bench) -> None:
    aim = target(book(ONE, TWO), bench.host, bench.parameters)
    run = open_run(aim, bench.options("one", "stop"))
    assert isinstance(run, Run)
    with pytest.raises(Stopped, match="you said stop"):
        carry_out(run)
    again = open_run(aim, bench.options("undo"))
    assert isinstance(again, Run)
    with pytest.raises(UndoWanted):
        carry_out(again)
    assert bench.text("two") is None


def test_a_step_whose_need_was_skipped_does_not_run(bench: Bench) -> None:
    aim = target(book(ONE, replace(TWO, needs=("one",))), bench.host, bench.parameters)
    run = open_run(aim, bench.options("skip later", "two"))
    assert isinstance(run, Run)
    with pytest.raises(Stopped, match="it needs `one`, which is skipped"):
        carry_out(run)


def test_a_secret_in_a_parameter_is_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="holds a secret"):
        target(book(ONE), bench.host, {**bench.parameters, "text": "password=hunter2secret"})


def test_a_secret_in_what_the_undo_needs_is_refused_before_the_change(bench: Bench) -> None:
    (bench.directory / "one").write_text("password=hunter2secret")
    with pytest.raises(Stopped, match="holds a secret") as stopped:
        carry_out(bench.approved(book(ONE)))
    assert "hunter2" not in str(stopped.value)
    assert bench.text("one") == "password=hunter2secret"


def test_a_step_that_was_so_already_and_is_so_no_more_is_looked_at_anew(bench: Bench) -> None:
    (bench.directory / "one").write_text("new")
    runbook = book(ONE, replace(TWO, commands=lambda _: [Command("exit 1", "nothing")]))
    with pytest.raises(Stopped):
        carry_out(bench.approved(runbook))
    (bench.directory / "one").write_text("somebody else")
    aim = target(book(ONE, TWO), bench.host, bench.parameters)
    run = resume(runs.directories(bench.runs)[0], aim, bench.options("one", "two"))
    carry_out(run)
    assert run.state.step("one").before == {"old": "somebody else"}
    assert bench.text("one") == "new"
    bench.undo(book(ONE, TWO))
    assert bench.text("one") == "somebody else"
