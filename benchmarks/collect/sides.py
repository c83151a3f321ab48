"""The sides: each reads the whole fleet once. Ours parses and stores; the others only fetch the same raw text."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.collect.fleet import Fleet

_DEADLINE_SECONDS = 600
CURVE = ("-o", "KexAlgorithms=curve25519-sha256")


@dataclass(frozen=True)
class Round:
    """One side over the whole fleet once. CPU is that of the client's process and its children."""

    hosts: int
    ok: int
    seconds: float
    cpu_seconds: float
    rss_mb: float
    note: str = ""

    @property
    def per_second(self) -> float:
        """Hosts read per second; only whole answers count."""
        return self.ok / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Client CPU, milliseconds a host."""
        return self.cpu_seconds * 1e3 / max(self.ok, 1)


def openssh(fleet: Fleet, *options: str, width: int = 32) -> Round:
    """`xargs -P32` over the OpenSSH client, one process a host."""
    command = [
        "xargs",
        f"-P{width}",
        "-I{}",
        "ssh",
        "-F",
        str(fleet.ssh_config),
        "-T",
        *options,
        "{}",
        fleet.plain_command,
    ]
    return _measured(fleet, command, "".join(f"{name}\n" for name in fleet.names).encode(), _whole_answers)


def ansible(fleet: Fleet, *arguments: str) -> Round:
    """`ansible` at 50 forks, every round with connections of its own."""
    directory = fleet.directory / "ansible"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "hosts").write_text("[all]\n" + "".join(f"{name}\n" for name in fleet.names))
    (directory / "ansible.cfg").write_text(
        f"[defaults]\nforks = 50\ninterpreter_python = {_system_python()}\nhost_key_checking = True\ntimeout = 30\n"
        f"local_tmp = {directory}/here\nremote_tmp = {directory}/there\n[ssh_connection]\npipelining = True\n"
        f"ssh_args = -F {fleet.ssh_config} -o ControlMaster=auto -o ControlPersist=5s\n"
        f"control_path_dir = {directory}/cp\n"
    )
    program = Path(sys.executable).parent / "ansible"
    command = [str(program), "all", "-i", str(directory / "hosts"), *arguments]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
        "ANSIBLE_HOME": str(directory / "home"),
    }
    done = _measured(fleet, command, b"", _ansible_answers, environment)
    time.sleep(6)  # its connection masters go after five seconds
    return done


def _system_python() -> str:
    return shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


def control_persist(fleet: Fleet, rounds: int) -> list[Round]:
    """`xargs -P32` over connections that OpenSSH keeps (ControlPersist); the first, cold round is left out."""
    sockets = fleet.directory / "cm"
    shutil.rmtree(sockets, ignore_errors=True)
    sockets.mkdir()
    options = ["-o", "ControlMaster=auto", "-o", f"ControlPath={sockets}/%n", "-o", "ControlPersist=300"]
    try:
        found = [openssh(fleet, *CURVE, *options) for _ in range(rounds + 1)][1:]
        master_mb = _resident_mb("ControlPath=" + str(sockets))
        return [Round(r.hosts, r.ok, r.seconds, r.cpu_seconds, master_mb or r.rss_mb) for r in found]
    finally:
        for name in fleet.names:
            command = ["ssh", "-F", str(fleet.ssh_config), *options, "-O", "exit", name]
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20)


def _resident_mb(argument: str) -> float:
    """Proportional memory of all processes that have `argument` on their command line, MB."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if argument.encode() in (process / "cmdline").read_bytes():
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, ValueError):
            continue
    return total / 1024


class PeakMemory:
    """The most memory that a process and its forks have together, MB, looked at twice a second from outside: what is
    resident of the process, and of each fork what it shares with nobody."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most_kib, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> float:
        """Stop looking; the peak."""
        self._over.set()
        self._thread.join()
        return self._most_kib / 1024

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            children = Path(f"/proc/{self._pid}/task/{self._pid}/children")
            try:
                total = _kib(self._pid, "Rss:")
                total += sum(_kib(int(each), "Private_") for each in children.read_text().split())
            except (OSError, ValueError):
                continue  # one of them has just ended
            self._most_kib = max(self._most_kib, total)


def _kib(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(field))


class Ours:
    """Our collector in a process that stays for several rounds, as a timer or a notebook uses it."""

    def __init__(
        self,
        fleet: Fleet,
        mode: str,
        rounds: int,
        *,
        workers: int,
        deadline_seconds: float = 30.0,
        new_history: bool = True,
    ) -> None:
        self.fleet = fleet
        self.path = fleet.directory / f"runbooks-{mode}.toml"
        database = fleet.directory / f"history-{mode}.sqlite"
        if new_history:
            for file in fleet.directory.glob(f"{database.name}*"):
                file.unlink()
        self.path.write_text(
            f'ssh_config = "{fleet.ssh_config}"\n[collect]\nworkers = {workers}\n'
            f'deadline_seconds = {deadline_seconds}\n[history]\npath = "{database}"\n'
            + "".join(f"[hosts.{name}]\n" for name in fleet.names)
        )
        self.mode, self.rounds = mode, rounds

    def run(self) -> list[dict[str, Any]]:
        """The JSON lines of `benchmarks.collect.ours`; ends the benchmark when that fails."""
        command = [sys.executable, "-m", "benchmarks.collect.ours", self.mode, str(self.path), str(self.rounds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        memory = PeakMemory(process.pid)
        output, _ = process.communicate(timeout=_DEADLINE_SECONDS)
        peak_mb = memory.end()
        if process.returncode != 0:
            sys.exit(f"our side ended with status {process.returncode}")
        told = [json.loads(line) for line in output.splitlines()]
        return [each if "start" in each else {**each, "rss_mb": max(each["rss_mb"], peak_mb)} for each in told]

    def round(self, told: dict[str, Any]) -> Round:
        """One line as a Round."""
        note = "; ".join(told.get("errors", ()))
        return Round(len(self.fleet.names), told["ok"], told["seconds"], told["cpu_seconds"], told["rss_mb"], note)


def _measured(
    fleet: Fleet, command: Sequence[str], stdin: bytes, count: Any, environment: dict[str, str] | None = None
) -> Round:
    output, errors = fleet.directory / "output", fleet.directory / "errors"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        started = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env=environment)
        watchdog = threading.Timer(_DEADLINE_SECONDS, process.kill)
        watchdog.start()
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        watchdog.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    ok = count(output.read_bytes())
    note = "" if ok == len(fleet.names) else f"{shlex.join(command[:6])} …: {errors.read_text(errors='replace')[-300:]}"
    return Round(len(fleet.names), ok, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, note)


def _whole_answers(output: bytes) -> int:
    """Answers with their end line. Many processes write to one file, in blocks; what is torn does not count."""
    return output.count(b"@@0123456789abcdef0123456789abcdef end")


def _ansible_answers(output: bytes) -> int:
    return max(_whole_answers(output), output.count(b" | SUCCESS =>"))
