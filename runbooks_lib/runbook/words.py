"""Plans and states as a person reads them. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Iterable

from runbooks_lib.runbook.plan import Plan, StepPlan, Verdict
from runbooks_lib.runbook.state import Phase, RunState
from runbooks_lib.runbook.step import Command, Runbook, Step
from runbooks_lib.words import amount, count, percent


def plan_text(plan: Plan, *, brief: bool = False) -> str:
    """The whole plan, with its digest at the end; `brief` without the commands, which are shown when they are asked
    for."""
    parts = [f"Plan: {plan.runbook} {plan.version} on {plan.identity.host}"]
    parts += [step_text(step, brief=brief) for step in plan.steps]
    if plan.blocked:
        parts.append(f"\nBlocked at `{plan.blocked[0].name}`: it cannot be run now.")
    elif plan.nothing_to_do:
        parts.append("\nNothing to do: every step is already so.")
    parts.append(f"\nDigest: {plan.digest}")
    return "\n".join(parts)


def step_text(step: StepPlan, *, brief: bool = False) -> str:
    """One step of a plan."""
    lines = [f"\n[{step.verdict}] {step.name}: {step.title}"]
    if step.because:
        lines.append(_indented(step.because if step.verdict is Verdict.BLOCKED else f"now: {step.because}"))
    if step.verdict is Verdict.WOULD_RUN:
        lines += [f"  affects {command.affects}" for command in step.commands]
        lines += [f"  expect {step.expect}"] if step.expect else []
        lines.append(f"  {step.undo_words}")
        if step.point_of_no_return:
            lines.append("  POINT OF NO RETURN: after this step there is no undo of this run")
        lines += [f"  asked when its turn comes: {title}?" for title in step.later]
        lines += [] if brief else commands_text("runs", step.commands)
    return "\n".join(lines)


def commands_text(verb: str, commands: Iterable[Command]) -> list[str]:
    """The exact commands, indented."""
    lines = []
    for command in commands:
        lines.append(f"  {verb}{' as root' if command.root else ''}:")
        lines.append(_indented(command.text, "    | "))
    return lines


def before_change_text(step: Step, part: StepPlan, host: str, *, behind: str = "") -> str:
    """What a person must know before saying yes; the exact commands are `before_change_commands`. What was asked of the
    host comes first: what matters most stands by the question. `behind` is the step that was the point of no return,
    when that is behind."""
    lines = [f"\n=== {step.name}: {step.title}"]
    lines += [f"Now: {observed.check}? {observed.words}".replace("\n", "\n     ") for observed in part.observations]
    lines += ["", f"Host: {host}", f"Why: {step.why}"]
    lines += [f"Affects: {command.affects}" for command in part.commands]
    lines += [f"Expect: {part.expect}"] if part.expect else []
    lines.append(f"Takes: at most {duration(step.deadline_seconds)}, then it is ended")
    lines.append(f"Undo: {part.undo_words.removeprefix('undo ')}")
    if step.point_of_no_return:
        lines.append("POINT OF NO RETURN: after this step there is no undo of this run.")
    elif behind:
        lines.append(f"PAST THE POINT OF NO RETURN (`{behind}`): what was before it is not undone any more.")
    return "\n".join(lines)


def before_change_commands(part: StepPlan) -> str:
    """The exact commands of a step and of its undo."""
    return "\n".join(commands_text("Runs", part.commands) + commands_text("undo would run", part.undo))


def commands_title(text: str) -> str:
    """What a text of commands is called where it is folded away: `The exact commands, 63 lines`."""
    return f"The exact commands, {count(text.count(chr(10)) + 1, 'line')}"


def state_text(runbook: Runbook | None, state: RunState) -> str:
    """How far a run is, one line a step."""
    names = [step.name for step in runbook.steps] if runbook else list(state.steps)
    width = max([len(name) for name in names] or [0])
    lines = [f"{state.run}: {state.outcome}"]
    for name in names:
        step = state.step(name)
        phase = "half done: the host must be asked" if step.phase is Phase.BEGUN and step.changed else str(step.phase)
        lines.append(f"  {name:<{width}}  {phase}" + (f" ({step.note.splitlines()[0]})" if step.note else ""))
    return "\n".join(lines)


def headline(runbook: Runbook, host: str, state: RunState | None) -> str:
    """How far a run is, in one line: `Done on db-1: move a database; writes stood still for 430 ms`."""
    if state is None:
        return f"Not begun on {host}: {_small(runbook.title)}"
    far = {"done": "Done", "undone": "Taken back", "open": "Not finished"}.get(state.outcome, state.outcome)
    said = state.step(runbook.says).evidence.partition("\n")[0] if state.outcome == "done" else state.last_words
    return f"{far} on {host}: {_small(runbook.title)}" + (f"; {said}" if said else "")


def plan_headline(runbook: Runbook, plan: Plan) -> str:
    """What a plan says, in one line: `PLAN ONLY on db-1: move a database; 6 steps would run`."""
    if plan.blocked:
        first = plan.blocked[0]
        said = f"blocked at `{first.name}`: {first.because.partition(chr(10))[0]}"
    elif plan.nothing_to_do:
        said = "nothing to do, every step is already so"
    else:
        count = sum(step.verdict is Verdict.WOULD_RUN for step in plan.steps)
        said = f"{count} step{'s' if count != 1 else ''} would run"
    return f"PLAN ONLY on {plan.identity.host}: {_small(runbook.title)}; {said}"


def how_to_go_on(run: str, *, runs_on: bool = False) -> str:
    """The ways out of an unfinished run, one a line; `runs_on`: something of it still runs."""
    run = short(run)
    ways = [
        f"go on: `runbook resume {run}`, or run the notebook's cell again",
        f"take back: `runbook undo {run}`, or work.undo()",
        f"look: `runbook show {run}`",
    ]
    if runs_on:
        ways.insert(2, f"end what runs, and take nothing back: `runbook cancel {run}`, or work.cancel()")
    return "\n".join(ways)


def short(run: str) -> str:
    """The part of a run's name that nobody else has, and that every verb takes: `3f9a12`."""
    return run.rpartition("-")[2]


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 and whole < 600 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")


def progress(done: float, total: float, per_second: float, unit: str = "") -> str:
    """How far a job is: `3 GiB of 8 GiB (38 %), 12 MiB/s, about 7 min left`; with another unit than `bytes`, `30 of 90
    files (33 %), 2 files/s, about 30 s left`. What is not known yet is left out: `total` and `per_second` are 0 then;
    empty when nothing is."""
    if done <= 0 and total <= 0:
        return ""
    noun = f" {unit}" if unit and unit != "bytes" else ""
    number = amount if unit == "bytes" else "{:.0f}".format
    parts = [f"{number(done)}{noun} so far"]
    if total > 0:
        parts = [f"{number(done)} of {number(total)}{noun} ({percent(min(1.0, done / total))})"]
    if per_second > 0:
        parts.append((amount(per_second) if unit == "bytes" else f"{per_second:.3g}{noun}") + "/s")
        if total > done:
            parts.append(f"about {duration((total - done) / per_second)} left")
    return ", ".join(parts)


def _indented(text: str, by: str = "  ") -> str:
    return "\n".join(by + line for line in text.rstrip("\n").split("\n"))


def _small(title: str) -> str:
    """A title inside of a sentence."""
    return title[:1].lower() + title[1:]
