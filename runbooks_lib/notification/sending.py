"""Sending one message to the channels of the inventory, all at once; one channel's failure is its row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from runbooks_lib.config import Channel, Notify
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.notification import library, mail, webhook
from runbooks_lib.notification.message import Message
from runbooks_lib.secrets import redact

DEADLINE_SECONDS = 40.0  # for all channels together: a message must not hold up what it tells of
_SEND: Mapping[str, Callable[[Channel, Message], None]] = {
    "webhook": webhook.send,
    "mail": mail.send,
    "apprise": library.send,
}


@dataclass(frozen=True)
class Delivery:
    """What came of one channel: `error` is empty when it took the message."""

    channel: str
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the channel took it. That somebody reads it, nobody can say."""
        return not self.error


def send(settings: Notify, message: Message, *, only: Collection[str] | None = None) -> list[Delivery]:
    """Send it to every channel, or those in `only`; a row a channel, in the inventory's order.

    Nothing of a channel is raised: its row says it, masked. Raises UsageError for a channel that does not exist.
    """
    unknown = sorted(set(only or ()) - settings.channels.keys())
    if unknown:
        raise UsageError(
            f"no such channel: {', '.join(unknown)}",
            true_now="nothing was sent",
            next=f"channels: {', '.join(settings.channels) or 'none; [notify.channels.NAME] adds one'}",
        )
    chosen = {name: each for name, each in settings.channels.items() if only is None or name in only}
    came: dict[str, str] = {}

    def one(name: str, channel: Channel) -> None:
        try:
            _SEND[channel.kind](channel, message)
            came[name] = ""
        except RunbookError as error:
            came[name] = redact("; ".join(part for part in (str(error).splitlines()[0], error.next) if part))
        except Exception as error:  # a library's own failure must not take the report with it
            came[name] = redact(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=one, args=each, daemon=True) for each in chosen.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + DEADLINE_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [Delivery(name, came.get(name, f"no end within {DEADLINE_SECONDS:g} s")) for name in chosen]
