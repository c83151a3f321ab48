"""What lint refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.clean_log_directory import RUNBOOK
from runbooks_lib.runbook.catalogue import all_runbooks
from runbooks_lib.runbook.lint import notebook_mistakes, runbook_mistakes
from runbooks_lib.runbook.step import NoUndo, Watcher
from tests.runbook.synthetic import book, write_step

ROOT = Path(__file__).parents[2]
GOOD = write_step("one", "one")


@pytest.mark.parametrize("name", list(all_runbooks()))
def test_every_runbook_that_is_shipped_is_complete(name: str) -> None:
    assert runbook_mistakes(all_runbooks()[name]) == []


@pytest.mark.parametrize(
    ("runbook", "said"),
    [
        (book(GOOD, not_when=" "), "does not say not_when"),
        (book(), "has no steps"),
        (book(GOOD, GOOD), "its name is not its own"),
        (book(replace(GOOD, why="")), "does not say its why"),
        (book(replace(GOOD, needs=("two",))), "needs `two`"),
        (book(replace(GOOD, deadline_seconds=0)), "no deadline"),
        (book(replace(GOOD, deadline_seconds=float("inf"))), "no deadline"),
        (book(replace(GOOD, verify_seconds=float("inf"))), "for ever"),
        (book(replace(GOOD, undo=NoUndo("", ""))), "no undo, and does not say why not"),
        (book(replace(GOOD, prechecks=())), "no precheck"),
        (book(replace(GOOD, watchers=(Watcher(GOOD.verify),))), "only beside a detached step"),
        (book(GOOD, parameters=(Parameter("x", "str", str, ""),)), "does not say what it is"),
        (book(GOOD, parameters=(Parameter("db_password", "str", str, "", "help"),)), "invites a secret"),
    ],
)
def test_what_is_missing_is_told(runbook: object, said: str) -> None:
    assert any(said in mistake for mistake in runbook_mistakes(runbook))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"outputs": []', '"outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]', "has outputs"),
        ("**When not to run it.**", "Never mind.", "when not to run it"),
        ("quiet_minutes: int = 60", "quiet_minutes: int = 30", "quiet_minutes is not declared as the runbook does"),
        ('work.step(\\"compress\\")', "work.plan()", "no cell for the step compress"),
        ("  # the host of the inventory; empty: only show what this is", "", "does not say what it is"),
    ],
)
def test_a_notebook_that_differs_from_its_runbook_is_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (ROOT / "notebooks" / RUNBOOK.notebook).read_text()
    assert notebook_mistakes(ROOT / "notebooks" / RUNBOOK.notebook, RUNBOOK) == []
    assert old in text
    path = tmp_path / "notebook.ipynb"
    path.write_text(text.replace(old, new, 1))
    json.loads(path.read_text())
    assert any(said in mistake for mistake in notebook_mistakes(path, RUNBOOK))
