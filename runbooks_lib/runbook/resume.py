"""Carrying on with a run: the same host, runbook, version and parameters, or not at all; and by proof."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbooks_lib.errors import RunbookError
from runbooks_lib.runbook import runs
from runbooks_lib.runbook.beginning import begin, take_lock
from runbooks_lib.runbook.check import Answer, ask
from runbooks_lib.runbook.journal import Journal
from runbooks_lib.runbook.operator import who
from runbooks_lib.runbook.plan import Plan, differences
from runbooks_lib.runbook.run import CannotTellNow, Options, Refused, Run, Target
from runbooks_lib.runbook.state import Phase, RunState
from runbooks_lib.runbook.step import Known


@dataclass(frozen=True)
class Finished:
    """A run of the same work that is done."""

    directory: Path
    state: RunState


def resume(directory: Path, target: Target, options: Options) -> Run:
    """Hold an unfinished run again, or one that is done and to be undone: it stays done until something is.

    Raises Refused with the differences when it is a run of something else, when the approval is not the one that it
    was begun with; JournalInUse, JournalDamaged, HostBusy, HostError.
    """
    journal = Journal.resume(directory)
    try:
        run_state = runs.state_of(directory)
        same_work(run_state, target)
        if options.approve is not None and options.approve != run_state.digest:
            raise Refused(
                "the approval is not the one that this run was begun with",
                where=directory.name,
                true_now=f"nothing was run; it was begun with {run_state.digest}",
                next="approve that digest, or resume it in a terminal, step by step",
            )
        lock = take_lock(target, options, journal)
        run = Run(target, options, journal, lock)
    except BaseException:
        journal.close()
        raise
    try:
        how = {"digest": options.approve} if options.approve else {"guided": True}
        journal.append("resumed", who=who(target.host), **how)
    except BaseException:
        run.let_go()
        raise
    return run


def same_work(state: RunState, target: Target) -> None:
    """Raises Refused, with every difference, when a run is of another host, version or other parameters."""
    then: Mapping[str, Any] = {
        "runbook": state.runbook,
        "version": state.version,
        "parameters": state.parameters,
        "host": state.identity,
    }
    now = {
        "runbook": target.runbook.name,
        "version": target.runbook.version,
        "parameters": target.parameters,
        "host": target.identity.as_data(),
    }
    found = differences(then, now)
    if found:
        raise Refused(
            "this run is not of the same work",
            where=state.run,
            true_now="nothing was run; what differs:\n" + "\n".join(f"    {line}" for line in found),
            next="use what it was begun with, or begin a new run",
        )


def open_run(target: Target, options: Options, plan: Plan | None = None) -> Run | Finished:
    """The one run of this work: a new one, the unfinished one, or word that it is done.

    Raises what `begin` and `resume` raise.
    """
    with runs.alone(options.runs):
        found = runs.latest(options.runs, target.key)
        if found is not None:
            directory, state = found
            if state.outcome == "open":
                return resume(directory, target, options)
            if state.outcome == "done" and options.again is None:
                return Finished(directory, state)
        return begin(target, options, plan or target.plan())


def prove(finished: Finished, target: Target) -> str:
    """Ask the host whether everything that a done run has done is still so; returns the evidence.

    Raises Refused when something is not, CannotTellNow when it cannot be told.
    """
    lines = []
    for step in target.runbook.steps:
        mine = finished.state.step(step.name)
        if mine.phase is not Phase.DONE:
            lines.append(f"{step.name}: {mine.phase}" + (f" ({mine.note})" if mine.note else ""))
            continue
        outputs = {name: finished.state.step(name).outputs for name in step.needs}
        observed = ask(target.host, step.verify, Known(target.parameters, mine.before, outputs))
        ended = finished.state.ended.isoformat(timespec="seconds") if finished.state.ended else "an unknown time"
        if observed.answer is Answer.CANNOT_TELL:
            raise CannotTellNow(
                f"cannot tell whether {observed.check}",
                where=f"{target.host.name}, step {step.name}",
                true_now=f"it was done at {ended}; seen now: {observed.evidence}",
                next="find out why it cannot be told; nothing was run",
            )
        if observed.answer is Answer.NO:
            raise Refused(
                f"`{step.name}` was done at {ended}, and is so no more: {observed.evidence}",
                where=target.host.name,
                true_now="nothing was run: a step that is done does not run again by itself",
                next=f'to do it again: again("why"), or `runbook run {target.runbook.name} --again "why" …`',
            )
        lines.append(f"{step.name}: done, proven now: {observed.evidence}")
    return "\n".join(lines)


def carry_out(run: Run) -> str:
    """Every step in its order, to the end. Returns a sentence a step. Raises Stopped, UndoWanted, RunbookError.

    However it ends, the run is let go of.
    """
    lines = []
    step = None
    try:
        for step in run.target.runbook.steps:
            run.options.operator.say(f"{step.name} …")
            came = run.do(step)
            run.options.operator.say(f"{step.name}: {came}")
            lines.append(f"{step.name}: {came}")
        run.finish("done")
    except KeyboardInterrupt:
        raise run.interrupted(step) from None
    finally:
        with suppress(RunbookError):
            run.close()
    return "\n".join(lines)
