"""Being beside a detached command: attach, show how far it is, watch what must stay true, end it when it must be."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.host import HostError
from runbooks_lib.runbook import job, words
from runbooks_lib.runbook.change import Became, Changed, settle
from runbooks_lib.runbook.check import CannotTell, bounded, read
from runbooks_lib.runbook.quoting import text_of
from runbooks_lib.runbook.run import Run, Stopped
from runbooks_lib.runbook.state import StepState
from runbooks_lib.runbook.step import Command, Known, Step
from runbooks_lib.secrets import redact

POLL_SECONDS = 1.0  # at first oftener: a short job need not wait for it
SAY_SECONDS = 5.0  # later less often, as one hour's lines need not be seven hundred
_SELDOM_SECONDS = 30.0
_RATE_SECONDS = 60.0  # the rate is that of the last minute
RUNS_THERE = "begun on the host; it goes on there, whatever becomes of this end: the same command attaches to it"
_LAST_CHARACTERS = 8000
PATIENCE_SECONDS = 120.0  # so long may the host be out of reach; the job does not mind


def run_detached(run: Run, step: Step, command: Command, name: str, attempt: int) -> Changed:
    """Start one command as a job and stay beside it until it ends."""
    run.journal.append(
        "change", step.name, change=name, attempt=attempt, command=command.text, root=command.root, detached=True
    )
    try:
        job.start(run.host, command, run.lock, run=run.name, change=name)
        run.options.operator.say(f"{step.name}: {RUNS_THERE}")
    except RunbookError as error:
        if (came := _lost_start(run, step, name, command.root, error)) is not None:
            run.note_change(step, name, came)
            return came
    return follow(run, step, name, root=command.root)


def _lost_start(run: Run, step: Step, name: str, root: bool, error: RunbookError) -> Changed | None:
    """What became of a job whose start was not answered, or that did not start in time: what has not begun never will.
    None when the host says that it has begun: a service may be down in it, and nobody need be asked whether to stay
    beside it. Raises Stopped."""
    if isinstance(error, HostError):
        run.options.operator.say(f"{step.name}: no answer to the start of its job; asking the host")
    try:
        if _Beside(run, step, name, root).look().state is not job.JobState.NONE:
            return None
        came = settle(run.host, run.options.places, run.name, [name], root=root)[name]
    except Stopped:
        raise
    except RunbookError:
        return Changed(Became.UNKNOWN, None, "", str(error))
    return replace(came, error=str(error)) if came.became is Became.NOT_BEGUN else came


def attach(run: Run, step: Step, mine: StepState) -> None:
    """Go on beside the jobs of a step that nobody saw the end of."""
    for name in mine.open_changes:
        if name not in mine.jobs:
            continue
        root = name in mine.as_root
        found = job.look(run.host, run.options.places, run=run.name, change=name, root=root)
        if found.state is job.JobState.NONE:
            _take(run, step, name, root)
        else:
            run.options.operator.say(f"{step.name}: attached to its job ({found.state})")
            follow(run, step, name, root=root)


def _take(run: Run, step: Step, name: str, root: bool) -> None:
    """Take the record of a job that has not begun, so that it never will. Raises Stopped when that cannot be told."""
    try:
        came = settle(run.host, run.options.places, run.name, [name], root=root)[name]
    except HostError as error:
        raise run.lost(step, str(error)) from error
    run.note_change(step, name, came)
    if came.became is Became.UNKNOWN:
        raise run.lost(step, came.error)


def end_jobs(run: Run, step: Step, mine: StepState, why: str = "the step is being undone") -> int:
    """End what still runs of a step's jobs, proven; returns how many ran. Raises Stopped when it cannot be proven."""
    running = 0
    for name in (each for each in mine.open_changes if each in mine.jobs):
        root = name in mine.as_root
        try:
            found = job.look(run.host, run.options.places, run=run.name, change=name, root=root)
        except HostError as error:
            raise run.lost(step, f"whether its job still runs cannot be told: {error}") from error
        if found.state is job.JobState.ENDED:
            run.note_change(step, name, Changed(Became.ENDED, found.exit_status, _last(found.log)))
            continue
        if found.state is job.JobState.NONE:
            _take(run, step, name, root)
            continue
        _end(run, step, name, root, why)
        running += found.state is job.JobState.RUNNING
    return running


def cancel(run: Run) -> str:
    """End whatever still runs of a run on the host, with its whole process group, and prove it; nothing is taken back.

    Returns a sentence a step. Raises Stopped when it cannot be proven. However it ends, the run is let go of.
    """
    lines = []
    try:
        for name in run.state.half_done:
            step, mine = run.target.runbook.step(name), run.state.step(name)
            run.settle(step, mine)
            if end_jobs(run, step, mine, "it was cancelled"):
                run.journal.append("cancelled", name)
                lines.append(f"{name}: its job is ended, and its process group is gone; it is half done")
    finally:
        with suppress(RunbookError):
            run.close()
    return "\n".join(lines) or "nothing of it was running"


def follow(run: Run, step: Step, name: str, *, root: bool) -> Changed:
    """Stay beside a job until it ends; what came of it is written down.

    Raises Stopped when a watcher says no, when the deadline passes (the job is ended, proven), or when the host stays
    out of reach (the job goes on).
    """
    beside = _Beside(run, step, name, root)
    pause = min(0.05, POLL_SECONDS)
    while True:
        found = beside.look()
        beside.tell(found)
        if found.state is job.JobState.ENDED:
            came = Changed(Became.ENDED, found.exit_status, _last(beside.log))
            break
        if found.state is not job.JobState.RUNNING:
            _end(run, step, name, root, "it left no exit status")
            return Changed(Became.CUT, None, _last(beside.log), "it was killed, or the host was restarted")
        if why := beside.broken():
            _end(run, step, name, root, why)
            raise run.stop(step, f"its job was ended, and its process group is gone: {why}", "failed")
        time.sleep(pause)
        pause = min(1.5 * pause, POLL_SECONDS)
    run.note_change(step, name, came)
    return came


@dataclass
class _Beside:
    run: Run
    step: Step
    name: str
    root: bool
    log: bytes = b""
    offset: int = 0
    said: float = 0.0
    began: float = field(default_factory=time.monotonic)
    seen: deque[tuple[float, float]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.watching = self.run.watching(self.step)

    def look(self) -> job.JobLook:
        """How the job is; a host that is out of reach for a while is waited for. Raises Stopped."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                found = job.look(
                    self.run.host,
                    self.run.options.places,
                    run=self.run.name,
                    change=self.name,
                    root=self.root,
                    offset=self.offset,
                )
                self.offset += len(found.log)
                self.log += found.log
                return found
            except HostError as error:
                if time.monotonic() > end:
                    self.run.journal.append("cannot tell", self.step.name, why=str(error))
                    raise Stopped(
                        f"the host has been out of reach for {PATIENCE_SECONDS:g} s: {error}",
                        where=self.run.host.name,
                        true_now="the job goes on there, or has ended; the lock on the host is kept",
                        next="resume attaches to the job:\n" + words.how_to_go_on(self.run.name, runs_on=True),
                    ) from error
                time.sleep(POLL_SECONDS)

    def tell(self, found: job.JobLook) -> None:
        """Show how far it is, every few seconds."""
        now = time.monotonic()
        pause = max(SAY_SECONDS, min(_SELDOM_SECONDS, (now - self.began) / 20))
        if found.state is not job.JobState.RUNNING or now - self.said < pause:
            return
        self.said = now
        last = redact(text_of(self.log).rstrip("\n").rpartition("\n")[2])[-160:]
        self.run.options.operator.say(f"{self.step.name}: running{self._progress()}" + (f"; {last}" if last else ""))

    def _progress(self) -> str:
        if self.step.progress is None:
            return ""
        try:
            done, total, *unit = read(self.run.host, self.step.progress, self._known())
            done, total = float(done), float(total)
        except (CannotTell, TypeError, ValueError):
            return ", progress cannot be told"
        told = words.progress(done, total, self._rate(done), str(unit[0]) if unit else "")
        return f", {told}" if told else ""

    def _rate(self, done: float) -> float:
        """What a second of the last minute brought; 0.0 when that is not known yet."""
        now = time.monotonic()
        if self.seen and done < self.seen[-1][1]:
            self.seen.clear()  # it was begun anew
        self.seen.append((now, done))
        while now - self.seen[0][0] > _RATE_SECONDS:
            self.seen.popleft()
        then, first = self.seen[0]
        return (done - first) / (now - then) if now > then and done > first else 0.0

    def broken(self) -> str:
        """Why the job must end now; empty when it may go on."""
        announced = next(
            entry.time
            for entry in self.run.journal.entries
            if entry.kind == "change" and entry.data["change"] == self.name
        )
        if (datetime.now(UTC) - announced).total_seconds() > self.step.deadline_seconds:
            return f"it did not end within {self.step.deadline_seconds:g} s"
        return self.watching.broken()

    def _known(self) -> Known:
        return self.run.known(self.step, self.run.state.step(self.step.name))


def _last(log: bytes) -> str:
    """The end of what a job printed, masked before it is cut: a secret without its first character is not known."""
    return bounded(redact(text_of(log).strip("\n"))[-_LAST_CHARACTERS:])


def _end(run: Run, step: Step, name: str, root: bool, why: str) -> None:
    """End a job and write it down. Raises Stopped when it could not be proven gone."""
    try:
        gone = job.end(run.host, run.options.places, run=run.name, change=name, root=root)
    except HostError as error:
        raise run.lost(step, f"{why}; whether its job was ended cannot be told: {error}") from error
    if not gone:
        raise run.lost(step, f"{why}; its job was told to end, but that it is gone could not be proven")
    run.note_change(step, name, Changed(Became.CUT, None, "", why))
