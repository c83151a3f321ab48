"""A host's own past: the archives of sysstat (sar), read over the Host with `sadf`.

What sysstat keeps as rates becomes counters again, each archive's beginning at zero, so that a rate over them is what
sysstat measured and importing again changes nothing. Its file systems are kept in whole MiB, and only where its
collector runs with `-S XDISK`; what is available to users comes from a percentage with two digits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from runbooks_lib.history import names, writing
from runbooks_lib.history.model import AVAIL_BYTES, FILES, FILES_FREE, FREE_BYTES, SIZE_BYTES, HistoryError
from runbooks_lib.history.sqlite import SqliteHistory
from runbooks_lib.hosts.host import Host, Script

LIST = Script(
    name="sysstat archives",
    text=r"""LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/bin:/bin
command -v sadf >/dev/null 2>&1 || { echo 'no sadf'; exit 0; }
echo "sadf $(sadf -V 2>&1 | sed -n 's/^sysstat version //p')"
{
  echo /var/log/sysstat
  echo /var/log/sa
  sed -n 's/^SA_DIR=["'\'']\{0,1\}\(\/[^"'\'']*\).*/\1/p' /etc/sysstat/sysstat /etc/sysconfig/sysstat 2>/dev/null
} | sort -u | while IFS= read -r directory; do
  if [ -d "$directory" ] && ! [ -r "$directory" ]; then printf 'denied %s\n' "$directory"; fi
  for file in "$directory"/sa[0-9]* "$directory"/[0-9]*/sa[0-9]*; do
    [ -f "$file" ] || continue
    case $file in
      *.xz|*.gz|*.bz2|*.zst|*.lz4|*.Z) printf 'packed %s\n' "$file" ;;
      *) if [ -r "$file" ]; then printf 'archive %s\n' "$file"; else printf 'denied %s\n' "$file"; fi ;;
    esac
  done
done
""",
)

# The archive's path is the script's input, so that it is never quoted and the script's digest stays the same.
READ = Script(
    name="sysstat archive",
    text=r"""LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/bin:/bin
IFS= read -r file
exec sadf -j "$file" -- -u -r ALL -S -q LOAD -d -n DEV -F MOUNT
""",
)
# sysstat before 11.1 knows no `-F MOUNT` and before 12.3 no `-q LOAD`; then the plain form, which has no mount points.
READ_PLAIN = Script(
    name="sysstat archive, old",
    text=r"""LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/bin:/bin
IFS= read -r file
exec sadf -j "$file" -- -u -r -S -q -d -n DEV
""",
)

_DEADLINE_SECONDS = 120.0
_LIMIT_BYTES = 256 * 1024 * 1024
_MIB = 1024.0 * 1024.0

_MEMORY = {
    "memfree": "MemFree",
    "avail": "MemAvailable",
    "buffers": "Buffers",
    "cached": "Cached",
    "active": "Active",
    "inactive": "Inactive",
    "dirty": "Dirty",
    "anonpg": "AnonPages",
    "slab": "Slab",
    "kstack": "KernelStack",
    "pgtbl": "PageTables",
    "swpfree": "SwapFree",
}
_QUEUE = {
    "ldavg-1": "node_load1",
    "ldavg-5": "node_load5",
    "ldavg-15": "node_load15",
    "runq-sz": "node_procs_running",
    "blocked": "node_procs_blocked",
}
_MODES = ("user", "nice", "system", "iowait", "steal", "idle")

_Row = tuple[str, str, int, float]


@dataclass(frozen=True)
class SysstatImport:
    """What came of a host's archives: `imported` (None when they held nothing), how many were read, which were not and
    why, and whether they keep file systems at all."""

    host: str
    imported: writing.Imported | None
    archives: int
    skipped: tuple[tuple[str, str], ...]
    has_filesystems: bool

    @property
    def advice(self) -> str:
        """What to do for more next time; empty when nothing is missing."""
        if self.has_filesystems:
            return ""
        return (
            f"{self.host} keeps no file systems in its archives: add `-S XDISK` to SADC_OPTIONS in /etc/sysstat/sysstat"
            " there (Red Hat: /etc/sysconfig/sysstat) and it will from then on"
        )


def import_sysstat(
    history: SqliteHistory, host: Host, *, instance: str | None = None, now: datetime | None = None
) -> SysstatImport:
    """Read every archive of the host and keep it under `instance` (the host's name); again is harmless.

    An archive that cannot be read is told in `skipped`; each of the others is kept whole. Raises HistoryError when the
    host has no sysstat or no archive, HostError when the host does not answer.
    """
    name = instance or host.name
    archives, skipped = _archives(host)
    rows: list[_Row] = []
    read = 0
    has_filesystems = False
    for archive in archives:
        try:
            found = _read(host, archive)
        except HistoryError as error:
            skipped.append((archive, error.what))
            continue
        read += 1
        has_filesystems |= any(text.startswith(SIZE_BYTES) for text, _, _ in found)
        rows += [(name, text, time, value) for text, time, value in found]
    imported = (
        history.import_arrays(writing.arrays_of(rows), origin=f"imported from sysstat on {host.name}", now=now)
        if rows
        else None
    )
    return SysstatImport(host.name, imported, read, tuple(skipped), has_filesystems)


def _archives(host: Host) -> tuple[list[str], list[tuple[str, str]]]:
    result = host.run(LIST, deadline_seconds=_DEADLINE_SECONDS)
    lines = result.stdout.decode("utf-8", "surrogateescape").splitlines()
    if "no sadf" in lines or not any(line.startswith("sadf") for line in lines):
        raise HistoryError(
            "sysstat is not installed there",
            where=host.name,
            true_now="nothing was imported",
            next="with the package sysstat, collecting switched on, a past begins; or import a CSV",
        )
    archives = [line.removeprefix("archive ") for line in lines if line.startswith("archive ")]
    skipped = [
        (
            line.partition(" ")[2],
            "not allowed to read it" if line.startswith("denied ") else "compressed; unpack it there",
        )
        for line in lines
        if line.startswith(("denied ", "packed "))
    ]
    if not archives and not skipped:
        raise HistoryError(
            "sysstat is installed there, but has kept nothing",
            where=host.name,
            true_now="nothing was imported",
            next='set ENABLED="true" in /etc/default/sysstat there, or start sysstat.service',
        )
    return archives, skipped


def _read(host: Host, archive: str) -> list[tuple[str, int, float]]:
    given = archive.encode("utf-8", "surrogateescape") + b"\n"
    for script in (READ, READ_PLAIN):
        result = host.run(script, input=given, deadline_seconds=_DEADLINE_SECONDS, output_limit_bytes=_LIMIT_BYTES)
        if result.ok:
            return list(parse(result.stdout))
    reason = result.stderr.decode("utf-8", "replace").strip().splitlines() or ["sadf said nothing"]
    raise HistoryError(reason[0][:300], where=host.name)


def parse(answer: bytes) -> Iterator[tuple[str, int, float]]:
    """The (key, time, value) of everything that one answer of `sadf -j` holds, under node_exporter's names.

    Raises HistoryError when it is not such an answer.
    """
    try:
        # Not strict: sadf writes a newline in a mount point's name as it is.
        hosts = json.loads(answer.decode("utf-8", "surrogateescape"), strict=False)["sysstat"]["hosts"]
        found: list[tuple[str, int, float]] = []
        for host in hosts:
            counters: dict[str, float] = {}
            cpus = int(host["number-of-cpus"])
            for record in host.get("statistics", []):
                # The record that is written when the collector starts has measured nothing.
                if not record or record["timestamp"].get("interval", 0) <= 0:
                    continue
                time, interval = _time(record["timestamp"]), float(record["timestamp"]["interval"])
                found += [(names.key(name, labels), time, value) for name, labels, value in _gauges(record)]
                for name, labels, amount in _rates(record, interval, cpus):
                    text = names.key(name, labels)
                    counters[text] = counters.get(text, 0.0) + amount
                    found.append((text, time, round(counters[text], 4)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HistoryError(f"the answer of sadf is not understood ({type(error).__name__}: {error})") from error
    yield from found


_Number = tuple[str, dict[str, str], float]


def _gauges(record: dict[str, Any]) -> Iterator[_Number]:
    memory = record.get("memory", {})
    for field, name in _MEMORY.items():
        if field in memory:
            yield f"node_memory_{name}_bytes", {}, memory[field] * 1024.0
    if "swpfree" in memory and "swpused" in memory:
        yield "node_memory_SwapTotal_bytes", {}, (memory["swpfree"] + memory["swpused"]) * 1024.0
    for field, name in _QUEUE.items():
        if field in record.get("queue", {}):
            yield name, {}, float(record["queue"][field])
    for one in record.get("filesystems", []):
        if "mountpoint" in one:
            yield from _filesystem(one)


def _filesystem(one: dict[str, Any]) -> Iterator[_Number]:
    labels = {"device": "", "fstype": "", "mountpoint": str(one["mountpoint"])}
    size = (one["MBfsfree"] + one["MBfsused"]) * _MIB
    yield SIZE_BYTES, labels, size
    yield FREE_BYTES, labels, one["MBfsfree"] * _MIB
    unprivileged = one.get("%ufsused", one.get("ufsused-percent"))
    if unprivileged is not None:
        # sysstat: (f_blocks - f_bavail) / f_blocks; never more than what is free.
        yield AVAIL_BYTES, labels, min(round(size * (1 - unprivileged / 100)), one["MBfsfree"] * _MIB)
    if one["Ifree"] + one["Iused"] > 0:  # btrfs and vfat have no inodes to count
        yield FILES, labels, float(one["Ifree"] + one["Iused"])
        yield FILES_FREE, labels, float(one["Ifree"])


def _rates(record: dict[str, Any], interval: float, cpus: int) -> Iterator[_Number]:
    """What came in addition during the interval."""
    for one in record.get("cpu-load", []):
        if one["cpu"] == "all":
            for mode in _MODES:
                if mode in one:
                    labels = {"cpu": "all", "mode": mode}
                    yield "node_cpu_seconds_total", labels, one[mode] / 100 * interval * cpus
    for one in record.get("disk", []):
        labels = {"device": str(one["disk-device"])}
        read = one["rkB"] * 1024 if "rkB" in one else one["rd_sec"] * 512
        written = one["wkB"] * 1024 if "wkB" in one else one["wr_sec"] * 512
        yield "node_disk_read_bytes_total", labels, read * interval
        yield "node_disk_written_bytes_total", labels, written * interval
        yield "node_disk_io_time_seconds_total", labels, one["util-percent"] / 100 * interval
        queue = one.get("aqu-sz", one.get("avgqu-sz"))
        if queue is not None:
            yield "node_disk_io_time_weighted_seconds_total", labels, queue * interval
    for one in record.get("network", {}).get("net-dev", []):
        labels = {"device": str(one["iface"])}
        yield "node_network_receive_bytes_total", labels, one["rxkB"] * 1024 * interval
        yield "node_network_transmit_bytes_total", labels, one["txkB"] * 1024 * interval
        yield "node_network_receive_packets_total", labels, one["rxpck"] * interval
        yield "node_network_transmit_packets_total", labels, one["txpck"] * interval


def _time(stamp: dict[str, Any]) -> int:
    if not stamp.get("utc"):
        raise ValueError("its times are not in UTC")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", str(stamp["date"])):
        raise ValueError(f"an unknown date, {stamp['date']!r}")
    return int(datetime.fromisoformat(f"{stamp['date']}T{stamp['time']}").replace(tzinfo=UTC).timestamp())
