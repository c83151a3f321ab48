"""Canaries: a secret that a command reads, prints and dies of is in no file, no message and on no terminal."""

from __future__ import annotations

import base64
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from runbooks_lib.runbook import evidence, journal, page, story
from runbooks_lib.runbook.resume import carry_out
from runbooks_lib.runbook.run import Stopped
from runbooks_lib.runbook.state import fold
from runbooks_lib.runbook.step import Check, Command
from runbooks_lib.secrets import resolve
from tests.runbook.bench import Bench
from tests.runbook.synthetic import at, book, write_step

CANARY = "canary'\"<&é-4711-xyzzy"


def everything_under(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.rglob("*") if each.is_file())


def test_a_secret_on_stdin_reaches_the_command_and_nothing_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_CANARY", CANARY)
    text = 'IFS= read -r x; printf %s "$x" >{file}; echo "got $x"; echo "and $x" >&2; printf %s "$x" | base64'
    leaking = replace(
        write_step("one", "one"),
        commands=lambda known: [
            Command(text.format(file=at(known, "one")), "one", secret="env:THE_CANARY"),
            Command(f"cat {at(known, 'one')} >&2; exit 9", "one"),
        ],
    )
    run = bench.approved(book(leaking))
    with pytest.raises(Stopped, match="status 9") as stopped:
        carry_out(run)
    assert bench.text("one") == CANARY  # it did reach the command
    entries = journal.read(run.journal.path).entries
    state = fold("run", entries)
    evidence.gather(run)
    told = [
        str(stopped.value),
        "".join(traceback.format_exception(stopped.value)),
        run.options.operator.text,  # type: ignore[attr-defined]
        story.text(state, entries, full=True),
        page.page("run", entries),
        everything_under(bench.runs).decode("utf-8", "replace"),
        everything_under(Path(bench.places.candidates[0])).decode("utf-8", "replace"),
    ]
    for form in (CANARY, "4711-xyzzy", base64.b64encode(CANARY.encode()).decode()[4:-4]):
        for text in told:
            assert form not in text


def test_a_secret_in_a_checks_evidence_is_masked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_CANARY", CANARY)
    resolve("env:THE_CANARY")
    (bench.directory / "one").write_text(CANARY)
    no = replace(write_step("one", "one", reads=()), verify=Check("it is", lambda known: f"cat {at(known, 'one')}; no"))
    no = replace(no, commands=lambda _: [Command("true", "x")], undo=replace(no.undo, commands=lambda _: []))  # type: ignore[type-var]
    with pytest.raises(Stopped) as stopped:
        carry_out(bench.approved(book(no)))
    assert "xyzzy" not in str(stopped.value)
    assert b"xyzzy" not in everything_under(bench.runs)
