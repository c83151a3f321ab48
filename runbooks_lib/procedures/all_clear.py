"""The end of announced work: the silence of its occasion ends, then everybody is told, with the measured downtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.announcing import (
    ABOUT,
    CONFIG,
    OCCASION,
    READABLE,
    SECONDS,
    command,
    mark,
    refuses,
    silenced,
    told,
)
from runbooks_lib.runbook.step import Check, NoUndo, Runbook, Step


def _downtime(given: Mapping[str, Any]) -> str:
    seconds = float(given["downtime_seconds"])
    if seconds < 0:
        return "The downtime was not measured."
    return (
        f"Measured downtime: {seconds:.1f} seconds."
        if seconds < 120
        else f"Measured downtime: {seconds / 60:.0f} minutes."
    )


def _over(given: Mapping[str, Any]) -> str:
    return mark(given, "over", given["text"], given["downtime_seconds"])


END_SILENCE = Step(
    name="end-silence",
    title="End the silence of this occasion",
    why="From now on an alert of the host is a real one again.",
    prechecks=(READABLE,),
    commands=command(
        "the host's alerts in Alertmanager",
        lambda given: ["silence", str(given["about"]), "--end-all-of", str(given["occasion"])],
    ),
    verify=Check("no silence of this occasion is in force", silenced(wanted=False), deadline_seconds=SECONDS),
    undo=NoUndo("alerts should be heard.", "announce the work again if it goes on.", harmless=True),
    deadline_seconds=SECONDS,
)

TELL = Step(
    name="tell",
    title="Tell every channel that it is over",
    why="Whoever was told of the work waits for its end.",
    needs=("end-silence",),
    prechecks=(READABLE,),
    commands=command(
        "the people behind the channels",
        lambda given: [
            "send",
            f"{given['text']}\n{_downtime(given)}",
            "--subject",
            f"{given['occasion']}: work on {given['about']} is over",
            "--occasion",
            _over(given),
        ],
    ),
    verify=Check("every channel has taken the message", told(_over), deadline_seconds=SECONDS),
    undo=NoUndo("a message cannot be taken back.", "send another: runbook notify send.", harmless=True),
    deadline_seconds=SECONDS,
)

RUNBOOK = Runbook(
    name="all-clear",
    version="2",
    title="Say that announced work is over",
    purpose="After announced work: its silence ends, and every channel is told, with the downtime that was measured.",
    not_when="The work has not been verified yet.",
    takes="Seconds.",
    undo_takes="Nothing is taken back.",
    parameters=(
        ABOUT,
        OCCASION,
        Parameter("text", "str", str, "All is as it should be.", "how it ended"),
        Parameter("downtime_seconds", "float", float, -1.0, "the measured downtime; less than 0: it was not measured"),
        CONFIG,
    ),
    steps=(END_SILENCE, TELL),
    refuses=refuses,
)
