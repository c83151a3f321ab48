"""Rules about disks: slow ones, busy ones and who keeps them busy; errors; threads that wait in the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runbooks_lib import words
from runbooks_lib.diagnosis.finding import Evidence, Finding, Mend, Severity
from runbooks_lib.diagnosis.rule import Rule
from runbooks_lib.diagnosis.rules.looking import SLOWNESS, messages
from runbooks_lib.diagnosis.scene import Scene
from runbooks_lib.facts.rates import DiskRates

_WAITING = SLOWNESS | {"sleepers", "postgres-waits", "kernel-hung", "postgres-unanswered", "locks-held-up"}
# A 7,200 rpm disk makes about 80 to 100 random requests a second, each in about 12 ms (half a turn 4.2 ms, a seek 8
# ms). A disk that is busy all the time and makes far fewer is not loaded: it is slow.
_SLOW_PER_SECOND, _SLOW_SERVICE_SECONDS, _SLOW_BYTES = 45.0, 0.015, 8e6


def _disks(scene: Scene) -> dict[str, DiskRates]:
    """Disks themselves: what stands on them (dm, md, partitions) would be told twice."""
    devices = {each.name: each for each in (scene.snapshot.block_devices.value or ())} if scene.snapshot else {}
    rates = scene.rates.disks if scene.rates else {}
    return {name: disk for name, disk in rates.items() if name in devices and not devices[name].below}


def _slow(scene: Scene) -> Iterator[Finding]:
    for name, disk in _disks(scene).items():
        done = (disk.reads_per_second or 0) + (disk.writes_per_second or 0)
        moved = (disk.read_bytes_per_second or 0) + (disk.written_bytes_per_second or 0)
        busy, queue = disk.busy_ratio or 0.0, disk.queue or 0.0
        # The utilisation law (Denning and Buzen 1978): time of service = utilisation / throughput.
        service = busy / done if done > 0 else float("inf") if busy > 0.5 else 0.0
        waits = [wait for wait in (disk.read_wait_seconds, disk.write_wait_seconds) if wait is not None]
        wait = max(waits, default=0.0)
        held = _held(scene)
        if done >= _SLOW_PER_SECOND or moved > _SLOW_BYTES:
            continue
        stuck = busy >= 0.4 and service >= 2 * _SLOW_SERVICE_SECONDS
        # Not busy all the time, but slower than any disk that turns, and somebody is seen to wait for it.
        sluggish = done >= 3 and service >= _SLOW_SERVICE_SECONDS and bool(held)
        if not (stuck or sluggish):
            continue
        signs = [
            Evidence(
                f"{name} was busy {words.percent(busy)} of the time and made only {done:.0f} requests a second",
                0.5 if stuck else 0.3,
            ),
        ]
        if done > 0:
            signs.append(Evidence(f"{service * 1000:.0f} ms of work for one request; a disk that turns takes 12", 0.5))
        if wait > 0.1:
            signs.append(Evidence(f"a request waited {wait * 1000:.0f} ms, {queue:.1f} were in flight", 0.5))
        signs += held
        yield _finding(
            scene,
            "disk-slow",
            name,
            f"the disk {name} answers slowly: little is asked of it, and that takes long",
            tuple(signs),
            Severity.RED if service >= 0.06 and busy >= 0.6 else Severity.YELLOW,
            f"`iostat -x 1` (columns w/s, w_await, %util of {name}); the kernel log, SMART, and the storage's or"
            " hypervisor's own limits (IOPS)",
            "look below the host: a throttled volume, a rebuilding array, a dying disk; move the database if it lasts",
        )


def _held(scene: Scene) -> list[Evidence]:
    """Whoever waits for disks at this moment."""
    found = []
    sleepers = scene.deeper.waiting.value
    held = [
        each
        for each in (sleepers.lasting if sleepers else ())
        if "disk" in each.waits_for or "journal" in each.waits_for
    ]
    if held:
        names = words.listing(sorted({words.plain(each.name) for each in held}), 4)
        found.append(
            Evidence(f"{words.count(len(held), 'thread')} slept in the kernel all the while for it: {names}", 0.4)
        )
    stall = scene.snapshot.pressure["io"].value if scene.snapshot else None
    if stall and stall.full and max(stall.full.ratio_10s, stall.full.ratio_60s) >= 0.3:
        share = max(stall.full.ratio_10s, stall.full.ratio_60s)
        found.append(Evidence(f"everything stood still for disks {words.percent(share)} of the time", 0.4))
    return found


def _busy(scene: Scene) -> Iterator[Finding]:
    io = scene.deeper.process_io.value
    for name, disk in _disks(scene).items():
        done = (disk.reads_per_second or 0) + (disk.writes_per_second or 0)
        moved = (disk.read_bytes_per_second or 0) + (disk.written_bytes_per_second or 0)
        busy = disk.busy_ratio or 0.0
        if busy < 0.6 or (done < _SLOW_PER_SECOND and moved <= _SLOW_BYTES):
            continue
        signs = [
            Evidence(
                f"{name} was busy {words.percent(busy)} of the time: {done:.0f} requests and"
                f" {words.amount(moved)} a second",
                0.4,
            )
        ]
        rows = io.rows if io else ()
        database = {server.pid for server in (scene.snapshot.postgres.value or ())} if scene.snapshot else set()
        top = rows[0] if rows else None
        if top is None:
            cause = f"the disk {name} is busy nearly all the time"
        else:
            rate = top.read_bytes_per_second + top.written_bytes_per_second
            whole = sum(row.read_bytes_per_second + row.written_bytes_per_second for row in rows)
            other = top.pid not in database and top.name not in ("postgres", "mysqld", "mariadbd")
            signs.append(
                Evidence(
                    f"`{words.plain(top.name)}` (pid {top.pid}) moves {words.amount(rate)} a second,"
                    f" {words.percent(rate / whole if whole else 0)} of all",
                    0.6 if other else 0.3,
                )
            )
            cause = f"`{words.plain(top.name)}` (pid {top.pid}) keeps the disk {name} busy" + (
                ", on which the database is" if set(scene.mounts_on(name)) & scene.database_mounts() and other else ""
            )
        signs += _held(scene)
        yield _finding(
            scene,
            "disk-busy",
            name,
            cause,
            tuple(signs),
            Severity.YELLOW,
            f"`iotop -o` or `pidstat -d 1`; `iostat -x 1` for {name}",
            "move that work to another hour or another disk, or give its unit IOWeight= or IOWriteBandwidthMax=",
        )


def _finding(
    scene: Scene,
    rule: str,
    disk: str,
    cause: str,
    signs: tuple[Evidence, ...],
    severity: Severity,
    confirm: str,
    act: str,
) -> Finding:
    mounts = scene.mounts_on(disk)
    mend = None
    if set(mounts) & scene.database_mounts():
        # A server that is too slow to answer still names its directory on its command line.
        servers = (scene.snapshot.postgres.value or ()) if scene.snapshot else ()
        asked = [each.data_directory for each in scene.deeper.postgres_details.value or ()]
        lie = [each for each in (*asked, *(server.data_directory for server in servers)) if each]
        mend = Mend(
            "incident/relocate-database.ipynb",
            {"host": scene.host, "directory": lie[0]} if lie else {"host": scene.host},
            "moves the database to another disk of this host, with about a second of downtime; where to (target) and"
            " your last backup are for you to name",
        )
    where = f" (it holds {words.listing([words.plain(mount) for mount in mounts], 4)})" if mounts else ""
    return Finding(rule, severity, cause + where, signs, confirm, act, subject=disk, mend=mend, explains=_WAITING)


def _errors(scene: Scene) -> Iterator[Finding]:
    said = messages(
        scene,
        r"I/O error|critical (medium|target) error|\bata[0-9.]+: (failed command|error): |nvme.*(timeout|reset)",
        6 * 3600,
    )
    # No disk's: an empty CD drive or virtual floppy, a loop device's file, a discard that a virtual disk does not know.
    said = [
        text
        for text in said
        if not re.search(r"\b(fd|sr|loop)[0-9]|\((DISCARD|WRITE_(ZEROES|SAME))\)|: PACKET\b", text)
    ]
    # XFS calls its own end "Metadata I/O Error", whatever shut it down; a disk's error is told by the block layer too.
    said = [text for text in said if not re.search(r"\b(XFS|EXT[234]-fs|BTRFS|F2FS-fs)\b", text)]
    if said:
        yield Finding(
            "disk-errors",
            Severity.RED,
            "a disk reports errors",
            (Evidence(words.plain(said[-1], 160), 0.8), Evidence(f"{len(said)} such messages in six hours", 0.3)),
            "`dmesg -T | grep -i 'i/o error'`, `smartctl -a` of the named disk",
            "make sure of the backup, then have the disk replaced; do not run fsck on a dying disk",
            explains=_WAITING | {"filesystem-errors", "disk-slow"},
        )


def _sleepers(scene: Scene) -> Iterator[Finding]:
    sleepers = scene.deeper.waiting.value
    lasting = sleepers.lasting if sleepers else ()
    if not lasting:
        return
    kinds: dict[str, list[str]] = {}
    for each in lasting:
        kinds.setdefault(each.waits_for or f"something unknown ({each.place or 'not readable'})", []).append(
            words.plain(each.name)
        )
    kind = max(kinds, key=lambda each: len(kinds[each]))
    yield Finding(
        "sleepers",
        Severity.YELLOW,
        f"{words.count(len(lasting), 'thread')} cannot be woken: they wait in the kernel for {kind}",
        tuple(Evidence(f"{words.listing(sorted(set(who)), 5)}: {what}", 0.6) for what, who in kinds.items()),
        "`cat /proc/PID/stack` (root) of one of them, twice; `dmesg` says `blocked for more than 120 seconds` in time",
        "follow what they wait for; such a process cannot be killed, its disk or server must answer",
        symptom=True,
        explains=frozenset({"blocked-resource"}),
    )


RULES = (
    Rule(
        "disk-slow",
        "Does a disk take long for little?",
        ("rates", "block_devices"),
        "work then waits while CPU and network idle",
        "the utilisation law (Denning and Buzen 1978); a 7,200 rpm disk's seek and turn; the kernel's iostats.rst",
        _slow,
    ),
    Rule(
        "disk-busy",
        "Does something keep a disk busy?",
        ("rates", "block_devices", "process_io"),
        "neighbours on one disk share its time",
        "the USE method; proc_pid_io(5)",
        _busy,
    ),
    Rule(
        "disk-errors",
        "Does a disk report errors?",
        ("kernel_log",),
        "retries make it slow before it dies",
        "dmesg(1); the kernel's block layer",
        _errors,
    ),
    Rule(
        "sleepers",
        "Do threads hang in the kernel, and for what?",
        ("waiting",),
        "they count as load, use no CPU, and name what blocks",
        "proc_pid_wchan(5), proc_pid_stat(5), state D",
        _sleepers,
    ),
)
