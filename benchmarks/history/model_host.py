"""A host whose numbers move like a busy database server's: what the collector's quick script brings from such a one.

Six partitions, two disks, two network interfaces; about 150 samples in a snapshot. Counters grow at a rate that
changes, gauges wander, four of the six partitions change with every snapshot, and what stands still on a real host
stands still.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np

from runbooks_lib.facts.samples import Sample

_MODES = ("idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user")
_MEMORY = [
    "MemFree",
    "MemAvailable",
    "Buffers",
    "Cached",
    "SwapCached",
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
    "Committed_AS",
]
_CONSTANTS = [
    "node_memory_MemTotal_bytes",
    "node_memory_SwapTotal_bytes",
    "node_memory_CommitLimit_bytes",
    "node_boot_time_seconds",
    "node_filefd_maximum",
    "node_nf_conntrack_entries_limit",
    "node_vmstat_oom_kill",
    "node_netstat_Tcp_InErrs",
    "node_netstat_TcpExt_ListenOverflows",
    "node_netstat_TcpExt_ListenDrops",
    "node_netstat_Udp_RcvbufErrors",
    "node_sockstat_TCP_orphan",
    "node_vmstat_pswpin",
    "node_vmstat_pswpout",
]
_COUNTERS = [
    "node_context_switches_total",
    "node_forks_total",
    "node_intr_total",
    "node_vmstat_pgfault",
    "node_vmstat_pgmajfault",
    "node_vmstat_pgpgin",
    "node_vmstat_pgpgout",
    "node_netstat_Tcp_ActiveOpens",
    "node_netstat_Tcp_PassiveOpens",
    "node_netstat_Tcp_InSegs",
    "node_netstat_Tcp_OutSegs",
    "node_netstat_Tcp_RetransSegs",
    "node_netstat_Tcp_OutRsts",
    "node_netstat_TcpExt_TCPTimeouts",
    "node_netstat_TcpExt_TCPSynRetrans",
    "node_netstat_Udp_InErrors",
    "node_netstat_Udp_NoPorts",
]
_GAUGES = [
    "node_procs_running",
    "node_procs_blocked",
    "node_netstat_Tcp_CurrEstab",
    "node_sockstat_sockets_used",
    "node_sockstat_TCP_inuse",
    "node_sockstat_TCP_tw",
    "node_sockstat_TCP_alloc",
    "node_sockstat_TCP_mem",
    "node_sockstat_TCP6_inuse",
    "node_sockstat_UDP_inuse",
    "node_filefd_allocated",
    "node_nf_conntrack_entries",
]
_PRESSURE = ("cpu_waiting", "memory_waiting", "memory_stalled", "io_waiting", "io_stalled")
_DISK = [
    "reads_completed_total",
    "read_bytes_total",
    "read_time_seconds_total",
    "writes_completed_total",
    "written_bytes_total",
    "write_time_seconds_total",
    "io_now",
    "io_time_seconds_total",
    "io_time_weighted_seconds_total",
]
_NETWORK = [f"{way}_{what}_total" for way in ("receive", "transmit") for what in ("bytes", "packets", "errs", "drop")]
_MOUNTPOINTS = ("/", "/boot", "/home", "/var", "/srv/db", "/srv/backup")

Place = tuple[str, dict[str, str]]


def snapshots(
    start: datetime, step: timedelta, count: int, *, seed: int = 0
) -> Iterator[tuple[datetime, list[Sample]]]:
    """So many snapshots of one host, `step` apart with the jitter of a second or two that a timer has."""
    random = np.random.default_rng(seed)
    places, kinds, units = _series()
    seconds = step.total_seconds()
    values = np.zeros(len(places))
    values[kinds == "constant"] = random.integers(0, 2**33, (kinds == "constant").sum())
    wander = random.uniform(0.2, 0.8, len(places))
    level = np.exp(random.normal(6, 2, len(places)))
    rate = np.exp(random.normal(4, 2, len(places)))
    size = np.array([20e9, 1e9, 200e9, 100e9, 800e9, 2e12])
    used = size * random.uniform(0.2, 0.6, len(size))
    inodes = np.round(size / 16384)
    inodes_used = np.round(used / 180e3)
    growth = np.array([2e5, 0, 1e6, 4e6, 2e7, 5e7]) * seconds / 300
    for index in range(count):
        rate *= np.exp(random.normal(0, 0.05, len(rate)))
        rate = np.clip(rate, 0.01, 1e6)
        day = 1 + 0.8 * np.sin(index * seconds / 86_400 * 2 * np.pi)
        counters = kinds == "counter"
        values[counters] += (rate * day * seconds * random.gamma(4, 0.25, len(rate)))[counters]
        wander = np.clip(wander + random.normal(0, 0.01, len(wander)), 0.02, 0.98)
        gauges = kinds == "gauge"
        values[gauges] = (wander * level * day)[gauges]
        used += growth * random.exponential(1, len(used)) * (random.random(len(used)) < 0.9)
        used = np.where(used > 0.9 * size, 0.5 * size, used)
        inodes_used += np.round(growth / 180e3 * random.exponential(1, len(used)))
        time = start + index * step + timedelta(seconds=float(random.integers(0, 3)))
        shown = np.floor(values / units) * units
        # As /proc prints them: hundredths and thousandths, not the binary noise of a product.
        shown = np.where(units < 1, np.round(shown, 3), shown)
        samples = [
            Sample(name, value, time, labels) for (name, labels), value in zip(places, shown.tolist(), strict=True)
        ]
        for number, mountpoint in enumerate(_MOUNTPOINTS):
            labels = {"device": f"/dev/mapper/vg-{number}", "fstype": "ext4", "mountpoint": mountpoint}
            free = float(size[number] - used[number] // 4096 * 4096)
            for name, value in (
                ("size_bytes", float(size[number])),
                ("free_bytes", free),
                ("avail_bytes", max(0.0, free - float(size[number]) * 0.05)),
                ("readonly", 0.0),
                ("files", float(inodes[number])),
                ("files_free", float(inodes[number] - inodes_used[number])),
            ):
                samples.append(Sample(f"node_filesystem_{name}", value, time, labels))
        yield time, samples


def _series() -> tuple[list[Place], np.ndarray, np.ndarray]:
    rows: list[tuple[str, dict[str, str], str, float]] = []
    rows += [("node_cpu_seconds_total", {"cpu": "all", "mode": mode}, "counter", 0.01) for mode in _MODES]
    rows += [(f"node_memory_{name}_bytes", {}, "gauge", 4096) for name in _MEMORY]
    rows += [(name, {}, "constant", 1) for name in _CONSTANTS]
    rows += [(name, {}, "counter", 1) for name in _COUNTERS]
    rows += [(name, {}, "gauge", 1) for name in _GAUGES]
    rows += [(f"node_load{minutes}", {}, "gauge", 0.01) for minutes in (1, 5, 15)]
    rows += [(f"node_pressure_{name}_seconds_total", {}, "counter", 1e-6) for name in _PRESSURE]
    for disk in ("sda", "nvme0n1"):
        rows += [
            (
                f"node_disk_{name}",
                {"device": disk},
                "counter" if name != "io_now" else "gauge",
                0.001 if "seconds" in name else 512 if "bytes" in name else 1,
            )
            for name in _DISK
        ]
    for interface in ("eth0", "lo"):
        rows += [
            (
                f"node_network_{name}",
                {"device": interface},
                "constant" if "errs" in name or "drop" in name else "counter",
                1,
            )
            for name in _NETWORK
        ]
    return [(row[0], row[1]) for row in rows], np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
