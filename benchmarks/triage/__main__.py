"""How often the true cause is the first finding: python -m benchmarks.triage [--only FAULT[+FAULT]]... [--keep
DIRECTORY]

One practice machine. For every fault of the lab, for pairs of faults, and for the healthy machine idle and under load:
reset, begin the load, put the faults in, wait as long as it takes until somebody is called, ask `runbook triage`.
Told are the rank of each true cause among the findings, also of those that were told early, and every red finding that
is none. What was read is kept with --keep, and `--again DIRECTORY` asks the rules anew of what was kept then, without
a machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.triage import kept
from runbooks_lib import config as inventory
from runbooks_lib.diagnosis.diagnosis import Diagnosis, diagnose
from runbooks_lib.diagnosis.finding import Severity
from runbooks_lib.diagnosis.triage import read_scene
from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.opening import open_host
from runbooks_lib.training.lab import faults
from runbooks_lib.training.lab.lab import find, held_machine
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine

# What a fault is called by the rules. A fault of the lab without a line here stops the benchmark: nothing is left out.
CAUSES = {
    "disk-full-data": "database-grown",
    "disk-full-wal-slot": "wal-kept-by-slot",
    "disk-full-wal-archive": "wal-kept-by-archiver",
    "disk-full-log": "directory-grown",
    "disk-full-deleted": "deleted-open-files",
    "disk-full-temp": "temporary-files",
    "inodes": "inodes-exhausted",
    "slow-disk": "disk-slow",
    "read-only": "filesystem-errors",
    "cpu-hog": "cpu-saturated",
    "memory-hog": "memory-exhausted",
    "neighbour": "disk-busy",
    "journal-full": "journal-flooded",
    "network-loss": "packet-loss",
    "network-delay": "slow-link",
    "connection-cut": "unreachable",
    "power-cut": "crashed",
    "lock-pile-up": "lock-queue",
    "idle-transaction": "idle-transaction",
}
PAIRS = (
    ("disk-full-wal-slot", "lock-pile-up"),
    ("disk-full-deleted", "cpu-hog"),
    ("disk-full-data", "idle-transaction"),
    ("slow-disk", "lock-pile-up"),
    ("slow-disk", "cpu-hog"),
    ("neighbour", "network-delay"),
    ("memory-hog", "lock-pile-up"),
    ("network-loss", "lock-pile-up"),
    ("network-delay", "disk-full-log"),
    ("inodes", "journal-full"),
    ("read-only", "cpu-hog"),
    ("disk-full-temp", "network-loss"),
    ("journal-full", "idle-transaction"),
    ("disk-full-wal-archive", "cpu-hog"),
)
HEALTHY = ("healthy, idle", "healthy, under load")
_CALLED_AFTER_SECONDS = {"idle-transaction": 65.0}  # a forgotten session is no news in its first minute
_USUALLY_AFTER_SECONDS = 15.0
_SETTLE_SECONDS = 8.0


@dataclass(frozen=True)
class Case:
    """What was asked of: its faults (none: healthy), what was read, and what the rules make of it; `early` is what was
    told after eight seconds where something still waited then."""

    name: str
    faults: tuple[str, ...]
    told: Diagnosis
    early: Diagnosis | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each true cause, 0 when it was not found."""
        return self.ranks_in(self.told)

    def ranks_in(self, told: Diagnosis) -> tuple[int, ...]:
        """The same in a diagnosis of this case."""
        rules = [finding.rule for finding in told.findings]
        return tuple(rules.index(CAUSES[name]) + 1 if CAUSES[name] in rules else 0 for name in self.faults)

    @property
    def false_reds(self) -> tuple[str, ...]:
        """Red findings that are neither a true cause nor explained by one."""
        true = {CAUSES[name] for name in self.faults}
        return tuple(
            finding.key
            for finding in self.told.findings
            if finding.severity is Severity.RED and finding.rule not in true and not finding.because
            and not (finding.symptom and self.faults)
        )  # fmt: skip

    @property
    def right(self) -> bool:
        """Every true cause stands above everything that is none; a healthy machine has nothing red."""
        if not self.faults:
            return not any(finding.severity is Severity.RED for finding in self.told.findings)
        return sorted(self.ranks) == list(range(1, len(self.ranks) + 1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases, print the table, and end with 1 when the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triage", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="FAULT[+FAULT]")
    parser.add_argument("--machine", help="a practice machine that is up; default: one is started and ended")
    parser.add_argument("--filesystem", default="ext4", choices=("ext4", "xfs"))
    parser.add_argument("--keep", type=Path, help="keep what was read in this directory")
    parser.add_argument("--again", type=Path, help="ask the rules again of what was kept in this directory")
    asked = parser.parse_args(arguments)
    missing = set(faults.FAULTS) - set(CAUSES)
    if missing:
        sys.exit(f"the lab has faults without a cause here: {', '.join(sorted(missing))}")
    if asked.again:
        cases = list(_again(asked.again))
    else:
        with contextlib.ExitStack() as stack:
            if asked.machine:
                machine = find(asked.machine)
            else:
                name = f"triage-{os.getpid()}"
                machine = stack.enter_context(held_machine(name, filesystem=asked.filesystem))
            cases = list(_cases(machine, asked.only, asked.keep))
    print(table(cases))
    ill, healthy = [case for case in cases if case.faults], [case for case in cases if not case.faults]
    first = sum(case.right for case in ill)
    print(f"\nfirst: {first} of {len(ill)}" + (f" ({first / len(ill):.0%})" if ill else "")
          + f"; nothing red on healthy machines: {sum(case.right for case in healthy)} of {len(healthy)};"
          f" false red findings: {sum(len(case.false_reds) for case in cases)}")  # fmt: skip
    if not ill or first / len(ill) < 0.95 or not all(case.right for case in healthy):
        sys.exit(1)


def table(cases: Sequence[Case]) -> str:
    """A Markdown table: case, rank of each true cause, the first finding, how sure, false red ones, seconds, early
    rank."""
    lines = [
        "| what was wrong | rank of the cause | first finding | sure | false red | seconds | rank told early |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        first = case.told.first
        ranks = _ranks(case.ranks) or ("none red" if case.right else "red!")
        early = "" if case.early is None else _ranks(case.ranks_in(case.early)) or "none red"
        if case.early is not None and not case.faults and case.early.red:
            early = "red!"
        lines.append(
            f"| {case.name} | {ranks} | {first.rule if first else 'nothing wrong'} |"
            f" {f'{first.confidence:.0%}' if first else ''} | {', '.join(case.false_reds) or '0'} |"
            f" {case.told.seconds:.0f} | {early} |"
        )
    return "\n".join(lines)


def _ranks(ranks: tuple[int, ...]) -> str:
    return " and ".join(str(rank) if rank else "not found" for rank in ranks)


def _cases(machine: Machine, only: list[str], keep: Path | None) -> Iterator[Case]:
    wanted: list[tuple[str, ...]] = [(), ("load",)]
    wanted += [(name,) for name, fault in faults.FAULTS.items()
               if machine.record.filesystem in fault.filesystems and machine.record.role in fault.roles]  # fmt: skip
    wanted += PAIRS
    for names in wanted:
        name = {(): HEALTHY[0], ("load",): HEALTHY[1]}.get(names, " + ".join(names))
        if only and name.replace(" + ", "+") not in only:
            continue
        try:
            case = _one(machine, name, () if names == ("load",) else names, keep, loaded=bool(names))
        except RunbookError as error:
            print(f"{name}: could not be made: {error}", file=sys.stderr, flush=True)
            continue
        told = case.told
        found = [f"{each.rule}({each.severity[0]}{', because' if each.because else ''})" for each in told.findings[:6]]
        print(
            f"{name}: ranks {case.ranks}, right {case.right}, {told.seconds:.1f} s; {', '.join(found)}"
            + (f"; untold {len(told.untold)}" if told.untold else ""),
            file=sys.stderr,
            flush=True,
        )
        yield case


def _one(machine: Machine, name: str, names: tuple[str, ...], keep: Path | None, *, loaded: bool) -> Case:
    machine.reset()
    with tempfile.TemporaryDirectory() as directory:
        config = _inventory(machine, Path(directory))
        # A disk that can do little hurts only when more is asked of it: otherwise nobody calls.
        load = Load([machine.address("postgres")], clients=4, commits_per_second=40.0 if "slow-disk" in names else 12.0)
        if loaded:
            load.start()
        try:
            time.sleep(_SETTLE_SECONDS)
            for fault in names:
                faults.inject(machine, fault)
            if "power-cut" in names:
                machine.wait_ready()
            time.sleep(
                max((_CALLED_AFTER_SECONDS.get(fault, 0.0) for fault in names), default=0.0) or _USUALLY_AFTER_SECONDS
            )
            machine.hang_up()  # the lab's own connection is not what a stranger would find
            (entry,) = config.select(machine.name)
            host = kept.Recorder(open_host(entry, config))
            early: list[Diagnosis] = []
            try:
                scene = read_scene(config, entry, opened=host, early=early.append)
            finally:
                host.close()
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                file = keep / f"{name.replace(' + ', '+').replace(', ', '-').replace(' ', '-')}.json"
                file.write_text(kept.as_json(name, names, scene, host))
        finally:
            if loaded:
                load.stop()
            if "connection-cut" in names:
                faults.remove(machine, "connection-cut")
    return Case(name, names, diagnose(scene), early[0] if early else None)


def _inventory(machine: Machine, directory: Path) -> inventory.Config:
    host, port = machine.address("http")
    file = directory / "runbooks.toml"
    file.write_text(
        f"ssh_config = {json.dumps(str(machine.ssh_config))}\n[hosts.{machine.name}]\n"
        f'[hosts.{machine.name}.partitions."/srv/db"]\ndatabase = true\n'
        f'[hosts.{machine.name}.services.builds]\nteamcity = "http://{host}:{port}"\n'
    )
    return inventory.load(file)


def _again(directory: Path) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "runbooks.toml"
        file.write_text('[hosts.kept]\n[hosts.kept.partitions."/srv/db"]\ndatabase = true\n')
        config = inventory.load(file)
        for path in sorted(directory.glob("*.json")):
            name, names, scene = kept.load(path, config)
            yield Case(name, names, diagnose(scene))


if __name__ == "__main__":
    main()
