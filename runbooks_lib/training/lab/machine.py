"""One running practice machine: how to reach it, reset it, cut its power, end it."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.host import HostError, Result, Script
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.training.lab.processes import ProcessId, process_id
from runbooks_lib.training.lab.qemu import DATA_DEVICE, LINK_CARD, LOOPBACK, OPERATOR_CARD
from runbooks_lib.training.lab.qmp import Qmp, QmpError
from runbooks_lib.training.lab.records import Record, change_record, read_record
from runbooks_lib.training.lab.seed import USER
from runbooks_lib.training.lab.standstill import Standstill

BOOT_SECONDS = 900.0  # on a machine that much other work keeps busy; else about 30
SNAPSHOT = "clean"
_KEPT: dict[Path, SshHost] = {}  # connections of this process, by the machine's directory
_KEPT_LOCK = threading.Lock()
_SNAPSHOT_SECONDS = 180.0

# Ready: what the role promises is there. Each line is a reason to wait on.
_READY = {
    "build-server": r"""
systemctl --quiet is-active postgresql@15-main build-server prometheus-node-exporter || exit 1
mountpoint -q /srv/db || exit 1
timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8111 && printf "GET /app/rest/buildQueue HTTP/1.0\r\n\r\n" >&3 &&
    read -r line <&3 && [[ $line == *" 200 "* ]]' 2> /dev/null || exit 1
""",
    "database": """
mountpoint -q /srv/db || exit 1
systemctl --quiet is-active prometheus-node-exporter || exit 1
""",
}


@dataclass(frozen=True)
class Machine:
    """A machine and its directory. All state is there and in qemu: two processes may hold the same machine."""

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def record(self) -> Record:
        """The record as it is now. Raises RunbookError when the machine is gone."""
        record = read_record(self.directory)
        if record is None:
            raise RunbookError("there is no such practice machine", where=self.name, next="runbook lab-host list")
        return record

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def address(self, service: str) -> tuple[str, int]:
        """Loopback address and port here that lead to its `ssh`, `http` or `postgres`."""
        return LOOPBACK, self.record.ports[service]

    def host(self) -> SshHost:
        """The machine as any other host: over SSH, with the ordinary checks. The caller closes it."""
        return SshHost(self.name, settings_source=lambda name: resolve(name, config_file=self.ssh_config))

    def sh(self, text: str, *, deadline_seconds: float = 60.0, changes: bool = True, check: bool = True) -> str:
        """Run a script as root and return its stdout. Raises RunbookError when it fails and `check` is true.

        The connection is kept for the next one, for a new one costs seconds of an emulated CPU."""
        script = Script(text, name="lab", changes=changes, root=True)
        result = self._kept().run(script, deadline_seconds=deadline_seconds)
        if check and not result.ok:
            raise RunbookError(f"a script of the lab failed: {_words(result)}", where=self.name)
        return result.stdout.decode(errors="replace")

    def hang_up(self) -> None:
        """Close the connection that `sh` keeps: the machine will not remember it, or is gone."""
        kept = _KEPT.pop(self.directory, None)
        if kept is not None:
            kept.close()

    def _kept(self) -> SshHost:
        with _KEPT_LOCK:
            if self.directory not in _KEPT:
                _KEPT[self.directory] = self.host()
            return _KEPT[self.directory]

    def qmp(self, *, deadline_seconds: float = 30.0) -> Qmp:
        """A conversation with its qemu."""
        return Qmp(self.directory, deadline_seconds=deadline_seconds)

    def wait_ready(self, *, seconds: float = BOOT_SECONDS) -> float:
        """Wait until the role's services answer; returns the seconds it took. Raises RunbookError after `seconds`, or
        as soon as qemu has ended."""
        begin, standstill = time.monotonic(), Standstill(self.directory)
        script = Script(_READY[self.record.role], name="lab: ready", root=True)
        last = "it did not answer yet"
        while time.monotonic() - begin < seconds:
            if not self.record.running:
                raise RunbookError(f"qemu has ended: {_log(self.directory)}", where=self.name)
            try:
                if self._kept().run(script, deadline_seconds=60).ok:
                    return time.monotonic() - begin
                last = "it answers, and its services are not up yet"
            except HostError as error:
                last = error.what
                standstill.look()
            time.sleep(1.0)  # each look costs a booting machine time
        raise RunbookError(
            f"it was not ready within {seconds:.0f} s: {last}; the console's end: {self._console()}",
            where=self.name,
            next="is this machine very busy? emulation needs about one CPU while it boots",
        )

    def save(self) -> float:
        """Save memory and disks as they are now, for `reset`; returns the seconds it took."""
        begin = time.monotonic()
        self._snapshot(f"savevm {SNAPSHOT}")
        seconds = time.monotonic() - begin
        change_record(self.directory, saved=True, save_seconds=round(seconds, 2))
        return seconds

    def reset(self) -> float:
        """Back to the state after `up`, memory and all; returns the seconds until it is ready.

        What was done to it from outside (throttled disk, pulled cable) is undone too. Its clock is set to now: the
        saved memory believes that no time has passed. Raises RunbookError when there is no saved state.
        """
        if not self.record.saved:
            raise RunbookError("its state was not saved", where=self.name, next=f"runbook lab-host up {self.name}")
        begin = time.monotonic()
        self.hang_up()
        self.undo_outside()
        self._snapshot(f"loadvm {SNAPSHOT}")
        with self.qmp() as qmp:
            qmp.execute("cont")
        self.set_clock()
        change_record(self.directory, faults=())
        return time.monotonic() - begin

    def set_clock(self, *, patience_seconds: float = 60.0) -> None:
        """Set the machine's clock to this one's."""
        end = time.monotonic() + patience_seconds
        while True:
            text = f"date -u -s @{time.time():.2f} >/dev/null"
            try:
                result = self._kept().run(Script(text, name="lab: clock", root=True), deadline_seconds=10)
                if not result.connected_seconds:  # else the time was old when it arrived
                    return
            except HostError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def undo_outside(self) -> None:
        """Full speed for the data disk, cables plugged in."""
        self.throttle()
        self.cable(plugged=True)
        if self.record.link:
            self.cable(plugged=True, card=LINK_CARD)

    def throttle(self, *, operations_per_second: int = 0, bytes_per_second: int = 0) -> None:
        """Slow the disk with the database down to this much; 0 means no limit."""
        with self.qmp() as qmp:
            qmp.execute(
                "block_set_io_throttle",
                device=DATA_DEVICE,
                bps=bytes_per_second,
                bps_rd=0,
                bps_wr=0,
                iops=operations_per_second,
                iops_rd=0,
                iops_wr=0,
            )

    def throttled(self) -> tuple[int, int]:
        """(operations, bytes) per second that qemu allows the data disk now; 0 for no limit."""
        with self.qmp() as qmp:
            for device in qmp.execute("query-block"):
                if device["device"] == DATA_DEVICE:
                    inserted = device["inserted"]
                    return int(inserted["iops"]), int(inserted["bps"])
        raise QmpError("qemu knows no data disk", where=self.name)

    def cable(self, *, plugged: bool, card: str = OPERATOR_CARD) -> None:
        """Plug in or pull the cable of a network card."""
        with self.qmp() as qmp:
            qmp.execute("set_link", name=card, up=plugged)

    def power_cut(self) -> None:
        """Cut the power now, and switch it on again: what was not on disk is lost. Does not wait for the boot."""
        self.hang_up()
        with self.qmp() as qmp:
            qmp.execute("system_reset")

    def end(self) -> bool:
        """Switch it off without asking it and remove its files. True when its process is proven gone."""
        self.hang_up()
        record = read_record(self.directory)
        gone = True
        # A record stands before qemu runs: who ends it in between finds the process in qemu's own file.
        process = (record.process if record else None) or _process_from_file(self.directory)
        if process is not None:
            gone = process.kill()
        if gone:
            shutil.rmtree(self.directory, ignore_errors=True)
        return gone

    def disk_bytes(self) -> int:
        """What its files really take here."""
        return sum(path.lstat().st_blocks * 512 for path in self.directory.iterdir())

    def _console(self) -> str:
        with contextlib.suppress(OSError):
            return (self.directory / "console.log").read_text(errors="replace").strip()[-600:] or "empty"
        return "not there"

    def _snapshot(self, command: str) -> None:
        with self.qmp(deadline_seconds=_SNAPSHOT_SECONDS) as qmp:
            said = qmp.monitor(command).strip()
        if said:
            raise QmpError(f"{command}: {said}", where=self.name)


@contextlib.contextmanager
def connected(machine: Machine) -> Iterator[SshHost]:
    """The machine as a host, closed at the end."""
    host = machine.host()
    try:
        yield host
    finally:
        host.close()


def write_ssh_files(machine: Machine, record: Record, identity: Path, host_public: str) -> None:
    """The files with which `ssh -F` and SshHost reach it with their ordinary checks; no key is taken on trust."""
    machine.known_hosts.write_text(f"{record.name} {' '.join(host_public.split()[:2])}\n", encoding="utf-8")
    machine.ssh_config.write_text(
        f"Host {record.name}\n"
        f"  HostName {LOOPBACK}\n"
        f"  Port {record.ports['ssh']}\n"
        f"  User {USER}\n"
        f"  HostKeyAlias {record.name}\n"
        f'  IdentityFile "{identity}"\n'
        f"  IdentitiesOnly yes\n"
        f"  IdentityAgent none\n"
        f'  UserKnownHostsFile "{machine.known_hosts}"\n'
        f"  GlobalKnownHostsFile none\n"
        f"  StrictHostKeyChecking yes\n",
        encoding="utf-8",
    )


def _process_from_file(directory: Path) -> ProcessId | None:
    """qemu's process when the record is lost: its number from its own file, believed only if it runs in `directory`."""
    try:
        pid = int((directory / "qemu.pid").read_text(encoding="ascii"))
        if Path(f"/proc/{pid}/cwd").readlink() != directory.resolve():
            return None
    except (OSError, ValueError):
        return None
    return process_id(pid)


def _log(directory: Path) -> str:
    with contextlib.suppress(OSError):
        return (directory / "qemu.log").read_text(errors="replace").strip()[-500:] or "it said nothing"
    return "it left no log"


def _words(result: Result) -> str:
    tail = (result.stderr or result.stdout).decode(errors="replace").strip()[-500:]
    return f"{tail or 'no words'} (exit status {result.exit_status}, signal {result.signal})"
