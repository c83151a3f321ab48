"""The verbs of the `runbook` command that belong to the engine; `add_to` puts them into its group."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runbooks_lib.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from runbooks_lib.config import Config
    from runbooks_lib.runbook.run import Options, Target
    from runbooks_lib.runbook.step import Runbook

# Rooms are imported inside the verbs, so that `runbook --help` stays quick.
_config = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), metavar="FILE", help="The inventory."
)
_given = click.option("-p", "given", multiple=True, metavar="NAME=VALUE", help="A parameter; again for more.")
_host = click.option("--host", "-H", "host_name", required=True, metavar="HOST", help="The host of the inventory.")
_approve = click.option("--approve", metavar="DIGEST", help="Run without asking, if the plan has this digest.")
_take_over = click.option("--take-over", metavar="NAME", help="Take over a stale lock from this holder.")


def add_to(group: click.Group) -> None:
    """Put the engine's verbs into a group."""
    for command in (plan, run, resume, cancel, undo, runs, show, lint):
        group.add_command(command)


@click.command()
@click.argument("name", metavar="RUNBOOK")
@_host
@_given
@_config
def plan(name: str, host_name: str, given: tuple[str, ...], config_path: Path | None) -> None:
    """Show what a runbook would do on a host now, and the digest that approves it. Changes nothing."""
    from runbooks_lib.runbook import words
    from runbooks_lib.runbook.runs import keep_plan

    loaded, aim = _target(name, host_name, given, config_path)
    made = aim.plan()
    keep_plan(loaded.outputs / "runs", made)
    _say(words.plan_text(made))
    if made.blocked:
        sys.exit(ExitCode.FAILED)
    if not made.nothing_to_do:
        options = [word for value in given for word in ("-p", value)]
        options += ["--config", str(config_path)] if config_path else []
        typed = shlex.join(["runbook", "run", name, "--host", host_name, *options])
        _say(f"To run it, asked before each change:  {typed}\nWith nobody there:  {typed} --approve {made.digest}")


@click.command()
@click.argument("name", metavar="[RUNBOOK]", required=False)
@click.option("--host", "-H", "host_name", metavar="HOST", help="The host of the inventory.")
@_given
@_approve
@click.option("--again", metavar="REASON", help="Run work that is done once more; the reason is recorded.")
@_take_over
@_config
def run(
    name: str | None,
    host_name: str | None,
    given: tuple[str, ...],
    approve: str | None,
    again: str | None,
    take_over: str | None,
    config_path: Path | None,
) -> None:
    """Run a runbook on a host; without a name, list the runbooks there are.

    In a terminal it shows the plan and asks before each change. Without one, and without --approve, it shows the plan
    and changes nothing. An unfinished run of the same work is carried on; one that is done is proven, not repeated.
    """
    from runbooks_lib.runbook import catalogue, words
    from runbooks_lib.runbook.resume import Finished, open_run, prove
    from runbooks_lib.runbook.runs import keep_plan, latest

    if name is None:
        known = catalogue.all_runbooks()
        width = max((len(each) for each in known), default=0)
        for each in known.values():
            click.echo(f"{each.name:<{width}}  {each.title}")
        return
    if not host_name:
        raise UsageError("no host was named", true_now="nothing was run", next="name one with --host")
    loaded, aim = _target(name, host_name, given, config_path)
    options = _options(loaded, approve=approve, again=again, take_over=take_over)
    before = latest(options.runs, aim.key)
    if before is not None and before[1].outcome == "done" and again is None:
        _say(f"Done before, in {before[0].name}. Asking the host:")
        _say(prove(Finished(*before), aim))
        return
    made = None
    if approve is None:
        made = aim.plan()
        keep_plan(options.runs, made)
        _say(_opening(aim.runbook))
        if before is not None and before[1].outcome == "open":
            _say(f"Unfinished, and carried on:\n{words.state_text(aim.runbook, before[1])}")
        _say(words.plan_text(made, brief=options.operator.present))
        if not options.operator.present:
            _say("PLAN ONLY: nothing was changed. To run it: the same command with --approve and this digest.")
            return
    held = open_run(aim, options, made)
    if isinstance(held, Finished):
        _say(prove(held, aim))
        return
    from runbooks_lib.runbook.resume import carry_out
    from runbooks_lib.runbook.run import UndoWanted

    try:
        carry_out(held)
        _say(f"Done. The evidence is in {held.journal.path.parent}.")
    except UndoWanted:
        _undo(aim, options, held.journal.path.parent, None)


@click.command()
@click.argument("name", metavar="RUN")
@_approve
@_take_over
@_config
def resume(name: str, approve: str | None, take_over: str | None, config_path: Path | None) -> None:
    """Carry on with an unfinished run: each finished step is proven on the host, then the rest is done.

    A run that was being undone goes on being undone. --approve takes the digest that the run, or its undo, was begun
    with.
    """
    from runbooks_lib.runbook import resume as carrying
    from runbooks_lib.runbook import undo as undoing
    from runbooks_lib.runbook import words
    from runbooks_lib.runbook.run import UndoWanted
    from runbooks_lib.runbook.runs import find, state_of

    loaded, aim, directory = _known_run(name, config_path)
    options = _options(loaded, approve=approve, take_over=take_over)
    state = state_of(directory)
    _say(words.state_text(aim.runbook, state))
    if state.outcome != "open":
        _say(f"It is {state.outcome}; there is nothing to carry on.")
        return
    if undoing.begun(state):
        _undo(aim, options, find(loaded.outputs / "runs", name), approve)
        return
    if approve is None and not options.operator.present:
        _say(f"PLAN ONLY: nothing was changed. To carry on: --approve {state.digest}")
        return
    try:
        carrying.carry_out(carrying.resume(directory, aim, options))
        _say(f"Done. The evidence is in {directory}.")
    except UndoWanted:
        _undo(aim, options, directory, None)


@click.command()
@click.argument("name", metavar="RUN")
@_take_over
@_config
def cancel(name: str, take_over: str | None, config_path: Path | None) -> None:
    """End what still runs of a run on its host, with its whole process group, proven. Nothing is taken back.

    Ctrl-C lets a long command go on there; this ends it. The run stays half done: resume it, or undo it.
    """
    from runbooks_lib.runbook import resume as carrying
    from runbooks_lib.runbook import words
    from runbooks_lib.runbook.detached import cancel as end_what_runs
    from runbooks_lib.runbook.runs import state_of

    loaded, aim, directory = _known_run(name, config_path)
    if (outcome := state_of(directory).outcome) != "open":
        _say(f"It is {outcome}; nothing of it is running.")
        return
    _say(end_what_runs(carrying.resume(directory, aim, _options(loaded, take_over=take_over))))
    _say(words.how_to_go_on(directory.name))


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--approve", metavar="DIGEST", help="Undo without asking, if the undo has this digest.")
@_take_over
@_config
def undo(name: str, approve: str | None, take_over: str | None, config_path: Path | None) -> None:
    """Take a run back, newest step first, each proven on the host. Refuses across a point of no return."""
    loaded, aim, directory = _known_run(name, config_path)
    _undo(aim, _options(loaded, take_over=take_over), directory, approve)


@click.command()
@_config
def runs(config_path: Path | None) -> None:
    """List the runs of this machine, newest first."""
    from runbooks_lib import config
    from runbooks_lib.errors import RunbookError
    from runbooks_lib.runbook import words
    from runbooks_lib.runbook.runs import directories, state_of

    rows = [("run", "begun (UTC)", "runbook", "host", "who", "how far")]
    for directory in directories(config.load(config_path).outputs / "runs"):
        try:
            state = state_of(directory)
            far = f"half done: {', '.join(state.half_done)}" if state.half_done else state.outcome
            began = f"{state.began:%Y-%m-%d %H:%M}" if state.began else ""
            rows.append((words.short(directory.name), began, state.runbook, state.host, state.who, far))
        except RunbookError as error:
            rows.append((words.short(directory.name), "", "", "", "", f"unreadable: {error.what}"))
    if len(rows) == 1:
        click.echo("There are no runs yet.")
        return
    widths = [max(len(row[place]) for row in rows) for place in range(5)]
    for row in rows:
        _say("  ".join(f"{text:<{width}}" for text, width in zip(row, [*widths, 0], strict=True)))


@click.command()
@click.argument("name", metavar="RUN")
@click.option("--full", is_flag=True, help="With every command and what it printed.")
@_config
def show(name: str, full: bool, config_path: Path | None) -> None:
    """Tell the story of a run from its journal."""
    from runbooks_lib import config
    from runbooks_lib.runbook import journal, story
    from runbooks_lib.runbook.runs import find
    from runbooks_lib.runbook.state import fold

    directory = find(config.load(config_path).outputs / "runs", name)
    entries = journal.read(directory / journal.NAME).entries
    click.echo(story.text(fold(directory.name, entries), entries, full=full))


@click.command()
@click.argument("notebooks", nargs=-1, type=click.Path(path_type=Path), metavar="[NOTEBOOK]...")
def lint(notebooks: tuple[Path, ...]) -> None:
    """Check every runbook, and notebooks, for what makes them safe to run. Exit code 1 when something is missing."""
    from runbooks_lib.runbook import catalogue
    from runbooks_lib.runbook.lint import notebook_mistakes, runbook_mistakes

    known = catalogue.all_runbooks()
    mistakes = [mistake for each in known.values() for mistake in runbook_mistakes(each)]
    own = Path(__file__).parents[2] / "notebooks"
    for path in notebooks or sorted(own.rglob("*.ipynb")):
        if not {".ipynb_checkpoints", "filled-in"} & set(path.parts):
            relative = path.relative_to(own).as_posix() if path.is_relative_to(own) else path.name
            belongs = next((each for each in known.values() if each.notebook == relative), None)
            mistakes += notebook_mistakes(path, belongs)
    for mistake in mistakes:
        click.echo(mistake, err=True)
    if mistakes:
        sys.exit(ExitCode.FAILED)
    click.echo(f"{len(known)} runbooks and their notebooks: nothing is missing.")


# -- between the verbs and the engine ----------------------------------------------------------------------------------


def _target(name: str, host_name: str, given: tuple[str, ...], config_path: Path | None) -> tuple[Config, Target]:
    from runbooks_lib import config, parameters
    from runbooks_lib.hosts.opening import open_host
    from runbooks_lib.runbook import catalogue
    from runbooks_lib.runbook.run import target

    runbook = catalogue.find_runbook(name)
    checked = parameters.check(runbook.parameters, parameters.assignments(given), report=runbook.name)
    loaded = config.load(config_path)
    (entry,) = loaded.select(host=(host_name,))
    return loaded, target(runbook, open_host(entry, loaded), checked)


def _known_run(name: str, config_path: Path | None) -> tuple[Config, Target, Path]:
    from runbooks_lib import config
    from runbooks_lib.hosts.opening import open_host
    from runbooks_lib.runbook import catalogue
    from runbooks_lib.runbook.run import target
    from runbooks_lib.runbook.runs import find, state_of

    loaded = config.load(config_path)
    directory = find(loaded.outputs / "runs", name)
    state = state_of(directory)
    (entry,) = loaded.select(host=(state.host,))
    aim = target(catalogue.find_runbook(state.runbook), open_host(entry, loaded), state.parameters)
    return loaded, aim, directory


def _options(
    loaded: Config, *, approve: str | None = None, again: str | None = None, take_over: str | None = None
) -> Options:
    from runbooks_lib.runbook import evidence, places
    from runbooks_lib.runbook.run import Options

    if again is not None and not again.strip():
        raise UsageError("--again wants a reason", true_now="nothing was run")
    return Options(
        loaded.outputs / "runs",
        places.chosen(),
        approve=approve,
        again=again,
        take_over=take_over,
        on_begin=evidence.begin,
        on_end=evidence.gather,
    )


def _undo(aim: Target, options: Options, directory: Path, approve: str | None) -> None:
    from dataclasses import replace

    from runbooks_lib.runbook import resume as carrying
    from runbooks_lib.runbook import undo as undoing
    from runbooks_lib.runbook import words
    from runbooks_lib.runbook.runs import state_of

    state = state_of(directory)
    if state.outcome == "undone":
        _say(f"{words.state_text(aim.runbook, state)}\nThere is nothing to take back.")
        return
    _say(undoing.undo_text(aim.runbook, state, brief=approve is None and options.operator.present))
    if approve is None and not options.operator.present:
        _say("PLAN ONLY: nothing was changed. To undo: the same command with --approve and this digest.")
        return
    held = carrying.resume(directory, aim, replace(options, approve=None))
    undoing.undo(held, approve=approve)
    _say(f"Undone. The evidence is in {directory}.")


def _opening(runbook: Runbook) -> str:
    return f"{runbook.title}\nFor: {runbook.purpose}\nNot when: {runbook.not_when}\nTakes: {runbook.takes}"


def _say(text: str) -> None:
    from runbooks_lib.runbook.quoting import shown
    from runbooks_lib.secrets import redact

    click.echo(shown(redact(text)))
