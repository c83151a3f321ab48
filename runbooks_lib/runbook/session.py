"""A runbook as a notebook's cells call it: `plan`, `step`, `finish`, `undo`, `cancel`, `again`.

The same cells do three things. With nobody to ask and no approval they show the plan, and say so; with a person they
ask before each change; with `approve` they run what was approved, or nothing.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.hosts.host import Host
from runbooks_lib.runbook import evidence, executed, places, runs, words
from runbooks_lib.runbook.detached import cancel
from runbooks_lib.runbook.operator import Console, Operator
from runbooks_lib.runbook.plan import Plan
from runbooks_lib.runbook.resume import Finished, open_run, prove, resume
from runbooks_lib.runbook.run import Options, Run, Stopped, Target, UndoWanted, target
from runbooks_lib.runbook.step import Runbook
from runbooks_lib.runbook.undo import to_undo as steps_to_undo
from runbooks_lib.runbook.undo import undo

PLAN_ONLY = "PLAN ONLY: nothing is changed"

# A cell that is run again makes a new session; the run that this kernel holds stays the same one.
_held: dict[str, Run] = {}


class Session:
    """One notebook's hold on one runbook. Make it with `open_runbook`."""

    def __init__(self, aim: Target | None, options: Options) -> None:
        self._aim, self._options = aim, options
        executed.listen()
        self._plan: Plan | None = None
        self._done: Finished | None = None

    @property
    def plan_only(self) -> bool:
        """Nothing can be changed: no host, or neither a person nor an approval."""
        return self._aim is None or not (self._options.operator.present or self._options.approve)

    @property
    def headline(self) -> str:
        """One line for a list of reports: how far the work is, or what the plan says."""
        if self._aim is None:
            return f"{PLAN_ONLY}; no host is chosen"
        if self.plan_only:
            with self._interruptible():
                self._plan = self._plan or self._aim.plan()
            return words.plan_headline(self._aim.runbook, self._plan)
        found = runs.latest(self._options.runs, self._aim.key)
        return words.headline(self._aim.runbook, self._aim.host.name, found[1] if found else None)

    @property
    def blocked(self) -> bool:
        """The plan that was shown cannot be run."""
        return self._plan is not None and bool(self._plan.blocked)

    def plan(self) -> None:
        """Show what would happen, and the digest that approves it."""
        if self._aim is None:
            return self._say(f"{PLAN_ONLY}. No host is chosen: set `host` in the cell of parameters.")
        run = self._running()
        if run is not None:
            return self._say(words.state_text(self._aim.runbook, run.state))
        with self._interruptible():
            self._plan = self._aim.plan()
        runs.keep_plan(self._options.runs, self._plan)
        # Each step's commands are shown where its cell runs.
        self._say(words.plan_text(self._plan, brief=True))
        if self.plan_only:
            how = "To run it: again with `approve` set to this digest; or in JupyterLab, where each step is asked for."
            self._say(f"{PLAN_ONLY}. {'Mend that, then plan again.' if self._plan.blocked else how}")
        return None

    def step(self, name: str) -> None:
        """Bring one step to its end, or show its part of the plan. Raises Stopped and other RunbookErrors."""
        if self._aim is None:
            return self._say(f"{PLAN_ONLY}.")
        step = self._aim.runbook.step(name)
        if self.plan_only:
            with self._interruptible():
                self._plan = self._plan or self._aim.plan()
            part = next(each for each in self._plan.steps if each.name == name)
            self._say(f"{PLAN_ONLY}.\n{words.step_text(part, brief=True)}")
            if part.commands:
                self._fold(words.commands_text("runs", part.commands))
            return None
        run = self._open()
        if isinstance(run, Finished):
            return self._say(prove(run, self._aim))
        try:
            self._say(f"{name}: {run.do(step)}")
        except KeyboardInterrupt:
            stopped = run.interrupted(step)
            self._let_go(run)
            raise stopped from None
        except UndoWanted:
            self._undo(run)
        except RunbookError:
            self._let_go(run)
            raise
        return None

    def finish(self) -> None:
        """Every step is done, and the host says so: say so in the journal, give the host back, gather the evidence.

        Raises Stopped, or Refused of a run that was done before, when a step is so no more.
        """
        if self.plan_only or self._aim is None:
            return self._say(f"{PLAN_ONLY}.")
        run = self._running()
        if run is None:
            found = self._open()
            if isinstance(found, Finished):
                with self._interruptible():
                    prove(found, self._aim)
                return self._say(f"Done in {found.directory.name}.")
            run = found
        undone = [step.name for step in self._aim.runbook.steps if not run.state.step(step.name).settled]
        if undone:
            raise RunbookError(
                f"not done yet: {', '.join(undone)}",
                where=run.name,
                true_now=words.state_text(self._aim.runbook, run.state),
                next="run their cells",
            )
        try:
            with self._interruptible():
                run.prove([step.name for step in self._aim.runbook.steps])
        except RunbookError:
            self._let_go(run)
            raise
        run.finish("done")
        with self._interruptible("the run is done, and recorded as done; what is missing is a part of its evidence"):
            self._let_go(run)
        return self._say(f"Done. The evidence is in {run.journal.path.parent}.")

    def undo(self) -> None:
        """Take back what this work changed, newest first; asks before each step."""
        if self.plan_only or self._aim is None:
            return self._say(f"{PLAN_ONLY}.")
        if not self._options.operator.present:
            return self._say(f"{PLAN_ONLY}. Each undo is asked for; with nobody there: `runbook undo RUN --approve …`.")
        run = self._running() or self._latest("open", "done", to_undo=True)
        if run is None:
            return self._say("There is nothing to take back: no run of this work is there that is not undone.")
        return self._undo(run)

    def cancel(self) -> None:
        """End what still runs of this work on the host, proven; nothing is taken back."""
        if self.plan_only or self._aim is None:
            return self._say(f"{PLAN_ONLY}.")
        run = self._running() or self._latest("open")
        if run is None:
            return self._say("Nothing of it is running: no run of this work is unfinished.")
        self._forget(run)
        return self._say(cancel(run))

    def again(self, reason: str) -> None:
        """Let work that is done run once more; the reason is recorded."""
        if not reason.strip():
            raise UsageError("again() wants a reason", true_now="nothing was run")
        self._options = replace(self._options, again=reason)

    # -- holding -------------------------------------------------------------------------------------------------------

    def _running(self) -> Run | None:
        return _held.get(self._aim.key) if self._aim is not None else None

    def _open(self) -> Run | Finished:
        assert self._aim is not None  # noqa: S101 (every caller has looked)
        run = self._running()
        if run is not None:
            return run
        with self._interruptible():
            found = open_run(self._aim, self._options, self._plan)
        if isinstance(found, Run):
            _held[self._aim.key] = found
            executed.keep(found.journal.path.parent, self._aim.runbook.notebook)
            self._options = replace(self._options, again=None)
        return found

    @contextmanager
    def _interruptible(self, true_now: str = "this cell had changed nothing yet") -> Iterator[None]:
        """The stop button, pressed where no step is being done."""
        try:
            yield
        except KeyboardInterrupt:
            where = self._aim.host.name if self._aim is not None else ""
            raise Stopped("interrupted", where=where, true_now=true_now, next="run the cell again") from None

    def _latest(self, *outcomes: str, to_undo: bool = False) -> Run | None:
        """The latest run of this work, if its outcome is one of these. Never begins one."""
        assert self._aim is not None  # noqa: S101 (every caller has looked)
        found = runs.latest(self._options.runs, self._aim.key)
        if found is None or found[1].outcome not in outcomes:
            return None
        if to_undo:
            steps_to_undo(self._aim.runbook, found[1])  # a refusal leaves the run as it is
        with self._interruptible():
            return resume(found[0], self._aim, self._options)

    def _undo(self, run: Run) -> None:
        self._forget(run)
        self._say(undo(run, approve=None))

    def _forget(self, run: Run) -> None:
        _held.pop(run.target.key, None)
        executed.let_go(run.journal.path.parent)

    def _let_go(self, run: Run) -> None:
        self._forget(run)
        with suppress(RunbookError):
            run.close()

    def _fold(self, lines: Sequence[str]) -> None:
        text = "\n".join(lines)
        if not self._options.operator.fold(words.commands_title(text), text):
            self._say(text)

    def _say(self, text: str) -> None:
        self._options.operator.say(text)


def open_runbook(
    runbook: Runbook,
    *,
    host: str,
    config: str = "",
    approve: str = "",
    operator: Operator | None = None,
    **parameters: Any,
) -> Session:
    """The session of a runbook on a host of the inventory; with no host, one that only tells what it is.

    Raises UsageError for wrong parameters or an unknown host, HostError when the host does not answer.
    """
    from pathlib import Path

    from runbooks_lib import config as inventory
    from runbooks_lib.hosts.opening import open_host

    asked = operator or Console()
    if not host:
        return Session(None, Options(Path("outputs/runs"), operator=asked))
    loaded = inventory.load(Path(config) if config else None)
    (entry,) = loaded.select(host=(host,))
    return session_on(
        runbook,
        open_host(entry, loaded),
        parameters,
        Options(
            loaded.outputs / "runs",
            places.chosen(),
            asked,
            approve or None,
            on_begin=evidence.begin,
            on_end=evidence.gather,
        ),
    )


def session_on(runbook: Runbook, host: Host, parameters: dict[str, Any], options: Options) -> Session:
    """The session of a runbook on an open host."""
    return Session(target(runbook, host, parameters), options)


@atexit.register
def _let_go_of_all() -> None:
    for run in list(_held.values()):
        with suppress(Exception):
            run.close()
