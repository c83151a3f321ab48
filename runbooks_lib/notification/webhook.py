"""A message as one JSON object, posted to an address (Slack, Mattermost, Rocket.Chat, an own service)."""

from __future__ import annotations

import json

from runbooks_lib.config import Channel
from runbooks_lib.errors import RunbookError
from runbooks_lib.notification.message import Message
from runbooks_lib.secrets import is_reference, resolve
from runbooks_lib.web import Server

_TIMEOUT_SECONDS = 15.0


def send(channel: Channel, message: Message) -> None:
    """Post it; any 2xx is a delivery. Raises RunbookError with what the server said, UsageError for a bad address."""
    given = channel.url or ""
    secret = is_reference(given)
    url = resolve(given) if secret else given
    server = Server(url, token=channel.token, timeout_seconds=_TIMEOUT_SECONDS)
    whole = message.as_json()
    body = whole if channel.body == "full" else {"text": whole["text"]}
    headers = {"Content-Type": "application/json; charset=utf-8"}
    status, answer = server.exchange("POST", url, json.dumps(body).encode(), headers)
    if not 200 <= status < 300:
        raise RunbookError(
            f"the server answered HTTP {status}: {answer[:200].decode('utf-8', 'replace').strip() or 'nothing'}",
            where=given,
            next="is the address still right? Redirects are not followed",
        )
