"""Faults between the operator and the host, and of its power."""

from __future__ import annotations

import socket
import time

from runbooks_lib.errors import RunbookError
from runbooks_lib.training.lab.faults.fault import Fault, Observation, until
from runbooks_lib.training.lab.machine import Machine

LOSS_PERCENT = 12
DELAY_MS = 120
_BOTH = ("build-server", "database")


def _greeting_seconds(machine: Machine, timeout: float = 8.0) -> float | None:
    """How long sshd's first line takes, from here; None when it does not come."""
    begin = time.monotonic()
    try:
        with socket.create_connection(machine.address("ssh"), timeout=timeout) as connection:
            connection.settimeout(timeout)
            return time.monotonic() - begin if connection.recv(4) == b"SSH-" else None
    except OSError:
        return None


def _queue_rule(machine: Machine) -> str:
    return machine.sh("tc qdisc show dev eth0", changes=False).strip()


def _loss_in(machine: Machine) -> None:
    machine.sh(f"modprobe sch_netem; tc qdisc replace dev eth0 root netem loss {LOSS_PERCENT}%")


def _loss_seen(machine: Machine) -> Observation:
    """Dropped packets, as the kernel's queue counts them while 300 kB are on their way to us."""
    before = _dropped(machine)
    if before is None:
        return Observation(False, "tc: no loss")
    machine.sh("head -c 300000 /dev/zero", changes=False, deadline_seconds=120)
    after = _dropped(machine)
    lost = (after or 0) - before
    return Observation(lost > 3, f"tc: {lost} packets dropped while 300 kB were sent")


def _dropped(machine: Machine) -> int | None:
    words = machine.sh("tc -s qdisc show dev eth0 | tr -d ',()'", changes=False, deadline_seconds=120).split()
    if "netem" not in words or "loss" not in words:
        return None
    return int(words[words.index("dropped") + 1])


def _delay_in(machine: Machine) -> None:
    machine.sh(f"modprobe sch_netem; tc qdisc replace dev eth0 root netem delay {DELAY_MS}ms")


def _delay_seen(machine: Machine) -> Observation:
    """The fastest of five greetings; a busy machine is slow at times, a delayed one always."""
    times = [seconds for seconds in (_greeting_seconds(machine) for _ in range(5)) if seconds is not None]
    if not times:
        return Observation(False, "sshd does not greet")
    rule = _queue_rule(machine)
    return Observation(
        min(times) * 1000 >= DELAY_MS and "delay" in rule, f"fastest greeting {min(times) * 1000:.0f} ms; tc: {rule}"
    )


def _quiet(machine: Machine) -> None:
    machine.sh("tc qdisc del dev eth0 root 2>/dev/null || true", deadline_seconds=120)


def _cut_in(machine: Machine) -> None:
    machine.cable(plugged=False)


def _cut_seen(machine: Machine) -> Observation:
    seconds = _greeting_seconds(machine, timeout=3.0)
    return Observation(seconds is None, "sshd does not greet" if seconds is None else f"greeting in {seconds:.3f} s")


def _cut_out(machine: Machine) -> None:
    machine.cable(plugged=True)
    end = time.monotonic() + 60
    while _greeting_seconds(machine) is None:
        if time.monotonic() > end:
            raise RunbookError("the cable is plugged in again and sshd does not greet", where=machine.name)
        time.sleep(0.2)


def _power_in(machine: Machine) -> None:
    machine.sh("cat /proc/sys/kernel/random/boot_id > /var/tmp/lab-boot; sync", changes=True)
    machine.power_cut()
    until(machine, _power_seen_gone, "it has not gone down", 30)


def _power_seen_gone(machine: Machine) -> Observation:
    return _cut_seen(machine)


def _power_seen(machine: Machine) -> Observation:
    """Down (nobody greets), or up again in another boot than the one that was written down."""
    if _greeting_seconds(machine, timeout=3.0) is None:
        return Observation(True, "it is down: sshd does not greet")
    said = machine.sh(
        "cat /var/tmp/lab-boot 2>/dev/null || echo none; cat /proc/sys/kernel/random/boot_id", changes=False
    ).split()
    return Observation(said[0] not in ("none", said[1]), f"boot {said[1]}, before the cut {said[0]}")


def _power_out(machine: Machine) -> None:
    machine.wait_ready()
    machine.sh("rm -f /var/tmp/lab-boot")


FAULTS = (
    Fault("network-loss", f"{LOSS_PERCENT} % of the packets are lost", _loss_in, _loss_seen, _quiet, roles=_BOTH),
    Fault("network-delay", f"every packet takes {DELAY_MS} ms longer", _delay_in, _delay_seen, _quiet, roles=_BOTH),
    Fault("connection-cut", "the network cable is pulled", _cut_in, _cut_seen, _cut_out, roles=_BOTH),
    Fault("power-cut", "the power goes and comes back", _power_in, _power_seen, _power_out, roles=_BOTH),
)
