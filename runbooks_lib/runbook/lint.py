"""What a runbook must say before it may be run by somebody tired."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from runbooks_lib import parameters as typed
from runbooks_lib.errors import UsageError
from runbooks_lib.runbook.step import NoUndo, Runbook, Step
from runbooks_lib.secrets import names_a_secret

LONG_SECONDS = 60.0
_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")


def runbook_mistakes(runbook: Runbook) -> list[str]:
    """What is missing in a runbook, one sentence each; [] when nothing is."""
    return [f"{runbook.name}: {each}" for each in _runbook(runbook)]


def notebook_mistakes(path: Path, runbook: Runbook | None = None) -> list[str]:
    """What is wrong with a notebook as a file; with its runbook, also whether their parameters agree."""
    return [f"{path}: {each}" for each in _notebook(path, runbook)]


def _runbook(runbook: Runbook) -> Iterator[str]:
    if not _NAME.match(runbook.name):
        yield "its name must be small letters, digits and hyphens"
    for what in ("version", "title", "purpose", "not_when", "takes", "undo_takes"):
        if not getattr(runbook, what).strip():
            yield f"it does not say {what}"
    if not runbook.steps:
        yield "it has no steps"
    for parameter in runbook.parameters:
        yield from _parameter(parameter)
    names = [step.name for step in runbook.steps]
    for number, step in enumerate(runbook.steps):
        if names.count(step.name) > 1:
            yield f"step {step.name}: its name is not its own"
        for need in step.needs:
            if need not in names[:number]:
                yield f"step {step.name}: it needs `{need}`, which is no step before it"
        for mistake in _step(step):
            yield f"step {step.name}: {mistake}"


def _step(step: Step) -> Iterator[str]:
    if not _NAME.match(step.name):
        yield "its name must be small letters, digits and hyphens"
    for what in ("title", "why"):
        if not getattr(step, what).strip():
            yield f"it does not say its {what}"
    if not step.verify.title.strip():
        yield "its verify does not say what a yes makes true"
    if not (0 < step.deadline_seconds < math.inf):
        yield "it has no deadline"
    if not (0 <= step.verify_seconds < math.inf):
        yield "its verify would be asked for ever"
    if isinstance(step.undo, NoUndo):
        if not (step.undo.reason.strip() and step.undo.instead.strip()):
            yield "it has no undo, and does not say why not and what to do instead"
    elif not (step.undo.takes.strip() and step.undo.verify.title.strip()):
        yield "its undo does not say how long it takes and how it is verified"
    if step.passed is not None and not step.point_of_no_return:
        yield "it says when its point of no return is passed, and is none"
    if not step.prechecks:
        yield "it has no precheck"
    if step.watchers and not step.detached and step.verify_seconds < LONG_SECONDS:
        yield "it has watchers, which are asked only beside a detached step, or a verify that may take a minute"


def _parameter(parameter: typed.Parameter) -> Iterator[str]:
    if not parameter.help.strip():
        yield f"parameter {parameter.name}: it does not say what it is"
    if names_a_secret(parameter.name):
        yield f"parameter {parameter.name}: its name invites a secret; take a reference and call it so"


def _notebook(path: Path, runbook: Runbook | None) -> Iterator[str]:
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        declared = typed.declared(notebook, where=str(path))
    except (OSError, ValueError, UsageError) as error:
        yield f"it cannot be read: {error}"
        return
    for number, cell in enumerate(notebook.get("cells", []), 1):
        if cell.get("outputs") or cell.get("execution_count"):
            yield f"cell {number} has outputs"
    opening = "".join(notebook["cells"][0].get("source", "")) if notebook.get("cells") else ""
    if "**When not to run it.**" not in opening:
        yield "its first cell does not say when not to run it"
    for parameter in declared:
        yield from _parameter(parameter)
    if runbook is None:
        return
    own = {parameter.name: parameter for parameter in declared}
    for parameter in runbook.parameters:
        other = own.get(parameter.name)
        if other is None or (other.written, other.default) != (parameter.written, parameter.default):
            yield f"parameter {parameter.name} is not declared as the runbook does: {parameter.written}"
    source = "\n".join("".join(cell.get("source", "")) for cell in notebook["cells"])
    for step in runbook.steps:
        if f'.step("{step.name}")' not in source:
            yield f"it has no cell for the step {step.name}"
