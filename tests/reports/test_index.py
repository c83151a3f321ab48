"""The index: every state is told, hostile text stays text, damage is a row, and nothing comes from outside."""

import fcntl
import json
import re
import stat
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from runbooks_lib.reports import expected, index, schedule
from runbooks_lib.reports.record import PAGE, RECORD, Record, new_run_id

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOSTILE = "</p><script>alert(1)</script>\"'&"


def ran(outputs: Path, hours_ago: float, **fields: object) -> Path:
    started = NOW - timedelta(hours=hours_ago)
    record = Record(
        report="disk-report",
        run=new_run_id(started),
        state="ok",
        started=started,
        ended=started + timedelta(seconds=2),
        headline="Nobody is needed",
        parameters={"group": "databases"},
        number=2,
        number_name="partitions",
    )
    record = replace(record, **fields)  # type: ignore[arg-type]
    directory = outputs / record.report / record.run
    directory.mkdir(parents=True)
    (directory / RECORD).write_text(json.dumps(record.as_json()))
    (directory / PAGE).write_text("page")
    return directory


def written(outputs: Path, **titles: str) -> str:
    return index.update(outputs, titles=titles or {"disk-report": "Disks"}, now=NOW).read_text()


class Texts(HTMLParser):
    """The words of a page, and the names of its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_an_empty_directory_shows_the_reports_that_never_ran(tmp_path: Path) -> None:
    text = " ".join(Texts(written(tmp_path)).words)
    assert "never ran" in text
    assert "runbook report disk-report" in text


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ("ok", "ok"),
        ("threshold", "threshold crossed"),
        ("failed", "failed"),
        ("timed out", "timed out"),
        ("interrupted", "interrupted"),
    ],
)
def test_each_state_has_its_word_and_its_sign(tmp_path: Path, state: str, word: str) -> None:
    ran(tmp_path, 1, state=state, message="it broke" if state not in ("ok", "threshold") else "")
    page = Texts(written(tmp_path))
    assert word in " ".join(page.words)
    assert f"disk-report/{next((tmp_path / 'disk-report').iterdir()).name}/{PAGE}" in page.links


def test_newest_first_and_the_last_good_run_beside_a_failed_one(tmp_path: Path) -> None:
    ran(tmp_path, 30, headline="older words")
    ran(tmp_path, 20, headline="good words")
    ran(tmp_path, 2, state="failed", headline="", message="ValueError: no")
    text = " ".join(Texts(written(tmp_path)).words)
    card, runs = text.split("All runs")
    assert "ValueError: no" in card
    assert "last good run" in card
    assert "good words" in card
    assert runs.index("ValueError: no") < runs.index("good words") < runs.index("older words")


def test_a_report_that_is_expected_and_missing_is_stale_also_when_its_last_run_was_well(tmp_path: Path) -> None:
    ran(tmp_path, 50)
    since = (NOW - timedelta(days=5)).isoformat()
    nightly = {"disk-report": {"at": "03:00", "since": since, "arguments": []}}
    (tmp_path / expected.FILE_NAME).write_text(json.dumps(nightly))
    text = " ".join(Texts(written(tmp_path)).words).split("All runs")[0]
    assert "stale" in text
    assert "expected" in text
    assert "at 03:00" in text


def test_the_page_itself_knows_when_a_report_will_be_missing(tmp_path: Path) -> None:
    ran(tmp_path, 1)
    since = (NOW - timedelta(days=5)).isoformat()
    nightly = {"disk-report": {"at": "11:00", "since": since, "arguments": ["-p", "group=databases"]}}
    (tmp_path / expected.FILE_NAME).write_text(json.dumps(nightly))
    page = written(tmp_path)
    card = page.split("All runs")[0]
    (moment,) = re.findall(r'data-missing-from="(\d+)"', card)
    due = expected.expectations(tmp_path)["disk-report"].last_due(NOW)
    later = due + expected.GRACE + (timedelta(days=1) if NOW - timedelta(hours=1) >= due else timedelta())
    assert datetime.fromtimestamp(int(moment), UTC) == later
    assert "stale" not in card.split("</style>")[1]


def test_a_glance_at_one_host_does_not_hide_what_the_whole_report_says(tmp_path: Path) -> None:
    ran(tmp_path, 2, state="threshold", headline="/srv/db on db-1: begin now", parameters={})
    ran(tmp_path, 1, headline="Nobody is needed", parameters={"host": "db-2"})
    cards = written(tmp_path).split("</style>")[1].split("All runs")[0]
    assert cards.index("begin now") < cards.index("Nobody is needed")
    assert "host=db-2" in cards
    since = (NOW - timedelta(days=5)).isoformat()
    nightly = {"disk-report": {"at": "11:30", "since": since, "arguments": []}}
    (tmp_path / expected.FILE_NAME).write_text(json.dumps(nightly))
    assert schedule.is_due(tmp_path, "disk-report", now=NOW), "the run of one host is not the nightly one"


def test_a_trend_is_drawn_among_runs_that_were_asked_the_same(tmp_path: Path) -> None:
    for hours, number, group in ((4, 1.0, "a"), (3, 70.0, "b"), (2, 2.0, "a")):
        ran(tmp_path, hours, number=number, parameters={"group": group})
    assert 'aria-label="2 runs, from 1 to 2"' in written(tmp_path)


def test_the_index_is_written_by_one_at_a_time_and_a_holder_that_hangs_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_LOCK_SECONDS", 0.2)
    ran(tmp_path, 1)
    with (tmp_path / index._LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        begin = time.monotonic()
        assert "Nobody is needed" in written(tmp_path)
        assert 0.2 <= time.monotonic() - begin < 5


def test_a_run_that_was_broken_off_is_not_running_for_ever(tmp_path: Path) -> None:
    ran(tmp_path, 3, state="running", ended=None, pid=2**22 + 1, deadline_seconds=60.0)
    assert "broken off" in written(tmp_path)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    ran(tmp_path, 1, headline=HOSTILE, parameters={"host": HOSTILE}, number_name=HOSTILE)
    ran(tmp_path, 2)
    page = written(tmp_path, **{"disk-report": HOSTILE})
    parsed = Texts(page)
    assert parsed.tags.count("script") == 2  # the filter, and the look at the clock
    assert HOSTILE in "".join(parsed.words)


def test_a_damaged_record_is_a_row_and_not_the_end(tmp_path: Path) -> None:
    directory = ran(tmp_path, 2)
    (directory / RECORD).write_text('{"state": ')
    ran(tmp_path, 1)
    text = " ".join(Texts(written(tmp_path)).words)
    assert "record damaged" in text
    assert "Nobody is needed" in text


def test_the_number_is_drawn_over_the_runs(tmp_path: Path) -> None:
    for hours, number in ((3, 1.0), (2, 5.0), (1, None), (0.5, 3.0)):
        ran(tmp_path, hours, number=number)
    page = written(tmp_path)
    assert 'aria-label="3 runs, from 1 to 3"' in page
    assert index.sparkline([1.0]) == ""
    assert "nan" not in index.sparkline([2.0, 2.0, 2.0])


def test_the_page_is_private_and_asks_nothing_from_outside(tmp_path: Path) -> None:
    ran(tmp_path, 1)
    page = written(tmp_path)
    assert stat.S_IMODE((tmp_path / index.NAME).stat().st_mode) == 0o600
    assert not [link for link in Texts(page).links if "//" in link or link.startswith("/")]


def test_only_runs_are_listed_and_links_out_of_the_directory_are_not_followed(tmp_path: Path) -> None:
    outputs, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    ran(elsewhere, 1, headline="from elsewhere")
    outputs.mkdir()
    (outputs / "disk-report").symlink_to(elsewhere / "disk-report")
    (outputs / "demo").mkdir()
    (outputs / "history.sqlite").write_text("")
    assert "from elsewhere" not in written(outputs)


def test_old_runs_are_forgotten_but_not_one_under_way(tmp_path: Path) -> None:
    running = ran(tmp_path, 90, state="running", ended=None)
    for hours in range(1, 6):
        ran(tmp_path, hours)
    assert index.forget_old_runs(tmp_path, "disk-report", keep=2) == 3
    assert running.exists()
    assert len(list((tmp_path / "disk-report").iterdir())) == 3


def test_the_last_start_is_that_of_a_run_that_counts(tmp_path: Path) -> None:
    assert index.last_started(tmp_path, "disk-report") is None
    ran(tmp_path, 5)
    ran(tmp_path, 1, state="failed")
    assert index.last_started(tmp_path, "disk-report") == NOW - timedelta(hours=5)
