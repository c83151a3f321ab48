"""The faults of the lab by name, each injectable, observable and removable."""

from __future__ import annotations

from runbooks_lib.errors import UsageError
from runbooks_lib.training.lab.faults import disk, load, network, postgres
from runbooks_lib.training.lab.faults.fault import Fault, Observation
from runbooks_lib.training.lab.machine import Machine
from runbooks_lib.training.lab.records import change_record

__all__ = ["FAULTS", "Fault", "Observation", "fault", "inject", "present", "remove"]

FAULTS = {one.name: one for one in (*disk.FAULTS, *load.FAULTS, *network.FAULTS, *postgres.FAULTS)}


def fault(name: str) -> Fault:
    """The fault of that name. Raises UsageError."""
    if name not in FAULTS:
        raise UsageError(f"there is no fault {name!r}", next=f"choose one of: {', '.join(FAULTS)}")
    return FAULTS[name]


def inject(machine: Machine, name: str) -> Observation:
    """Inject a fault and return what its own command then sees. Raises UsageError where it cannot be made."""
    wanted, record = fault(name), machine.record
    for what, allowed, given in (
        ("a machine of role", wanted.roles, record.role),
        ("a database on", wanted.filesystems, record.filesystem),
    ):
        if given not in allowed:
            raise UsageError(
                f"the fault {name} needs {what} {' or '.join(allowed)}, and this one has {given}",
                where=machine.name,
                true_now="nothing was changed",
            )
    _note(machine, name, there=True)  # before it is: a half-made one is to be found as well
    wanted.inject(machine)
    return wanted.observe(machine)


def remove(machine: Machine, name: str) -> None:
    """Take a fault away; one that is not there is no error."""
    fault(name).remove(machine)
    _note(machine, name, there=False)


def present(machine: Machine) -> list[str]:
    """The faults that were injected here and are seen now by their own commands, by name."""
    return [name for name in machine.record.faults if name in FAULTS and FAULTS[name].observe(machine).present]


def _note(machine: Machine, name: str, *, there: bool) -> None:
    others = [other for other in machine.record.faults if other != name]
    change_record(machine.directory, faults=[*others, name] if there else others)
