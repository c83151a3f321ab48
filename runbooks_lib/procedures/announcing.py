"""The steps with which work is announced, and its end: messages to the inventory's channels, a silence for the window.

They run on the operator's own machine, not on the host that the work is done on: open them with `session`. Like every
step they are dry in plan mode, resumed by proof (an occasion is told once to each channel, and has one silence), and
recorded in a journal.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runbooks_lib import config as inventory
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.parameters import Parameter
from runbooks_lib.runbook import evidence, places
from runbooks_lib.runbook.operator import Console, Operator
from runbooks_lib.runbook.quoting import words
from runbooks_lib.runbook.run import Options
from runbooks_lib.runbook.session import Session, session_on
from runbooks_lib.runbook.step import Check, Command, Known, Runbook

HERE = "this machine"
SECONDS = 90.0  # one command: Python's start on a busy machine, and the channels' 40 seconds

ABOUT = Parameter("about", "str", str, "", "the host that is worked on, as the inventory names it")
OCCASION = Parameter("occasion", "str", str, "", 'what the work is known as, such as "CHG-1234": told once')
CONFIG = Parameter("config", "str", str, "", "the inventory's file; empty: the one that is found")


def notify(known: Known, *arguments: str) -> str:
    """`runbook notify …` as sh text, with the inventory that the parameters name."""
    config = str(known.parameters["config"])
    named = ("--config", config) if config else ()
    return words(sys.executable, "-P", "-m", "runbooks_lib", "notify", arguments[0], *named, *arguments[1:])


def command(affects: str, arguments: Callable[[Mapping[str, Any]], Sequence[str]]) -> Callable[[Known], list[Command]]:
    """One command of `runbook notify`, its arguments made from the parameters."""
    return lambda known: [Command(notify(known, *arguments(known.parameters)), affects)]


def mark(given: Mapping[str, Any], what: str, *said: object) -> str:
    """What is told once: of this occasion, of this host, in these words. Without words: how all such marks begin."""
    name = f"{given['occasion']}, {given['about']}, {what}"
    digest = hashlib.sha256(repr([str(each) for each in said]).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{name} ({digest})" if said else name


def told(marked: Callable[[Mapping[str, Any]], str]) -> Callable[[Known], str]:
    """Whether every channel has taken the message with this mark: yes, no, or cannot tell."""

    def script(known: Known) -> str:
        asked = notify(known, "sent", marked(known.parameters))
        return (
            f'said=$({asked} 2>&1) || cannot_tell "$said"\n'
            'case $said in told:* | nobody:*) yes "$said";; esac\nno "$said"\n'
        )

    return script


def silenced(*, wanted: bool) -> Callable[[Known], str]:
    """Whether a silence of the occasion and host, as long as wanted, is in force, or (not `wanted`) none is. Without an
    Alertmanager: yes."""

    def script(known: Known) -> str:
        given = known.parameters
        long = ("--minutes", str(given["minutes"])) if wanted else ()
        asked = notify(known, "silence", str(given["about"]), "--list", "--occasion", str(given["occasion"]), *long)
        return (
            f"said=$({asked} 2>&1); x=$?\n"
            "case $x:$said in 2:*'names no Alertmanager'*) yes 'the inventory names no Alertmanager';; esac\n"
            '[ "$x" = 0 ] || cannot_tell "$said"\n'
            f"case $said in '0 in force'*) {'no' if wanted else 'yes'} \"$said\";; esac\n"
            f'{"yes" if wanted else "no"} "$said"\n'
        )

    return script


def can_be_told(known: Known) -> str:
    """Whether the inventory with its channels can be read."""
    asked = notify(known, "sent", str(known.parameters["occasion"]))
    return f'said=$({asked} 2>&1) && yes "the inventory is read; $said"\nno "$said"\n'


READABLE = Check("the inventory and its channels are read", can_be_told, deadline_seconds=SECONDS)


def refuses(parameters: Mapping[str, Any]) -> str:
    """Why these parameters make no sense; empty when they do."""
    if not str(parameters["about"]):
        return "about must name the host that is worked on"
    if not str(parameters["occasion"]).strip():
        return 'occasion must name the work, such as "CHG-1234"'
    return ""


def session(
    runbook: Runbook, *, config: str = "", approve: str = "", operator: Operator | None = None, **parameters: Any
) -> Session:
    """The session of `announce` or `all-clear` on the operator's own machine; with no host that it is `about`, one that
    only tells what it is. Raises UsageError for wrong parameters or an inventory that cannot be read."""
    if not parameters.get("about"):
        return Session(None, Options(Path("outputs/runs"), operator=operator or Console()))
    loaded = inventory.load(config or None)
    loaded.select(host=str(parameters.get("about", "")))
    return session_on(
        runbook,
        LocalHost(HERE),
        {**parameters, "config": str(loaded.file)},
        Options(
            loaded.outputs / "runs",
            places.chosen(),
            operator or Console(),
            approve or None,
            on_begin=evidence.begin,
            on_end=evidence.gather,
        ),
    )
