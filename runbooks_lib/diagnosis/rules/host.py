"""Rules about the host as a whole: reached or not, booted, CPU, memory, kernel, clock, units, journal, limits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runbooks_lib import words
from runbooks_lib.diagnosis.finding import Evidence, Finding, Severity
from runbooks_lib.diagnosis.rule import Rule
from runbooks_lib.diagnosis.rules.looking import SLOWNESS, ago, messages
from runbooks_lib.diagnosis.scene import Scene
from runbooks_lib.facts.processes import Process

_LATELY_SECONDS = 3600.0


def _unreached(scene: Scene) -> Iterator[Finding]:
    if scene.unreached is None:
        return
    signs = [Evidence(" ".join(str(scene.unreached.what).split()), 0.9)]
    silent = [each.name for each in scene.services if not (each.health.known or each.server.known)]
    if silent:
        signs.append(Evidence(f"its services do not answer either: {words.listing(silent)}", 0.8))
    answering = [each.name for each in scene.services if each.health.known or each.server.known]
    if answering:
        signs.append(Evidence(f"but these services of it answer: {words.listing(answering)}", 0.0))
    yield Finding(
        "unreachable",
        Severity.RED,
        f"{scene.host} cannot be reached: it is down, or the network between here and there is",
        tuple(signs),
        "its console (hypervisor, IPMI), and a look from a host beside it: `ping`, `ssh`",
        "find out which of both: with an answering console it is the network, else the host or its power",
        explains=frozenset({"service-down", "queue-waits", "service-slow"}),
    )


def _booted(scene: Scene) -> Iterator[Finding]:
    boot = scene.deeper.last_boot.value
    if boot is None or scene.uptime_seconds > _LATELY_SECONDS:
        return
    signs = [Evidence(f"it has been up for {ago(scene.uptime_seconds)}", 0.3)]
    if boot.clean is False:
        signs.append(Evidence(f"the boot before ended without being stopped; its last words: {boot.last_words}", 0.8))
    if boot.recovered:
        signs.append(Evidence(f"the kernel found a file system that had not been unmounted: {boot.recovered[0]}", 0.6))
    if boot.clean is not False and not boot.recovered:
        return
    yield Finding(
        "crashed",
        Severity.YELLOW,
        f"the host went down without being told to and came back {ago(scene.uptime_seconds)} ago",
        tuple(signs),
        "`journalctl -b -1 -e` (its last words), `last -x | head`, and the hypervisor's or the power supply's own log",
        "look for the reason (power, kernel panic, hypervisor); caches are cold and services may still be recovering",
        explains=SLOWNESS | {"failed-unit", "database-down"},
    )


def _of_ours(scene: Scene, process: Process) -> bool:
    """Our own reading: begun after we came."""
    before = (scene.snapshot.time - scene.now).total_seconds() if scene.snapshot else 0.0
    return process.started_seconds > scene.uptime_seconds - max(0.0, before) - 1


def _cpu(scene: Scene) -> Iterator[Finding]:
    rates, snapshot = scene.rates, scene.snapshot
    if rates is None or rates.cpu is None or snapshot is None:
        return
    # Our own reading takes CPU too: whoever is to be blamed must have been at it before we came.
    stalled = snapshot.pressure["cpu"].value
    before = stalled.some.ratio_60s if stalled else 0.0
    load = snapshot.load.value.one if snapshot.load.value else 0.0
    seen = [each for each in (snapshot.processes.value.by_cpu if snapshot.processes.value else ())
            if not _of_ours(scene, each)]  # fmt: skip
    # Who has used most of a CPU ever since it began goes on doing so, even where our own reading now takes its share.
    shares = {each.pid: max(each.cpu_ratio or 0.0, _life_share(scene, each)) for each in seen}
    hogs = sorted((each for each in seen if shares[each.pid] > 0.3), key=lambda each: -shares[each.pid])
    taken = sum(shares[each.pid] for each in hogs)
    few = taken >= 0.5 * scene.cpus
    if rates.cpu.busy < 0.9 or not (few or (before >= 0.5 and load >= 1.5 * scene.cpus)):
        return
    signs = [Evidence(f"{words.percent(rates.cpu.busy)} of {words.count(scene.cpus, 'CPU')} in use", 0.4)]
    if hogs:
        names = words.listing([_named(each) for each in hogs], 4)
        signs.append(Evidence(f"{names} use {taken:.1f} of {scene.cpus} CPUs", 0.5 if few else 0.1))
    if before >= 0.2:
        signs.append(Evidence(f"for a minute, tasks have waited for a CPU {words.percent(before)} of the time", 0.6))
    if load >= scene.cpus:
        signs.append(Evidence(f"load {load:.1f} for {words.count(scene.cpus, 'CPU')}", 0.3))
    lasting = [each for each in hogs if _life_share(scene, each) > 0.5]
    if lasting:
        signs.append(Evidence(f"{_named(lasting[0])} has done little else since it began", 0.3))
    whose = f"most of it by {_named(hogs[0])}" if few else "by many at once: more runs than there are CPUs for"
    yield Finding(
        "cpu-saturated",
        Severity.RED if before >= 0.8 and load >= 4 * scene.cpus else Severity.YELLOW,
        f"all CPUs are in use, {whose}",
        tuple(signs),
        "`top -H`, and `pidstat 1` over a minute: does the same process stay at the top?",
        "ask who owns that process before it is ended; to keep the host usable meanwhile: `renice`, or CPUQuota= for"
        " its unit",
        subject=str(hogs[0].pid) if few else "",
        explains=SLOWNESS,
    )


def _life_share(scene: Scene, process: Process) -> float:
    age = scene.uptime_seconds - process.started_seconds
    return process.cpu_seconds / age if age > 10 else 0.0


def _named(process: Process) -> str:
    return f"`{words.plain(process.name)}` (pid {process.pid})"


def _steal(scene: Scene) -> Iterator[Finding]:
    if scene.rates is None or scene.rates.cpu is None or scene.rates.cpu.steal < 0.1:
        return
    steal = scene.rates.cpu.steal
    yield Finding(
        "cpu-stolen",
        Severity.RED if steal >= 0.3 else Severity.YELLOW,
        f"the hypervisor gives {words.percent(steal)} of this machine's CPU time to others",
        (Evidence(f"steal {words.percent(steal)} in /proc/stat", 0.9),),
        "`vmstat 1`, column st, over some minutes; the hypervisor's own figures",
        "ask who runs the hypervisor: too many machines on it, or a CPU limit on this one",
        explains=SLOWNESS | {"cpu-saturated"},
    )


def _memory(scene: Scene) -> Iterator[Finding]:
    snapshot, rates = scene.snapshot, scene.rates
    memory = snapshot.memory.value if snapshot else None
    if snapshot is None or memory is None or memory.available_bytes is None:
        return
    # Pages set apart as huge ones (for a database, mostly) are in use for good, and nobody misses them.
    fields = memory.fields
    huge = fields.get("Hugetlb", fields.get("HugePages_Total", 0) * fields.get("Hugepagesize", 0))
    left = memory.available_bytes / max(1, memory.total_bytes - huge)
    swapping = (rates.paging.get("pswpin", 0.0) if rates else 0.0), (rates.paging.get("pswpout", 0.0) if rates else 0.0)
    stall = snapshot.pressure["memory"].value
    full = max(stall.full.ratio_10s, stall.full.ratio_60s) if stall and stall.full else None
    some = max(stall.some.ratio_10s, stall.some.ratio_60s) if stall else None
    killed = _killed(scene)[0]
    signs = []
    if left < 0.1:
        signs.append(
            Evidence(
                f"{words.amount(memory.available_bytes)} of {words.amount(memory.total_bytes)} are available",
                0.5 if left < 0.05 else 0.3,
            )
        )
    if swapping[0] > 20:
        signs.append(Evidence(f"{swapping[0]:.0f} pages a second come back from swap, {swapping[1]:.0f} go there", 0.6))
    if some is not None and some >= 0.1:
        signs.append(
            Evidence(
                f"tasks wait for memory {words.percent(some)} of the time"
                + (f", all at once {words.percent(full)}" if full else ""),
                0.6,
            )
        )
    if killed:
        signs.append(Evidence(f"the kernel has killed for want of memory: {words.plain(killed[-1], 120)}", 0.7))
    if not signs or (left >= 0.1 and not killed and not (swapping[0] > 20 and (some or 0) >= 0.1)):
        return
    largest = sorted(
        snapshot.processes.value.by_memory if snapshot.processes.value else (), key=lambda p: -(p.rss_bytes or 0)
    )
    who = f"; largest: {_named(largest[0])} with {words.amount(largest[0].rss_bytes or 0)}" if largest else ""
    hurts = bool(killed) or (some or 0) >= 0.2 or swapping[0] > 200
    yield Finding(
        "memory-exhausted",
        Severity.RED if hurts else Severity.YELLOW,
        f"the memory is used up{' and the host swaps' if swapping[0] > 20 else ''}{who}",
        tuple(signs),
        "`free -m`, `vmstat 1` (columns si, so), `ps -eo pid,rss,comm --sort=-rss | head`",
        "find out whether the largest process is meant to be so large; then restart it, or give the host more memory",
        subject=str(largest[0].pid) if largest else "",
        explains=SLOWNESS | {"disk-busy", "disk-slow", "sleepers", "failed-unit", "postgres-waits", "cpu-saturated"},
    )


# Of the host's own want the kernel says `task_memcg=` too, and `invoked oom-killer` in both cases. A kernel before 5.2
# says whose limit it was ("Kill process"), and in a message without that word that it is done.
_KILLED = r"^(out of memory( \(.*\))?:|memory cgroup out of memory|killed process|oom-kill:)"
_OF_A_LIMIT = re.compile(
    r"Memory cgroup out of memory.*?Kill(?:ed)? process (?P<pid>[0-9]+) \((?P<name>.*)\)"
    r"|oom-kill:constraint=CONSTRAINT_MEMCG,.*?oom_memcg=(?P<memcg>[^,]*),.*?task=(?P<task>.*),pid=(?P<task_pid>[0-9]+)"
)


def _killed(scene: Scene) -> tuple[list[str], list[re.Match[str]]]:
    """What the kernel said of killing: for want of memory on the host, and at the limit of one unit or container."""
    said = messages(scene, _KILLED, _LATELY_SECONDS)
    limited = [match for text in said if (match := _OF_A_LIMIT.match(text))]
    of_limits = ["Memory cgroup", "oom-kill:constraint=CONSTRAINT_MEMCG"]
    of_limits += [f"Killed process {match['pid'] or match['task_pid']} " for match in limited]
    return [text for text in said if not text.startswith(tuple(of_limits))], limited


def _memory_limit(scene: Scene) -> Iterator[Finding]:
    """A unit or container at its own limit, whatever is free on the host."""
    names: dict[str, str] = {}
    places: dict[str, str] = {}
    for match in _killed(scene)[1]:
        pid = match["pid"] or match["task_pid"]
        names[pid] = match["name"] or match["task"]
        places[pid] = match["memcg"] or places.get(pid, "")
    groups: dict[str, list[str]] = {}
    for pid, name in names.items():
        groups.setdefault(places[pid] or name, []).append(f"`{words.plain(name)}` (pid {pid})")
    for group, who in groups.items():
        where = f" `{words.plain(group, 120)}`" if group.startswith("/") else ""
        unit = group.rpartition("/")[2]
        broken = {f"failed-unit:{unit}", f"database-down:{unit}"} if unit.endswith(".service") else set()
        yield Finding(
            "memory-limit",
            Severity.YELLOW,
            f"a unit or container{where} reached its memory limit: the kernel killed {who[-1]} in it",
            (Evidence(f"the kernel, within the hour: its limit was reached, it killed {words.listing(who, 4)}", 0.8),),
            "`dmesg -T | grep -i 'memory cgroup'`; `systemctl show -p MemoryMax,MemoryPeak` of the unit, or the"
            " container's own limit",
            "see whether it is meant to need so much; then raise its limit (MemoryMax=), or mend what leaks",
            subject=group,
            explains=frozenset(broken),
        )


def _kernel(scene: Scene) -> Iterator[Finding]:
    hung = messages(scene, r"blocked for more than|hard lockup", _LATELY_SECONDS)
    if hung:
        yield Finding(
            "kernel-hung",
            Severity.YELLOW,
            "the kernel complains of tasks that do not get on",
            (Evidence(words.plain(hung[-1], 160), 0.7),),
            "`dmesg -T | tail -50`: which task, and what it waits in",
            "follow what the named task waits for: mostly a disk or a network file system that does not answer",
            symptom=True,
        )
    # A paused or restored virtual machine sees such a one as well, and is well.
    soft = messages(scene, r"soft lockup|rcu.*stall", _LATELY_SECONDS)
    if soft and not hung:
        yield Finding(
            "cpu-stood-still",
            Severity.INFO,
            "a CPU stood still for a while: a busy kernel, or a hypervisor that paused this machine",
            (Evidence(f"{words.plain(soft[-1], 160)}; {words.count(len(soft), 'such message')} within the hour", 0.4),),
            "`dmesg -T | grep -i lockup`; was the machine restored, moved or starved then?",
            "when it goes on and nothing was restored, ask who runs the hypervisor",
            symptom=True,
        )
    hardware = messages(scene, r"EDAC.*(\bUE\b|uncorrect)|hardware error|machine check|mce:", 24 * 3600)
    if hardware:
        # What memory or CPU put right by themselves is logged in the same way; it is a warning, not the trouble.
        said = "\n".join(hardware)
        mended = re.search(r"(?<!un)corrected|no action required|events logged", said, re.IGNORECASE)
        worse = re.search(r"uncorrect|fatal|recoverable|exception|\bUE\b", said, re.IGNORECASE)
        red = worse is not None or mended is None
        yield Finding(
            "hardware-errors",
            Severity.RED if red else Severity.YELLOW,
            "the hardware reports errors" if red else "the hardware reports errors that it has corrected",
            (Evidence(words.plain(hardware[-1], 160), 0.8),),
            "`dmesg -T | grep -i -e mce -e edac`, `ras-mc-ctl --errors`, the machine's own event log",
            "have the hardware looked at; move what matters off this machine",
            explains=SLOWNESS if red else frozenset(),
        )


def _clock(scene: Scene) -> Iterator[Finding]:
    clock = scene.snapshot.clock.value if scene.snapshot else None
    if clock is None:
        return
    off = abs(clock.offset_seconds) - clock.uncertainty_seconds
    if off < 2:
        return
    way = "ahead of" if clock.offset_seconds > 0 else "behind"
    yield Finding(
        "clock-off",
        Severity.RED if off > 300 else Severity.YELLOW,
        f"the host's clock is {abs(clock.offset_seconds):.0f} s {way} this machine's",
        (Evidence(f"offset {clock.offset_seconds:+.1f} s ± {clock.uncertainty_seconds:.1f} s", 0.8),),
        "`chronyc tracking` or `timedatectl timesync-status`, on both machines: either may be the wrong one",
        "start the time service of the wrong one; a database host is slewed, not stepped",
    )


def _units(scene: Scene) -> Iterator[Finding]:
    for unit in (scene.snapshot.failed_units.value or ()) if scene.snapshot else ():
        yield Finding(
            "failed-unit",
            Severity.YELLOW,
            f"the unit `{words.plain(unit.name)}` has failed",
            (Evidence(f"systemd: {words.plain(unit.description, 80)} is {unit.sub}", 0.7),),
            f"`systemctl status {words.argument(unit.name)}` and `journalctl -u {words.argument(unit.name)} -e`",
            "read why it failed first; starting it again is the second step",
            subject=unit.name,
            symptom=True,
        )


def _journal(scene: Scene) -> Iterator[Finding]:
    use = scene.deeper.journal_use.value
    if use is None or not use.writers or use.used_ratio < 0.75:
        return
    loud, whole = use.writers[0], sum(writer.size for writer in use.writers)
    share = loud.size / whole if whole else 0.0
    reach = use.reach_seconds
    if share < 0.5 or loud.name == "kernel":
        return
    signs = [
        Evidence(
            f"{words.amount(use.used_bytes)} of at most {words.amount(use.limit_bytes)} are used in {use.place}", 0.4
        ),
        Evidence(f"`{words.plain(loud.name)}` wrote {words.percent(share)} of the bytes of its last lines", 0.6),
    ]
    if reach is not None:
        signs.append(Evidence(f"it reaches back {ago(reach)}", 0.3 if reach < 7 * 86400 else 0.0))
    yield Finding(
        "journal-flooded",
        Severity.YELLOW,
        f"`{words.plain(loud.name)}` floods the journal: older words of all others are thrown away",
        tuple(signs),
        f"`journalctl -t {words.argument(loud.name)} --since -10min | wc -l`, `journalctl --disk-usage`",
        "turn that writer's log level down, or give its unit LogRateLimitBurst=; a larger SystemMaxUse= only buys time",
        subject=loud.name,
    )


def _limits(scene: Scene) -> Iterator[Finding]:
    limits = scene.snapshot.limits.value if scene.snapshot else None
    if limits is None:
        return
    for name, used, limit, setting in (
        ("open files", limits.files_open, limits.files_limit, "fs.file-max"),
        ("tracked connections", limits.connections, limits.connections_limit, "net.netfilter.nf_conntrack_max"),
    ):
        if used is None or not limit or used / limit < 0.9:
            continue
        yield Finding(
            "kernel-limit",
            Severity.RED if used / limit >= 0.97 else Severity.YELLOW,
            f"the kernel's table of {name} is {words.percent(used / limit)} full",
            (Evidence(f"{used} of {limit} ({setting})", 0.9),),
            f"`sysctl {setting}`; the kernel log says `table full` or `file-max limit` when it is",
            "find who holds them; raising the limit helps only where they are really needed",
            subject=setting,
            explains=SLOWNESS,
        )


_USE = (
    "the USE method: utilisation, saturation, errors of every resource (B. Gregg, Systems Performance, 2nd ed., 2.5.9)"
)
RULES = (
    Rule(
        "unreachable",
        "Does the host answer?",
        (),
        "nothing else can be asked of it",
        "the SSH connection's own phases",
        _unreached,
    ),
    Rule(
        "crashed",
        "Was it booted lately, and on purpose?",
        ("last_boot",),
        "a crash is a cause, and it may come again",
        "systemd-journald.service(8): a boot that was stopped ends with its own words; ext4(5), xfs(5): recovery",
        _booted,
    ),
    Rule(
        "cpu-saturated",
        "Are the CPUs the limit?",
        ("rates", "processes"),
        "more runnable tasks than CPUs wait in turn",
        f"{_USE}; the kernel's psi.rst",
        _cpu,
    ),
    Rule(
        "cpu-stolen",
        "Does the hypervisor take CPU time away?",
        ("rates",),
        "then nothing on the host can be tuned",
        "proc_stat(5), steal",
        _steal,
    ),
    Rule(
        "memory-exhausted",
        "Is the memory the limit?",
        ("memory", "rates"),
        "swapping makes everything as slow as a disk",
        f"{_USE}; psi.rst; proc_vmstat(5), pswpin",
        _memory,
    ),
    Rule(
        "memory-limit",
        "Has a unit or container reached its own memory limit?",
        ("kernel_log",),
        "the kernel then kills in it, whatever is free on the host",
        "the kernel's cgroup-v2.rst, memory.max; systemd.resource-control(5), MemoryMax=",
        _memory_limit,
    ),
    Rule(
        "kernel-hung",
        "Does the kernel complain?",
        ("kernel_log",),
        "it names the device or task that does not answer",
        "the kernel's hung_task and lockup-watchdogs.rst; EDAC",
        _kernel,
    ),
    Rule(
        "clock-off",
        "Is the clock right?",
        ("clock",),
        "logins, certificates, replication and logs depend on it",
        "MIT Kerberos allows 300 s (krb5.conf(5), clockskew)",
        _clock,
    ),
    Rule("failed-unit", "Has a unit failed?", ("failed_units",), "what should run does not", "systemctl(1)", _units),
    Rule(
        "journal-flooded",
        "Does one writer flood the journal?",
        ("journal_use",),
        "the words one needs after an incident are gone",
        "journald.conf(5), SystemMaxUse=",
        _journal,
    ),
    Rule(
        "kernel-limit",
        "Is a table of the kernel full?",
        ("limits",),
        "new files or connections are then refused",
        "proc_sys_fs(5), file-nr; the kernel's nf_conntrack-sysctl.rst",
        _limits,
    ),
)
