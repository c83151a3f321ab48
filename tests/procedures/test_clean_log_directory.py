"""Logs are rotated and compressed, nothing is lost, and everything can be taken back byte for byte."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.bastion import Bastions
from runbooks_lib.hosts.host import Host
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve as resolve_ssh
from runbooks_lib.procedures.clean_log_directory import RUNBOOK
from runbooks_lib.runbook import runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.resume import carry_out, open_run, resume
from runbooks_lib.runbook.run import Options, Run, Stopped, target
from runbooks_lib.runbook.undo import undo, undo_digest
from runbooks_lib.training.practice_host import PracticeHost
from tests.runbook.logs import NAMES, make_logs, picture
from tests.runbook.operators import Scripted

TOOLS = (
    "find stat od tr gzip cmp ln mv rm chmod touch sync df dirname readlink id date wc head cat mkdir sleep kill tail"
)


@pytest.fixture
def logs(quick_path: Path) -> Path:
    return make_logs(quick_path / "it's logs")


@pytest.fixture
def options(quick_path: Path) -> Options:
    place = quick_path / "place"
    place.mkdir()
    place.chmod(0o1777)
    return Options(quick_path / "runs", Places((str(place),)), Scripted(present=False))


def cleaned(host: Host, logs: Path, options: Options) -> Run:
    aim = target(RUNBOOK, host, {"directory": str(logs)})
    run = open_run(aim, replace(options, approve=aim.plan().digest))
    assert isinstance(run, Run)
    carry_out(run)
    return run


def undone(host: Host, logs: Path, options: Options) -> None:
    directory = runs.directories(options.runs)[0]
    run = resume(directory, target(RUNBOOK, host, {"directory": str(logs)}), options)
    undo(run, approve=undo_digest(RUNBOOK, run.state))


def test_every_quiet_log_is_archived_whole_and_an_empty_one_takes_its_place(logs: Path, options: Options) -> None:
    before = {os.fsdecode(path.name): path.read_bytes() for path in logs.iterdir()}
    cleaned(LocalHost(), logs, options)
    archives = {os.fsdecode(path.name): gzip.decompress(path.read_bytes()) for path in logs.glob("*.gz")}
    assert len(archives) == len(NAMES) + 1
    assert archives.pop("app.log.1.gz") == before["app.log.1"]
    for name in NAMES:
        (archive,) = [each for each in archives if each.startswith(f"{name}-2")]
        assert archives[archive] == before[name]
        assert (logs / name).stat().st_size == 0
    assert (logs / "busy.log").read_bytes() == before["busy.log"]
    assert (logs / "notes.txt").read_bytes() == before["notes.txt"]
    assert len(list(logs.iterdir())) == 2 * len(NAMES) + 3


def test_undo_gives_every_byte_mode_and_time_back(logs: Path, options: Options) -> None:
    before = picture(logs)
    cleaned(LocalHost(), logs, options)
    assert picture(logs) != before
    undone(LocalHost(), logs, options)
    assert picture(logs) == before


@pytest.mark.lab
@pytest.mark.parametrize("shell", ["bash", "busybox", "mksh"])
def test_other_shells_and_tools_do_the_same(
    shell: str, logs: Path, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dash runs everything else; here /bin/sh is another, and under busybox every tool is busybox's."""
    program = shutil.which(shell)
    assert program, f"this lab test needs the package {shell}"
    before = picture(logs)
    tools = tmp_path / "tools"
    tools.mkdir()
    if shell == "busybox":
        for tool in TOOLS.split():
            (tools / tool).symlink_to(program)
    command = f"exec {program} {'sh ' if shell == 'busybox' else ''}-s"
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr("runbooks_lib.hosts.local.COMMAND", command)
    cleaned(LocalHost(), logs, options)
    assert len(list(logs.glob("*.gz"))) == len(NAMES) + 1
    undone(LocalHost(), logs, options)
    assert picture(logs) == before


def test_a_log_that_is_open_for_writing_blocks_the_plan(logs: Path) -> None:
    aim = target(RUNBOOK, LocalHost(), {"directory": str(logs)})
    with (logs / "app.log").open("rb"):
        assert aim.plan().steps[0].verdict is Verdict.WOULD_RUN
    with (logs / "app.log").open("ab"):
        plan = aim.plan()
    assert plan.steps[0].verdict is Verdict.BLOCKED
    assert f"app.log is open for writing in process {os.getpid()}" in plan.steps[0].because


def test_a_log_with_a_second_name_blocks_the_plan(logs: Path) -> None:
    os.link(logs / "app.log", logs / "second name")
    plan = target(RUNBOOK, LocalHost(), {"directory": str(logs)}).plan()
    assert "app.log has a second name" in plan.steps[0].because


def test_no_log_at_all_is_told_and_is_not_taken_for_done(tmp_path: Path) -> None:
    plan = target(RUNBOOK, LocalHost(), {"directory": str(tmp_path)}).plan()
    assert plan.steps[0].verdict is Verdict.BLOCKED
    assert "no log matched" in plan.steps[0].because


def test_a_missing_directory_blocks_the_plan(tmp_path: Path) -> None:
    plan = target(RUNBOOK, LocalHost(), {"directory": str(tmp_path / "none")}).plan()
    assert plan.steps[0].verdict is Verdict.BLOCKED
    assert "cannot tell" in plan.steps[0].because


@pytest.mark.parametrize("parameters", [{"directory": "logs"}, {"directory": "/x", "pattern": "../*"}])
def test_parameters_that_make_no_sense_are_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="must be"):
        target(RUNBOOK, LocalHost(), parameters)


def test_undo_refuses_a_log_that_has_new_lines(logs: Path, options: Options) -> None:
    cleaned(LocalHost(), logs, options)
    (logs / "app.log").write_bytes(b"new\n")
    with pytest.raises(Stopped, match="has new lines; join it"):
        undone(LocalHost(), logs, options)
    assert (logs / "app.log").read_bytes() == b"new\n"


def test_a_log_that_is_written_to_between_plan_and_run_is_not_touched(logs: Path, options: Options) -> None:
    aim = target(RUNBOOK, LocalHost(), {"directory": str(logs)})
    digest = aim.plan().digest
    with (logs / "app.log").open("ab") as file:
        file.write(b"late\n")
    with pytest.raises(Exception, match="another plan"):
        open_run(aim, replace(options, approve=digest))
    assert (logs / "app.log").read_bytes().endswith(b"late\n")
    assert not list(logs.glob("*.gz"))


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[SshHost]:
    with PracticeHost(tmp_path / "practice") as practice:
        bastions = Bastions()
        host = SshHost(
            practice.names[0],
            settings_source=partial(resolve_ssh, config_file=practice.ssh_config),
            bastions=bastions,
        )
        yield host
        host.close()
        bastions.close()


def test_it_works_over_ssh(ssh: SshHost, logs: Path, options: Options) -> None:
    before = picture(logs)
    cleaned(ssh, logs, options)
    undone(ssh, logs, options)
    assert picture(logs) == before
