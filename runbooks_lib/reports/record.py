"""`run.json`: the truth about one run of a report. papermill's own word ("completed") is not asked.

A run is a directory, `outputs/<report>/<run>/`, with `run.json`, `report.html`, `report.ipynb` and `log.txt`. The
record is written when the run begins (state `running`) and once more, last of all files, when it has ended.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runbooks_lib.errors import ExitCode, RunbookError

RECORD = "run.json"
PAGE = "report.html"
NOTEBOOK = "report.ipynb"
LOG = "log.txt"
FORMAT = 1

STATES = ("ok", "threshold", "failed", "timed out", "interrupted", "running")
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_LARGEST_RECORD_BYTES = 4_000_000
_GRACE = timedelta(seconds=60)  # past its deadline a run still writes its page


@dataclass(frozen=True)
class CellRun:
    """What became of one code cell: `state` is ok, failed, stopped, or not run; `index` counts all cells from 0."""

    index: int
    state: str
    seconds: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why a run failed: the exception's name and message, masked, and the code cell (counted from 1) where it rose."""

    kind: str
    message: str
    cell: int | None = None


@dataclass(frozen=True)
class Record:
    """One run. Times are UTC; `parameters` are those given, masked; `defaults` the others as the notebook has them.

    `state` is ok, threshold, failed, timed out, interrupted or running. `source` is the notebook that was run and
    `sha256` its digest. `message` is one sentence about what went wrong, empty where nothing did.
    """

    report: str
    run: str
    state: str
    started: datetime
    title: str = ""
    ended: datetime | None = None
    deadline_seconds: float = 0.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    sha256: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    user: str = ""
    pid: int = 0
    cells: tuple[CellRun, ...] = ()
    failure: Failure | None = None
    message: str = ""
    notes: tuple[str, ...] = ()
    headline: str = ""
    number: float | None = None
    number_name: str = ""
    needed: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """0 ok, 3 a threshold is crossed, 1 anything else."""
        return {"ok": ExitCode.OK, "threshold": ExitCode.THRESHOLD}.get(self.state, ExitCode.FAILED)

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it runs."""
        return None if self.ended is None else (self.ended - self.started).total_seconds()

    @property
    def asked(self) -> str:
        """The parameters that were given: "group=databases, horizon_days=30"."""
        return asked(self.parameters)

    def as_json(self) -> dict[str, Any]:
        """The record as `run.json` holds it."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values |= {
            "format": FORMAT,
            "exit_code": None if self.state == "running" else int(self.exit_code),
            "started": self.started.isoformat(timespec="milliseconds"),
            "ended": None if self.ended is None else self.ended.isoformat(timespec="milliseconds"),
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "cells": [{"index": cell.index, "state": cell.state, "seconds": cell.seconds} for cell in self.cells],
            "failure": None if self.failure is None else vars(self.failure),
            "parameters": dict(self.parameters),
            "defaults": dict(self.defaults),
            "versions": dict(self.versions),
            "notes": list(self.notes),
            "needed": list(self.needed),
            "links": {"page": PAGE, "notebook": NOTEBOOK, "log": LOG},
        }
        return values


def asked(parameters: Mapping[str, Any]) -> str:
    """Checked parameters in words, in the order of the declaration; by these a schedule knows its runs."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def new_run_id(now: datetime) -> str:
    """`20261123T221022Z-a1b2c3`: sorts by time, and two runs of the same second differ."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def is_run_id(name: str) -> bool:
    """Whether a directory's name is a run's."""
    return _RUN_ID.fullmatch(name) is not None


class DamagedRecordError(RunbookError):
    """A `run.json` that cannot be believed."""


def read(directory: Path) -> Record:
    """The record of a run's directory. Raises DamagedRecordError, saying what is wrong, when it cannot be believed."""
    path = directory / RECORD
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_RECORD_BYTES + 1)
        if len(data) > _LARGEST_RECORD_BYTES:
            raise ValueError("too large")
        return from_json(json.loads(data))
    except FileNotFoundError as error:
        raise DamagedRecordError("there is no record", where=str(path)) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedRecordError(f"the record is damaged ({error})", where=str(path)) from error


def from_json(raw: Any) -> Record:
    """A checked record. ValueError, TypeError or KeyError when it is not one; unknown keys are left out."""
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ValueError(f"not a record of format {FORMAT}")
    if raw["state"] not in STATES:
        raise ValueError("unknown state")
    texts = ("report", "run", "state", "title", "source", "sha256", "machine", "user", "message", "headline")
    for name in (*texts, "number_name"):
        if not isinstance(raw.get(name, ""), str):
            raise TypeError(f"{name} is not text")
    ended = None if raw.get("ended") is None else _time(raw["ended"])
    failure = raw.get("failure")
    return Record(
        **{name: raw.get(name, "") for name in texts},
        started=_time(raw["started"]),
        ended=ended,
        deadline_seconds=float(raw.get("deadline_seconds") or 0),
        parameters=dict(raw.get("parameters") or {}),
        defaults=dict(raw.get("defaults") or {}),
        versions={str(name): str(value) for name, value in (raw.get("versions") or {}).items()},
        pid=int(raw.get("pid") or 0),
        cells=tuple(CellRun(int(cell["index"]), str(cell["state"]), cell["seconds"]) for cell in raw.get("cells", [])),
        failure=None if failure is None else Failure(str(failure["kind"]), str(failure["message"]), failure["cell"]),
        notes=tuple(map(str, raw.get("notes") or ())),
        number=None if raw.get("number") is None else float(raw["number"]),
        number_name=raw.get("number_name", ""),
        needed=tuple(map(str, raw.get("needed") or ())),
    )


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return time.astimezone(UTC)


def is_abandoned(record: Record, *, now: datetime) -> bool:
    """Whether a record that says `running` lies: its process is gone, or its deadline passed long ago."""
    if record.state != "running":
        return False
    if record.deadline_seconds and now > record.started + timedelta(seconds=record.deadline_seconds) + _GRACE:
        return True
    if record.machine and record.machine != os.uname().nodename:
        return False
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return record.pid <= 1
