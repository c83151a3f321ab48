"""Which samples of a snapshot are kept, under node_exporter's names, labels and units.

Kept, about 130 for a host with one disk, one card and three file systems; a name that is not here is not kept:

- cpu: seconds per mode, all CPUs added up and labelled `cpu="all"`, a value that node_exporter never gives, so that
  `sum by (mode)` over either gives the same and nobody takes it for one CPU. Guests are inside user, as there.
- file systems: six figures each. Left out: pseudo file systems, tmpfs and overlay (unless they are `/`), squashfs,
iso9660, erofs, further mounts of one file system, and file systems without figures. A dead mount gives no sample at
all.
- disks: whole disks, device-mapper and md; no partitions, loop, ram, optical. Cards: all but lo and containers' pairs
  (veth, cali, lxc, tap), docker0, virbr and ifb.
- memory, paging, pressure, protocols, sockets, files, connections: the names below.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runbooks_lib.facts.cpu import STATES
from runbooks_lib.facts.disk_io import is_whole_disk
from runbooks_lib.facts.filesystems import Filesystem
from runbooks_lib.facts.samples import Sample

if TYPE_CHECKING:
    from runbooks_lib.facts.snapshot import Snapshot

_MODES = tuple((state, {"cpu": "all", "mode": state}) for state in STATES)
MEMORY_FIELDS = (
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Buffers",
    "Cached",
    "SwapCached",
    "SwapTotal",
    "SwapFree",
    "Dirty",
    "Writeback",
    "AnonPages",
    "Mapped",
    "Shmem",
    "SReclaimable",
    "SUnreclaim",
    "KernelStack",
    "PageTables",
    "CommitLimit",
    "Committed_AS",
)
_MEMORY = tuple((field, f"node_memory_{field}_bytes") for field in MEMORY_FIELDS)
_HUGE = (("HugePages_Total", "node_memory_HugePages_Total"), ("HugePages_Free", "node_memory_HugePages_Free"))
_VMSTAT = tuple(
    (name, f"node_vmstat_{name}")
    for name in ("pgfault", "pgmajfault", "pgpgin", "pgpgout", "pswpin", "pswpout", "oom_kill")
)
_NETSTAT = tuple(
    (name, f"node_netstat_{name}")
    for name in (
        "Tcp_ActiveOpens",
        "Tcp_PassiveOpens",
        "Tcp_CurrEstab",
        "Tcp_InSegs",
        "Tcp_OutSegs",
        "Tcp_RetransSegs",
        "Tcp_InErrs",
        "Tcp_OutRsts",
        "TcpExt_ListenOverflows",
        "TcpExt_ListenDrops",
        "TcpExt_TCPTimeouts",
        "TcpExt_TCPSynRetrans",
        "Udp_InErrors",
        "Udp_RcvbufErrors",
        "Udp_NoPorts",
    )
)
_SOCKSTAT = tuple(
    (name, f"node_sockstat_{name}")
    for name in ("sockets_used", "TCP_inuse", "TCP_orphan", "TCP_tw", "TCP_alloc", "TCP_mem", "TCP6_inuse", "UDP_inuse")
)
_DISK = (
    ("reads", "node_disk_reads_completed_total"),
    ("read_bytes", "node_disk_read_bytes_total"),
    ("read_seconds", "node_disk_read_time_seconds_total"),
    ("writes", "node_disk_writes_completed_total"),
    ("written_bytes", "node_disk_written_bytes_total"),
    ("write_seconds", "node_disk_write_time_seconds_total"),
    ("in_flight", "node_disk_io_now"),
    ("busy_seconds", "node_disk_io_time_seconds_total"),
    ("weighted_seconds", "node_disk_io_time_weighted_seconds_total"),
)
_NETWORK = (
    ("receive_bytes", "node_network_receive_bytes_total"),
    ("receive_packets", "node_network_receive_packets_total"),
    ("receive_errors", "node_network_receive_errs_total"),
    ("receive_dropped", "node_network_receive_drop_total"),
    ("transmit_bytes", "node_network_transmit_bytes_total"),
    ("transmit_packets", "node_network_transmit_packets_total"),
    ("transmit_errors", "node_network_transmit_errs_total"),
    ("transmit_dropped", "node_network_transmit_drop_total"),
)
_PRESSURE = (
    ("cpu", "some", "node_pressure_cpu_waiting_seconds_total"),
    ("memory", "some", "node_pressure_memory_waiting_seconds_total"),
    ("memory", "full", "node_pressure_memory_stalled_seconds_total"),
    ("io", "some", "node_pressure_io_waiting_seconds_total"),
    ("io", "full", "node_pressure_io_stalled_seconds_total"),
)
_UNKEPT_TYPES = frozenset({"tmpfs", "overlay", "squashfs", "iso9660", "erofs", "udf", "ramfs", "fuse.fuse-overlayfs"})
_UNKEPT_INTERFACES = re.compile(r"(?:lo|docker[0-9]+|ifb[0-9]+|virbr[0-9]+.*|veth.*|cali.*|lxc.*|tap.*)\Z")


def keeps_filesystem(filesystem: Filesystem) -> bool:
    """True when the file system's figures go into the history."""
    return (
        filesystem.usage is not None
        and filesystem.usage.size_bytes > 0
        and (filesystem.mountpoint == "/" or filesystem.fstype not in _UNKEPT_TYPES)
    )


def samples(snapshot: Snapshot) -> list[Sample]:
    """The samples of one snapshot, all at its time. Facts that are not available give none."""
    time = snapshot.time
    rows: list[Sample] = []
    none: dict[str, str] = {}

    def add(name: str, value: float) -> None:
        rows.append(Sample(name, value, time, none))

    if (cpu := snapshot.cpu.value) is not None:
        total = cpu.total
        rows += [Sample("node_cpu_seconds_total", getattr(total, state), time, labels) for state, labels in _MODES]
        add("node_boot_time_seconds", cpu.boot_seconds)
        add("node_context_switches_total", cpu.context_switches)
        add("node_forks_total", cpu.forks)
        add("node_intr_total", cpu.interrupts)
        add("node_procs_running", cpu.running)
        add("node_procs_blocked", cpu.blocked)
    if (clock := snapshot.clock.value) is not None:
        add("node_time_seconds", clock.host_seconds)
    if (load := snapshot.load.value) is not None:
        add("node_load1", load.one)
        add("node_load5", load.five)
        add("node_load15", load.fifteen)
    if (memory := snapshot.memory.value) is not None:
        fields = memory.fields
        rows += [Sample(name, fields[field], time, none) for field, name in _MEMORY if field in fields]
        if fields.get("HugePages_Total"):
            rows += [Sample(name, fields[field], time, none) for field, name in _HUGE if field in fields]
    if (paging := snapshot.paging.value) is not None:
        counters = paging.counters
        rows += [Sample(name, counters[field], time, none) for field, name in _VMSTAT if field in counters]
    for resource, kind, name in _PRESSURE:
        if (pressure := snapshot.pressure[resource].value) is not None:
            stall = pressure.some if kind == "some" else pressure.full
            if stall is not None:
                add(name, stall.total_seconds)
    if (places := snapshot.filesystems.value) is not None:
        for place in places.rows:
            if keeps_filesystem(place):
                rows += _filesystem(place, snapshot)
    if (disks := snapshot.disk_io.value) is not None:
        for device, disk in disks.items():
            if is_whole_disk(device):
                labels = {"device": device}
                rows += [Sample(name, getattr(disk, field), time, labels) for field, name in _DISK]
    if (cards := snapshot.network.value) is not None:
        for device, card in cards.items():
            if _UNKEPT_INTERFACES.match(device) is None:
                labels = {"device": device}
                rows += [Sample(name, getattr(card, field), time, labels) for field, name in _NETWORK]
    if (protocols := snapshot.protocols.value) is not None:
        counters = protocols.counters
        rows += [Sample(name, counters[field], time, none) for field, name in _NETSTAT if field in counters]
    if (sockets := snapshot.sockets.value) is not None:
        counts = sockets.counts
        rows += [Sample(name, counts[field], time, none) for field, name in _SOCKSTAT if field in counts]
    if (limits := snapshot.limits.value) is not None:
        add("node_filefd_allocated", limits.files_open)
        add("node_filefd_maximum", limits.files_limit)
        if limits.connections is not None and limits.connections_limit is not None:
            add("node_nf_conntrack_entries", limits.connections)
            add("node_nf_conntrack_entries_limit", limits.connections_limit)
    if (failed := snapshot.failed_units.value) is not None:
        rows.append(Sample("node_systemd_units", len(failed), time, {"state": "failed"}))
    if (errors := snapshot.error_counts.value) is not None:
        for metric, counts in (
            ("node_edac_correctable_errors_total", errors.memory_corrected),
            ("node_edac_uncorrectable_errors_total", errors.memory_uncorrected),
        ):
            rows += [
                Sample(metric, count, time, {"controller": name.removeprefix("mc")}) for name, count in counts.items()
            ]
    return rows


def _filesystem(place: Filesystem, snapshot: Snapshot) -> list[Sample]:
    usage, time = place.usage, snapshot.time
    assert usage is not None  # noqa: S101 - keeps_filesystem has looked
    labels = {"device": place.device, "fstype": place.fstype, "mountpoint": place.mountpoint}
    rows = [
        Sample("node_filesystem_size_bytes", usage.size_bytes, time, labels),
        Sample("node_filesystem_free_bytes", usage.free_bytes, time, labels),
        Sample("node_filesystem_avail_bytes", usage.avail_bytes, time, labels),
        Sample("node_filesystem_readonly", float(place.read_only), time, labels),
    ]
    if usage.files is not None and usage.files_free is not None:
        rows.append(Sample("node_filesystem_files", usage.files, time, labels))
        rows.append(Sample("node_filesystem_files_free", usage.files_free, time, labels))
    return rows
