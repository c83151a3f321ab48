"""What stands by a question: the summary, and the exact commands out of its way but at hand."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from runbooks_lib.runbook import words
from runbooks_lib.runbook.asking import Answers
from runbooks_lib.runbook.operator import Console
from runbooks_lib.runbook.plan import StepPlan, Verdict
from runbooks_lib.runbook.step import Command
from tests.runbook.operators import Scripted
from tests.runbook.synthetic import write_step

LONG = "\n".join(f"    | line {number}" for number in range(60))


class AtATerminal(Scripted):
    """Where nothing can be folded."""

    folds = False


def test_at_a_terminal_long_commands_are_shown_when_they_are_asked_for() -> None:
    operator = AtATerminal(["commands", "one"])
    answers = Answers(operator, LONG, "Type one to go on, or:")
    assert operator.said == ["The exact commands, 60 lines: type `commands` to read them."]
    assert answers.next("undo", "stop") == "one"
    assert operator.said[-1] == LONG
    assert operator.asked == ["Type one to go on, or: commands, undo, stop:"] * 2
    assert answers.next("stop") == "stop"  # the end of the input


@pytest.mark.parametrize("kind", [AtATerminal, Scripted])
def test_short_commands_are_shown_at_once(kind: type[Scripted]) -> None:
    operator = kind(["commands"])
    answers = Answers(operator, "Runs:\n    | true", "Type one to go on, or:")
    assert operator.said == ["Runs:\n    | true"]
    assert answers.next("stop") == "commands"  # an answer like any other: it is none of those that were offered
    assert operator.asked == ["Type one to go on, or: stop:"]


def test_in_a_notebook_they_open_at_a_click_and_are_text_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, str]] = []
    shell = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True))
    display = SimpleNamespace(publish_display_data=sent.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert Console().fold("The exact commands", "echo '<b>' & \x1b[2J")
    (data,) = sent
    assert data["text/html"] == (
        "<details><summary>The exact commands</summary><pre>echo &#x27;&lt;b&gt;&#x27; &amp; \\x1b[2J</pre></details>"
    )
    assert data["text/plain"] == "The exact commands\necho '<b>' & \\x1b[2J"


def test_a_terminal_folds_nothing(capsys: Any) -> None:
    assert not Console(present=True).fold("title", "text")
    assert capsys.readouterr().out == ""


def test_what_matters_stands_together_and_the_commands_are_apart() -> None:
    part = StepPlan(
        "one", "Write one", Verdict.WOULD_RUN, "", (Command("write\n", "/srv/one", root=True),),
        (Command("unwrite\n", "/srv/one"),), "undo takes seconds", expect="clients wait about a second",
    )  # fmt: skip
    said = words.before_change_text(write_step("one", "one"), part, "db-1")
    assert said.splitlines()[3:] == [
        "Host: db-1",
        "Why: A test wants it.",
        "Affects: /srv/one",
        "Expect: clients wait about a second",
        "Takes: at most 10 s, then it is ended",
        "Undo: takes seconds",
    ]
    commands = words.before_change_commands(part)
    assert commands == "  Runs as root:\n    | write\n  undo would run:\n    | unwrite"
    assert "| write" not in said
    assert "expect clients wait about a second" in words.step_text(part)
    assert "expect" not in str(part.promised())
