"""What is watched beside a long copy, whatever copies."""

from __future__ import annotations

from runbooks_lib.parameters import Parameter
from runbooks_lib.runbook.step import Check, Known

IO_PRESSURE = Parameter(
    "most_io_pressure", "int", int, 95,
    "stop the copy when disks hold up all work for so many % of a minute, 1 to 100", lowest=1, highest=100,
)  # fmt: skip


def _pressure(known: Known) -> str:
    return (
        "full=$(sed -n 's/^full avg10=[0-9.]* avg60=\\([0-9]*\\).*/\\1/p' /proc/pressure/io 2>/dev/null)\n"
        '[ -n "$full" ] || yes "this kernel tells no I/O pressure"\n'
        f'[ "$full" -le {int(known.parameters["most_io_pressure"])} ] || '
        'no "for a minute all work has waited for disks $full % of the time"\n'
        'yes "all work waits for disks $full % of the time"\n'
    )


def io_pressure() -> Check:
    """That disks do not hold up all work, by the parameter `most_io_pressure` (pressure stall information: the kernel's
    Documentation/accounting/psi.rst)."""
    return Check("the disks are not overwhelmed", _pressure)
