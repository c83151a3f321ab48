"""What is kept of a run beside its journal: the plan, the facts before and after, their difference, the timeline page.

All of it is made from the journal and from facts, masked, after the fact: losing it loses no safety, and a host that
does not answer any more leaves a run without its second half, told as such.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib import writer
from runbooks_lib.errors import RunbookError
from runbooks_lib.facts.collect import read_snapshot
from runbooks_lib.hosts.host import Host, HostError
from runbooks_lib.runbook import story
from runbooks_lib.runbook.run import Run
from runbooks_lib.runbook.state import fold

BEFORE, AFTER, PLAN, TIMELINE, NOTEBOOK = (
    "facts-before.json",
    "facts-after.json",
    "plan.json",
    "timeline.html",
    "notebook.ipynb",
)
_LARGEST_NOTEBOOK_BYTES = 20 * 1024 * 1024


def begin(run: Run) -> None:
    """Keep the plan and the facts as they are before the first change."""
    directory = run.journal.path.parent
    with suppress(RunbookError):
        writer.write_json(directory / PLAN, run.state.promised)
        writer.write_json(directory / BEFORE, facts_now(run.host))


def gather(run: Run) -> None:
    """Keep the facts as they are now, what differs, the timeline, and the notebook as it was last saved."""
    directory = run.journal.path.parent
    difference: list[tuple[str, str, str]] = []
    with suppress(RunbookError):
        now = facts_now(run.host)
        writer.write_json(directory / AFTER, now)
        difference = facts_difference(_kept(directory / BEFORE), now)
    with suppress(RunbookError):
        entries = run.journal.entries
        writer.write(directory / TIMELINE, story.page(fold(run.name, entries), entries, difference))
        _keep_notebook(directory)


def facts_now(host: Host) -> dict[str, Any]:
    """The host's facts as samples by name and labels; one reading of each counter, no pause."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        snapshot = read_snapshot(host, sample_seconds=0.0)
    except HostError as error:
        return {"time": time, "state": error.kind, "message": str(error), "samples": {}}
    samples = {
        each.name + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(each.labels.items())) + "}": each.value
        for each in snapshot.samples()
    }
    return {"time": time, "state": "ok", "message": "", "samples": samples}


def facts_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What is different, as (name, before, after): space, inodes and whether filesystems are read-only. Counters and
    loads differ always and tell nothing here."""
    if before.get("state") != "ok" or after.get("state") != "ok":
        return [("the facts", str(before.get("state", "not read")), str(after.get("state", "not read")))]
    then, now = before["samples"], after["samples"]
    return [
        (name, _number(then.get(name)), _number(now.get(name)))
        for name in sorted(then.keys() | now.keys())
        if name.startswith("node_filesystem_") and then.get(name) != now.get(name)
    ]


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.0f}" if isinstance(value, float) else str(value)


def _kept(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _keep_notebook(directory: Path) -> None:
    """The notebook that this kernel belongs to, as JupyterLab last saved it (JPY_SESSION_NAME is its path)."""
    path = Path(os.environ.get("JPY_SESSION_NAME", ""))
    if path.suffix != ".ipynb" or not path.is_file() or path.stat().st_size > _LARGEST_NOTEBOOK_BYTES:
        return
    with suppress(OSError, ValueError):
        text = writer.notebook_text(json.loads(path.read_text(encoding="utf-8")))
        writer.write_exactly(directory / NOTEBOOK, text.encode("utf-8", "backslashreplace"))
