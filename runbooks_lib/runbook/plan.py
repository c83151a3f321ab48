"""A plan: what each step would do now, by live facts. Making it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runbooks_lib.hosts.host import Host
from runbooks_lib.runbook import digest as digests
from runbooks_lib.runbook.check import Answer, CannotTell, Observation, ask, read_all
from runbooks_lib.runbook.identity import Identity
from runbooks_lib.runbook.step import Command, Known, NoUndo, Runbook, Step, Undo


class Verdict(StrEnum):
    """What a plan says of a step."""

    ALREADY_SO = "already so"
    WOULD_RUN = "would run"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class StepPlan:
    """One step's part. `later` are prechecks that can be asked only when the steps it needs have run."""

    name: str
    title: str
    verdict: Verdict
    because: str
    commands: tuple[Command, ...] = ()
    undo: tuple[Command, ...] = ()
    undo_words: str = ""
    point_of_no_return: bool = False
    expect: str = ""
    observations: tuple[Observation, ...] = ()
    later: tuple[str, ...] = ()
    before: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)

    def promised(self) -> dict[str, Any]:
        """What an approval covers of this step."""
        return {
            "step": self.name,
            "verdict": str(self.verdict),
            "commands": [[command.text, command.root, command.secret] for command in self.commands],
            "point_of_no_return": self.point_of_no_return,
        }


@dataclass(frozen=True)
class Plan:
    """All steps' parts, in order."""

    runbook: str
    version: str
    parameters: Mapping[str, Any]
    identity: Identity
    steps: tuple[StepPlan, ...]

    def promised(self) -> dict[str, Any]:
        """Everything that the digest covers."""
        return {
            "runbook": self.runbook,
            "version": self.version,
            "parameters": dict(self.parameters),
            "identity": self.identity.as_data(),
            "steps": [step.promised() for step in self.steps],
        }

    @property
    def digest(self) -> str:
        """What an approval names: 64 hex digits."""
        return digests.digest(self.promised())

    @property
    def blocked(self) -> tuple[StepPlan, ...]:
        """The steps that cannot run now."""
        return tuple(step for step in self.steps if step.verdict is Verdict.BLOCKED)

    @property
    def nothing_to_do(self) -> bool:
        """Every step is already so."""
        return all(step.verdict is Verdict.ALREADY_SO for step in self.steps)


def make_plan(runbook: Runbook, host: Host, parameters: Mapping[str, Any], identity: Identity) -> Plan:
    """Ask everything that can be asked now. Never raises for what a host says: that blocks a step, and is told."""
    steps: list[StepPlan] = []
    outputs: dict[str, Mapping[str, Any]] = {}
    pending: set[str] = set()
    blocked: str | None = None
    for step in runbook.steps:
        if blocked is not None:
            steps.append(StepPlan(step.name, step.title, Verdict.BLOCKED, f"`{blocked}` before it is blocked"))
            continue
        part = plan_step(step, host, parameters, outputs, waits=bool(pending & set(step.needs)))
        steps.append(part)
        outputs[step.name] = part.outputs
        if part.verdict is Verdict.BLOCKED:
            blocked = step.name
        elif part.verdict is Verdict.WOULD_RUN:
            pending.add(step.name)
    return Plan(runbook.name, runbook.version, parameters, identity, tuple(steps))


def plan_step(
    step: Step,
    host: Host,
    parameters: Mapping[str, Any],
    outputs: Mapping[str, Mapping[str, Any]],
    *,
    waits: bool = False,
    before: Mapping[str, Any] | None = None,
    begun: bool = False,
) -> StepPlan:
    """One step's part. `waits`: a step that it needs has not run yet. A step that has `begun` goes by what was read
    `before` it: nothing is read anew, and its prechecks, which said yes then, are not asked again."""
    known = Known(parameters, {}, {name: outputs[name] for name in step.needs if name in outputs})
    try:
        known = Known(parameters, read_all(host, step.reads, known) if before is None else before, known.outputs)
        results = dict(step.outputs(known)) if step.outputs else {}
        commands = tuple(step.commands(known))
        undo = tuple(step.undo.commands(known)) if isinstance(step.undo, Undo) else ()
        expect = step.expect(known) if step.expect else ""
    except CannotTell as error:
        return StepPlan(step.name, step.title, Verdict.BLOCKED, f"cannot tell: {error}")

    seen: list[Observation] = []

    def part(verdict: Verdict, because: str, *, runs: bool = False) -> StepPlan:
        return StepPlan(
            step.name,
            step.title,
            verdict,
            because,
            commands if runs else (),
            undo if runs else (),
            undo_words(step),
            step.point_of_no_return,
            expect,
            tuple(seen),
            tuple(check.title for check in step.prechecks) if waits else (),
            known.before,
            results,
        )

    if not waits:
        verified = ask(host, step.verify, known)
        seen.append(verified)
        if verified.answer is Answer.YES:
            return part(Verdict.ALREADY_SO, verified.evidence)
        if verified.answer is Answer.CANNOT_TELL:
            return part(Verdict.BLOCKED, f"cannot tell whether {step.verify.title}: {verified.evidence}")
        for check in () if begun else step.prechecks:
            observed = ask(host, check, known)
            seen.append(observed)
            if observed.answer is not Answer.YES:
                return part(Verdict.BLOCKED, f"{check.title}? {observed.words}")
    if not commands:
        return part(Verdict.BLOCKED, "it is not so yet, and there is nothing that it could run")
    return part(Verdict.WOULD_RUN, seen[0].evidence if seen else "the steps before it come first", runs=True)


def undo_words(step: Step) -> str:
    """How a step is taken back, for a person."""
    if isinstance(step.undo, NoUndo):
        return f"not undone: {step.undo.reason} Instead: {step.undo.instead}"
    return f"undo takes {step.undo.takes}"


def differences(approved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two plans' promises, one line each; [] when nothing does."""
    return list(_differences("", approved, now))


def _differences(where: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{where}.{key}" if where else str(key), old.get(key), new.get(key))
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            name = one.get("step", index + 1) if isinstance(one, Mapping) else index + 1
            yield from _differences(f"{where}[{name}]", one, other)
    elif digests.canonical(old) != digests.canonical(new):
        yield f"{where}: was {_short(old)}, is {_short(new)}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else digests.canonical(value)
    return text if len(text) <= 300 else text[:150] + " […] " + text[-150:]
