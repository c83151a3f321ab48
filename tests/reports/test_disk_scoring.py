"""Forecasts kept and scored, annotations, and the backtest of one's own partitions, on real history files."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runbooks_lib import config
from runbooks_lib.cli import cli
from runbooks_lib.errors import UsageError
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory, notes
from runbooks_lib.reports import disk_backtest, disk_plan, disk_report, disk_scoring, processes

NOW = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=9)
GIB = 2.0**30


def growing(first: datetime, days: int, *, step_on: int = -1, per_day: float = 0.9) -> Iterable[Sample]:
    """`/srv/soon` of 500 GiB, growing from 250 GiB on; on day `step_on` it jumps by 60 GiB."""
    labels = {"device": "/dev/sdb", "fstype": "ext4", "mountpoint": "/srv/soon"}
    for day in range(days):
        used = 250 + per_day * day + (day * 7919 % 5) * 0.1 + (60 if 0 <= step_on <= day else 0)
        for name, gib in (("size", 500.0), ("free", 500 - used), ("avail", 500 - used)):
            yield Sample(f"node_filesystem_{name}_bytes", gib * GIB, first + timedelta(days=day), labels)


def stored(directory: Path, days: int = 200, **how: float) -> SqliteHistory:
    history = SqliteHistory(directory / "history.sqlite")
    first = NOW - timedelta(days=days - 1, hours=1)
    history.import_samples(growing(first, days, **how), origin="imported from past.csv", instance="tc-db-01", now=NOW)  # type: ignore[arg-type]
    return history


def inventory(directory: Path) -> config.Config:
    file = directory / "runbooks.toml"
    file.write_text('[history]\npath = "history.sqlite"\n[hosts.tc-db-01]\n')
    return config.load(file)


def publish(directory: Path, now: datetime) -> disk_report.DiskReport:
    report = disk_report.prepare(inventory(directory), now=now)
    report.publish()
    return report


@pytest.fixture
def as_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    monkeypatch.setenv(processes.RUN_VARIABLE, "a-run")


def run(directory: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--config", str(directory / "runbooks.toml")])


@pytest.mark.usefixtures("as_a_run")
def test_a_published_report_keeps_its_forecasts_once_a_day(tmp_path: Path) -> None:
    history = stored(tmp_path)
    assert "From 23 November on" in publish(tmp_path, NOW).score().text
    publish(tmp_path, NOW + timedelta(minutes=5))
    kept = notes.due_forecasts(history, NOW + timedelta(days=400))
    assert [(one.due_at - one.made_at).days for one in kept] == [8, 31, 91]
    assert "none has come due yet" in disk_report.prepare(inventory(tmp_path), now=NOW).score().text


def test_a_report_that_a_person_only_looks_at_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    monkeypatch.delenv(processes.RUN_VARIABLE, raising=False)
    history = stored(tmp_path)
    publish(tmp_path, NOW)
    assert notes.counted_since(history) is None


@pytest.mark.usefixtures("as_a_run")
def test_what_has_come_due_is_scored_once_and_told(tmp_path: Path) -> None:
    history = stored(tmp_path)
    publish(tmp_path, NOW)
    history.import_samples(
        growing(NOW - timedelta(days=199, hours=1), 209),
        origin="imported from past.csv",
        instance="tc-db-01",
        now=LATER,
    )
    told = publish(tmp_path, LATER).score().text
    assert (
        "Forecasts kept since 23 November and scored when due. Of 1 ranges of 80 % that have come due, 1 held" in told
    )
    assert "Brier score" in told
    (scored,) = notes.scored_forecasts(history)
    assert scored.score is not None
    assert scored.score["at_end"] == scored.score["highest"] or scored.score["at_end"] > 0
    assert disk_report.prepare(inventory(tmp_path), now=LATER).score().text == told


@pytest.mark.usefixtures("as_a_run")
def test_a_day_that_nobody_measured_is_told_as_unknown_in_the_end(tmp_path: Path) -> None:
    stored(tmp_path)
    publish(tmp_path, NOW)
    told = disk_scoring.tally(SqliteHistory(tmp_path / "history.sqlite"), now=NOW + timedelta(days=25))
    assert told is not None
    assert list(told.fresh.values()) == [{"unknown": True}]
    assert told.running.unknown == 1


def test_a_server_keeps_no_forecasts_and_says_so() -> None:
    assert "not kept and scored here" in disk_scoring.sentence(None, today=NOW.date())


def test_an_excluded_step_gives_both_answers(tmp_path: Path) -> None:
    stored(tmp_path, step_on=150)
    inventory(tmp_path)
    day = f"{NOW - timedelta(days=49):%Y-%m-%d}"
    before = disk_report.prepare(inventory(tmp_path), now=NOW).partitions[0].outlook
    done = run(tmp_path, "annotate", "tc-db-01", "/srv/soon", day, "restored a dump", "--exclude")
    assert done.exit_code == 0, done.output
    report = disk_report.prepare(inventory(tmp_path), now=NOW)
    (partition,) = report.partitions
    assert partition.with_excluded is not None
    assert partition.with_excluded.sentence == before.sentence
    assert partition.outlook.sentence != before.sentence
    said = " ".join(report._row(partition).notes)
    assert "taken out of the forecast: restored a dump" in said
    assert "With what was taken out: " in said
    assert run(tmp_path, "annotate", "tc-db-01", "/srv/soon", day, "--remove").exit_code == 0
    assert disk_report.prepare(inventory(tmp_path), now=NOW).partitions[0].annotations == ()


@pytest.mark.parametrize(
    "words",
    [
        ("annotate", "tc-db-01", "/srv/soon", "2026-11-01"),
        ("annotate", "tc-db-01", "/srv/other", "2026-11-01", "text"),
        ("annotate", "tc-db-01", "/srv/soon", "2026-11-01", "--remove"),
        ("annotate", "tc-db-01", "/srv/soon", "2026-11-01", "text", "--remove"),
    ],
)
def test_an_annotation_of_nothing_is_a_mistake_of_use(tmp_path: Path, words: tuple[str, ...]) -> None:
    stored(tmp_path)
    inventory(tmp_path)
    assert isinstance(run(tmp_path, *words).exception, UsageError)


def test_the_backtest_says_in_words_and_a_table_how_good_forecasts_were(tmp_path: Path) -> None:
    stored(tmp_path, days=120)
    inventory(tmp_path)
    done = run(tmp_path, "backtest")
    assert done.exit_code == 0, done.output
    for word in ("ours", "no growth", "drift", "predict_linear 7 d", "7 days ahead, ", "an anecdote, not a proof"):
        assert word in done.output


def test_the_backtest_is_honest_about_a_past_that_is_too_short(tmp_path: Path) -> None:
    told = disk_backtest.run(stored(tmp_path, days=20), list(inventory(tmp_path).select()), now=NOW)
    assert told.rows == ()
    assert told.before[0] == "No forecast can be scored yet: it takes 37 days of history, the longest here has 19."


def test_needs_says_what_to_add_and_the_bill_in_the_shell_and_on_the_page(tmp_path: Path) -> None:
    now = datetime.now(UTC)  # the command knows no other
    history = SqliteHistory(tmp_path / "history.sqlite")
    history.import_samples(growing(now - timedelta(days=299), 300), origin="x", instance="tc-db-01", now=now)
    inventory(tmp_path)
    end = str(now.year + 1)
    done = run(tmp_path, "needs", "--until", end, "--risk", "0.1", "--price", "0.2", "--partition", "/srv/soon")
    assert done.exit_code == 0, done.output
    assert "to `/srv/soon` on tc-db-01" in done.output
    assert f"full by 31 December {end} is at most 10 %" in done.output
    assert "10 GiB (2.00) buy" in done.output
    report = disk_report.prepare(inventory(tmp_path), until=end, now=now)
    assert f"full by 31 December {end} is at most 5 %" in report.needs().text


def test_needs_of_what_is_not_there_or_cannot_be_planned_says_so(tmp_path: Path) -> None:
    known = stored(tmp_path, days=60)
    told = disk_plan.run(known, list(inventory(tmp_path).select()), config.PlanSettings(), now=NOW)
    assert not told.made
    assert "its past of 60 days carries a plan for 30 days, not for 365" in told.unplanned[0]
    for words in (("needs", "--partition", "/none"), ("needs", "--until", "soon"), ("needs", "--risk", "2")):
        assert isinstance(run(tmp_path, *words).exception, UsageError), words
    assert run(tmp_path, "needs").exit_code == 1
