"""Guided mode as a person meets it in a terminal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pexpect
import pytest

from runbooks_lib.runbook import journal, runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.training.practice_host import PracticeHost

ROOT = Path(__file__).parents[2]


class Terminal:
    """A person at a terminal of 100 columns; every word that appears is awaited."""

    def __init__(self, path: Path, practice: PracticeHost, places: Places) -> None:
        self.path, self.host = path, practice.names[0]
        self.work = path / "work"
        self.work.mkdir()
        file = path / "runbooks.toml"
        file.write_text(f'outputs = "out"\nssh_config = "{practice.ssh_config}"\n[hosts.{self.host}]\n')
        self.environment = {
            **os.environ,
            "RUNBOOKS_CONFIG": str(file),
            "RUNBOOKS_HOST_DIRECTORY": places.candidates[0],
            "TERM": "dumb",
        }
        self.child: pexpect.spawn | None = None

    def type(self, *words: str) -> pexpect.spawn:
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "tests.runbook.command_program", *words],
            cwd=str(ROOT),
            env=self.environment,
            encoding="utf-8",
            timeout=60,
            dimensions=(50, 300),
            # Where the tests run in the background, Ctrl-C is ignored by what they start.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        return self.child

    def run(self) -> pexpect.spawn:
        return self.type("run", "synthetic", "-H", self.host, "-p", f"directory={self.work}", "-p", "text=new")

    def names(self) -> list[str]:
        return sorted(path.name for path in self.work.iterdir())

    @property
    def only_run(self) -> Path:
        (directory,) = runs.directories(self.path / "out/runs")
        return directory


@pytest.fixture
def terminal(quick_path: Path, practice: PracticeHost, places: Places) -> Iterator[Terminal]:
    made = Terminal(quick_path, practice, places)
    yield made
    if made.child is not None:
        made.child.close(force=True)


def test_go_on_skip_stop_resume_and_the_hosts_name(terminal: Terminal) -> None:
    child = terminal.run()
    child.expect("Not when: Never on a host of yours")
    child.expect("Digest: [0-9a-f]{64}")
    child.expect("Undo: takes no time")
    child.expect_exact("Type the step's name (one) to go on, or: skip REASON, undo, stop:")
    child.sendline("")
    child.expect_exact("'' is none of these; nothing was run.")
    assert terminal.names() == []
    child.sendline("one")
    child.expect_exact("one: done")
    child.expect_exact("(two)")
    child.sendline("stop")
    child.expect_exact("you said stop")
    child.expect(f"go on: `runbook resume {terminal.only_run.name[-6:]}`, or")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 1
    assert terminal.names() == ["one"]

    child = terminal.type("resume", terminal.only_run.name[-6:])
    child.expect_exact("proven again")
    child.expect_exact("(two)")
    child.sendline("skip not today")
    child.expect_exact("POINT OF NO RETURN")
    child.expect_exact(f"Type the host's name ({terminal.host})")
    child.sendline("last")
    child.expect_exact("'last' is none of these")
    child.sendline(terminal.host)
    child.expect_exact("Done. The evidence is in")
    child.expect(pexpect.EOF)
    assert terminal.names() == ["last", "one"]


def test_ctrl_c_says_what_is_done_and_how_to_go_on_and_undo_takes_it_back(terminal: Terminal) -> None:
    child = terminal.run()
    child.expect_exact("(one)")
    child.sendline("one")
    child.expect_exact("(two)")
    child.sendintr()
    child.expect_exact("interrupted in `two`")
    child.expect_exact("nothing of it is running")
    child.expect("one +done")
    child.expect(f"take back: `runbook undo {terminal.only_run.name[-6:]}`")
    child.expect(pexpect.EOF)

    child = terminal.type("undo", terminal.only_run.name)
    child.expect_exact("Type the step's name (one) to undo it, or: stop:")
    child.sendline("one")
    child.expect_exact("Undone.")
    child.expect(pexpect.EOF)
    assert terminal.names() == []
    kinds = [entry.kind for entry in journal.read(terminal.only_run / journal.NAME).entries]
    assert "interrupted" in kinds
    assert "finished" in kinds
