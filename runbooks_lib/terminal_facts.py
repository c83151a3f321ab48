"""One host's facts as a person reads them in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from runbooks_lib.facts.fact import State
from runbooks_lib.terminal import as_json, size, table

if TYPE_CHECKING:
    from runbooks_lib.facts.deleted_files import DeletedFiles
    from runbooks_lib.facts.directories import Directories
    from runbooks_lib.facts.fact import Fact
    from runbooks_lib.facts.filesystems import Usage
    from runbooks_lib.facts.kernel_log import JournalMessage, KernelLog
    from runbooks_lib.facts.lvm import Lvm
    from runbooks_lib.facts.postgres import PostgresDetails
    from runbooks_lib.facts.process_io import ProcessesIo
    from runbooks_lib.facts.slow import SlowSnapshot
    from runbooks_lib.facts.snapshot import Snapshot


def show_facts(snapshot: Snapshot, slow: SlowSnapshot | None, *, as_json_text: bool) -> None:
    """One host's snapshot: for people what matters first; with `as_json_text` everything."""
    if as_json_text:
        click.echo(as_json({"snapshot": snapshot, "slow": slow}))
        return
    for title, rows in _sections(snapshot):
        if rows:
            click.echo(click.style(f"\n{title}", bold=True))
            table(rows)
    missing = [
        (name, str(fact.state), fact.detail)
        for name, fact in snapshot.facts().items()
        if not fact.known and getattr(slow, name, None) is None
    ]
    if slow is not None:
        for title, rows, why in _slow_sections(slow):
            if why[0]:
                missing.append((title, *why))
            else:
                click.echo(click.style(f"\n{title}", bold=True))
                table(rows or [("none",)])
    if missing:
        click.echo(click.style("\nNot known", bold=True))
        table([(name.replace("_", " "), state, why) for name, state, why in missing])
        if slow is None and any(state == State.NOT_ALLOWED for _, state, _ in missing):
            click.echo("--slow asks again as root.")


def _sections(snapshot: Snapshot) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    identity, memory, load = snapshot.identity.value, snapshot.memory.value, snapshot.load.value
    rates = snapshot.rates.value
    rows: list[tuple[str, ...]] = []
    if identity is not None:
        rows.append(("system", f"{identity.distribution_name or identity.distribution}, Linux {identity.kernel}"))
        rows.append(("up since", f"{identity.boot_time:%Y-%m-%d %H:%M} UTC"))
    if snapshot.clock.value is not None:
        rows.append(("clock", f"{snapshot.clock.value.offset_seconds:+.1f} s from ours"))
    if load is not None:
        rows.append(("load", f"{load.one:.2f} {load.five:.2f} {load.fifteen:.2f}"))
    if rates is not None and rates.cpu is not None:
        rows.append(("cpu", f"{rates.cpu.busy:.0%} busy, {rates.cpu.iowait:.0%} waiting for disks"))
    if memory is not None and memory.available_bytes is not None:
        rows.append(("memory", f"{size(memory.available_bytes)} of {size(memory.total_bytes)} available"))
    if rates is not None and rates.pressure_ratio:
        stalls = [f"{name} {kind} {ratio:.0%}" for (name, kind), ratio in sorted(rates.pressure_ratio.items())]
        rows.append(("pressure", ", ".join(stalls)))
    yield snapshot.host, rows

    filesystems = snapshot.filesystems.value
    yield (
        "file systems",
        [
            (
                each.mountpoint,
                each.fstype,
                *(
                    (_percent(each.usage.used_ratio), f"{size(each.usage.avail_bytes)} free", _inodes(each.usage))
                    if each.usage is not None
                    else (str(each.state), "", "")
                ),
                each.read_error or each.read_only_flip or each.detail,
            )
            for each in (filesystems.rows if filesystems else ())
        ],
    )
    if rates is not None:
        yield "disks", [
            (name, f"{_percent(disk.busy_ratio)} busy", f"{_rate(disk.read_bytes_per_second)} read",
             f"{_rate(disk.written_bytes_per_second)} written")
            for name, disk in rates.disks.items()
        ]  # fmt: skip
    processes = snapshot.processes.value
    if processes is not None:
        yield "waiting in the kernel (state D)", [(str(each.pid), each.name) for each in processes.blocked]
        yield (
            "most CPU",
            [
                (str(each.pid), each.name, _percent(each.cpu_ratio))
                for each in sorted(processes.by_cpu, key=lambda one: one.cpu_ratio or 0.0, reverse=True)[:5]
            ],
        )
    yield (
        "PostgreSQL",
        [
            (str(each.pid), each.version, each.resolved_directory or "data directory not known", each.mountpoint)
            for each in snapshot.postgres.value or ()
        ],
    )
    yield "failed units", [(each.name, each.description) for each in snapshot.failed_units.value or ()]


# -- what is slow or needs root ----------------------------------------------------------------------------------------

_Section = tuple[str, list[tuple[str, ...]], tuple[str, str]]  # title, rows, and why there is nothing (state, detail)


def _slow_sections(slow: SlowSnapshot) -> Iterator[_Section]:
    words: tuple[tuple[str, Fact[Any] | None, Callable[[Any], list[tuple[str, ...]]]], ...] = (
        ("LVM", slow.lvm, _lvm),
        ("deleted files that are still open", slow.deleted_files, _deleted),
        ("most disk I/O", slow.process_io, _process_io),
        ("kernel log: errors", slow.kernel_log, _kernel_log),
        ("journal: kernel errors, earlier boots too", slow.journal, _journal),
        ("biggest directories", slow.directories, _directories),
        ("PostgreSQL, from inside", slow.postgres, _postgres),
    )
    for title, fact, rows_of in words:
        if fact is None:
            continue
        if fact.value is None:
            yield title, [], (str(fact.state), fact.detail)
        else:
            yield f"{title} ({fact.detail})" if fact.detail else title, rows_of(fact.value), ("", "")


def _lvm(lvm: Lvm) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("group", group.name, f"{size(group.free_bytes)} free of {size(group.size_bytes)}",
         f"{group.missing_volumes} of its disks missing" if group.missing_volumes else "", "")
        for group in lvm.volume_groups
    ]  # fmt: skip
    rows += [
        ("disk", disk.device, f"{size(disk.free_bytes)} free of {size(disk.size_bytes)}",
         "missing" if disk.missing else disk.group or "in no group", "")
        for disk in lvm.physical_volumes
    ]  # fmt: skip
    for volume in lvm.logical_volumes:
        filled = "" if volume.data_ratio is None else f"{volume.data_ratio:.0%} filled"
        if volume.metadata_ratio is not None:
            filled += f", metadata {volume.metadata_ratio:.0%}"
        kind = volume.kind + (f" in {volume.pool}" if volume.pool else "")
        kind += f", snapshot of {volume.origin}" if volume.origin else ""
        state = "" if volume.active else "inactive"
        rows.append(("volume", f"{volume.group}/{volume.name}", size(volume.size_bytes), kind, filled or state))
    return rows


def _deleted(found: DeletedFiles) -> list[tuple[str, ...]]:
    return [
        (size(file.allocated_bytes), file.path,
         "held by " + ", ".join(f"{holder.name} ({holder.pid})" for holder in file.holders))
        for file in found.files
    ]  # fmt: skip


def _process_io(found: ProcessesIo) -> list[tuple[str, ...]]:
    return [
        (str(each.pid), each.name, f"{_rate(each.read_bytes_per_second)} read",
         f"{_rate(each.written_bytes_per_second)} written")
        for each in found.rows
    ]  # fmt: skip


def _kernel_log(found: KernelLog) -> list[tuple[str, ...]]:
    return [
        ("" if each.seconds is None else f"{each.seconds:.0f} s after boot", each.subject, each.text)
        for each in found.messages
    ]


def _journal(found: Sequence[JournalMessage]) -> list[tuple[str, ...]]:
    return [
        (f"{datetime.fromtimestamp(each.seconds, UTC):%Y-%m-%d %H:%M} UTC", each.subject, each.text) for each in found
    ]


def _directories(found: Directories) -> list[tuple[str, ...]]:
    unfinished = [] if found.complete else [("", f"not all was seen: {found.detail}", "")]
    rows = [(size(each.size_bytes), each.path, "at least" if each.partial else "") for each in found.rows]
    return [*rows, *((size(each.size_bytes), each.path, "a file") for each in found.files), *unfinished]


def _postgres(servers: Sequence[PostgresDetails]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each in servers:
        rows.append((str(each.pid), "version", each.version or "?", each.data_directory))
        if each.in_recovery is not None:
            rows.append(("", "role", "standby" if each.in_recovery else "primary", each.detail))
        elif each.detail:
            rows.append(("", "not known", each.detail, ""))
        if each.size_bytes is not None:
            rows.append(("", "databases", size(each.size_bytes), ""))
        if each.wal_bytes is not None:
            rows.append(("", "WAL", size(each.wal_bytes), each.wal_directory))
        if each.connections is not None:
            rows.append(("", "connections", f"{each.connections} of {each.max_connections}", ""))
        for slot in each.slots or ():
            kept = "" if slot.retained_bytes is None else f"keeps {size(slot.retained_bytes)} of WAL"
            rows.append(("", f"slot {slot.name}", f"{slot.kind}, {'active' if slot.active else 'INACTIVE'}", kept))
        if each.archiver is not None and each.archiver.mode not in ("", "off"):
            state = "FAILING" if each.archiver.failing else "works"
            waiting = "" if each.archiver.waiting is None else f"{each.archiver.waiting} segments waiting"
            rows.append(("", "archiving", state, waiting))
    return rows


def _rate(amount: float | None) -> str:
    return "?" if amount is None else f"{size(amount)}/s"


def _percent(ratio: float | None) -> str:
    return "?" if ratio is None else f"{ratio:.0%}"


def _inodes(usage: Usage) -> str:
    return "" if usage.files_used_ratio is None else f"{usage.files_used_ratio:.0%} of inodes"
