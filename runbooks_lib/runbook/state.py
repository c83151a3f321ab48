"""What a journal says has happened: its entries, folded.

It is a memory: the host is asked before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from runbooks_lib.runbook.journal import Entry
from runbooks_lib.runbook.step import Command


class Phase(StrEnum):
    """How far a step is."""

    UNTOUCHED = "untouched"
    BEGUN = "begun"  # its before-values are recorded; how much of it happened, only the host knows
    DONE = "done"
    SKIPPED = "skipped"
    UNDOING = "being undone"
    UNDONE = "undone"


@dataclass(frozen=True)
class StepState:
    """One step's part of a run. `open_changes` were announced, and nothing says yet what became of them; `jobs` are
    those that run detached, `as_root` those whose record on the host is root's. `changed`: a change of it has begun, or
    may have; `proven_begun`: one has. `evidence` is what was seen when it was done, or undone."""

    phase: Phase = Phase.UNTOUCHED
    before: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    undo: tuple[Command, ...] = ()
    changed: bool = False
    proven_begun: bool = False
    attempts: int = 0
    open_changes: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    as_root: frozenset[str] = frozenset()
    note: str = ""
    evidence: str = ""

    @property
    def settled(self) -> bool:
        """Done, or skipped for a reason."""
        return self.phase in (Phase.DONE, Phase.SKIPPED)


@dataclass(frozen=True)
class RunState:
    """A run as its journal tells it. `outcome` is open, done, undone, or not begun: without a whole first line, too."""

    run: str
    key: str = ""
    runbook: str = ""
    version: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""
    who: str = ""
    began: datetime | None = None
    ended: datetime | None = None
    outcome: str = "not begun"
    digest: str = ""
    promised: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, StepState] = field(default_factory=dict)
    last_words: str = ""

    def step(self, name: str) -> StepState:
        """The step's state; untouched when the journal does not know it."""
        return self.steps.get(name, StepState())

    @property
    def half_done(self) -> tuple[str, ...]:
        """Steps that have changed something, or may have, and are neither done nor undone."""
        return tuple(
            name
            for name, step in self.steps.items()
            if step.phase is Phase.UNDOING or (step.phase is Phase.BEGUN and step.changed)
        )

    @property
    def changed(self) -> bool:
        """Whether a change was ever announced that has not been taken back."""
        return any(step.changed and step.phase is not Phase.UNDONE for step in self.steps.values())


def fold(run: str, entries: Iterable[Entry]) -> RunState:
    """The state that these entries tell of."""
    state = RunState(run)
    for entry in entries:
        state = _after(state, entry)
    return state


def commands_from(data: Iterable[Mapping[str, Any]]) -> tuple[Command, ...]:
    """Commands as `commands_as` wrote them."""
    return tuple(Command(each["text"], each["affects"], each["root"], each["secret"]) for each in data)


def commands_as(commands: Iterable[Command]) -> list[dict[str, Any]]:
    """Commands for the journal."""
    return [{"text": each.text, "affects": each.affects, "root": each.root, "secret": each.secret} for each in commands]


def _after(state: RunState, entry: Entry) -> RunState:
    data = entry.data
    match entry.kind:
        case "begin":
            return replace(
                state,
                key=data["key"],
                runbook=data["runbook"],
                version=data["version"],
                parameters=data["parameters"],
                identity=data["identity"],
                host=data["host"],
                who=data["who"]["user"],
                outcome="open",
                began=entry.time,
                digest=data["digest"],
                promised=data["promised"],
            )
        case "finished":
            return replace(state, outcome=data["outcome"], ended=entry.time)
        case "reopened":
            return replace(state, outcome="open", ended=None)
        case "stopped" | "interrupted" | "failed" | "cannot tell":
            state = replace(state, last_words=f"{entry.kind}: {data.get('why', '')}")
    if not entry.step:
        return state
    return replace(state, steps={**state.steps, entry.step: _step_after(state.step(entry.step), entry)})


def _step_after(step: StepState, entry: Entry) -> StepState:
    data = entry.data
    match entry.kind:
        case "before":
            return replace(
                step,
                phase=Phase.BEGUN,
                before=data["before"],
                outputs=data["outputs"],
                undo=commands_from(data["undo"]),
                note="",
            )
        case "change":
            return replace(
                step,
                changed=True,
                attempts=max(step.attempts, data["attempt"]),
                open_changes=(*step.open_changes, data["change"]),
                jobs=(*step.jobs, data["change"]) if data.get("detached") else step.jobs,
                as_root=step.as_root | {data["change"]} if data["root"] else step.as_root,
            )
        case "changed":
            still_open = tuple(each for each in step.open_changes if each != data["change"])
            begun = step.proven_begun or data["became"] != "not begun"
            return replace(step, open_changes=still_open, proven_begun=begun, changed=begun or bool(still_open))
        case "again":
            # What never changed anything goes by what is read anew, not by what was read when it was so already.
            return replace(step, phase=Phase.BEGUN if step.changed else Phase.UNTOUCHED)
        case "done":
            before = data.get("before", step.before)
            return replace(
                step,
                phase=Phase.DONE,
                before=before,
                outputs=data["outputs"],
                note=data["how"],
                evidence=data.get("evidence", ""),
            )
        case "skipped":
            return replace(step, phase=Phase.SKIPPED, note=data["reason"])
        case "undoing":
            return replace(step, phase=Phase.UNDOING)
        case "undone":
            return replace(step, phase=Phase.UNDONE, note=data["how"], evidence=data.get("evidence", ""))
        case "failed" | "cannot tell":
            return replace(step, note=data.get("why", ""))
    return step
