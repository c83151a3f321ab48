"""The operator's disk is full in the middle of a run: what cannot be recorded does not run, and nothing is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook import evidence, journal, runs
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
