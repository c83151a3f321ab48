"""The page and the lines that are told of a run afterwards."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from runbooks_lib.runbook import evidence, journal, page, runs, story
from runbooks_lib.runbook.difference import Difference, differences
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
