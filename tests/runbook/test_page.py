"""The page and the lines that are told of a run afterwards."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbooks_lib import secrets, writer
from runbooks_lib.runbook import evidence, executed, journal, page, runs, story
from runbooks_lib.runbook.difference import Difference, differences
from runbooks_lib.runbook.quoting import shown, text_of
from runbooks_lib.runbook.resume import carry_out, resume
from runbooks_lib.runbook.run import Stopped, target
from runbooks_lib.runbook.step import Command
from tests.runbook.bench import Bench
from tests.runbook.synthetic import book, write_step

ONE, TWO = write_step("one", "one"), write_step("two", "two")


def test_the_evidence_of_a_run_that_failed_and_was_finished(bench: Bench) -> None:
    broken = book(ONE, replace(TWO, commands=lambda _: [Command("echo '<b>no & room</b>' >&2; exit 7", "two")]))
    aim = target(broken, bench.host, bench.parameters)
    kept = {"on_begin": evidence.begin, "on_end": evidence.gather}
    run = runs_of(bench, broken, kept)
    with pytest.raises(Stopped):
        carry_out(run)
    directory = runs.directories(bench.runs)[0]
    text = (directory / evidence.TIMELINE).read_text()
    assert "half done</span>" in text
    assert "&lt;b&gt;no &amp; room&lt;/b&gt;" in text
    assert "<b>" not in text

    aim = target(book(ONE, TWO), bench.host, bench.parameters)
    carry_out(resume(directory, aim, bench.options("two", **kept)))
    text = (directory / evidence.TIMELINE).read_text()
    assert "done</span></h1>" in text
    assert "2 of 2 steps changed something" in text
    assert '<tr class="seen"><td colspan="5"><small>two holds it</small>' in text
    assert not re.search(r"<script|src=|href=\"(?!journal|plan|facts|difference)", text)
    assert set(json.loads((directory / evidence.DIFFERENCE).read_text())) == {"differences"}
    kept_facts = json.loads((directory / evidence.AFTER).read_text())
    assert kept_facts["states"]["the boot"]
    told = story.text(runs.state_of(directory), journal.read(directory / journal.NAME).entries)
    assert told.index("one: done") < told.index("✗ two: two.1.1 ended, status 7") < told.index("carried on by")
    assert "finished: done" in told


def runs_of(bench: Bench, runbook, options):  # type: ignore[no-untyped-def]
    from runbooks_lib.runbook.resume import open_run

    aim = target(runbook, bench.host, bench.parameters)
    return open_run(aim, bench.options(approve=aim.plan().digest, **options))


def test_what_differs_is_told_in_words_and_noise_is_not() -> None:
    before = {"/srv/db: free space": 5 * 2**30, "/: free space": 2**30, "/srv/db: read-only": False, "the boot": "a"}
    after = {"/srv/db: free space": 2**30, "/: free space": 2**30 + 5000, "/srv/db: read-only": True, "the boot": "a"}
    after["failed unit db.service"] = "The database"
    assert differences(before, after) == [
        Difference("/srv/db: free space", "5 GiB", "1 GiB", "−4 GiB"),
        Difference("/srv/db: read-only", "no", "yes"),
        Difference("failed unit db.service", "not there", "The database"),
    ]


def test_a_host_that_could_not_be_read_afterwards_is_told() -> None:
    (told,) = evidence.facts_difference({"state": "ok", "states": {}}, {"state": "unreachable", "message": "no route"})
    assert (told.before, told.after) == ("ok", "no route")


def test_a_page_of_a_run_that_never_began_can_be_made(bench: Bench) -> None:
    made = journal.Journal.create(bench.runs / "run")
    made.append("finished", outcome="not begun")
    made.close()
    assert "not begun</span>" in page.page("run", made.entries)


class _Words(HTMLParser):
    """What a reader sees of a page, and which elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@settings(max_examples=50, deadline=None)
@given(output=st.binary(max_size=80), name=st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_output_byte_and_any_parameter_survives_the_page(
    tmp_path_factory: pytest.TempPathFactory, output: bytes, name: str
) -> None:
    made = journal.Journal.create(tmp_path_factory.mktemp("any") / "run")
    who = {"user": name, "machine": "desk", "ssh": {}}
    begin = {"key": "k", "runbook": "book", "version": "1", "identity": {}, "host": name, "digest": "d", "promised": {}}
    made.append("begin", who=who, parameters={"file": name}, **begin)
    text = text_of(output)
    made.append("changed", "one", change="one.1.1", became="ended", exit_status=1, output=text, error="")
    made.close()
    seen = _Words()
    seen.feed(page.page("run", made.entries, [Difference(name, text, text)]))
    said = "".join(seen.words)
    assert not seen.elements & {"script", "img", "iframe", "object", "form"}
    kept = made.entries[1].data["output"]  # masked, should it look like a secret
    for value in (name, kept):
        assert shown(value).replace("\r", "\n") in said.replace("\r", "\n")


def test_the_executed_notebook_keeps_every_execution_and_no_secret() -> None:
    secrets.register("canary-4711-abc")
    template = {"cells": [{"cell_type": "markdown", "source": "# Words"}, {"cell_type": "code", "source": ["a = 1"]}]}
    told = [{"output_type": "stream", "name": "stdout", "text": "it is canary-4711-abc"}]
    ran = [
        executed.Executed("a = 1", 1, told),
        executed.Executed("b = 'canary-4711-abc'", 2),
        executed.Executed("a = 1", 3),
    ]
    made = executed.merged(template, ran)
    assert [cell.get("execution_count") for cell in made["cells"]] == [None, 1, 2, 3]
    text = writer.notebook_text(made)
    assert "canary" not in text
    assert "it is ***" in text
