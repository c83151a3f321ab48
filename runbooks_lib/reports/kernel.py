"""Masking inside a kernel: what a cell reads as a secret leaves the kernel only as `***`.

An IPython extension (`--ext runbooks_lib.reports.kernel`) for reports and for the lab. Every message of a kernel -
streams, displays, tracebacks, replies - leaves through one method of its session; that is where the text is masked.
Where a runner waits at the other end of `$RUNBOOKS_SECRETS_FD` (a socket, never a file), it learns each value before
the first text with it can arrive, and masks what reaches it in pieces or on other ways.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from runbooks_lib import secrets

SECRETS_FD = "RUNBOOKS_SECRETS_FD"


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython."""
    descriptor = os.environ.pop(SECRETS_FD, "")
    if descriptor.isdigit():
        channel = socket.socket(fileno=int(descriptor))
        channel.set_inheritable(False)  # what the notebook starts has no part in this
        secrets.send_to(channel)
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        _mask(kernel.session)


def _mask(session: Any) -> None:
    send = session.send

    def masked_send(stream: Any, msg_or_type: Any, content: Any = None, *rest: Any, **options: Any) -> Any:
        if isinstance(msg_or_type, dict) and "content" in msg_or_type:
            msg_or_type = {**msg_or_type, "content": _masked(msg_or_type["content"])}
        if options.get("metadata"):
            options["metadata"] = _masked(options["metadata"])
        return send(stream, msg_or_type, _masked(content), *rest, **options)

    session.send = masked_send


def _masked(value: Any) -> Any:
    # Patterns are left to the writer: here a cell's own text should come out as it is as far as possible.
    if isinstance(value, str):
        return secrets.redact(value, patterns=False)
    if isinstance(value, Mapping):
        return {_masked(key): _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value
