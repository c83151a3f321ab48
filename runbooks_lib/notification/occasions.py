"""What was announced, by occasion ("CHG-1234"): told once to each channel, however often the command is run.

`outputs/announced.json` keeps which channel took which occasion's message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from runbooks_lib import writer
from runbooks_lib.config import Config
from runbooks_lib.errors import UsageError
from runbooks_lib.notification.message import Message
from runbooks_lib.notification.sending import Delivery, send

_WAITING_SECONDS = 120.0  # for another command that is telling: its channels have their own deadlines
ANNOUNCED = "announced.json"
_MOST = 1000  # occasions that are remembered


def tell_once(config: Config, message: Message, occasion: str, forget: Sequence[str] = ()) -> list[Delivery]:
    """Send the message to every channel that has not taken this occasion's yet; those deliveries. Occasions that begin
    with one of `forget` are told anew when they come again: what is called off is so, and may be announced once more.

    A run that is cut off between a delivery and its record tells that channel twice: rather twice than never. Raises
    UsageError for an empty occasion, RunbookError when the record cannot be kept.
    """
    if not occasion.strip():
        raise UsageError("an occasion needs a name", true_now="nothing was sent", next='such as "CHG-1234"')
    with writer.alone(config.outputs / f".{ANNOUNCED}.lock", seconds=_WAITING_SECONDS):
        everything = _read(config.outputs)
        took = everything.pop(occasion, [])
        came = send(config.notify, message, only=[name for name in config.notify.channels if name not in took])
        everything = {each: who for each, who in everything.items() if not each.startswith(tuple(forget))}
        everything[occasion] = [*took, *(each.channel for each in came if each.ok)]
        kept = dict(list(everything.items())[-_MOST:])
        writer.write_json(config.outputs / ANNOUNCED, kept)
    return came


def untold(config: Config, occasion: str) -> list[str]:
    """The channels of the inventory that have not taken this occasion's message."""
    took = _read(config.outputs).get(occasion, [])
    return [name for name in config.notify.channels if name not in took]


def parts(config: Config, occasion: str) -> list[str]:
    """The occasions that are remembered and belong to this one: "CHG-1234, db-01, begins (…)"."""
    return [each for each in _read(config.outputs) if each.startswith(f"{occasion}, ")]


def _read(outputs: Path) -> dict[str, list[str]]:
    try:
        raw = json.loads((outputs / ANNOUNCED).read_text(encoding="utf-8"))
        return {str(occasion): [str(name) for name in took] for occasion, took in raw.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # rather twice than never
