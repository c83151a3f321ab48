"""`outputs/index.html`: every report, newest first, its state, headline and trend. Built from `run.json` files alone.

It is one file without a server or anything from outside, so that it opens from `file://` and can be copied anywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from runbooks_lib.errors import RunbookError
from runbooks_lib.reports import page, telling
from runbooks_lib.reports import record as records
from runbooks_lib.reports.expected import Expectation, expectations
from runbooks_lib.reports.record import DamagedRecordError, Record
from runbooks_lib.writer import alone, write

NAME = "index.html"
_LOCK = ".index.lock"
_LOCK_SECONDS = 10.0
KEPT_RUNS = 90  # of each report: a quarter of nightly ones
_SPARKLINE_RUNS = 30
_RECENT = timedelta(days=7)
_WIDTH, _HEIGHT, _MARGIN = 120.0, 28.0, 3.0
_ORDER = ("failed", "act", "crossed", "watch", "ok", "unknown")  # what needs a look first


@dataclass(frozen=True)
class Badge:
    """A state as it is shown: a sign, a word and a style class."""

    state: str

    @property
    def kind(self) -> str:
        return page.STATES[self.state][0]

    @property
    def sign(self) -> str:
        return page.STATES[self.state][1]

    @property
    def word(self) -> str:
        return page.STATES[self.state][2]


@dataclass(frozen=True)
class RunRow:
    """One run in the list. `links` are (text, relative address) of the files that are there."""

    report: str
    run: str
    badge: Badge
    started: datetime | None
    seconds: float | None
    headline: str
    parameters: str
    links: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ReportCard:
    """One report at a glance. `why` explains a stale or failed state; `sparkline` is inline SVG or empty.

    From `missing_from` on the page itself calls the report stale: where the timer is dead, nobody writes the page anew.
    """

    name: str
    title: str
    parameters: str
    badge: Badge
    headline: str
    why: str
    latest: RunRow | None
    sparkline: Markup
    number: str
    missing_from: datetime | None = None


def update(outputs: Path, *, titles: Mapping[str, str] | None = None, now: datetime | None = None) -> Path:
    """Write the index of all runs under `outputs` and return its path. Nothing else is changed.

    `titles` maps the name of every existing report to its title, so that one that never ran is seen; without it the
    notebooks are looked for. A damaged record is a row that says so. Raises RunbookError when the index cannot be
    written; the old one stays.
    """
    if titles is None:
        titles = _titles()
    # Of two runs that end together, the last must have seen both records. A late index is better than none.
    with alone(outputs / _LOCK, seconds=_LOCK_SECONDS):
        return _update(outputs, titles, now or datetime.now(UTC))


def _update(outputs: Path, titles: Mapping[str, str], moment: datetime) -> Path:
    runs = read_runs(outputs, now=moment)
    expected = expectations(outputs)
    names = sorted({*titles, *expected, *(row.report for row in runs)})
    cards = [
        replace(card, why=" · ".join(filter(None, (card.why, telling.undelivered(outputs, name, card.parameters)))))
        for name in names
        for card in _cards(
            name, titles.get(name, name), [run for run in runs if run.report == name], expected.get(name), moment
        )
    ]
    cards.sort(key=lambda card: (_ORDER.index(card.badge.kind), -_time_of(card)))
    path = outputs / NAME
    template = page.environment().get_template("index.html.j2")
    css = page.stylesheet("base.css", "index.css")
    write(path, template.render(cards=cards, runs=[run.row for run in runs], now=moment, css=css, stale=Badge("stale")))
    return path


@dataclass(frozen=True)
class FoundRun:
    """A run's directory and what its record says; `record` is None when it is damaged."""

    report: str
    row: RunRow
    record: Record | None


def read_runs(outputs: Path, *, now: datetime) -> list[FoundRun]:
    """Every run under `outputs`, newest first."""
    found = []
    for directory in _run_directories(outputs):
        try:
            record: Record | None = records.read(directory)
            problem = ""
        except DamagedRecordError as error:
            record, problem = None, error.what
        found.append(FoundRun(directory.parent.name, _row(outputs, directory, record, problem, now), record))
    return sorted(found, key=lambda run: run.row.run, reverse=True)


def last_started(outputs: Path, report: str, *, asked: str | None = None) -> datetime | None:
    """When the last run of a report was started that ended well or is running; None when there is none. With `asked`
    only runs with these parameters count."""
    for directory in sorted(_run_directories(outputs, report), reverse=True):
        with suppress(DamagedRecordError):
            record = records.read(directory)
            if asked not in (None, record.asked):
                continue
            if record.state in ("ok", "threshold") or (
                record.state == "running" and not records.is_abandoned(record, now=datetime.now(UTC))
            ):
                return record.started
    return None


def newest(outputs: Path, report: str) -> Record | None:
    """The record of the run that was started last; None when there is none, or it cannot be believed."""
    for directory in sorted(_run_directories(outputs, report), reverse=True):
        with suppress(DamagedRecordError):
            return records.read(directory)
        return None
    return None


def forget_old_runs(outputs: Path, report: str, *, keep: int = KEPT_RUNS) -> int:
    """Remove all but the newest `keep` runs of a report; returns how many were removed. A run under way is kept."""
    removed = 0
    for directory in sorted(_run_directories(outputs, report), reverse=True)[keep:]:
        with suppress(DamagedRecordError):
            if records.read(directory).state == "running":
                continue
        shutil.rmtree(directory, ignore_errors=True)
        removed += 1
    return removed


def _titles() -> dict[str, str]:
    # Imported here: the runner itself calls `update` when a run has ended.
    from runbooks_lib.reports import run

    found = {}
    for name in run.available():
        with suppress(RunbookError):
            found[name] = run.find(name).title
    return found


# -- parts -------------------------------------------------------------------------------------------------------------


def _run_directories(outputs: Path, report: str | None = None) -> list[Path]:
    """Directories that are named like a run, of one report or all. Links are not followed out of `outputs`."""
    try:
        parents = [outputs / report] if report is not None else [each for each in outputs.iterdir() if each.is_dir()]
        return [
            run
            for parent in parents
            if parent.is_dir() and not parent.is_symlink()
            for run in parent.iterdir()
            if records.is_run_id(run.name) and run.is_dir() and not run.is_symlink()
        ]
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return []
        raise RunbookError(f"the runs cannot be listed: {error.strerror}", where=str(outputs)) from error


def _row(outputs: Path, directory: Path, record: Record | None, problem: str, now: datetime) -> RunRow:
    links = tuple(
        (text, quote(str((directory / name).relative_to(outputs))))
        for text, name in (("page", records.PAGE), ("notebook", records.NOTEBOOK), ("log", records.LOG))
        if (directory / name).is_file()
    )
    report = directory.parent.name
    if record is None:
        return RunRow(report, directory.name, Badge("damaged"), _started(directory.name), None, problem, "", links)
    state, headline = record.state, record.headline or record.message
    if records.is_abandoned(record, now=now):
        state, headline = "failed", "it was broken off: its process is gone and wrote no end"
    asked = record.asked
    return RunRow(report, directory.name, Badge(state), record.started, record.seconds, headline, asked, links)


def _started(run: str) -> datetime | None:
    try:
        return datetime.strptime(run.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _cards(
    name: str, title: str, runs: Sequence[FoundRun], expected: Expectation | None, now: datetime
) -> Iterator[ReportCard]:
    """A card for each set of parameters: a glance at one host must not hide what the whole report says.

    Shown are the one that is expected, the one without parameters, and those of the last week.
    """
    asked = None if expected is None else expected.asked
    sets: dict[str, list[FoundRun]] = {} if asked is None else {asked: []}
    for run in runs:
        sets.setdefault(run.row.parameters, []).append(run)
    for parameters, alike in (sets or {"": []}).items():
        recent = bool(alike) and alike[0].row.started is not None and now - alike[0].row.started < _RECENT
        if parameters in ("", asked) or recent:
            yield _card(name, title, parameters, alike, expected if parameters == asked else None, now)


def _card(
    name: str,
    title: str,
    parameters: str,
    runs: Sequence[FoundRun],
    expected: Expectation | None,
    now: datetime,
) -> ReportCard:
    latest = runs[0] if runs else None
    well = next((run for run in runs if run.record and run.record.state in ("ok", "threshold")), None)
    badge = latest.row.badge if latest else Badge("never ran")
    why = ""
    if expected is not None and expected.missing(well.record.started if well and well.record else None, now):
        due = expected.last_due(now)
        why = f"expected {due:%A} at {due:%H:%M %Z} and not there"
        if badge.kind != "failed":
            badge = Badge("stale")
    elif expected is not None and latest is None:
        why = f"first due at {expected.at}"
    headline = latest.row.headline if latest else f"`runbook report {name}` runs it."
    if latest is not None and latest is not well and well is not None and latest.row.badge.kind == "failed":
        started = well.row.started
        when = f"{started:%d %b %H:%M} UTC" if started else ""
        why = " · ".join(part for part in (why, f"last good run {when}: {well.row.headline}") if part)
    numbered = [run.record for run in runs if run.record is not None and run.record.number is not None]
    values = [record.number for record in reversed(numbered[:_SPARKLINE_RUNS]) if record.number is not None]
    number = f"{values[-1]:g} {numbered[0].number_name}".strip() if values else ""
    missing_from = None
    if expected is not None and badge.state in ("ok", "threshold", "running", "never ran"):
        missing_from = expected.missing_from(well.record.started if well and well.record else None, now)
    return ReportCard(
        name,
        title,
        parameters,
        badge,
        headline,
        why,
        latest.row if latest else None,
        sparkline(values),
        number,
        missing_from,
    )


def sparkline(values: Iterable[float]) -> Markup:
    """A line through the values as an SVG path, oldest first; empty for fewer than two."""
    points = list(values)
    if len(points) < 2:
        return Markup()
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    step = (_WIDTH - 2 * _MARGIN) / (len(points) - 1)
    placed = [
        (_MARGIN + index * step, _HEIGHT - _MARGIN - (value - low) / span * (_HEIGHT - 2 * _MARGIN))
        for index, value in enumerate(points)
    ]
    path = " ".join(f"{'M' if index == 0 else 'L'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(placed))
    x, y = placed[-1]
    return Markup(
        '<svg class="spark" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">'
        '<path d="{3}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
        '<circle cx="{4:.1f}" cy="{5:.1f}" r="2.5" fill="currentColor"/></svg>'
    ).format(
        f"{_WIDTH:g}", f"{_HEIGHT:g}", f"{len(points)} runs, from {points[0]:g} to {points[-1]:g}", path, x, y
    )  # fmt: skip


def _time_of(card: ReportCard) -> float:
    return card.latest.started.timestamp() if card.latest and card.latest.started else 0.0
