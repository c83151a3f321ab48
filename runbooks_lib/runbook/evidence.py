"""What is kept of a run beside its journal: the plan, the facts before and after, their difference, the timeline page.

All of it is made from the journal and from facts, masked, after the fact: losing it loses no safety, and a host that
does not answer any more leaves a run without its second half, told as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib import writer
from runbooks_lib.errors import RunbookError
from runbooks_lib.facts.collect import read_snapshot
from runbooks_lib.hosts.host import Host, HostError
from runbooks_lib.runbook import page
from runbooks_lib.runbook.difference import Difference, differences, states
from runbooks_lib.runbook.run import Run

PLAN, BEFORE, AFTER, DIFFERENCE = "plan.json", "facts-before.json", "facts-after.json", "difference.json"
TIMELINE = "timeline.html"


def begin(run: Run) -> None:
    """Keep the plan and the facts as they are before the first change."""
    directory = run.journal.path.parent
    with suppress(RunbookError):
        writer.write_json(directory / PLAN, run.state.promised)
        writer.write_json(directory / BEFORE, facts_now(run.host))


def gather(run: Run) -> None:
    """Keep the facts as they are now, what differs, and the timeline."""
    directory = run.journal.path.parent
    now = facts_now(run.host)
    difference = facts_difference(_kept(directory / BEFORE), now)
    with suppress(RunbookError):
        writer.write_json(directory / AFTER, now)
        writer.write_json(directory / DIFFERENCE, {"differences": [asdict(each) for each in difference]})
    with suppress(RunbookError):
        writer.write(directory / TIMELINE, page.page(run.name, run.journal.entries, difference))


def facts_now(host: Host) -> dict[str, Any]:
    """The host's quick facts, read once: `states` as a person would name them, and `samples` by name and labels."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        snapshot = read_snapshot(host, sample_seconds=0.0)
    except HostError as error:
        return {"time": time, "state": error.kind, "message": str(error), "states": {}, "samples": {}}
    samples = {
        each.name + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(each.labels.items())) + "}": each.value
        for each in snapshot.samples()
    }
    return {"time": time, "state": "ok", "message": "", "states": states(snapshot), "samples": samples}


def facts_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What is different between two `facts_now`; that one of them is missing is a difference too."""
    if before.get("state") != "ok" or after.get("state") != "ok":
        told = [str(each.get("message") or each.get("state", "not read")) for each in (before, after)]
        return [Difference("whether the facts could be read", *told)]
    return differences(before["states"], after["states"])


def _kept(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
