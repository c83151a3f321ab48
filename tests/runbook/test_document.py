"""docs/engine.md: its example is real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.runbook.lint import runbook_mistakes
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.run import Options
from runbooks_lib.runbook.session import session_on
from runbooks_lib.runbook.step import Runbook
from tests.runbook.operators import Scripted

DOCUMENT = (Path(__file__).parents[2] / "docs/engine.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example() -> Runbook:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.S)
    names: dict[str, object] = {}
    exec(compile(blocks[0], "docs/engine.md", "exec"), names)  # noqa: S102
    made = names["RUNBOOK"]
    assert isinstance(made, Runbook)
    return made


def test_the_example_is_complete(example: Runbook) -> None:
    assert runbook_mistakes(example) == []


def test_the_example_runs_guided_and_is_undone(example: Runbook, quick_path: Path, places: Places) -> None:
    motd = quick_path / "motd"
    motd.write_text("Welcome!\n\n")
    operator = Scripted(["message", "message"])
    work = session_on(
        example,
        LocalHost("desk"),
        {"file": str(motd), "text": "It's $(down)\n"},
        Options(quick_path / "runs", places, operator),
    )
    work.plan()
    work.step("message")
    work.finish()
    assert motd.read_text() == "It's $(down)\n"
    work.undo()
    assert motd.read_text() == "Welcome!\n\n"
    assert operator.answers == []
