"""What several rules say or look at in the same way."""

from __future__ import annotations

import re
from datetime import timedelta

from runbooks_lib import words
from runbooks_lib.diagnosis.scene import Scene

# Findings that only say how trouble shows: whatever holds a host up explains them.
SLOWNESS = frozenset({"queue-waits", "agents-missing", "service-down", "service-slow", "blocked-resource", "stalled"})


def ago(seconds: float | None) -> str:
    """`40 seconds`, `5 minutes`, `3 days`."""
    if seconds is None:
        return "an unknown time"
    return f"{seconds:.0f} seconds" if seconds < 90 else words.span(timedelta(seconds=seconds))


def messages(scene: Scene, pattern: str, within_seconds: float) -> list[str]:
    """The kernel's errors of the last seconds that match, oldest first."""
    log = scene.fact("kernel_log").value
    return [
        message.text
        for message in (log.messages if log else ())
        if re.search(pattern, message.text, re.IGNORECASE)
        and (message.seconds is None or message.seconds > scene.uptime_seconds - within_seconds)
    ]
