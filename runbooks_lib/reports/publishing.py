"""What an ended run leaves: notebook, page, log, and last the record; and what its record says of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from runbooks_lib import writer
from runbooks_lib.reports import page, record, result
from runbooks_lib.reports.record import CellRun, Failure, Record

_TOLD_IN_WORDS = frozenset(
    {
        "RunbookError", "UsageError", "HistoryError", "HistoryMissing", "HistoryLocked", "HistoryDamaged",
        "HistoryTooNew", "KernelNotReady",
    }
)  # fmt: skip
_VERSIONS_OF = ("runbooks-lib", "papermill", "nbclient", "ipykernel", "numpy", "matplotlib")


def publish(
    started: Record,
    place: Path,
    notebook: Mapping[str, Any],
    cells: Mapping[int, CellRun],
    failure: Failure | None,
    *,
    log: str,
    stopped: str = "",
    notes: tuple[str, ...] = (),
) -> Record:
    """Write what is known of a run: notebook, page, log, and last the record, which is returned. All masked."""
    text = writer.notebook_text(notebook)
    clean = json.loads(text)
    finished = conclude(started, clean, cells, failure, stopped=stopped, notes=notes, versions=_versions())
    finished = record.from_json(writer.masked(finished.as_json()))
    writer.write_exactly(place / record.NOTEBOOK, text.encode("utf-8", "backslashreplace"))
    writer.write(place / record.LOG, log)
    writer.write(place / record.PAGE, page.render(clean, finished))
    writer.write_json(place / record.RECORD, finished.as_json())
    return finished


def conclude(
    started: Record,
    notebook: Mapping[str, Any],
    cells: Mapping[int, CellRun],
    failure: Failure | None,
    *,
    stopped: str = "",
    notes: tuple[str, ...] = (),
    versions: Mapping[str, str] | None = None,
) -> Record:
    """The record of an ended run. It is ok only when every code cell ran to its end."""
    places = [index for index, cell in enumerate(notebook["cells"]) if _is_code(cell)]
    all_cells = tuple(cells.get(index, CellRun(index, "not run")) for index in places)
    found = result.read(output for index in places for output in notebook["cells"][index].get("outputs", []))
    ended = datetime.now(UTC)
    message = ""
    if stopped == "timed out":
        state, message = stopped, f"It was stopped at its deadline of {started.deadline_seconds:g} seconds"
    elif stopped:
        state, message = "interrupted", "It was stopped from outside"
    elif failure is not None:
        # Our own errors say in words what happened; of another one its kind is half of what it says.
        kind = "" if failure.kind in _TOLD_IN_WORDS else f"{failure.kind}: "
        state, message = "failed", kind + _first_line(failure.message)
    elif any(cell.state != "ok" for cell in all_cells):
        state, message = "failed", "It ended before its last cell"
    else:
        state = "threshold" if found is not None and found.threshold_crossed else "ok"
    if message and failure is not None and failure.cell is not None:
        message += f" (code cell {failure.cell} of {len(places)})"
    return replace(
        started,
        state=state,
        ended=ended,
        cells=all_cells,
        failure=None if stopped else failure,
        message=message,
        notes=notes,
        versions=versions or started.versions,
        headline=found.headline if found else "",
        number=found.number if found else None,
        number_name=found.number_name if found else "",
        needed=found.needed if found else (),
    )


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _is_code(cell: Mapping[str, Any]) -> bool:
    source = cell.get("source", "")
    return cell.get("cell_type") == "code" and bool((source if isinstance(source, str) else "".join(source)).strip())


def _first_line(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "no message")
    return line if len(line) <= 300 else line[:299] + "…"
