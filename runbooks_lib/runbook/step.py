"""What a runbook is: data. Nothing here prints, asks, connects or remembers; that is the runner's.

A step's texts are functions of what is `Known` - the parameters, what the step read before it changed anything, and
what the steps before it say of themselves - and of nothing else: the same knowledge always gives the same commands.
That is what makes a plan worth approving.

The contract of `commands`: *run again after having been cut off anywhere, they end in the same state*. The runner
relies on it when it resumes. Undo's commands promise the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runbooks_lib.parameters import Parameter

CHECK_SECONDS = 30.0


@dataclass(frozen=True)
class Known:
    """What a step's texts may depend on.

    `before`: what this step's reads saw before its first change (JSON-like values). `outputs`: by step name, what the
    steps in `needs` say of their results, foretold from what they read.
    """

    parameters: Mapping[str, Any]
    before: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


Text = Callable[[Known], str]
"""A POSIX sh text; values get into it through `quoting.word` only."""


@dataclass(frozen=True)
class Read:
    """A question with a value as its answer. The script only reads; `parse` makes a JSON-like value of its stdout and
    raises ValueError when it cannot. Any exit status but 0 is "cannot tell"."""

    name: str
    script: Text
    parse: Callable[[bytes], Any]
    root: bool = False
    deadline_seconds: float = CHECK_SECONDS


@dataclass(frozen=True)
class Check:
    """A question with yes, no or cannot tell as its answer. `title` is the statement that a yes makes true.

    The script only reads. It ends by calling `yes`, `no` or `cannot_tell`, shell functions that it finds defined; what
    it printed until then, and their words, are the evidence. A script that ends otherwise - an error, a missing
    command, the end of its text - cannot tell. So does a `yes` without any evidence: it has matched nothing.
    """

    title: str
    script: Text
    root: bool = False
    deadline_seconds: float = CHECK_SECONDS


@dataclass(frozen=True)
class Command:
    """One change, as exactly this text for POSIX sh. `affects` says what it touches. With `secret`, a reference, the
    secret is on its stdin, and nowhere else."""

    text: str
    affects: str
    root: bool = False
    secret: str | None = None


Commands = Callable[[Known], Sequence[Command]]


@dataclass(frozen=True)
class Undo:
    """How a step is taken back, from what was read before it. `verify` says that it has been. `takes`: how long."""

    commands: Commands
    verify: Check
    takes: str


@dataclass(frozen=True)
class NoUndo:
    """The stated reason why a step is not taken back, and what to do instead. `harmless`: nothing needs taking back,
    so that an undo passes over the step."""

    reason: str
    instead: str
    harmless: bool = False


@dataclass(frozen=True)
class Watcher:
    """What must stay true beside a long step. A no stops the step; so do three looks in a row that cannot tell."""

    check: Check
    every_seconds: float = 5.0


@dataclass(frozen=True)
class Step:
    """One step of a runbook.

    `verify` says whether the step's goal is reached: before the step ("already so"), after it (asked again and again
    until `verify_seconds` have passed), and on resume. `prechecks` must all say yes before the first change.
    A `point_of_no_return` that lies inside the step's commands has `passed`, a check that says whether it is behind:
    until then the step's undo is allowed.
    `expect` says, for a person and from what is known, how long the step may take and who waits meanwhile; it is no
    part of what is approved.
    `detached` runs the commands on the host in a session of their own, which no cut connection ends, with `progress`
    (a read whose value is `[done, total]` or `[done, total, unit]`; the unit `bytes` is shown as KiB, MiB, …; a total
    that is not known yet is 0) and `watchers` beside them. A verify that is waited for is watched by them as well.
    """

    name: str
    title: str
    why: str
    commands: Commands
    verify: Check
    undo: Undo | NoUndo
    deadline_seconds: float
    reads: tuple[Read, ...] = ()
    prechecks: tuple[Check, ...] = ()
    outputs: Callable[[Known], Mapping[str, Any]] | None = None
    needs: tuple[str, ...] = ()
    point_of_no_return: bool = False
    passed: Check | None = None
    verify_seconds: float = 10.0
    detached: bool = False
    progress: Read | None = None
    watchers: tuple[Watcher, ...] = ()
    expect: Text | None = None


@dataclass(frozen=True)
class Runbook:
    """A list of steps with what a person must know before the first. `touches` gives the paths on the host whose
    filesystems belong to the identity under which a plan is approved: paths that stay on their filesystem whatever the
    steps do (the target's mount point, not the directory that is moved), or a resume would find another host.
    `refuses` says why parameters that are each
    right make no sense together; empty when they do. `notebook` is its notebook's path under `notebooks/`. `says` names
    the step whose evidence begins with what everybody asks afterwards, such as a measured downtime."""

    name: str
    version: str
    title: str
    purpose: str
    not_when: str
    takes: str
    undo_takes: str
    parameters: tuple[Parameter, ...]
    steps: tuple[Step, ...]
    touches: Callable[[Mapping[str, Any]], Sequence[str]] = lambda _parameters: ()
    refuses: Callable[[Mapping[str, Any]], str] = lambda _parameters: ""
    notebook: str = ""
    says: str = ""

    def step(self, name: str) -> Step:
        """The step of this name. KeyError when there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)
