"""The notebook and the command on a real full filesystem with a past: the ways, what each buys, one done and undone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures.storage.relief import open_relief
from runbooks_lib.runbook.places import Places
from tests.procedures.storage.disks import MIB, loop_disk, mounted
from tests.procedures.storage.work import done, quiet_options
from tests.runbook.operators import Scripted

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for loop devices")]

ROOT = Path(__file__).parents[3]
NOTEBOOK = ROOT / "notebooks/incident/relieve-disk-pressure.ipynb"


@pytest.fixture
def mountpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nearly full, with half a year in which it grew by about 1 MiB a day; the inventory lists it."""
    with loop_disk(tmp_path, "disk", 400) as disk, mounted(disk.device, "ext4", tmp_path / "it's <b>full</b>") as at:
        (at / "data").write_bytes(os.urandom(MIB) * 310)
        os.sync()
        remember(tmp_path / "history.sqlite", at)
        (tmp_path / "place").mkdir()
        (tmp_path / "place").chmod(0o1777)
        inventory = tmp_path / "runbooks.toml"
        inventory.write_text(
            f'outputs = "out"\n[history]\npath = "history.sqlite"\n[hosts.here]\nlocal = true\n'
            f"partitions.{json.dumps(str(at))} = {{}}\n"
        )
        monkeypatch.setenv("RUNBOOKS_CONFIG", str(inventory))
        monkeypatch.setenv("RUNBOOKS_HOST_DIRECTORY", str(tmp_path / "place"))
        yield at


def remember(file: Path, at: Path) -> None:
    said = os.statvfs(at)
    size, used = said.f_blocks * said.f_frsize, (said.f_blocks - said.f_bfree) * said.f_frsize
    now = datetime.now(UTC)
    grown = np.cumsum(np.random.default_rng(1).gamma(2.0, 0.5, 180)) * MIB
    labels = {"instance": "here", "device": "/dev/loop9", "fstype": "ext4", "mountpoint": str(at)}
    samples = [
        Sample(f"node_filesystem_{name}", float(round(value)), now - timedelta(days=int(179 - day)), labels)
        for day, taken in enumerate(grown - grown[-1] + used)
        for name, value in (
            ("size_bytes", size), ("free_bytes", size - taken), ("avail_bytes", size * 0.95 - taken), ("readonly", 0.0)
        )
    ]  # fmt: skip
    history = SqliteHistory(file)
    history.import_samples(samples, origin="imported for a test", now=now)
    history.close()


def relieve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runbooks_lib", "relieve", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


def executed(parameters: dict[str, object]) -> str:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    given = nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in parameters.items()))
    notebook.cells.insert(2, given)
    resources = {"metadata": {"path": NOTEBOOK.parent}}
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3", resources=resources).execute()
    return nbformat.writes(notebook)


def test_the_command_lists_the_ways_with_what_each_buys_and_exits_with_3_when_none_is_enough(mountpoint: Path) -> None:
    said = relieve("here", str(mountpoint), "--json", "--days", "120")
    found = json.loads(said.stdout)
    assert found["wanted_bytes"] > 60 * MIB
    assert found["wanted_by"] == "by the forecast: nine of ten futures hold 120 days"
    (way,) = [way for way in found["ways"] if way["name"] == "lower-reserve"]
    assert way["gain_bytes"] == pytest.approx(16 * MIB, rel=0.1)
    first, half = way["days_to_threshold"]
    assert 2 < first < half < 40
    assert found["enough"] == []
    assert said.returncode == 3
    assert relieve("here", str(mountpoint), "--add-gib", "0.005").returncode == 0
    assert relieve("here", "/not/there").returncode == 2


def test_the_notebook_shows_the_ways_runs_what_is_approved_and_compares(mountpoint: Path) -> None:
    given: dict[str, object] = {"host": "here", "mountpoint": str(mountpoint), "way": "lower-reserve"}
    planned = executed(given)
    assert "PLAN ONLY: nothing is changed" in planned
    assert "&lt;b&gt;full&lt;/b&gt;" in planned, "a mount point's name is escaped into the page"
    digest = planned.partition("Digest: ")[2][:64]
    before = os.statvfs(mountpoint).f_bavail
    ran = executed({**given, "approve": digest})
    assert "reserve: done: " in ran
    assert "more is available than before" in ran
    assert os.statvfs(mountpoint).f_bavail > before


def test_files_that_were_moved_are_taken_back_by_a_new_kernel(mountpoint: Path, tmp_path: Path) -> None:
    """They are no files on it any more, so that moving them is not offered again."""
    (mountpoint / "old.tar").write_bytes(b"x" * MIB)
    files = [str(mountpoint / "old.tar")]
    with loop_disk(tmp_path, "other", 64) as other, mounted(other.device, "ext4", tmp_path / "aside") as aside:
        options = replace(quiet_options(tmp_path / "out/runs"), places=Places((str(tmp_path / "place"),)))
        given = {"mountpoint": str(mountpoint), "files": files, "store": str(aside / "store")}
        done(LocalHost("here"), "move-files", given, options)
        with pytest.raises(UsageError, match="not offered"):
            open_relief(host="here", mountpoint=str(mountpoint), way="move-files", files=[f"{mountpoint}/data2"])
        back = Scripted(["remove", "copy"])
        later = open_relief(host="here", mountpoint=str(mountpoint), way="move-files", files=files, operator=back)
        later.plan()
        assert "Done before" in back.text
        later.undo()
        assert (mountpoint / "old.tar").read_bytes() == b"x" * MIB


def test_a_person_is_asked_and_a_run_that_was_left_is_carried_on_with_its_own_parameters(mountpoint: Path) -> None:
    stops = Scripted(["stop"])
    relief = open_relief(host="here", mountpoint=str(mountpoint), way="lower-reserve", operator=stops)
    with pytest.raises(Exception, match="you said stop"):
        relief.run()
    person = Scripted(["reserve"])
    again = open_relief(host="here", mountpoint=str(mountpoint), operator=person)
    again.plan()
    assert "Unfinished, and carried on" in person.text
    again.run()
    assert "reserve: done" in person.text
    back = Scripted(["reserve"])
    later = open_relief(host="here", mountpoint=str(mountpoint), way="lower-reserve", operator=back)
    later.plan()
    assert "Done before" in back.text
    later.undo()
    assert "undone: " in back.text
