"""A message by apprise, which knows about a hundred services (the optional extra `notify`)."""

from __future__ import annotations

import logging
from io import StringIO

from runbooks_lib.config import Channel
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.notification.message import Message
from runbooks_lib.secrets import redact, resolve


def send(channel: Channel, message: Message) -> None:
    """Send it to the service that the address names. Raises RunbookError with what the library logged, UsageError when
    the library is not there or does not know the address."""
    try:
        import apprise
    except ImportError:
        raise UsageError(
            "the library apprise is not installed", where=channel.url or "", next="pip install 'runbooks-lib[notify]'"
        ) from None
    service = apprise.Apprise()
    if not service.add(resolve(channel.url or "")):
        raise UsageError("apprise does not know such an address", where=channel.url or "", next="its scheme decides")
    kinds = {"ok": apprise.NotifyType.SUCCESS, "crossed": apprise.NotifyType.WARNING}
    kinds["failed"] = apprise.NotifyType.FAILURE
    said = StringIO()
    handler = logging.StreamHandler(said)
    logger = logging.getLogger("apprise")
    logger.addHandler(handler)
    try:
        delivered = service.notify(
            title=message.subject,
            body=message.body,
            notify_type=kinds.get(message.state, apprise.NotifyType.INFO),
            body_format=apprise.NotifyFormat.TEXT,
        )
    finally:
        logger.removeHandler(handler)
    if not delivered:
        why = redact(" ".join(said.getvalue().split()))[-300:]
        raise RunbookError(f"apprise could not deliver it: {why or 'it does not say why'}", where=channel.url or "")
