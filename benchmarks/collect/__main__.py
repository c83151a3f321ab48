"""`python -m benchmarks.collect [--quick] [--only NAME] [--write docs/benchmarks.md]`.

All figures are ratios between sides that took turns in one run; every side's median stands beside them. Needs root
(many sshds on loopback addresses) and the packages openssh-server, openssh-client, golang-go and
golang-golang-x-crypto-dev.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.collect.fleet import Fleet, many_files, mock_fleet, real_fleet, require
from benchmarks.collect.sides import CURVE, Ours, Round, ansible, control_persist, openssh

RTT_MS = 40
WORKERS = 128  # the default of runbooks.toml
SCRIPT_MS = 40  # what the quick script takes on an idle machine of this kind
_SECTION = "collect"


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    real: int
    mock: int
    hanging: int
    idle: int
    rounds: int
    idle_seconds: int


FULL = Sizes(real=200, mock=500, hanging=2000, idle=500, rounds=3, idle_seconds=20)
QUICK = Sizes(real=32, mock=64, hanging=200, idle=64, rounds=1, idle_seconds=5)


@dataclass
class Report:
    """The tables as Markdown lines, and the figures to reach."""

    sides: list[str] = field(default_factory=list)
    figures: list[tuple[str, str, str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    load: str = field(default_factory=lambda: f"{os.getloadavg()[0]:.1f} before the start")

    def side(self, place: str, name: str, rounds: list[Round], *, told: bool = True) -> None:
        rates = [each.per_second for each in rounds]
        lost = sum(each.hosts - each.ok for each in rounds)
        self.sides.append(
            f"| {place} | {name} | {median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f}) "
            f"| {median(each.cpu_ms for each in rounds):.1f} | {max(each.rss_mb for each in rounds):.0f} | {lost} |"
        )
        print(self.sides[-1], flush=True)
        if told:
            self.notes += [f"{place}, {name}: {each.note}" for each in rounds if each.note][:1]

    def figure(self, what: str, wanted: str, found: float, reached: bool, unit: str = "×") -> None:
        self.figures.append((what, wanted, f"{found:.2f} {unit}".strip(), reached))
        print(f"  {what}: {found:.2f} {unit} (wanted {wanted}): {'reached' if reached else 'NOT REACHED'}", flush=True)

    def markdown(self, arguments: str) -> str:
        """The section for docs/benchmarks.md."""
        lines = [
            f"`python -m benchmarks.collect{arguments}`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs, "
            f"Python {platform.python_version()}, {_ssh_version()}, load {self.load}. Ours reads, parses and stores in "
            "SQLite (the second sample off); the others only fetch the same raw text. Sides take turns; medians "
            "(lowest-highest). The fleets run on the same CPUs: a host's own work is the ceiling of every side.",
            "",
            "| hosts | side | hosts a second | client CPU, ms a host | peak memory, MB | lost |",
            "|---|---|---|---|---|---|",
            *self.sides,
            "",
            "| figure | wanted | found | |",
            "|---|---|---|---|",
            *(
                f"| {what} | {want} | {found} | {'reached' if ok else '**not reached**'} |"
                for what, want, found, ok in self.figures
            ),
        ]
        if self.notes:
            lines += ["", "What went wrong in a round:", "", *(f"- {_one_line(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:300]


def _ssh_version() -> str:
    return subprocess.run(["ssh", "-V"], capture_output=True, text=True, timeout=20).stderr.strip()


def _cold(fleet: Fleet, *, workers: int, deadline_seconds: float = 30.0, first: bool = False) -> tuple[Round, Round]:
    """One collection in a fresh process: (the collection, the start of the process before it). The `first` one of a
    fleet asks `ssh -G` and stores what the hosts' series are; every later one finds both, as a timer's does."""
    ours = Ours(fleet, "cold", 1, workers=workers, deadline_seconds=deadline_seconds, new_history=first)
    start, told = ours.run()
    return ours.round(told), ours.round(start)


def _take_turns(
    rounds: int, sides: dict[str, Callable[[], Round]], once: dict[str, Callable[[], Round]] | None = None
) -> dict[str, list[Round]]:
    """Each side in each round; those of `once`, which take minutes, after the first one only."""
    found: dict[str, list[Round]] = {name: [] for name in (*sides, *(once or {}))}
    for number in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
        for name, side in (once or {}).items() if number == 0 else ():
            found[name].append(side())
    return found


def _rate(rounds: list[Round]) -> float:
    return median(each.per_second for each in rounds)


def real_hosts(directory: Path, sizes: Sizes, report: Report) -> None:
    """Real sshds, every connection new."""
    with real_fleet(directory / "real", sizes.real) as fleet:
        first, _ = _cold(fleet, workers=WORKERS, first=True)
        starts: list[Round] = []

        def ours() -> Round:
            collected, start = _cold(fleet, workers=WORKERS)
            starts.append(start)
            return collected

        found = _take_turns(
            sizes.rounds,
            {
                "ours": ours,
                "OpenSSH, xargs -P32, curve25519": lambda: openssh(fleet, *CURVE),
                "OpenSSH, xargs -P32, default key exchange": lambda: openssh(fleet),
            },
            {
                "ansible raw, 50 forks": lambda: ansible(fleet, "-m", "raw", "-a", fleet.plain_command),
                "ansible setup, 50 forks": lambda: ansible(fleet, "-m", "setup"),
            },
        )
    report.side(f"{sizes.real} real sshds", "ours, the first time ever", [first])
    for name, rounds in found.items():
        report.side(f"{sizes.real} real sshds", name, rounds)
    report.side(f"{sizes.real} real sshds", "(our process until it begins: imports, inventory)", starts)
    mine, curve, default, raw, setup = found.values()
    for name, theirs, wanted in (
        ("real sshds: hosts a second, ours / OpenSSH curve25519", curve, 1.5),
        ("real sshds: hosts a second, ours / ansible raw", raw, 4.0),
        ("real sshds: hosts a second, ours / ansible setup", setup, 15.0),
    ):
        ratio = _rate(mine) / max(_rate(theirs), 1e-9)
        report.figure(name, f"≥ {wanted:g} ×", ratio, ratio >= wanted)
    cpu = median(each.cpu_ms for each in mine)
    for name, theirs in (("curve25519", curve), ("default", default)):
        ratio = cpu / median(each.cpu_ms for each in theirs)
        report.figure(f"real sshds: client CPU a host, ours / OpenSSH {name}", "≤ 0.5 ×", ratio, ratio <= 0.5)


def mock_hosts(directory: Path, sizes: Sizes, report: Report) -> None:
    """The mock fleet: a round trip of 40 ms, and a script that takes 40 ms."""
    with mock_fleet(directory / "mock", sizes.mock, rtt_ms=RTT_MS, exec_ms=SCRIPT_MS) as fleet:
        first, _ = _cold(fleet, workers=WORKERS, first=True)
        found = _take_turns(
            sizes.rounds,
            {
                "ours": lambda: _cold(fleet, workers=WORKERS)[0],
                "OpenSSH, xargs -P32, curve25519": lambda: openssh(fleet, *CURVE),
                "OpenSSH, xargs -P128, curve25519": lambda: openssh(fleet, *CURVE, width=128),
            },
        )
    place = f"{sizes.mock} mock hosts, {RTT_MS} ms"
    report.side(place, "ours, the first time ever", [first])
    for name, rounds in found.items():
        report.side(place, name, rounds)
    mine, narrow, wide = found.values()
    for name, theirs in (("xargs -P32", narrow), ("xargs -P128", wide)):
        ratio = _rate(mine) / max(_rate(theirs), 1e-9)
        report.figure(f"mock hosts: hosts a second, ours / OpenSSH {name}", "≥ 4 ×", ratio, ratio >= 4)
    ratio = median(each.cpu_ms for each in mine) / median(each.cpu_ms for each in narrow)
    report.figure("mock hosts: client CPU a host, ours / OpenSSH curve25519", "≤ 0.5 ×", ratio, ratio <= 0.5)
    most = max(each.rss_mb for each in mine)
    report.figure(f"peak memory, {sizes.mock} hosts", "≤ 150 MB", most, most <= 150, "MB")


def kept_connections(directory: Path, sizes: Sizes, report: Report) -> None:
    """Rounds over connections that stay, against ControlPersist: real sshds, and mock hosts that cost nothing."""
    for kind, open_fleet in (
        ("real sshds", real_fleet(directory / "kept", sizes.real)),
        ("mock hosts", mock_fleet(directory / "kept-mock", sizes.real, rtt_ms=0)),
    ):
        with open_fleet as fleet:
            ours = Ours(fleet, "warm", sizes.rounds + 2, workers=WORKERS)
            mine = [ours.round(told) for told in ours.run() if told.get("first") is False]
            theirs = control_persist(fleet, sizes.rounds)
        place = f"{sizes.real} {kind}, kept"
        report.side(place, "ours", mine)
        report.side(place, "OpenSSH ControlPersist, xargs -P32", theirs)
        ratio = _rate(mine) / max(_rate(theirs), 1e-9)
        report.figure(
            f"kept connections, {kind}: hosts a second, ours / ControlPersist", "≥ 2.5 ×", ratio, ratio >= 2.5
        )


def idle_connections(directory: Path, sizes: Sizes, report: Report) -> None:
    """What connections cost while nothing is asked."""
    with mock_fleet(directory / "idle", sizes.idle, rtt_ms=0) as fleet:
        told = Ours(fleet, "idle", sizes.idle_seconds, workers=WORKERS).run()
    idle, first = told[-1], told[1]
    share = 100 * idle["cpu_seconds"] / idle["seconds"]
    report.notes += [f"idle: {error}" for error in first["errors"]]
    report.figure(
        f"{first['ok']} idle kept connections ({idle['threads']} threads)", "≤ 1 % of a core", share, share <= 1, "%"
    )
    report.figure(
        f"peak memory, {sizes.idle} kept connections", "≤ 150 MB", idle["rss_mb"], idle["rss_mb"] <= 150, "MB"
    )


def hanging_hosts(directory: Path, sizes: Sizes, report: Report) -> None:
    """One host in a hundred accepts the connection and never speaks; the others alone take turns with all of them. Two
    rounds each: the second knows who brought nothing in the first."""
    deadline, every = 10.0, 100
    with mock_fleet(directory / "mock", sizes.hanging, rtt_ms=RTT_MS, exec_ms=SCRIPT_MS, hang_every=every) as fleet:
        others = replace(fleet, names=tuple(n for i, n in enumerate(fleet.names) if i % every != every - 1))
        _cold(others, workers=WORKERS, deadline_seconds=deadline, first=True)
        well: list[list[Round]] = [[], []]
        sick: list[list[Round]] = [[], []]
        for _ in range(sizes.rounds):
            for found, hosts in ((well, others), (sick, fleet)):
                ours = Ours(hosts, "cold", 2, workers=WORKERS, deadline_seconds=deadline)
                for each, told in zip(found, ours.run()[1:], strict=True):
                    each.append(ours.round(told))
    place = f"{sizes.hanging} mock hosts, {RTT_MS} ms"
    for number, name in enumerate(("first round", "second round")):
        report.side(place, f"ours, without those that hang, {name}", well[number], told=False)
        report.side(place, f"ours, 1 in {every} hangs, {name}", sick[number], told=False)  # losses are meant
        added = median(each.seconds for each in sick[number]) - median(each.seconds for each in well[number])
        right = all(each.hosts - each.ok == sizes.hanging // every for each in sick[number])
        what = f"{sizes.hanging} hosts, 1 % hang, {name}: seconds added, the deadline being {deadline:g} s"
        report.figure(what, f"≤ {deadline:g} s", added, added <= deadline and right, "s")
    most = max(each.rss_mb for each in sick[0])
    report.figure(f"peak memory, {sizes.hanging} hosts", "≤ 150 MB", most, most <= 150, "MB")


SCENES = {
    "real": real_hosts,
    "mock": mock_hosts,
    "kept": kept_connections,
    "idle": idle_connections,
    "hanging": hanging_hosts,
}


def _write(path: Path, text: str) -> None:
    """Put the section between its markers, or at the end of the file."""
    begin, end = f"<!-- {_SECTION}: begin -->", f"<!-- {_SECTION}: end -->"
    block = f"{begin}\n{text}{end}"
    old = path.read_text() if path.exists() else "# Benchmarks\n"
    if begin in old and end in old:
        new = old[: old.index(begin)] + block + old[old.index(end) + len(end) :]
    else:
        new = f"{old.rstrip()}\n\n## Collecting from many hosts\n\n{block}\n"
    path.write_text(new)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collect", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small fleets, one round: does it work, not how fast is it"
    )
    parser.add_argument("--only", action="append", choices=list(SCENES), help="only this scene; may be given again")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this file's section")
    parser.add_argument("--check", action="store_true", help="exit 1 when a figure is not reached")
    chosen = parser.parse_args()
    require(("sshd", "openssh-server"), ("ssh", "openssh-client"), ("go", "golang-go golang-golang-x-crypto-dev"))
    many_files()
    report, sizes = Report(), QUICK if chosen.quick else FULL
    directory = Path(tempfile.mkdtemp(prefix="runbooks-bench-"))
    os.environ["XDG_CACHE_HOME"] = str(directory / "cache")  # nothing of these fleets stays in the user's cache
    try:
        for name in chosen.only or SCENES:
            SCENES[name](directory, sizes, report)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text = report.markdown(" --quick" if chosen.quick else "")
    print(f"\n{text}")
    if chosen.write:
        _write(chosen.write, text)
    if chosen.check and not all(reached for *_, reached in report.figures):
        sys.exit(1)


if __name__ == "__main__":
    main()
