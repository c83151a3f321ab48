"""Asking the host whether something is so, and asking again until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from runbooks_lib.hosts.host import Host
from runbooks_lib.runbook.check import Answer, Observation, ask
from runbooks_lib.runbook.step import Check, Known

_PAUSE_SECONDS = 0.5


def ask_until(
    host: Host,
    check: Check,
    known: Known,
    seconds: float,
    given_up: Callable[[Observation, float], bool] = lambda _observed, _seconds: False,
) -> Observation:
    """The first yes, or what was answered last when `seconds` are over. Asked at least once.

    `given_up` is told each answer that is no yes and for how many seconds it has been waited for; when it says true,
    there is no next one.
    """
    begin = time.monotonic()
    end = begin + seconds
    while True:
        observed = ask(host, check, known)
        if observed.answer is Answer.YES or time.monotonic() + _PAUSE_SECONDS > end:
            return observed
        if given_up(observed, time.monotonic() - begin):
            return observed
        time.sleep(_PAUSE_SECONDS)
