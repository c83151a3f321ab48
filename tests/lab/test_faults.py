"""Every fault: injected, seen by our own facts and by an independent command, removed, and the world is as before."""

from __future__ import annotations

import pytest

from runbooks_lib.training.lab import faults, world
from runbooks_lib.training.lab.machine import Machine
from tests.lab.seen import inject_see_and_remove

# The first test of a run may have to build the image.
pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def before(session_machine: Machine) -> world.World:
    """The world before all faults: each test ends with the same, or with a reset to it."""
    return world.look(session_machine)


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_fault_is_seen_by_facts_and_by_a_command_and_removed_without_a_trace(
    machine: Machine, before: world.World, name: str
) -> None:
    inject_see_and_remove(machine, before, name)


def test_removing_a_fault_that_is_not_there_changes_nothing(machine: Machine, before: world.World) -> None:
    for name in ("disk-full-deleted", "lock-pile-up", "network-loss", "cpu-hog", "slow-disk", "inodes"):
        faults.remove(machine, name)
    assert world.differences(before, world.look(machine)) == []
