"""One practice machine for all tests of a run: it is booted once, and reset after a test that failed.

Ctrl-C reaches what the tests start, also when they were started where it is ignored (`nohup`, a shell's `&`)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from runbooks_lib.training.lab import lab
from runbooks_lib.training.lab.machine import Machine

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def session_machine() -> Iterator[Machine]:
    """With $RUNBOOKS_LAB_MACHINE, one that is up already: for working on a single test."""
    named = os.environ.get("RUNBOOKS_LAB_MACHINE")
    if named:
        yield lab.find(named)
        return
    with lab.held_machine(f"test-{os.getpid()}", say=print) as machine:
        yield machine


@pytest.fixture
def machine(session_machine: Machine, request: pytest.FixtureRequest) -> Iterator[Machine]:
    failures = request.session.testsfailed
    yield session_machine
    if request.session.testsfailed > failures:
        session_machine.reset()
