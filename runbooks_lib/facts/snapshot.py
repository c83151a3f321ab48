"""All quick facts of a host at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from runbooks_lib.facts import (
    blocks,
    clock,
    cpu,
    disk_io,
    filesystems,
    identity,
    kernel_log,
    limits,
    load,
    memory,
    metrics,
    mounts,
    network,
    postgres,
    pressure,
    processes,
    rates,
    tcp,
    units,
)
from runbooks_lib.facts.answer import Answer, parse_answer
from runbooks_lib.facts.blocks import BlockDevice
from runbooks_lib.facts.clock import Clock
from runbooks_lib.facts.cpu import Cpu
from runbooks_lib.facts.disk_io import DiskCounters
from runbooks_lib.facts.fact import Damaged, Fact, State, absent, attempt, available
from runbooks_lib.facts.filesystems import Filesystems
from runbooks_lib.facts.identity import Identity
from runbooks_lib.facts.kernel_log import ErrorCounts, KernelLog
from runbooks_lib.facts.limits import Limits
from runbooks_lib.facts.load import Load
from runbooks_lib.facts.memory import Memory, Paging, SwapArea
from runbooks_lib.facts.network import Interface, InterfaceCounters
from runbooks_lib.facts.postgres import PostgresServer
from runbooks_lib.facts.pressure import Pressure
from runbooks_lib.facts.processes import Processes
from runbooks_lib.facts.rates import Counters, Rates
from runbooks_lib.facts.rates import rates as rates_between
from runbooks_lib.facts.samples import Sample
from runbooks_lib.facts.tcp import Protocols, Sockets
from runbooks_lib.facts.units import FailedUnit

_LVM = "LVM-"


@dataclass(frozen=True)
class Snapshot:
    """What one quick answer says. Every fact is a value or the reason why there is none.

    `time` (UTC, the operator's clock) is when the counters were read first; `seconds_taken` the whole call's duration.
    """

    host: str
    time: datetime
    script_sha256: str
    seconds_taken: float
    identity: Fact[Identity]
    clock: Fact[Clock]
    cpu: Fact[Cpu]
    load: Fact[Load]
    memory: Fact[Memory]
    swaps: Fact[tuple[SwapArea, ...]]
    paging: Fact[Paging]
    pressure: Mapping[str, Fact[Pressure]]  # cpu, memory, io
    filesystems: Fact[Filesystems]
    block_devices: Fact[tuple[BlockDevice, ...]]
    disk_io: Fact[Mapping[str, DiskCounters]]
    lvm: Fact[object]  # never available here: names the state, and the slow script that can tell
    interfaces: Fact[tuple[Interface, ...]]
    network: Fact[Mapping[str, InterfaceCounters]]
    protocols: Fact[Protocols]
    sockets: Fact[Sockets]
    limits: Fact[Limits]
    processes: Fact[Processes]
    failed_units: Fact[tuple[FailedUnit, ...]]
    kernel_log: Fact[KernelLog]
    error_counts: Fact[ErrorCounts]
    postgres: Fact[tuple[PostgresServer, ...]]
    rates: Fact[Rates]
    boot_id: str
    uptime_seconds: float

    def facts(self) -> dict[str, Fact[object]]:
        """Every fact by name, the three pressures as `pressure cpu` and so on."""
        found: dict[str, Fact[object]] = {
            name: value for name, value in vars(self).items() if isinstance(value, Fact)
        } | {f"pressure {name}": value for name, value in self.pressure.items()}
        return found

    def counters(self) -> Counters:
        """What `rates.rates` compares with another snapshot of the same boot."""
        known = {name: fact.value for name, fact in self.pressure.items() if fact.value is not None}
        return Counters(
            self.boot_id,
            self.uptime_seconds,
            self.cpu.value,
            self.disk_io.value,
            self.network.value,
            self.protocols.value,
            self.paging.value,
            known,
        )

    def rates_since(self, before: Snapshot) -> Fact[Rates]:
        """The rates between an earlier snapshot and this one; absent when the host was booted meanwhile."""
        if before.host != self.host:
            return absent(f"{before.host} and {self.host} are two hosts")
        return rates_between(before.counters(), self.counters())

    def samples(self) -> list[Sample]:
        """The samples that the history keeps, in node_exporter's names, labels and units; see `metrics`."""
        return metrics.samples(self)


def parse_snapshot(
    host: str,
    stdout: bytes,
    nonce: str,
    *,
    started: datetime,
    duration_seconds: float,
    connected_seconds: float = 0.0,
    script_sha256: str = "",
) -> Snapshot:
    """A quick answer as facts. `started`, `connected_seconds` and `duration_seconds` are the operator's stamps of
    the call.

    Raises answer.Incomplete when the answer is not whole. Whatever a section holds, it becomes a state and never an
    exception."""
    answer = parse_answer(stdout, nonce)
    sections = answer.sections
    sent = started.timestamp() + connected_seconds
    received = started.timestamp() + duration_seconds
    uptime = attempt(identity.parse_uptime, sections.get("/proc/uptime", ""))
    boot_id = attempt(identity.parse_boot_id, sections.get("/proc/sys/kernel/random/boot_id", ""))
    begin, end = sections.get("clock", ""), sections.get("clock-end", "")
    cpu_fact = answer.fact(cpu.parse, "/proc/stat")
    disks = answer.fact(disk_io.parse, "/proc/diskstats")
    cards = answer.fact(network.parse, "/proc/net/dev")
    protocols = answer.fact(tcp.parse, "/proc/net/snmp", "/proc/net/netstat")
    paging = answer.fact(memory.parse_vmstat, "/proc/vmstat")
    stalls = {name: answer.fact(pressure.parse, f"/proc/pressure/{name}") for name in ("cpu", "memory", "io")}
    errors = _error_counts(sections)
    table = answer.fact(mounts.parse, "mountinfo")
    devices = answer.fact(
        lambda partitions, tree: blocks.parse(partitions, tree, sections), "/proc/partitions", "block-tree"
    )
    places = _filesystems(answer, table, errors, devices)
    snapshot = Snapshot(
        host=host,
        time=_time_of_reading(sent, received, uptime.value, end),
        script_sha256=script_sha256,
        seconds_taken=duration_seconds,
        identity=_identity(answer),
        clock=attempt(lambda b, e: clock.parse(b, e, sent, received), begin, end),
        cpu=cpu_fact,
        load=answer.fact(load.parse, "/proc/loadavg"),
        memory=answer.fact(memory.parse, "/proc/meminfo"),
        swaps=answer.fact(memory.parse_swaps, "/proc/swaps"),
        paging=paging,
        pressure=stalls,
        filesystems=places,
        block_devices=devices,
        disk_io=disks,
        lvm=_lvm(devices),
        interfaces=answer.fact(network.parse_interfaces, "interfaces"),
        network=cards,
        protocols=protocols,
        sockets=answer.fact(
            lambda four: tcp.parse_sockstat(four, sections.get("/proc/net/sockstat6", "")), "/proc/net/sockstat"
        ),
        limits=answer.fact(
            lambda files: limits.parse(
                files,
                sections.get("/proc/sys/net/netfilter/nf_conntrack_count", ""),
                sections.get("/proc/sys/net/netfilter/nf_conntrack_max", ""),
            ),
            "/proc/sys/fs/file-nr",
        ),
        processes=_processes(answer, begin, table),
        failed_units=_units(answer),
        kernel_log=_kernel_log(answer),
        error_counts=errors,
        postgres=_postgres(answer, places),
        rates=absent("one reading only: no second sample was asked for"),
        boot_id=boot_id.value or "",
        uptime_seconds=uptime.value or 0.0,
    )
    if "2:/proc/stat" in sections:
        second = rates.Counters(
            snapshot.boot_id,
            attempt(identity.parse_uptime, sections.get("2:/proc/uptime", "")).value or 0.0,
            answer.fact(cpu.parse, "2:/proc/stat").value,
            answer.fact(disk_io.parse, "2:/proc/diskstats").value,
            answer.fact(network.parse, "2:/proc/net/dev").value,
            answer.fact(tcp.parse, "2:/proc/net/snmp", "2:/proc/net/netstat").value,
            answer.fact(memory.parse_vmstat, "2:/proc/vmstat").value,
            {
                name: value
                for name in ("cpu", "memory", "io")
                if (value := answer.fact(pressure.parse, f"2:/proc/pressure/{name}").value) is not None
            },
        )
        return replace(snapshot, rates=rates.rates(snapshot.counters(), second))
    return snapshot


def _time_of_reading(sent: float, received: float, uptime: float | None, end: str) -> datetime:
    """The operator's time of the first reading: back from the end by the host's uptime that has passed, within half a
    round trip."""
    last = attempt(identity.parse_uptime, end.removeprefix("uptime ").strip() + " 0").value
    back = last - uptime if last is not None and uptime is not None else 0.0
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=min(max(received - back, sent), received))


def _identity(answer: Answer) -> Fact[identity.Identity]:
    sections = answer.sections

    def parse(hostname: str, kernel: str, boot_id: str, uptime: str, stat: str) -> identity.Identity:
        return identity.parse(
            hostname,
            kernel,
            boot_id,
            uptime,
            stat,
            machine_id=sections.get("/etc/machine-id", ""),
            os_release=sections.get("/etc/os-release", ""),
            architecture=sections.get("/proc/sys/kernel/arch", ""),
            vendor=sections.get("/sys/class/dmi/id/sys_vendor", ""),
            product=sections.get("/sys/class/dmi/id/product_name", ""),
        )

    return answer.fact(
        parse,
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/osrelease",
        "/proc/sys/kernel/random/boot_id",
        "/proc/uptime",
        "/proc/stat",
    )


def _filesystems(
    answer: Answer,
    table: Fact[mounts.MountTable],
    errors: Fact[kernel_log.ErrorCounts],
    devices: Fact[tuple[blocks.BlockDevice, ...]],
) -> Fact[filesystems.Filesystems]:
    if table.value is None:
        return Fact(table.state, None, table.detail)
    sections, by_id = answer.sections, {mount.id: mount.mountpoint for mount in table.value.mounts}
    failed = ""
    figures: Mapping[str, filesystems.Usage | Damaged] = {}
    try:
        names = [by_id.get(mount) for mount in filesystems.parse_ids(sections.get("statfs-ids", ""))]
        if names.count(None) > table.value.damaged:
            raise Damaged("it has mounts that are not in the table")
        probes = filesystems.parse_probes(sections.get("probes", ""))
        unread = filesystems.parse_read_errors(sections.get("read-errors", ""))
    except Damaged as error:
        return Fact(State.UNREADABLE, None, f"the list of mounts that were asked is damaged: {error}")
    try:
        if "df-kib" in sections:
            figures = filesystems.parse_df(
                sections["df-kib"], sections.get("df-inodes", ""), [name for name in names if name]
            )
        figures = dict(figures) | filesystems.parse_statfs(sections.get("statfs", ""), names)
    except Damaged as error:
        figures, failed = {}, f"the figures are damaged: {error}"
    try:
        fstab = mounts.parse_fstab(sections.get("/etc/fstab", ""))
        found = filesystems.assemble(table.value, figures, probes, fstab, failed=failed, read_errors=unread)
    except (ValueError, LookupError) as error:
        return Fact(State.UNREADABLE, None, str(error))
    if errors.value is not None:
        kernel_names = {device.device_number: device.name for device in devices.value or ()}
        found = filesystems.with_errors(found, errors.value.ext4, kernel_names)
    detail = [f"{found.left_out} mounts were left out"] if found.left_out else []
    if table.value.damaged:
        detail.append(f"lines of mountinfo that are not in the kernel's format: {table.value.damaged}")
    return available(found, "; ".join(detail))


def _error_counts(sections: Mapping[str, str]) -> Fact[kernel_log.ErrorCounts]:
    files = {
        path: text for path, text in sections.items() if path.endswith(("/errors_count", "/ce_count", "/ue_count"))
    }
    if not files:
        return absent("no ext4 file system and no memory controller that counts errors")
    return attempt(lambda: kernel_log.parse_error_counts(files))


def _lvm(devices: Fact[tuple[blocks.BlockDevice, ...]]) -> Fact[object]:
    if devices.value is None:
        return Fact(devices.state, None, devices.detail)
    volumes = [device.mapper_name for device in devices.value if device.mapper_uuid.startswith(_LVM)]
    if not volumes:
        return absent("no active logical volume; only root can see inactive ones")
    return Fact(
        State.NOT_ALLOWED,
        None,
        f"{len(volumes)} active volumes; groups and pools need root: ask the slow script for lvm",
    )


def _processes(answer: Answer, begin: str, table: Fact[mounts.MountTable]) -> Fact[processes.Processes]:
    page = next((line[9:] for line in begin.splitlines() if line.startswith("page_kib ")), "")
    page_bytes = int(page) * 1024 if page in ("4", "8", "16", "64", "256") else None
    fact = answer.fact(lambda text: processes.parse(text, page_bytes), "processes")
    if fact.value is not None and fact.value.total == 0:
        return Fact(State.UNREADABLE, None, "no process was seen")
    if fact.value is not None and table.value is not None and table.value.hidepid:
        return replace(
            fact, detail="/proc is mounted with hidepid: without root only the user's own processes are seen"
        )
    return fact


def _units(answer: Answer) -> Fact[tuple[units.FailedUnit, ...]]:
    text = answer.sections.get("units")
    if text is None:
        return absent("systemd does not run here")
    try:
        return available(units.parse(text))
    except units.UnitsUnanswered as error:
        return Fact(State.TIMED_OUT, None, str(error))
    except Damaged as error:
        return Fact(State.UNREADABLE, None, str(error))


def _kernel_log(answer: Answer) -> Fact[kernel_log.KernelLog]:
    if "dmesg" in answer.sections:
        return answer.fact(kernel_log.parse, "dmesg")
    return Fact(
        State.NOT_ALLOWED,
        None,
        "kernel.dmesg_restrict keeps it from ordinary users: ask the slow script for kernel-log",
    )


def _postgres(answer: Answer, places: Fact[filesystems.Filesystems]) -> Fact[tuple[postgres.PostgresServer, ...]]:
    fact = answer.fact(lambda text: postgres.parse_servers(text, answer.sections), "postgres")
    if fact.value is None:
        return fact
    if not fact.value:
        return absent("no PostgreSQL server runs here, or this user does not see it")

    def mount_of(server: postgres.PostgresServer, path: str) -> str:
        found = places.value.holding(path) if path and places.value is not None and not server.contained else None
        return found.mountpoint if found is not None else ""

    return available(
        tuple(
            replace(
                server,
                mountpoint=mount_of(server, server.resolved_directory),
                wal_mountpoint=mount_of(server, server.wal_directory),
            )
            for server in fact.value
        )
    )
