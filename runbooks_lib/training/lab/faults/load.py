"""Faults of the whole host: something that takes CPU, memory, the disk's time, or the journal's space."""

from __future__ import annotations

import time

from runbooks_lib.training.lab.faults.fault import Fault, Observation, held, hold, let_go, until
from runbooks_lib.training.lab.machine import Machine

_MEMORY_PROGRAM = """
import mmap, os, time
available = {line.split()[0]: int(line.split()[1]) * 1024 for line in open("/proc/meminfo")}
size = available["MemAvailable:"] + int(available["SwapFree:"] * 0.45)
room = mmap.mmap(-1, size)
page = os.urandom(4096)
while True:
    for at in range(0, size - 4096, 4096):
        room[at:at + 4096] = page
        if at % (64 << 20) == 0:
            time.sleep(0.05)
"""
_JOURNAL_LIMIT_BYTES = 32 * 1024**2  # finish.sh sets it
DISK_OPERATIONS_PER_SECOND = 100  # at random a 7,200 rpm disk makes 80 to 100 (half a turn 4.2 ms, a seek 8 ms)
_NEIGHBOUR_FILE = "/srv/scratch/backup.part"


def _cpu_in(machine: Machine) -> None:
    machine.sh(hold("cpu-hog", "for _ in $(seq $(nproc)); do (while :; do :; done) & done; wait"))


def _cpu_seen(machine: Machine) -> Observation:
    """The load of two seconds by vmstat: how much of the CPU was idle."""
    said = machine.sh(f"vmstat 2 2 | tail -n 1 | awk '{{ print $15 }}'; {held('cpu-hog')}", changes=False).split()
    return Observation(int(said[0]) < 10 and "active" in said, f"vmstat: {said[0]} % idle")


def _cpu_out(machine: Machine) -> None:
    machine.sh(let_go("cpu-hog"))


def _memory_in(machine: Machine) -> None:
    machine.sh(
        f"cat > /run/lab-memory-hog.py <<'END'{_MEMORY_PROGRAM}END\n"
        + hold("memory-hog", "exec python3 /run/lab-memory-hog.py", properties="--property=OOMScoreAdjust=1000")
    )
    until(machine, _memory_seen, "it does not swap", 300)


def _memory_seen(machine: Machine) -> Observation:
    said = machine.sh(f"free -b | tail -n 2 | tr -s ' '; {held('memory-hog')}", changes=False, deadline_seconds=120)
    words = said.split()
    available, swapped = int(words[6]), int(words[9])
    present = swapped > 64 * 1024**2 and words[-1] == "active"
    return Observation(present, f"free: {available} bytes available, {swapped} bytes swapped")


def _memory_out(machine: Machine) -> None:
    # What was swapped out comes back only when it is asked for: switching swap off and on asks for all of it.
    machine.sh(f"{let_go('memory-hog')} rm -f /run/lab-memory-hog.py; swapoff -a; swapon -a", deadline_seconds=180)


def _neighbour_in(machine: Machine) -> None:
    # On a quick disk nobody would be hurt: while the fault is in, the disk does what one that turns does.
    machine.throttle(operations_per_second=DISK_OPERATIONS_PER_SECOND)
    command = (
        f"while :; do dd if=/dev/zero of={_NEIGHBOUR_FILE} bs=64k count=1024 oflag=dsync conv=notrunc status=none; done"
    )
    machine.sh(hold("neighbour", command))


def _neighbour_seen(machine: Machine) -> Observation:
    """How much was written to the disk that the database shares with it, within two seconds, as the kernel counts."""
    counter = "$(awk '$3 == \"vdb\" { print $10 }' /proc/diskstats)"
    said = machine.sh(
        f"a={counter}; sleep 2; b={counter}; echo $(( (b - a) * 512 / 2 )); {held('neighbour')}", changes=False
    ).split()
    return Observation(
        int(said[0]) > 200_000 and "active" in said, f"diskstats: {said[0]} bytes a second to the data disk"
    )


def _neighbour_out(machine: Machine) -> None:
    machine.throttle()
    machine.sh(f"{let_go('neighbour')} rm -f {_NEIGHBOUR_FILE}")


def _journal_in(machine: Machine) -> None:
    # Random words, for the journal compresses what repeats itself; long ones, for each entry costs journald time.
    machine.sh(
        """for _ in 1 2 3 4 5 6 7 8; do
    head -c 4M /dev/urandom | base64 -w 24000 | systemd-cat -t chatty-agent
    journalctl --flush --sync
    [ "$(du -sb /var/log/journal | cut -f 1)" -lt 27000000 ] || break
done""",
        deadline_seconds=240,
    )
    until(machine, _journal_seen, "the journal is not full", 30)


def _journal_seen(machine: Machine) -> Observation:
    said = machine.sh("du -sb /var/log/journal | cut -f 1; journalctl --disk-usage", changes=False).split(maxsplit=1)
    return Observation(int(said[0]) > 0.7 * _JOURNAL_LIMIT_BYTES, " ".join(said[1].split()))


def _journal_out(machine: Machine) -> None:
    machine.sh("journalctl --sync --rotate --vacuum-size=1M --quiet 2>/dev/null; systemctl restart systemd-journald")
    time.sleep(0.2)


FAULTS = (
    Fault("cpu-hog", "something takes all CPUs", _cpu_in, _cpu_seen, _cpu_out, roles=("build-server", "database")),
    Fault(
        "memory-hog", "something takes more memory than there is", _memory_in, _memory_seen, _memory_out,
        roles=("build-server", "database"),
    ),
    Fault("neighbour", "a backup writes to the disk that the database is on", _neighbour_in, _neighbour_seen,
          _neighbour_out),
    Fault("journal-full", "one service has filled the journal: older words are lost", _journal_in, _journal_seen,
          _journal_out, roles=("build-server", "database")),
)  # fmt: skip
