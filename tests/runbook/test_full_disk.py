"""The operator's disk is full in the middle of a run: what cannot be recorded does not run, and nothing is lost.
And the small place on the host, which a job's log fills."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook import evidence, job, journal, lock, runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.resume import carry_out, open_run, resume
from runbooks_lib.runbook.run import Options, Run, target
from runbooks_lib.runbook.step import Command, Known, Runbook
from runbooks_lib.runbook.undo import undo, undo_digest
from tests.runbook.operators import Scripted
from tests.runbook.synthetic import at, book, write_step

pytestmark = pytest.mark.lab


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte, in blocks of 1 KiB: a journal's line may begin in one and end in none."""
    image, place = tmp_path / "image", tmp_path / "outputs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(512 * 1024)
    subprocess.run(["mke2fs", "-q", "-F", "-b", "1024", "-m", "0", "-O", "^has_journal", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def filling(disk: Path, left_bytes: int) -> Runbook:
    """Its first step's command does its work and then fills the operator's disk but for so many bytes."""

    def commands(known: Known) -> Sequence[Command]:
        ballast = word(str(disk / "ballast"))
        small = f"dd if=/dev/zero of={ballast} bs=1k oflag=append conv=notrunc 2>/dev/null; sync"  # to the last block
        fill = f"head -c {left_bytes} /dev/zero >{ballast}.room; sync; {small}; {small}; rm -f {ballast}.room; sync"
        put = f"printf %s new >{at(known, 'one')}.part && mv -f {at(known, 'one')}.part {at(known, 'one')}"
        return [Command(f"{put} || exit 1; [ -e {ballast} ] || {{ {fill}; }}", "one")]

    return book(
        replace(write_step("one", "one"), commands=commands), write_step("two", "two"), write_step("three", "three")
    )


@pytest.mark.parametrize("left_bytes", [0, 1024, 2048, 3072])
@pytest.mark.parametrize("then", ["resume", "undo"])
def test_a_run_whose_disk_fills_up_is_finished_or_undone_when_there_is_room(
    disk: Path, left_bytes: int, then: str, host: SshHost, places: Places, quick_path: Path
) -> None:
    work = quick_path / "work"
    work.mkdir()
    runbook = filling(disk, left_bytes)
    aim = target(runbook, host, {"directory": str(work), "text": "new"})
    kept = Options(disk / "runs", places, Scripted(), on_begin=evidence.begin, on_end=evidence.gather)
    run = open_run(aim, replace(kept, approve=aim.plan().digest))
    assert isinstance(run, Run)
    with pytest.raises(RunbookError, match="the journal cannot be written") as full:
        carry_out(run)
    assert "nothing is done that cannot be recorded first" in str(full.value)
    assert "make room there" in str(full.value)
    (directory,) = runs.directories(disk / "runs")
    announced = [entry.step for entry in journal.read(directory / journal.NAME).entries if entry.kind == "change"]
    assert (work / "one").read_text() == "new"
    assert (work / "two").exists() is ("two" in announced)

    (disk / "ballast").unlink()
    (disk / "ballast").touch()
    again = resume(directory, aim, kept)
    if then == "resume":
        again.guided = False
        carry_out(again)
        assert (work / "two").read_text() == "new"
        assert runs.state_of(directory).outcome == "done"
    else:
        undo(again, approve=undo_digest(runbook, again.state))
        assert list(work.iterdir()) == []
        assert runs.state_of(directory).outcome == "undone"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Places]:
    """A place on the host with as little room as /run/lock has when much has been put there."""
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k,mode=1777", "tmpfs", place], check=True)
    yield Places((str(place),))
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("status", [0, 3, 255])
def test_a_job_whose_log_fills_the_hosts_place_still_tells_its_status(
    host: SshHost, small: Places, status: int
) -> None:
    held = lock.acquire(host, small, who="tester", run="run", runbook="test")
    command = Command(f"head -c 1000000 /dev/zero; exit {status}", "nothing")
    assert job.start(host, command, held, run="run", change="a.1.1")
    end = time.monotonic() + 20
    while (found := job.look(host, small, run="run", change="a.1.1", root=False)).state is job.JobState.RUNNING:
        assert time.monotonic() < end
    assert (found.state, found.exit_status) == (job.JobState.ENDED, status)
    assert found.log_bytes < 128 * 1024
