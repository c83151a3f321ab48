"""Timers: what would be written is exact, paths with odd characters survive, and installing can be taken back."""

import json
import os
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from runbooks_lib import config, parameters
from runbooks_lib.cli import cli
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.reports import expected, run, schedule, telling

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ODD = 'on call %n $HOME "it\'s" 100%'


@pytest.fixture
def loaded(tmp_path: Path) -> config.Config:
    directory = tmp_path / ODD
    directory.mkdir()
    path = directory / "runbooks.toml"
    path.write_text("[hosts.a]\n")
    return config.load(path)


@pytest.fixture
def own_crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `crontab` that keeps its lines in a file of the test's, with the real one's answers and exit statuses."""
    kept = tmp_path / "crontab"
    program = tmp_path / "bin" / "crontab"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase $1 in -l) [ -f {kept} ] && exec cat {kept}; echo "no crontab for me" >&2; exit 1;;'
        f" -) exec cat > {kept};; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return kept


def test_a_user_without_root_gets_user_units_and_is_told_of_lingering(
    loaded: config.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    planned = schedule.plan(loaded, now=NOW, kind="systemd")
    assert {path.parent for path in planned.files} == {tmp_path / "xdg/systemd/user"}
    assert all(command[:2] == ("systemctl", "--user") for command in planned.commands)
    assert "enable-linger" in planned.advice
    shown = planned.describe()
    assert "Persistent=true" in shown
    assert "OnCalendar=*:0/5" in shown
    assert "OnCalendar=*-*-* 05:30:00" in shown
    assert "SuccessExitStatus=3" in shown
    assert not any(path.exists() for path in planned.files)


def test_nothing_is_written_by_planning(loaded: config.Config) -> None:
    schedule.plan(loaded, now=NOW, kind="cron")
    assert expected.expectations(loaded.outputs) == {}


@pytest.mark.lab
def test_systemd_itself_accepts_the_units_and_reads_the_odd_path_back(loaded: config.Config, tmp_path: Path) -> None:
    planned = schedule.plan(loaded, now=NOW, kind="systemd", arguments=("-p", "group=100% $x \\ \"q\" 'a'"))
    directory = tmp_path / "units"
    directory.mkdir()
    for path, text in planned.files.items():
        (directory / path.name).write_text(text)
    analyze = shutil.which("systemd-analyze")
    assert analyze, "systemd-analyze is missing: install the package systemd"
    done = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, sorted(directory.glob("*")))], capture_output=True, text=True
    )
    complaints = [line for line in done.stderr.splitlines() if "runbook-" in line]
    assert not complaints, done.stderr
    for calendar in ("*:0/5", "*-*-* 05:30:00"):
        subprocess.run([analyze, "calendar", calendar], check=True, capture_output=True)


def test_cron_lines_give_the_shell_the_same_words_and_keep_what_others_wrote(
    loaded: config.Config, own_crontab: Path
) -> None:
    others = ["MAILTO=me", "0 1 * * * backup --all # runbook of ours"]
    own_crontab.write_text("".join(f"{line}\n" for line in others))
    planned = schedule.plan(loaded, now=NOW, kind="cron")
    schedule.install(planned)
    schedule.install(planned)
    lines = own_crontab.read_text().splitlines()
    assert lines[:2] == others
    assert len(lines) == 4
    for line, minute in zip(lines[2:], ("*/5", "30"), strict=True):
        assert line.startswith(f"{minute} * * * * ")
        command = line.split(" * * * * ")[1]
        # What cron does: an escaped percent sign becomes one, the first bare one would end the command.
        assert "%" not in command.replace("\\%", "")
        words = shlex.split(command.replace("\\%", "%").partition(" >>")[0])
        assert str(loaded.file) in words
        log = shlex.split(command.replace("\\%", "%").partition(" >>")[2])[0]
        assert log == str(loaded.outputs / "cron.log")
    assert "--if-due" in lines[3]
    schedule.remove(planned)
    assert own_crontab.read_text().splitlines() == others
    assert expected.expectations(loaded.outputs) == {}
    schedule.remove(planned)


@pytest.mark.lab
def test_the_real_crontab_takes_the_lines_and_gives_them_up_again(loaded: config.Config) -> None:
    assert shutil.which("crontab"), "crontab is missing: install the package cron"
    before = subprocess.run(["crontab", "-l"], capture_output=True, text=True)
    planned = schedule.plan(loaded, now=NOW, kind="cron")
    try:
        schedule.install(planned)
        assert set(planned.lines) <= set(subprocess.check_output(["crontab", "-l"], text=True).splitlines())
    finally:
        schedule.remove(planned)
    after = subprocess.run(["crontab", "-l"], capture_output=True, text=True)
    assert after.stdout == before.stdout


def test_what_is_expected_is_kept_privately_and_says_when_a_run_is_due_or_missing(
    loaded: config.Config, own_crontab: Path
) -> None:
    assert not own_crontab.exists()
    schedule.install(schedule.plan(loaded, now=NOW, kind="cron", at="03:00", arguments=("-p", "horizon_days=30")))
    path = loaded.outputs / expected.FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    nightly = expected.expectations(loaded.outputs)["disk-report"]
    assert nightly.arguments == ("-p", "horizon_days=30")

    local = NOW.astimezone()
    tonight = (local + timedelta(days=1)).replace(hour=3, minute=0)
    assert not nightly.missing(None, NOW), "just installed, it was never due"
    assert nightly.due(None, tonight)
    assert not nightly.missing(None, tonight + timedelta(hours=1))
    assert nightly.missing(None, tonight + timedelta(hours=3))
    started = tonight + timedelta(minutes=4)
    assert not nightly.due(started, tonight + timedelta(hours=20))
    assert nightly.due(started, tonight + timedelta(days=1, seconds=1))


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_a_day_has_23_or_25_hours_when_the_clocks_change() -> None:
    nightly = expected.Expectation("disk-report", "05:30", datetime(2026, 1, 1, tzinfo=UTC))
    autumn = datetime(2026, 10, 24, 3, 30, 20, tzinfo=UTC)  # ran well at 05:30:20, summer time
    for now in (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), datetime(2026, 10, 25, 4, 0, tzinfo=UTC)):
        assert nightly.last_due(now) == datetime(2026, 10, 24, 3, 30, tzinfo=UTC)
        assert not nightly.due(autumn, now)
        assert not nightly.missing(autumn, now)
    assert nightly.missing_from(autumn, datetime(2026, 10, 24, 21, 30, tzinfo=UTC)) == datetime(
        2026, 10, 25, 6, 30, tzinfo=UTC
    ), "05:30 winter time, and two hours"
    assert nightly.due(autumn, datetime(2026, 10, 25, 4, 30, tzinfo=UTC))
    spring = datetime(2026, 3, 29, 3, 0, tzinfo=UTC)  # 05:00, the first morning of summer time
    assert nightly.last_due(spring) == datetime(2026, 3, 28, 4, 30, tzinfo=UTC)
    assert nightly.missing(datetime(2026, 3, 28, 3, 40, tzinfo=UTC), spring)


def test_what_was_never_due_is_not_missing_before_its_first_time() -> None:
    at_noon = datetime(2026, 11, 23, 12, tzinfo=datetime.now().astimezone().tzinfo).astimezone(UTC)
    nightly = expected.Expectation("disk-report", "05:30", at_noon)
    assert nightly.due(None, at_noon + timedelta(minutes=5)), "cron runs it within the hour"
    assert not nightly.missing(None, at_noon + timedelta(hours=12)), "a systemd timer waits for the morning"
    assert nightly.missing(None, at_noon + timedelta(hours=20))


@pytest.mark.usefixtures("own_crontab")
@pytest.mark.parametrize(
    "given", [["horizon_days=180", "group=databases"], ["group=databases", "horizon_days=180"], ["horizon_days=090"]]
)
def test_a_schedule_knows_its_runs_however_the_parameters_were_written(loaded: config.Config, given: list[str]) -> None:
    options = [word for each in given for word in ("-p", each)]
    command = ["schedule", "--config", str(loaded.file), "--cron", "--install", "--at", "00:00", *options]
    assert CliRunner().invoke(cli, command).exit_code == 0
    values = parameters.check(run.find("disk-report").parameters, parameters.assignments(given))
    now = datetime.now(UTC)
    record = replace(run._begin(run.find("disk-report"), values, now, 900.0), state="ok", ended=now)
    directory = loaded.outputs / record.report / record.run
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(record.as_json()))
    assert telling.is_scheduled(loaded, record)
    assert not schedule.is_due(loaded.outputs, "disk-report", now=now)


@pytest.mark.parametrize("kind", ["cron", "systemd"])
def test_two_reports_of_one_inventory_share_the_collecting_and_nothing_else(
    loaded: config.Config, own_crontab: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: schedule.Kind
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    calls = tmp_path / "systemctl-calls"
    systemctl = own_crontab.parent / "bin" / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{calls}\n')
    systemctl.chmod(0o755)

    def planned(report: str) -> schedule.Schedule:
        return schedule.plan(loaded, now=NOW, kind=kind, report=report)

    def kept() -> str:
        if kind == "cron":
            return "\n".join(sorted(own_crontab.read_text().splitlines()))
        return "\n".join(
            line for path in sorted((tmp_path / "xdg/systemd/user").iterdir()) for line in (path.name, path.read_text())
        )

    schedule.install(planned("disk-report"))
    alone = kept()
    schedule.install(planned("triage-slow-service"))
    both = kept()
    assert {"disk-report", "triage-slow-service"} == set(expected.expectations(loaded.outputs))
    for line in alone.splitlines():
        assert line in both
    schedule.remove(planned("triage-slow-service"))
    assert kept() == alone
    schedule.remove(planned("disk-report"))
    assert kept() == ""
    if kind == "systemd":
        ended = [line for line in calls.read_text().splitlines() if "disable" in line]
        assert ["collect" in line for line in ended] == [False, True]


def test_lines_of_an_earlier_version_are_replaced_and_taken_away(loaded: config.Config, own_crontab: Path) -> None:
    planned = schedule.plan(loaded, now=NOW, kind="cron")
    old = [line.rsplit(" ", 2 if " report " in line[line.rfind("#") :] else 1)[0] for line in planned.lines]
    assert len({line[line.rfind("#") :] for line in old}) == 1
    own_crontab.write_text("".join(f"{line}\n" for line in ["5 5 * * * theirs", *old]))
    schedule.install(planned)
    assert own_crontab.read_text().splitlines() == ["5 5 * * * theirs", *planned.lines]
    own_crontab.write_text("".join(f"{line}\n" for line in ["5 5 * * * theirs", *old]))
    schedule.remove(planned)
    assert own_crontab.read_text() == "5 5 * * * theirs\n"


def test_a_crontab_that_cannot_be_read_is_not_taken_for_an_empty_one(loaded: config.Config, own_crontab: Path) -> None:
    own_crontab.write_text("5 5 * * * their-own-job\n")
    program = own_crontab.parent / "bin" / "crontab"
    program.write_text(program.read_text().replace(f"exec cat {own_crontab};", "{ echo denied >&2; exit 1; };", 1))
    with pytest.raises(RunbookError, match="cannot be read: denied"):
        schedule.install(schedule.plan(loaded, now=NOW, kind="cron"))
    assert own_crontab.read_text() == "5 5 * * * their-own-job\n"


def test_installing_again_does_not_forgive_a_missing_run(loaded: config.Config, own_crontab: Path) -> None:
    assert not own_crontab.exists()
    schedule.install(schedule.plan(loaded, now=NOW, kind="cron"))
    schedule.install(schedule.plan(loaded, now=NOW + timedelta(days=3), kind="cron"))
    assert expected.expectations(loaded.outputs)["disk-report"].since == NOW


@pytest.mark.parametrize(
    "damage", ["", "[]", "{", '{"disk-report": 3}', '{"disk-report": {"at": "x", "since": 1, "arguments": 2}}']
)
def test_a_damaged_list_of_expectations_is_no_reason_to_fail(loaded: config.Config, damage: str) -> None:
    loaded.outputs.mkdir()
    (loaded.outputs / expected.FILE_NAME).write_text(damage)
    assert expected.expectations(loaded.outputs) == {}


def test_a_time_or_an_interval_that_cannot_be_is_refused(loaded: config.Config) -> None:
    with pytest.raises(UsageError, match="not a time of day"):
        schedule.plan(loaded, now=NOW, at="25:00")
    with pytest.raises(UsageError, match="does not divide an hour"):
        schedule.plan(loaded, now=NOW, every_minutes=7)
    with pytest.raises(UsageError, match="control character"):
        schedule.plan(loaded, now=NOW, arguments=("a\nb",))


def test_a_machine_with_neither_is_told(loaded: config.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunbookError, match="neither systemd nor crontab"):
        schedule.install(schedule.plan(loaded, now=NOW, kind="cron"))


@pytest.mark.parametrize(("deadline", "allowed"), [(None, "60min"), (900, "60min"), (7200, "130min")])
def test_a_longer_deadline_goes_to_the_report_and_systemd_waits_for_it(
    loaded: config.Config, deadline: float | None, allowed: str
) -> None:
    planned = schedule.plan(loaded, now=NOW, kind="systemd", deadline_seconds=deadline)
    (unit,) = (text for path, text in planned.files.items() if path.name.endswith("disk-report.service"))
    assert f"TimeoutStartSec={allowed}" in unit
    assert ('"--deadline" "7200"' in unit) == (deadline == 7200)
    assert ("--deadline" in unit) == (deadline is not None)
    lines = schedule.plan(loaded, now=NOW, kind="cron", deadline_seconds=deadline).lines
    (line,) = (line for line in lines if " report " in line)
    assert ("--deadline" in line) == (deadline is not None)


def test_a_deadline_that_cannot_be_is_refused(loaded: config.Config) -> None:
    with pytest.raises(UsageError, match="deadline"):
        schedule.plan(loaded, now=NOW, deadline_seconds=0)
