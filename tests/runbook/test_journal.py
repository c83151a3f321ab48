"""The journal as a write-ahead log: whole lines or none, chained, masked, for one process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbooks_lib import secrets
from runbooks_lib.errors import RunbookError
from runbooks_lib.runbook import journal

ROOT = Path(__file__).parents[2]


def written(path: Path, *kinds: str) -> Path:
    made = journal.Journal.create(path / "run")
    for kind in kinds:
        made.append(kind, why="because")
    made.close()
    return path / "run" / journal.NAME


def test_what_was_written_is_read_back_and_is_nobody_elses(tmp_path: Path) -> None:
    path = written(tmp_path, "begin", "end")
    assert [entry.kind for entry in journal.read(path).entries] == ["begin", "end"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("cut", [1, 10, 150])
def test_a_torn_last_line_is_set_aside_and_recorded(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path, "begin", "change")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    made = journal.Journal.resume(path.parent)
    assert [entry.kind for entry in made.entries] == ["begin", "torn"]
    made.close()
    assert [entry.kind for entry in journal.read(path).entries] == ["begin", "torn"]


@pytest.mark.parametrize("what", ["changed", "removed", "swapped", "added"])
def test_a_changed_journal_is_not_believed(tmp_path: Path, what: str) -> None:
    path = written(tmp_path, "one", "two", "three")
    lines = path.read_bytes().splitlines(keepends=True)
    changed = {
        "changed": [lines[0].replace(b"because", b"becausE"), *lines[1:]],
        "removed": [lines[0], lines[2]],
        "swapped": [lines[0], lines[2], lines[1]],
        "added": [*lines, lines[2]],
    }[what]
    path.write_bytes(b"".join(changed))
    with pytest.raises(journal.JournalDamaged, match="is not what was written"):
        journal.Journal.resume(path.parent)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = written(tmp_path, "begin")
    held = journal.Journal.resume(path.parent)
    with pytest.raises(journal.JournalInUse):
        journal.Journal.resume(path.parent)
    held.close()
    journal.Journal.resume(path.parent).close()


def test_a_full_disk_is_told_and_leaves_no_half_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the write comes back short and then fails."""
    program = f"""
import resource, signal, sys
from pathlib import Path
from runbooks_lib.errors import RunbookError
from runbooks_lib.runbook import journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
made = journal.Journal.create(Path({str(tmp_path)!r}) / "run")
made.append("begin")
resource.setrlimit(resource.RLIMIT_FSIZE, (made.path.stat().st_size + 100, {resource.RLIM_INFINITY}))
try:
    made.append("change", why="x" * 500)
except RunbookError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "nothing more was run on the host" in done.stdout
    found = journal.read(tmp_path / "run" / journal.NAME)
    assert [entry.kind for entry in found.entries] == ["begin"]
    assert found.torn == b""


@pytest.mark.parametrize("where", ["before the write", "after a part", "after the write", "after the sync"])
def test_an_interrupted_line_is_gone_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Ctrl-C, or SIGTERM, in the middle of an append; whoever catches it writes down that it was so."""
    made = journal.Journal.create(tmp_path / "run")
    made.append("begin")
    write, sync = os.write, os.fsync

    def interrupted_write(descriptor: int, data: bytes) -> int:
        if where == "after a part":
            write(descriptor, data[:20])
        raise KeyboardInterrupt

    def interrupted_sync(descriptor: int) -> None:
        if where == "after the sync":
            sync(descriptor)
        raise KeyboardInterrupt

    if where in ("before the write", "after a part"):
        monkeypatch.setattr(os, "write", interrupted_write)
    else:
        monkeypatch.setattr(os, "fsync", interrupted_sync)
    with pytest.raises(KeyboardInterrupt):
        made.append("change")
    monkeypatch.undo()
    for kind in ("interrupted", "unlocked"):
        made.append(kind)
    made.close()
    found = journal.read(made.path)
    assert [entry.kind for entry in found.entries] == ["begin", "interrupted", "unlocked"]
    assert (list(found.entries), found.torn) == (made.entries, b"")
    again = journal.Journal.resume(made.path.parent)
    monkeypatch.setattr(os, "fsync", interrupted_sync)
    with pytest.raises(KeyboardInterrupt):
        again.append("change")
    monkeypatch.undo()
    again.append("end")
    again.close()
    assert [entry.kind for entry in journal.read(made.path).entries] == ["begin", "interrupted", "unlocked", "end"]


def test_a_secret_is_masked_before_it_is_written(tmp_path: Path) -> None:
    secrets.register("canary-4711-abc")
    made = journal.Journal.create(tmp_path / "run")
    made.append("changed", output="it said canary-4711-abc", more={"canary-4711-abc": ["canary-4711-abc"]})
    made.close()
    assert "canary" not in made.path.read_text()
    assert journal.read(made.path).entries[0].data["output"] == "it said ***"


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunbookError, match="cannot be written"):
        journal.Journal.create(tmp_path / "file" / "run")


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=200), key=st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_output_byte_survives(tmp_path_factory: pytest.TempPathFactory, data: bytes, key: str) -> None:
    text = os.fsdecode(data)
    made = journal.Journal.create(tmp_path_factory.mktemp("any") / "run")
    entry = made.append("changed", output=text, more={key: text})
    made.close()
    (read,) = journal.read(made.path).entries
    assert read == entry
    if "***" not in json.dumps(entry.data):
        assert os.fsencode(read.data["output"]) == data
