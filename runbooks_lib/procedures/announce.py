"""Announce work on a host: its alerts are silenced for the window, then everybody is told.

The silence comes first, so that nobody is woken by what the message will explain. It ends by itself at the end of the
window; `all-clear` ends it before.
"""

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
from runbooks_lib.runbook.step import Check, Runbook, Step, Undo

_BEGINS, _CALLED_OFF, _OVER = "begins", "called off", "over"


def _begins(given: Mapping[str, Any]) -> str:
    return mark(given, _BEGINS, given["text"], given["minutes"])


def _called_off(given: Mapping[str, Any]) -> str:
    return mark(given, _CALLED_OFF, given["text"], given["minutes"])


SILENCE = Step(
    name="silence",
    title="Silence the host's alerts for the window",
    why="Whoever is on call must not be woken by work that somebody is doing.",
    prechecks=(READABLE,),
    commands=command(
        "the host's alerts in Alertmanager",
        lambda given: [
            "silence",
            str(given["about"]),
            "--minutes",
            str(given["minutes"]),
            "--comment",
            str(given["text"]),
            "--occasion",
            str(given["occasion"]),
        ],
    ),
    verify=Check("a silence of this occasion is in force", silenced(wanted=True), deadline_seconds=SECONDS),
    undo=Undo(
        command(
            "the host's alerts in Alertmanager",
            lambda given: ["silence", str(given["about"]), "--end-all-of", str(given["occasion"])],
        ),
        Check("no silence of this occasion is in force", silenced(wanted=False), deadline_seconds=SECONDS),
        takes="seconds",
    ),
    deadline_seconds=SECONDS,
)

TELL = Step(
    name="tell",
    title="Tell every channel of the inventory",
    why="Users and colleagues should know before they notice.",
    needs=("silence",),
    prechecks=(READABLE,),
    commands=command(
        "the people behind the channels",
        lambda given: [
            "send",
            f"{given['text']}\nFor about {given['minutes']} minutes from now.",
            "--subject",
            f"{given['occasion']}: work on {given['about']} begins",
            "--occasion",
            _begins(given),
            "--forget",
            mark(given, _CALLED_OFF),
            "--forget",
            mark(given, _OVER),
        ],
    ),
    verify=Check("every channel has taken the message", told(_begins), deadline_seconds=SECONDS),
    undo=Undo(
        command(
            "the people behind the channels",
            lambda given: [
                "send",
                "What was announced does not take place.",
                "--subject",
                f"{given['occasion']}: work on {given['about']} is called off",
                "--occasion",
                _called_off(given),
                "--forget",
                mark(given, _BEGINS),
            ],
        ),
        Check("every channel has been told that it is called off", told(_called_off), deadline_seconds=SECONDS),
        takes="seconds: a message that says so, for none can be taken back",
    ),
    deadline_seconds=SECONDS,
)

RUNBOOK = Runbook(
    name="announce",
    version="2",
    title="Announce work on a host",
    purpose="Before work that users or alerts will notice: the host's alerts are silenced for the window, and every "
    "channel of the inventory is told.",
    not_when="The work may still be refused (plan it first), or an incident is announced by somebody else already.",
    takes="Seconds.",
    undo_takes="Seconds: the silence ends, and every channel is told that it is called off.",
    parameters=(
        ABOUT,
        OCCASION,
        Parameter("text", "str", str, "Maintenance.", "what is done, and what users will notice"),
        Parameter("minutes", "int", int, 30, "how long the window is, 1 to 10080 minutes", lowest=1, highest=10080),
        CONFIG,
    ),
    steps=(SILENCE, TELL),
    refuses=refuses,
)
