"""Taking a run back: newest step first, by what was recorded before each change, each proven on the host."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from runbooks_lib.errors import RunbookError
from runbooks_lib.runbook import digest as digests
from runbooks_lib.runbook import words
from runbooks_lib.runbook.asking import Answers
from runbooks_lib.runbook.check import Answer, ask
from runbooks_lib.runbook.proof import ask_until
from runbooks_lib.runbook.run import CannotTellNow, Refused, Run, Stopped
from runbooks_lib.runbook.state import Phase, RunState
from runbooks_lib.runbook.step import Command, NoUndo, Runbook, Step, Undo


def to_undo(runbook: Runbook, state: RunState) -> list[Step]:
    """The steps that changed something, newest first. Raises Refused across a point of no return or a step without
    undo, with what to do instead."""
    steps = [step for step in reversed(runbook.steps) if state.step(step.name).changed]
    for step in steps:
        if state.step(step.name).phase is Phase.UNDONE:
            continue
        if isinstance(step.undo, NoUndo) and not step.undo.harmless:
            passed = "the point of no return" if step.point_of_no_return else "a step that is not undone"
            raise Refused(
                f"`{step.name}` is {passed}: {step.undo.reason}",
                where=state.run,
                true_now="nothing was undone",
                next=step.undo.instead,
            )
        if step.point_of_no_return and step.passed is None:
            raise Refused(
                f"`{step.name}` is the point of no return, and it has been passed",
                where=state.run,
                true_now="nothing was undone",
                next="go on: resume the run",
            )
    return steps


def undo_text(runbook: Runbook, state: RunState, *, brief: bool = False) -> str:
    """What an undo would run, with its digest; `brief` without the commands. Raises Refused."""
    lines = [f"Undo of {state.run} on {state.host}"]
    for step in to_undo(runbook, state):
        mine = state.step(step.name)
        lines.append(f"\n[{mine.phase}] {step.name}: {step.title}")
        if not mine.undo:
            lines.append("  nothing to take back")
        elif not brief:
            lines += words.commands_text("undo runs", mine.undo)
    lines.append(f"\nDigest: {undo_digest(runbook, state)}")
    return "\n".join(lines)


def undo_digest(runbook: Runbook, state: RunState) -> str:
    """What an approval of an undo names. It stays the same while the undo goes on. Raises Refused."""
    steps = [
        [step.name, [[command.text, command.root, command.secret] for command in state.step(step.name).undo]]
        for step in to_undo(runbook, state)
    ]
    return digests.digest({"undo": state.run, "key": state.key, "steps": steps})


def begun(state: RunState) -> bool:
    """Whether a run is on its way back."""
    return any(step.phase in (Phase.UNDOING, Phase.UNDONE) for step in state.steps.values())


def undo(run: Run, *, approve: str | None) -> str:
    """Take the run back to where it began. `approve`: the undo's digest, for one that nobody watches.

    Returns a sentence a step. Raises Refused, Stopped. However it ends, the run is let go of.
    """
    lines = []
    step = None
    try:
        if approve is not None and approve != undo_digest(run.target.runbook, run.state):
            raise Refused(
                "the approval is for another undo",
                where=run.name,
                true_now=f"nothing was undone; what would be:\n{undo_text(run.target.runbook, run.state)}",
                next="approve that digest if it is what you want",
            )
        steps = to_undo(run.target.runbook, run.state)
        for step in steps:
            _refuse_passed(run, step)
        run.journal.append("undo approved", digest=approve or "", guided=approve is None)
        for step in steps:
            came = _undo_step(run, step, guided=approve is None)
            run.options.operator.say(f"{step.name}: {came}")
            lines.append(f"{step.name}: {came}")
        run.finish("undone")
    except KeyboardInterrupt:
        raise run.interrupted(step) from None
    finally:
        with suppress(RunbookError):
            run.close()
    return "\n".join(lines) or "nothing had been changed"


def _undo_step(run: Run, step: Step, *, guided: bool) -> str:
    mine = run.state.step(step.name)
    if mine.phase is Phase.UNDONE:
        return "undone before"
    if isinstance(step.undo, NoUndo):
        _reopen(run)
        run.journal.append("undone", step.name, how=f"nothing to take back: {step.undo.reason}")
        return f"nothing to take back: {step.undo.reason}"
    if mine.jobs:
        from runbooks_lib.runbook.detached import end_jobs

        end_jobs(run, step, mine)
    run.settle(step, run.state.step(step.name))
    mine = run.state.step(step.name)
    known = run.known(step, mine)
    before = ask(run.host, step.undo.verify, known)
    run.note(step, before)
    if before.answer is Answer.CANNOT_TELL:
        raise _cannot_tell(run, step, before.evidence)
    if before.answer is Answer.NO:
        _refuse_passed(run, step)
    if before.answer is Answer.YES:
        _reopen(run)
        run.journal.append("undone", step.name, how="it was so already", evidence=before.evidence)
        return f"undone: {before.evidence}"
    if guided:
        _ask(run, step, step.undo, mine.undo, before.evidence)
    _reopen(run)
    run.journal.append("undoing", step.name)
    attempt = mine.attempts + 1
    for index, command in enumerate(mine.undo, 1):
        came = run.send(step, command, f"{step.name}.undo.{attempt}.{index}", attempt, step.deadline_seconds)
        if not came.ok:
            raise _failed(run, step, f"a command {came.words}")
    after = ask_until(run.host, step.undo.verify, known, step.verify_seconds)
    run.note(step, after)
    if after.answer is Answer.CANNOT_TELL:
        raise _cannot_tell(run, step, after.evidence)
    if after.answer is Answer.NO:
        raise _failed(run, step, f"its commands ended well, but: {after.evidence}")
    run.journal.append("undone", step.name, how="changed back", evidence=after.evidence)
    return f"undone: {after.evidence}"


def _reopen(run: Run) -> None:
    """A run that is done stays so until something of it is taken back: an undo that is refused leaves it as it is."""
    if run.state.outcome == "done":
        run.journal.append("reopened", why="undo")


def _refuse_passed(run: Run, step: Step) -> None:
    """Raises Refused when the host says that the step's point of no return is behind, CannotTellNow if it cannot."""
    mine = run.state.step(step.name)
    if step.passed is None or mine.phase is Phase.UNDONE:
        return
    observed = ask(run.host, step.passed, run.known(step, mine))
    run.note(step, observed)
    if observed.answer is Answer.CANNOT_TELL:
        raise _cannot_tell(run, step, observed.evidence)
    if observed.answer is Answer.YES:
        raise Refused(
            f"`{step.name}` is the point of no return, and it has been passed: {observed.evidence}",
            where=run.host.name,
            true_now="nothing was undone",
            next=f"go on: `runbook resume {run.name}`",
        )


def _ask(run: Run, step: Step, how: Undo, commands: Sequence[Command], evidence: str) -> None:
    operator = run.options.operator
    lines = [
        f"\n=== undo {step.name}: {step.title}",
        f"Host: {run.host.name}",
        f"Now: {evidence}",
        f"Takes: {how.takes}",
    ]
    operator.say("\n".join(lines))
    told = "\n".join(words.commands_text("Runs", commands))
    answered = Answers(operator, told, f"Type the step's name ({step.name}) to undo it, or:")
    while True:
        answer = answered.next("stop")
        if answer in (step.name, "stop"):
            break
        operator.say(f"  {answer!r} is neither; nothing was run.")
    run.journal.append("decision", step.name, choice="undo" if answer == step.name else "stop")
    if answer == "stop":
        raise _failed(run, step, "you said stop", kind="stopped")


def _failed(run: Run, step: Step, why: str, kind: str = "failed") -> Stopped:
    run.journal.append(kind, step.name, why=why)
    return Stopped(
        f"the undo stopped at `{step.name}`: {why}",
        where=run.host.name,
        true_now=words.state_text(run.target.runbook, run.state),
        next=f"go on with it: `runbook undo {words.short(run.name)}`; look: `runbook show {words.short(run.name)}`",
    )


def _cannot_tell(run: Run, step: Step, evidence: str) -> CannotTellNow:
    run.journal.append("cannot tell", step.name, why=evidence)
    return CannotTellNow(
        f"cannot tell whether `{step.name}` is undone",
        where=run.host.name,
        true_now=f"seen: {evidence}",
        next=f"find out why it cannot be told; then `runbook undo {words.short(run.name)}`",
    )
