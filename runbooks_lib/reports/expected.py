"""What report should run when: `outputs/expected.json`, so that the index can say that one is missing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

FILE_NAME = "expected.json"
GRACE = timedelta(hours=2)  # a report that is later than this is missing


@dataclass(frozen=True)
class Expectation:
    """A report that should run every day at `at` ("HH:MM", local time), and the command's further arguments."""

    report: str
    at: str
    since: datetime
    arguments: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """The parameters it is run with, as the index shows them: "group=databases, horizon_days=30"."""
        return ", ".join(self.arguments[1::2])

    def last_due(self, now: datetime) -> datetime:
        """The latest moment at or before `now` at which it should have run; `since` when it was never due yet."""
        local = now.astimezone()
        hour, minute = map(int, self.at.split(":"))
        due = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
        if due > local:
            due -= timedelta(days=1)
        return max(due, self.since)

    def due(self, last_started: datetime | None, now: datetime) -> bool:
        """True when no run was started since it was last due."""
        return last_started is None or last_started < self.last_due(now)

    def missing(self, last_started: datetime | None, now: datetime) -> bool:
        """True when it is due for longer than the grace."""
        return self.due(last_started, now) and now - self.last_due(now) > GRACE

    def missing_from(self, last_started: datetime | None, now: datetime) -> datetime:
        """The moment from which it is missing if no further run is started."""
        waited_for = self.last_due(now) if self.due(last_started, now) else self.last_due(now) + timedelta(days=1)
        return waited_for + GRACE


def expectations(outputs: Path) -> dict[str, Expectation]:
    """The reports that are expected every day, by name; empty when none is, or the file cannot be read."""
    try:
        raw = json.loads((outputs / FILE_NAME).read_text(encoding="utf-8"))
        return {
            name: Expectation(
                name, str(each["at"]), datetime.fromisoformat(each["since"]), tuple(map(str, each["arguments"]))
            )
            for name, each in raw.items()
            if re.fullmatch(r"\d\d:\d\d", each["at"])
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def expect(path: Path, expectation: Expectation) -> None:
    """Write into `path` (FILE_NAME in the directory of outputs) that this report should run every day."""
    everything = expectations(path.parent)
    before = everything.get(expectation.report)
    if before is not None and (before.at, before.arguments) == (expectation.at, expectation.arguments):
        return  # installing again must not forgive a run that is missing
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
            name: {"at": each.at, "since": each.since.isoformat(), "arguments": list(each.arguments)}
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
