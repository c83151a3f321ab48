"""What report should run when: `outputs/expected.json`, so that the index can say that one is missing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from pathlib import Path

FILE_NAME = "expected.json"
GRACE = timedelta(hours=2)  # a report that is later than this is missing


@dataclass(frozen=True)
class Expectation:
    """A report that should run every day at `at` ("HH:MM", local time), and the command's further arguments.

    `asked` are its parameters as its runs record them (`Record.asked`): "group=databases, horizon_days=30".
    """

    report: str
    at: str
    since: datetime
    arguments: tuple[str, ...] = ()
    asked: str = ""

    def last_due(self, now: datetime) -> datetime:
        """The latest moment at or before `now` at which it should have run; `since` when it was never due yet."""
        return max(self._last(now), self.since)

    def due(self, last_started: datetime | None, now: datetime) -> bool:
        """True when no run was started since it was last due."""
        return last_started is None or last_started < self.last_due(now)

    def missing(self, last_started: datetime | None, now: datetime) -> bool:
        """True when it is due, and its time of day is past for longer than the grace."""
        return self.due(last_started, now) and now > self.missing_from(last_started, now)

    def missing_from(self, last_started: datetime | None, now: datetime) -> datetime:
        """The moment from which it is missing if no further run is started."""
        last = self._last(now)
        waits_for_last = self.due(last_started, now) and last >= self.since
        return (last if waits_for_last else self._on(last.date() + timedelta(days=1))) + GRACE

    def _last(self, now: datetime) -> datetime:
        today = now.astimezone().date()
        due = self._on(today)
        return due if due <= now else self._on(today - timedelta(days=1))

    def _on(self, day: date) -> datetime:
        """Its time on that day, by the clock of that day: the nights when the clocks change have 23 or 25 hours."""
        return datetime.combine(day, time.fromisoformat(self.at)).astimezone()


def expectations(outputs: Path) -> dict[str, Expectation]:
    """The reports that are expected every day, by name; empty when none is, or the file cannot be read."""
    try:
        raw = json.loads((outputs / FILE_NAME).read_text(encoding="utf-8"))
        return {
            name: Expectation(
                name,
                str(each["at"]),
                datetime.fromisoformat(each["since"]),
                tuple(map(str, each["arguments"])),
                str(each.get("asked", ", ".join(map(str, each["arguments"][1::2])))),
            )
            for name, each in raw.items()
            if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", each["at"])
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def expect(path: Path, expectation: Expectation) -> None:
    """Write into `path` (FILE_NAME in the directory of outputs) that this report should run every day."""
    everything = expectations(path.parent)
    before = everything.get(expectation.report)
    if before is not None and (before.at, before.arguments) == (expectation.at, expectation.arguments):
        # Installing again must not forgive a run that is missing.
        expectation = replace(expectation, since=before.since)
    _save(path, {**everything, expectation.report: expectation})


def forget(path: Path, report: str) -> None:
    """Expect this report no more."""
    remaining = expectations(path.parent)
    if remaining.pop(report, None) is not None:
        _save(path, remaining)


def _save(path: Path, everything: Mapping[str, Expectation]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(
        {
            name: {
                "at": each.at,
                "since": each.since.isoformat(),
                "arguments": list(each.arguments),
                "asked": each.asked,
            }
            for name, each in everything.items()
        },
        indent=1,
    )
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
