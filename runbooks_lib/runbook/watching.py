"""What must stay true while a step takes long: what its watchers ask, and that the host's lock is ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from runbooks_lib.hosts.host import Host, HostError
from runbooks_lib.runbook import lock as locks
from runbooks_lib.runbook.check import Answer, Observation, ask
from runbooks_lib.runbook.step import Known, Step, Watcher

RENEW_SECONDS = 300.0  # the lock's lease; a step may take longer than it
_BLIND_LOOKS = 3
_SAY_SECONDS = 10.0


@dataclass
class Watching:
    """Asked again and again by who waits; each watcher is asked when its time has come. `note` writes down a no, and
    `why` keeps it."""

    host: Host
    lock: locks.Lock
    step: Step
    known: Callable[[], Known]
    note: Callable[[Step, Observation], None]
    say: Callable[[str], None]
    why: str = ""
    said_after: float = 0.0
    renewed: float = field(default_factory=time.monotonic)
    due: dict[int, float] = field(default_factory=dict)
    blind: dict[int, int] = field(default_factory=dict)

    def given_up(self, seen: Observation, seconds: float) -> bool:
        """Beside a verify that takes long: say what is waited for, and whether it makes no sense any more."""
        if seconds - self.said_after >= max(_SAY_SECONDS, seconds / 20):
            self.said_after = seconds
            self.say(f"{self.step.name}: waiting until {seen.check}; now: {seen.evidence}")
        return bool(self.broken())

    def broken(self) -> str:
        """Why the step must stop now; empty when it may go on."""
        self.why = self._broken()
        return self.why

    def _broken(self) -> str:
        if time.monotonic() - self.renewed > RENEW_SECONDS:
            self.renewed = time.monotonic()
            with suppress(HostError):  # the next look waits for the host
                if not locks.renew(self.host, self.lock):
                    return "another operator has taken the host's lock over"
        for number, watcher in enumerate(self.step.watchers):
            if time.monotonic() >= self.due.get(number, 0.0):
                self.due[number] = time.monotonic() + watcher.every_seconds
                if why := self._watch(number, watcher):
                    return why
        return ""

    def _watch(self, number: int, watcher: Watcher) -> str:
        observed = ask(self.host, watcher.check, self.known())
        if observed.answer is Answer.NO:
            self.note(self.step, observed)
            return f"it is no longer so that {observed.check}: {observed.evidence}"
        self.blind[number] = self.blind.get(number, 0) + 1 if observed.answer is Answer.CANNOT_TELL else 0
        if self.blind[number] >= _BLIND_LOOKS:
            self.note(self.step, observed)
            return f"{_BLIND_LOOKS} times in a row it could not be told whether {observed.check}: {observed.evidence}"
        return ""
