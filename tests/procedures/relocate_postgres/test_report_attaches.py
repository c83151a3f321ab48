"""A report that ends at its deadline in the middle of a long copy; the same command attaches to it. A real PostgreSQL
over a real sshd."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from benchmarks.relocate.here import Here, here
from runbooks_lib.reports.run import find
from runbooks_lib.runbook import journal, runs
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.practice_host import PracticeHost
from tests.procedures.relocate_postgres.moves import room_for_runs, servers

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[3]
NOTEBOOK = "relocate-database"
MEGABYTES, THROTTLE_MB = 40, 1  # with what an empty cluster has, most of a minute
DEADLINE_SECONDS, TRIES = 25, 3


@dataclass(frozen=True)
class Desk:
    cluster: Here
    notebook: Path
    host: str
    environment: dict[str, str]

    @property
    def runs(self) -> Path:
        return self.cluster.root / "out/runs"

    def report(self, status: int, *words: str) -> str:
        """What `runbook report` says of the move, typed the same way each time but for `words`; and its cells."""
        to = self.cluster.root / "new/moved"
        given = {"host": self.host, "directory": self.cluster.directory, "target": to, "backup": "a test's"}
        given |= {"throttle_mb": THROTTLE_MB, "most_io_pressure": 100}
        typed = [
            "report",
            str(self.notebook),
            *(word for each in given.items() for word in ("-p", f"{each[0]}={each[1]}")),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "runbooks_lib", *typed, *words],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        page = re.search(r"file://(\S+)", done.stdout)
        assert page, done.stdout + done.stderr
        cells = json.loads((Path(page[1]).parent / "report.ipynb").read_text())["cells"]
        said = ["".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", [])]
        return "".join([done.stdout, done.stderr, *said])


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with PracticeHost(tmp_path) as practice, here(MEGABYTES) as cluster, room_for_runs(cluster):
        name = practice.names[0]
        config = cluster.root / "runbooks.toml"
        config.write_text(f'outputs = "out"\nssh_config = "{practice.ssh_config}"\n[hosts.{name}]\n')
        notebook = nbformat.reads(find(NOTEBOOK).data.decode(), as_version=4)
        own = "from runbooks_lib.procedures.relocate_postgres import fstab\n"
        own += f"fstab.FSTAB = {str(cluster.root / 'fstab')!r}"
        at = next(place for place, cell in enumerate(notebook.cells) if "open_runbook(" in cell.source)
        notebook.cells.insert(at, nbformat.v4.new_code_cell(own))
        nbformat.write(notebook, cluster.root / f"{NOTEBOOK}.ipynb")
        environment = {**os.environ, "RUNBOOKS_CONFIG": str(config)}
        environment["RUNBOOKS_HOST_DIRECTORY"] = str(cluster.root / "place")
        yield Desk(cluster, cluster.root / f"{NOTEBOOK}.ipynb", name, environment)


def copying() -> bool:
    return (
        subprocess.run(
            ["pgrep", "-f", f"pg_basebackup.*--max-rate={THROTTLE_MB}M"], stdout=subprocess.DEVNULL
        ).returncode
        == 0
    )


def test_a_copy_outlives_its_report_and_the_same_command_attaches_to_it(desk: Desk) -> None:
    digest = re.findall(r"^Digest: ([0-9a-f]{64})$", desk.report(0), re.MULTILINE)[-1]
    with Load([desk.cluster.address], password="unused") as load:
        load.wait_acknowledged(20)
        for attempt in range(TRIES):  # on a busy machine the deadline may come before the copy has begun
            told = desk.report(1, "-p", f"approve={digest}", "--deadline", str(DEADLINE_SECONDS * 2**attempt))
            if copying():
                break
        assert copying()
        (directory,) = runs.directories(desk.runs)
        assert runs.state_of(directory).half_done == ("copy",)
        assert "it was stopped at its deadline" in told.lower()
        assert "goes on there, whatever becomes of this end" in told
        moved = desk.report(0, "-p", f"approve={digest}", "--deadline", "300")
        load.wait_acknowledged(20)
    assert load.verify().ok
    assert "copy: attached to its job" in moved
    assert runs.directories(desk.runs) == [directory]
    begun = [entry for entry in journal.read(directory / journal.NAME).entries if entry.kind == "change"]
    assert [entry.step for entry in begun].count("copy") == 1
    assert servers(desk.cluster) == [str(desk.cluster.root / "new/moved")]
