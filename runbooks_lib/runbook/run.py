"""A run: do, verify. The only place from which a host is changed. It begins in `beginning.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runbooks_lib import parameters as typed
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.hosts.host import Host, HostError
from runbooks_lib.runbook import digest as digests
from runbooks_lib.runbook import lock as locks
from runbooks_lib.runbook import words
from runbooks_lib.runbook.asking import Answers
from runbooks_lib.runbook.change import Became, Changed, change, settle
from runbooks_lib.runbook.check import Answer, Observation, ask
from runbooks_lib.runbook.identity import Identity, identify
from runbooks_lib.runbook.journal import Journal
from runbooks_lib.runbook.operator import Console, Operator
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.plan import Plan, StepPlan, Verdict, differences, make_plan, plan_step
from runbooks_lib.runbook.proof import ask_until
from runbooks_lib.runbook.state import Phase, RunState, StepState, commands_as, fold
from runbooks_lib.runbook.step import Command, Known, NoUndo, Runbook, Step
from runbooks_lib.runbook.watching import Watching
from runbooks_lib.writer import masked

BEFORE_BYTES = 16 * 1024 * 1024


class Stopped(RunbookError):
    """The run stopped before its end. `run` names it; what is true and how to go on stand in the message."""


class Refused(RunbookError):
    """Nothing was run."""


class CannotTellNow(Stopped):
    """The host's answer is neither yes nor no. Never taken for either."""


@dataclass(frozen=True)
class Options:
    """How a run is carried on. `approve` is a plan's digest, for a run that nobody watches; `again` is the reason why
    a run that is done is wanted once more; `take_over` names the holder of a stale lock."""

    runs: Path
    places: Places = field(default_factory=Places)
    operator: Operator = field(default_factory=Console)
    approve: str | None = None
    again: str | None = None
    take_over: str | None = None
    on_begin: Callable[[Run], None] | None = None
    on_end: Callable[[Run], None] | None = None


@dataclass(frozen=True)
class Target:
    """What is to be done, and where: the runbook with checked parameters (JSON-like values) on a host that said who it
    is."""

    runbook: Runbook
    host: Host
    parameters: Mapping[str, Any]
    identity: Identity

    @property
    def key(self) -> str:
        """What makes two runs the same work."""
        return digests.run_key(self.runbook.name, self.runbook.version, self.parameters, self.identity.as_data())

    def plan(self) -> Plan:
        """The plan by live facts."""
        return make_plan(self.runbook, self.host, self.parameters, self.identity)


def target(runbook: Runbook, host: Host, given: Mapping[str, Any]) -> Target:
    """Check the parameters and ask the host who it is. Raises UsageError, HostError, RunbookError."""
    checked = typed.check(runbook.parameters, given, report=runbook.name)
    whole = {each.name: checked.get(each.name, each.default) for each in runbook.parameters}
    values = typed.jsonable(whole)
    if masked(values) != values:
        raise UsageError(
            "a parameter holds a secret, or something that looks like one",
            where=runbook.name,
            true_now="nothing was run",
            next="parameters stand in the journal: give a reference (env:NAME, file:/path) instead",
        )
    if why := runbook.refuses(values):
        raise UsageError(
            why,
            where=runbook.name,
            true_now="nothing was run",
            next="set it in the cell of parameters, or give it with -p NAME=VALUE",
        )
    return Target(runbook, host, values, identify(host, runbook.touches(values)))


class Run:
    """One run that this process holds: its journal is locked, its host's lock is taken.

    Made by `begin` or `resume.resume`. `do` brings one step to its end, `close` lets go.
    """

    def __init__(self, target: Target, options: Options, journal: Journal, lock: locks.Lock) -> None:
        self.target, self.options, self.journal, self.lock = target, options, journal, lock
        self.guided = options.approve is None
        self._proven: set[str] = set()  # steps that the host has said are so, to this process

    @property
    def name(self) -> str:
        """The run's name, that of its directory."""
        return self.journal.path.parent.name

    @property
    def state(self) -> RunState:
        """What the journal tells by now."""
        return fold(self.name, self.journal.entries)

    @property
    def host(self) -> Host:
        """Where it runs."""
        return self.target.host

    # -- one step ------------------------------------------------------------------------------------------------------

    def do(self, step: Step) -> str:
        """Bring a step to its end; returns what it took, in words.

        Raises Stopped (and what is under it) when it is not done; the journal then says how far it is.
        """
        state = self.state
        mine = state.step(step.name)
        if mine.phase in (Phase.UNDOING, Phase.UNDONE):
            raise self.stop(step, "it is being undone, or is undone; a run is not turned round twice", "stopped")
        if mine.phase is Phase.SKIPPED:
            return f"skipped: {mine.note}"
        for need in step.needs:
            if state.step(need).phase is not Phase.DONE:
                raise self.stop(step, f"it needs `{need}`, which is {state.step(need).phase}", "stopped")
        self.prove(step.needs)
        if mine.phase is Phase.DONE:
            proven = self._prove(step, mine)
            if proven is not None:
                return proven
            self.journal.append("again", step.name, why="it was done, and the host says that it is so no more")
            mine = self.state.step(step.name)
        if mine.phase is Phase.BEGUN:
            self.settle(step, mine)
            if mine.jobs:
                from runbooks_lib.runbook.detached import attach

                attach(self, step, mine)
            mine = self.state.step(step.name)
        return self._do(step, mine)

    def watching(self, step: Step) -> Watching:
        """What must stay true while this step takes long."""
        say = self.options.operator.say
        return Watching(
            self.host, self.lock, step, lambda: self.known(step, self.state.step(step.name)), self.note, say
        )

    def known(self, step: Step, mine: StepState) -> Known:
        """What the step's texts may depend on, as recorded."""
        outputs = {name: self.state.step(name).outputs for name in step.needs}
        return Known(self.target.parameters, mine.before, outputs)

    def prove(self, names: Sequence[str]) -> None:
        """Ask the host about those of these steps that the journal calls done and this process has not seen to be so.

        Raises Stopped when one is so no more, or cannot be told.
        """
        for name in names:
            step, mine = self.target.runbook.step(name), self.state.step(name)
            if mine.phase is not Phase.DONE or name in self._proven:
                continue
            observed = self._ask_again(step, mine)
            if observed.answer is Answer.NO:
                raise self.stop(step, f"it was done, and is so no more: {observed.evidence}", "stopped")

    def _prove(self, step: Step, mine: StepState) -> str | None:
        observed = self._ask_again(step, mine)
        return f"done before, and proven again: {observed.evidence}" if observed.answer is Answer.YES else None

    def _ask_again(self, step: Step, mine: StepState) -> Observation:
        observed = ask(self.host, step.verify, self.known(step, mine))
        self.note(step, observed)
        if observed.answer is Answer.CANNOT_TELL:
            raise self._cannot_tell(step, observed)
        if observed.answer is Answer.YES:
            self._proven.add(step.name)
        return observed

    def _do(self, step: Step, mine: StepState) -> str:
        begun = mine.phase is Phase.BEGUN and mine.changed  # what never began is planned anew, with its prechecks
        outputs = {name: self.state.step(name).outputs for name in step.needs}
        part = plan_step(
            step, self.host, self.target.parameters, outputs, before=mine.before if begun else None, begun=begun
        )
        for observed in part.observations:
            self.note(step, observed)
        if part.verdict is Verdict.BLOCKED:
            raise self._blocked(step, part)
        if part.verdict is Verdict.ALREADY_SO:
            self._already_so(step, part, begun=begun)
            return f"already so: {part.because}"
        if self.guided:
            choice = self._ask(step, part)
            if choice is not None:
                return choice
        else:
            self._must_be_promised(step, part)
        attempt = mine.attempts + 1
        if not begun:
            self._write_before(step, part)
        self._change(step, part.commands, attempt)
        return self._verify(step)

    def _already_so(self, step: Step, part: StepPlan, *, begun: bool) -> None:
        """A later proof asks by what was read now; of a step that has begun, by what was recorded then."""
        record: dict[str, Any] = {"outputs": dict(part.outputs)}
        if not begun:
            record["before"] = dict(part.before)
        if masked(record) != record:
            raise self.stop(step, "what would have to be recorded for a later proof holds a secret", "stopped")
        self.journal.append("done", step.name, how="already so", evidence=part.because, **record)
        self._proven.add(step.name)

    def _write_before(self, step: Step, part: StepPlan) -> None:
        record = {
            "before": dict(part.before),
            "outputs": dict(part.outputs),
            "undo": commands_as(part.undo),
            "commands": commands_as(part.commands),
        }
        if masked(record) != record:
            raise self.stop(
                step,
                "what would have to be recorded for the undo holds a secret, and a masked record undoes nothing",
                "stopped",
            )
        if len(digests.canonical(record)) > BEFORE_BYTES:
            raise self.stop(step, "what would have to be recorded for the undo is too large", "stopped")
        self.journal.append("before", step.name, why=step.why, **record)

    def _change(self, step: Step, commands: tuple[Command, ...], attempt: int) -> None:
        for index, command in enumerate(commands, 1):
            name = f"{step.name}.{attempt}.{index}"
            if step.detached:
                from runbooks_lib.runbook.detached import run_detached

                came = run_detached(self, step, command, name, attempt)
            else:
                came = self.send(step, command, name, attempt, step.deadline_seconds)
            if not came.ok:
                raise self._failed(step, came)

    def send(self, step: Step, command: Command, name: str, attempt: int, deadline_seconds: float) -> Changed:
        """Announce one change, send it, write down what came of it."""
        self.journal.append("change", step.name, change=name, attempt=attempt, command=command.text, root=command.root)
        came = change(self.host, command, self.lock, run=self.name, change=name, deadline_seconds=deadline_seconds)
        self.note_change(step, name, came)
        return came

    def note_change(self, step: Step, name: str, came: Changed) -> None:
        """Write down what came of a change; one whose end is unknown stays open in the journal."""
        kind = "changed" if came.became is not Became.UNKNOWN else "change lost"
        self.journal.append(
            kind,
            step.name,
            change=name,
            became=str(came.became),
            exit_status=came.exit_status,
            output=came.output,
            error=came.error,
        )

    def settle(self, step: Step, mine: StepState) -> None:
        """What became of changes that nobody saw the end of; after this none of them runs, except detached jobs."""
        announced = [each for each in mine.open_changes if each not in mine.jobs]
        for root in (False, True):  # the records of root's changes are in a directory of root's
            these = [each for each in announced if (each in mine.as_root) is root]
            try:
                found = settle(self.host, self.options.places, self.name, these, root=root)
            except HostError as error:
                raise self.lost(step, str(error)) from error
            for name, came in found.items():
                self.note_change(step, name, came)
                if came.became is Became.UNKNOWN:
                    raise self.lost(step, came.error)

    def _verify(self, step: Step) -> str:
        mine = self.state.step(step.name)
        known = self.known(step, mine)
        watching = self.watching(step)
        observed = ask_until(self.host, step.verify, known, step.verify_seconds, watching.given_up)
        self.note(step, observed)
        if watching.why:
            raise self.stop(step, f"it is not waited for any longer: {watching.why}; {observed.evidence}", "failed")
        if observed.answer is Answer.CANNOT_TELL:
            raise self._cannot_tell(step, observed)
        if observed.answer is Answer.NO:
            raise self.stop(
                step,
                f"its commands ended well, but it is not so that {step.verify.title}: {observed.evidence}",
                "failed",
            )
        self.journal.append("done", step.name, how="changed", evidence=observed.evidence, outputs=mine.outputs)
        self._proven.add(step.name)
        return f"done: {observed.evidence}"

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self, step: Step, part: StepPlan) -> str | None:
        """None: go on. Otherwise what happened instead. Raises Stopped for stop, UndoWanted for undo."""
        operator = self.options.operator
        behind = self._no_return(step)
        operator.say(words.before_change_text(step, part, self.host.name, behind=behind))
        final = step.point_of_no_return or bool(behind)
        wanted, what = (self.host.name, "the host's name") if final else (step.name, "the step's name")
        answered = Answers(operator, words.before_change_commands(part), f"Type {what} ({wanted}) to go on, or:")
        while True:
            answer = answered.next("skip REASON", "undo", "stop")
            verb, _, rest = answer.partition(" ")
            if answer == wanted:
                self.journal.append("decision", step.name, choice="go on", typed=answer)
                return None
            if verb == "skip" and rest.strip() and not self.state.step(step.name).changed:
                self.journal.append("skipped", step.name, reason=rest.strip())
                return f"skipped: {rest.strip()}"
            if verb in ("stop", "undo") and not rest:
                self.journal.append("decision", step.name, choice=verb)
                if verb == "undo":
                    raise UndoWanted(self.name)
                raise self.stop(step, "you said stop", "stopped")
            if verb == "skip":
                why = "a reason must follow: skip REASON" if not rest.strip() else "it has begun: finish it or undo it"
                operator.say(f"  {why}")
            else:
                operator.say(f"  {answer!r} is none of these; nothing was run.")

    def _no_return(self, step: Step) -> str:
        """The step before this one that was a point of no return and changed something; empty when there is none."""
        for earlier in self.target.runbook.steps:
            if earlier.name == step.name:
                break
            if earlier.point_of_no_return and self.state.step(earlier.name).changed:
                return earlier.name
        return ""

    def _must_be_promised(self, step: Step, part: StepPlan) -> None:
        promised: Mapping[str, Any] = next(
            (each for each in self.state.promised["steps"] if each["step"] == step.name), {}
        )
        found = differences(promised, part.promised())
        if found:
            raise self.stop(
                step,
                "what it would run now is not what was approved:\n" + "\n".join(f"    {line}" for line in found),
                "stopped",
            )

    # -- ends ----------------------------------------------------------------------------------------------------------

    def finish(self, outcome: str) -> None:
        """The run is done, or undone."""
        self.journal.append("finished", outcome=outcome)

    def close(self) -> None:
        """Let go. The host's lock stays with a run that is half done: the next operator must be told."""
        try:
            if self.options.on_end is not None:
                self.options.on_end(self)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """`close` without its evidence."""
        try:
            if not self.state.half_done:
                self._give_back()
        finally:
            self.journal.close()

    def _give_back(self) -> None:
        try:
            given_back = locks.release(self.host, self.lock)
        except RunbookError as error:
            self.options.operator.say(
                f"{self.host.name} could not be given back: {error}\n"
                "The next run from this machine takes it again; for others the lock ends an hour after its last sign."
            )
            with suppress(RunbookError):
                self.journal.append("not unlocked", why=str(error))
            return
        with suppress(RunbookError):
            self.journal.append("unlocked", given_back=given_back)

    def interrupted(self, step: Step | None) -> Stopped:
        """Ctrl-C, or the notebook's stop button: what is done, what is running, how to go on."""
        running, runs_on = "nothing of it is running", False
        if step is not None:
            mine = self.state.step(step.name)
            if any(each in mine.jobs for each in mine.open_changes):
                running = "its job goes on on the host"
                runs_on = True
            elif mine.open_changes:
                try:
                    self.settle(step, mine)
                    running = "its commands were ended on the host, and that is proven"
                except RunbookError as error:
                    running = f"whether something of it still runs cannot be told: {error}"
        self.journal.append("interrupted", step.name if step else "", why=running)
        return Stopped(
            f"interrupted in `{step.name}`" if step else "interrupted",
            where=self.host.name,
            true_now=f"{running}\n{words.state_text(self.target.runbook, self.state)}",
            next=words.how_to_go_on(self.name, runs_on=runs_on),
        )

    def note(self, step: Step, observed: Observation) -> None:
        """Write down what was seen."""
        self.journal.append(
            "checked", step.name, check=observed.check, answer=str(observed.answer), evidence=observed.evidence
        )

    def stop(self, step: Step, why: str, kind: str) -> Stopped:
        """Write down why a step is not done; the error that says so."""
        self.journal.append(kind, step.name, why=why)
        return Stopped(
            f"stopped at `{step.name}`: {why}",
            where=self.host.name,
            true_now=words.state_text(self.target.runbook, self.state),
            next=words.how_to_go_on(self.name),
        )

    def _failed(self, step: Step, came: Changed) -> Stopped:
        if came.became is Became.UNKNOWN:
            return self.lost(step, came.error)
        return self.stop(step, f"a command {came.words}", "failed")

    def lost(self, step: Step, error: str) -> CannotTellNow:
        """Write down that what became of a step cannot be told; the error that says so."""
        self.journal.append("cannot tell", step.name, why=error)
        return CannotTellNow(
            f"what became of `{step.name}` cannot be told: {error}",
            where=self.host.name,
            true_now="it may have happened wholly, in part, or not at all; the lock on the host is kept",
            next="either asks the host first:\n" + words.how_to_go_on(self.name),
        )

    def _cannot_tell(self, step: Step, observed: Observation) -> CannotTellNow:
        self.journal.append("cannot tell", step.name, why=f"{observed.check}? {observed.evidence}")
        return CannotTellNow(
            f"cannot tell whether {observed.check}",
            where=f"{self.host.name}, step {step.name}",
            true_now=f"seen: {observed.evidence}",
            next="find out why it cannot be told; then\n" + words.how_to_go_on(self.name),
        )

    def _blocked(self, step: Step, part: StepPlan) -> Stopped:
        if part.because.startswith("cannot tell"):
            self.journal.append("cannot tell", step.name, why=part.because)
            kind: type[Stopped] = CannotTellNow
        else:
            self.journal.append("stopped", step.name, why=part.because)
            kind = Stopped
        return kind(
            f"`{step.name}` is blocked: {part.because}",
            where=self.host.name,
            true_now=words.state_text(self.target.runbook, self.state),
            next=words.how_to_go_on(self.name),
        )


class UndoWanted(Exception):
    """The operator typed undo."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.run = run


__all__ = ["NoUndo", "Options", "Refused", "Run", "Stopped", "Target", "UndoWanted", "target"]
