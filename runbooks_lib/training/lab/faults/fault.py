"""What a fault is: something that can be done to a practice machine, seen by a command of its own, and undone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from runbooks_lib.errors import RunbookError
from runbooks_lib.training.lab.machine import Machine


@dataclass(frozen=True)
class Observation:
    """What an independent command says: whether the fault is there, and the command's own words."""

    present: bool
    words: str


@dataclass(frozen=True)
class Fault:
    """A fault by name. `inject` makes it and returns when it can be seen; `observe` looks with a plain command on the
    host (never with the library's facts); `remove` puts the world back as it was. Removing what is not there is no
    error. `filesystems` and `roles` say where it can be made."""

    name: str
    sentence: str
    inject: Callable[[Machine], None]
    observe: Callable[[Machine], Observation]
    remove: Callable[[Machine], None]
    filesystems: tuple[str, ...] = ("ext4", "xfs")
    roles: tuple[str, ...] = ("build-server",)


def hold(unit: str, command: str, *, user: str = "root", properties: str = "") -> str:
    """Shell text that keeps `command` (a line for sh) running as the systemd unit lab-fault-`unit`."""
    quoted = "'" + command.replace("'", "'\\''") + "'"
    return (
        f"systemd-run --quiet --collect --unit=lab-fault-{unit} --property=User={user} {properties}"
        f" --property=KillMode=control-group --property=TimeoutStopSec=5 sh -c {quoted}\n"
    )


def let_go(unit: str) -> str:
    """Shell text that ends what `hold` started, with all its children."""
    return f"systemctl stop lab-fault-{unit}.service 2>/dev/null || true\n"


def held(unit: str) -> str:
    """Shell text that prints `active` while it runs."""
    return f"systemctl is-active lab-fault-{unit}.service || true\n"


def until(machine: Machine, seen: Callable[[Machine], Observation], otherwise: str, seconds: float) -> None:
    """Wait until `seen` says that it is there. Raises RunbookError with `otherwise` and the last words."""
    end = time.monotonic() + seconds
    while True:
        observation = seen(machine)
        if observation.present:
            return
        if time.monotonic() > end:
            raise RunbookError(f"{otherwise} after {seconds:.0f} s: {observation.words}", where=machine.name)
        time.sleep(0.3)
