"""The `runbook` command as a person meets it: trouble ends in one clear message, the right exit code, nothing lost."""

import contextlib
import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paramiko
import pytest

from runbooks_lib import cli, terminal
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory
from runbooks_lib.hosts.host import HostUnreachable
from runbooks_lib.training.practice_host import PracticeHost

DAY = timedelta(days=1)


def runbook(
    directory: Path, *words: str, expect: int | None = None, timeout: float = 90
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "runbooks_lib", *words],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "RUNBOOKS_CONFIG": "", "HOME": str(directory)},
    )
    assert "Traceback" not in done.stdout + done.stderr
    if expect is not None:
        assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def practice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PracticeHost]:
    with PracticeHost(tmp_path_factory.mktemp("practice"), names=("db-1", "db-2")) as host:
        yield host


def inventory(directory: Path, practice: PracticeHost, hosts: str = "[hosts.db-1]\n[hosts.db-2]\n") -> Path:
    path = directory / "runbooks.toml"
    path.write_text(f'ssh_config = "{practice.ssh_config}"\n{hosts}')
    return path


def grown(
    directory: Path, host: str = "db-1", days: int = 200, *, per_day: float = 1.0, now: datetime | None = None
) -> None:
    """A history in which `/srv/db` of 500 GiB grows every day and stands at 88 % now."""
    gib, last = 2.0**30, now or datetime.now(UTC)
    samples = []
    for age in range(days, -1, -1):
        used = (440 - age * per_day) * gib
        labels = {"instance": host, "mountpoint": "/srv/db", "device": "/dev/vdb", "fstype": "ext4"}
        for name, value in (("size", 500 * gib), ("free", 500 * gib - used), ("avail", 500 * gib - used)):
            samples.append(Sample(f"node_filesystem_{name}_bytes", value, last - age * DAY, labels))
    with SqliteHistory(directory / "outputs/history.sqlite") as history:
        history.import_samples(samples, origin="imported from a test")


def test_hosts_are_collected_over_ssh_and_stand_in_the_history(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice)
    done = runbook(tmp_path, "collect", expect=0)
    assert "2 of 2 hosts read" in done.stdout
    assert "db-1" in runbook(tmp_path, "history", "info", expect=0).stdout
    assert runbook(tmp_path, "collect", "--quiet", expect=0).stdout == ""


def test_what_is_not_followed_of_the_way_to_hosts_is_said_once_where_they_are_checked_and_listed(
    tmp_path: Path, practice: PracticeHost
) -> None:
    inventory(tmp_path, practice)
    own = tmp_path / "ssh_config"
    own.write_text(f"Host db-*\n  Ciphers aes128-gcm@openssh.com\n{practice.ssh_config.read_text()}")
    (tmp_path / "hosts.ini").write_text("[all]\ndb-1\ndb-2\n[all:vars]\nansible_ssh_common_args=-o Compression=yes\n")
    (tmp_path / "runbooks.toml").write_text('ssh_config = "ssh_config"\n[ansible]\ninventory = "hosts.ini"\n')
    checked, listed = (runbook(tmp_path, "hosts", verb, expect=0).stdout for verb in ("check", "list"))
    assert checked.count("db-1 and db-2: Ciphers is not followed") == 1
    assert "MACs" not in checked
    for told in (checked, listed):
        assert told.count("db-1 and db-2: ansible_ssh_common_args is not followed") == 1


@pytest.mark.parametrize(
    ("words", "status"), [(["collect", "--show-script"], 0), (["--help"], 0), (["undo", "--help"], 1)]
)
def test_a_reader_that_has_what_it_wanted_is_no_failure_but_of_a_verb_that_changes_hosts(words, status) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "runbooks_lib", *words],
            stdout=nobody,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == status
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_facts_are_words_and_json_only_when_asked_for(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice)
    words = runbook(tmp_path, "facts", "db-1", "--slow", expect=0).stdout
    assert "file systems" in words
    assert "deleted files that are still open" in words
    assert "{" not in words
    snapshot = json.loads(runbook(tmp_path, "facts", "db-1", "--slow", "--json", expect=0).stdout)
    assert snapshot["slow"]["deleted_files"]["state"] == "available"
    (tmp_path / "big").mkdir()
    mount = next(parent for parent in tmp_path.parents if parent.is_mount())
    walked = runbook(tmp_path, "facts", "db-1", "--directories", str(mount), expect=0).stdout
    assert "biggest directories" in walked
    runbook(tmp_path, "facts", "db-1", "--directories", "not-absolute", expect=2)


@pytest.mark.parametrize(
    "error",
    [
        HostUnreachable(
            "evil", "it said \x1b]52;c;cm0gLXJm\x07\rall is well\u202e", true_now="one\ntwo\x1b[1A", next="x"
        ),
        KeyboardInterrupt("it said \x1b]52;c;cm0gLXJm\x07\rall is well\u202e\ntwo\x1b[1A"),
    ],
    ids=["error", "interrupted"],
)
def test_what_a_host_said_steers_no_terminal_from_a_message(error, monkeypatch, capsys) -> None:
    def fail(**_options: object) -> None:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert all(character.isprintable() or character == "\n" for character in told)
    assert r"said \x1b]52;c;cm0gLXJm\x07\rall is well\u202e" in told
    assert "two\\x1b[1A" in told.split("\n", 2)[2]


def test_an_import_can_be_looked_at_and_taken_back(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice)
    (tmp_path / "old.csv").write_text("time,used_bytes,size_bytes\n2019-03-08T00:00:00Z,412000000000,500000000000\n")
    runbook(tmp_path, "history", "import", "csv", "old.csv", "--host", "db-1", "--mountpoint", "/srv/db", expect=0)
    info = runbook(tmp_path, "history", "info", expect=0).stdout
    assert "2019-03-08 to 2019-03-08" in info  # however long ago
    would = runbook(tmp_path, "history", "forget", "imported from old.csv", expect=0).stdout
    assert "Nothing was removed" in would
    assert runbook(tmp_path, "history", "info", expect=0).stdout == info
    runbook(tmp_path, "history", "forget", "imported from old.csv", "--yes", expect=0)
    assert "The history is empty" in runbook(tmp_path, "history", "info", expect=0).stdout
    assert "it has: no import" in runbook(tmp_path, "history", "forget", "old.csv", expect=2).stderr


def test_a_report_tells_its_state_by_its_exit_code_and_its_page(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice, '[hosts.db-1]\ngroups = ["007"]\n')
    grown(tmp_path)
    done = runbook(tmp_path, "report", "disk-report", "-p", "group=007", expect=3)
    assert "/srv/db on db-1 will pass 90 %" in done.stdout
    page = Path(done.stdout.split("file://")[1].strip())
    assert page.is_file()
    record = json.loads((page.parent / "run.json").read_text())
    assert record["parameters"] == {"group": "007"}
    assert record["exit_code"] == 3
    assert (tmp_path / "outputs/index.html").is_file()


def test_wrong_parameters_are_all_told_before_anything_starts(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice)
    done = runbook(
        tmp_path, "report", "disk-report", "-p", "horizn=3", "-p", "horizon_days=never", "-p", "host=a", expect=2
    )
    assert "did you mean horizon_days" in done.stderr
    assert "never" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("report", "disk-reprot"), "no such report: disk-reprot"),
        (("collect", "db-3"), "no such host: db-3"),
        (("collect", "--group", "databases"), "no such group: databases"),
        (("hosts", "trust", "db-9"), "no such host: db-9"),
        (("schedule", "--at", "25:99", "--cron"), "not a time of day"),
        (("lab", "--ip", "0.0.0.0"), "can be reached from other machines"),  # noqa: S104
        (("history", "import", "csv", "absent.csv"), "absent.csv"),
        (("collect", "--confg", "x"), "No such option"),
        (("nonsense",), "No such command"),
        (("check",), "`runbook hosts check`"),
    ],
)
def test_what_is_used_wrongly_is_exit_code_two(
    tmp_path: Path, practice: PracticeHost, words: tuple[str, ...], told: str
) -> None:
    inventory(tmp_path, practice)
    assert told in runbook(tmp_path, *words, expect=2).stderr


def test_without_an_inventory_the_first_step_is_told(tmp_path: Path) -> None:
    assert "runbook init" in runbook(tmp_path, "collect", expect=2).stderr


def test_broken_toml_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "runbooks.toml").write_text("[hosts.a\n")
    assert "line 1" in runbook(tmp_path, "collect", expect=2).stderr


def test_a_starter_inventory_is_written_once(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    config = tmp_path / ".ssh/config"
    config.write_text("Host db-1 db-2\n  HostName 127.0.0.1\nHost *.example\n  User me\n")
    assert "2 hosts" in runbook(tmp_path, "init", "--ssh-config", str(config), expect=0).stdout.replace(
        "1 host ", "2 hosts"
    )
    before = (tmp_path / "runbooks.toml").read_bytes()
    assert "runbooks.toml" in runbook(tmp_path, "init", "--ssh-config", str(config), expect=2).stderr
    assert (tmp_path / "runbooks.toml").read_bytes() == before
    assert "db-1" in runbook(tmp_path, "hosts", "list", expect=0).stdout


def test_an_unknown_host_key_is_that_hosts_row_and_the_others_are_read(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice)
    known = practice.known_hosts.read_text()
    try:
        practice.known_hosts.write_text("".join(line for line in known.splitlines(True) if "db-2" not in line))
        done = runbook(tmp_path, "collect", expect=1)
    finally:
        practice.known_hosts.write_text(known)
    assert "1 of 2 hosts read" in done.stdout
    assert "host key unknown" in done.stdout
    assert "SHA256:" in done.stderr
    assert "runbook hosts trust db-2" in done.stderr


def test_a_changed_host_key_is_never_accepted_and_cannot_be_trusted_over_the_old_one(
    tmp_path: Path, practice: PracticeHost
) -> None:
    inventory(tmp_path, practice)
    known = practice.known_hosts.read_text()
    other = paramiko.ECDSAKey.generate()
    try:
        practice.known_hosts.write_text(f"db-1 {other.get_name()} {other.get_base64()}\n")
        done = runbook(tmp_path, "collect", "db-1", expect=1)
        assert "host key changed" in done.stdout
        assert "CHANGED" in done.stderr
        trust = runbook(tmp_path, "hosts", "trust", "db-1", expect=1)
        assert "ssh-keygen" in trust.stderr
        assert practice.known_hosts.read_text() == f"db-1 {other.get_name()} {other.get_base64()}\n"
    finally:
        practice.known_hosts.write_text(known)


def test_nobody_says_yes_for_a_person(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice)
    known = practice.known_hosts.read_text()
    try:
        practice.known_hosts.write_text("")
        done = runbook(tmp_path, "hosts", "trust", "db-1", expect=1)
        assert "SHA256:" in done.stdout
        assert practice.known_hosts.read_text() == ""
    finally:
        practice.known_hosts.write_text(known)


def test_a_refused_login_is_told(tmp_path: Path, practice: PracticeHost) -> None:
    wrong = tmp_path / "wrong_key"
    paramiko.ECDSAKey.generate().write_private_key_file(str(wrong))
    text = practice.ssh_config.read_text().replace(str(practice.identity_file), str(wrong))
    (tmp_path / "ssh_config").write_text(text)
    (tmp_path / "runbooks.toml").write_text('ssh_config = "ssh_config"\n[hosts.db-1]\n')
    done = runbook(tmp_path, "collect", expect=1)
    assert "refused" in done.stdout
    assert "0 of 1 host read" in done.stdout


def test_a_dead_and_a_silent_host_are_rows_within_the_deadline(tmp_path: Path, practice: PracticeHost) -> None:
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        text = practice.ssh_config.read_text()
        for name, port in (("silent", silent.getsockname()[1]), ("dead", closed.getsockname()[1])):
            text += f"\nHost {name}\n  HostName 127.0.0.1\n  Port {port}\n  User nobody\n"
        (tmp_path / "ssh_config").write_text(text)
        (tmp_path / "runbooks.toml").write_text(
            'ssh_config = "ssh_config"\n[collect]\ndeadline_seconds = 4\n[hosts.silent]\n[hosts.dead]\n[hosts.db-1]\n'
        )
        begin = time.monotonic()
        done = runbook(tmp_path, "collect", expect=1)
    assert time.monotonic() - begin < 20
    assert "1 of 3 hosts read" in done.stdout
    assert "unreachable" in done.stdout
    assert "timed out" in done.stdout


def test_a_host_that_was_not_reached_stands_in_the_report(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice, '[hosts.db-1]\n[hosts.gone]\nssh = "gone.invalid"\n')
    runbook(tmp_path, "collect", expect=1)
    done = runbook(tmp_path, "report", "disk-report")
    page = Path(done.stdout.split("file://")[1].strip()).read_text()
    assert "gone" in page
    assert "not reached" in page.lower()


def test_an_empty_history_says_what_to_do_first(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice)
    done = runbook(tmp_path, "report", "disk-report", expect=1)
    assert (
        "runbook collect" in done.stdout + done.stderr + next((tmp_path / "outputs").rglob("report.html")).read_text()
    )
    assert "no history yet" in runbook(tmp_path, "history", "info", expect=1).stderr


def test_a_damaged_history_is_told_and_left_as_it_is(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice)
    (tmp_path / "outputs").mkdir()
    path = tmp_path / "outputs/history.sqlite"
    path.write_bytes(b"not a database at all, but long enough to have a header of one" * 20)
    before = path.read_bytes()
    done = runbook(tmp_path, "collect", expect=1)
    assert "history.sqlite" in done.stderr
    assert path.read_bytes() == before


def test_a_locked_history_is_told_and_nothing_is_lost(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice, "[hosts.db-1]\n")
    grown(tmp_path)
    with sqlite3.connect(tmp_path / "outputs/history.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        done = runbook(tmp_path, "collect", expect=1)
        assert "lock" in done.stderr.lower()
        other.execute("ROLLBACK")
    runbook(tmp_path, "history", "check", expect=0)
    assert "201" in runbook(tmp_path, "history", "info").stdout


def test_a_clock_that_went_back_loses_nothing(tmp_path: Path, practice: PracticeHost) -> None:
    """The history holds samples of half an hour ahead of our clock; we collect now all the same."""
    inventory(tmp_path, practice, "[hosts.db-1]\n")
    grown(tmp_path, now=datetime.now(UTC) + timedelta(minutes=30))
    runbook(tmp_path, "collect", expect=0)
    runbook(tmp_path, "report", "disk-report", expect=3)
    runbook(tmp_path, "history", "check", expect=0)


def test_under_cron_a_report_runs_once_when_it_is_due(tmp_path: Path, practice: PracticeHost) -> None:
    inventory(tmp_path, practice, "[hosts.db-1]\n")
    grown(tmp_path)
    (tmp_path / "outputs/expected.json").write_text(
        json.dumps({"disk-report": {"at": "00:00", "since": "2026-01-01T00:00:00+00:00", "arguments": []}})
    )
    first = runbook(tmp_path, "report", "disk-report", "--if-due", expect=3)
    assert "file://" in first.stdout
    assert runbook(tmp_path, "report", "disk-report", "--if-due", expect=0).stdout == ""


def test_ctrl_c_ends_a_round_within_seconds_and_says_who_was_not_reached(
    tmp_path: Path, practice: PracticeHost
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        text = practice.ssh_config.read_text()
        text += f"\nHost slow-*\n  HostName 127.0.0.1\n  Port {silent.getsockname()[1]}\n  User nobody\n"
        (tmp_path / "ssh_config").write_text(text)
        names = [f"slow-{number}" for number in range(5)]
        (tmp_path / "runbooks.toml").write_text(
            'ssh_config = "ssh_config"\n[collect]\nworkers = 2\n[hosts.db-1]\n'
            + "".join(f"[hosts.{n}]\n" for n in names)
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "runbooks_lib", "collect"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 30
            silent.settimeout(30)
            held, _ = silent.accept()  # let go, it would be a host that failed, not one that was interrupted
            with held:
                while time.monotonic() < deadline and not _collected(tmp_path):
                    time.sleep(0.1)
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
    assert time.monotonic() - begin < 5
    assert process.returncode == 1
    assert "not reached" in said
    assert all(name in said for name in names)
    assert _collected(tmp_path), "what was read before is kept"


def _collected(directory: Path) -> bool:
    path = directory / "outputs/history.sqlite"
    if not path.exists():
        return False
    with SqliteHistory(path) as history:
        return bool(history.filesystems("db-1"))


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(b"x" * 4096):
            pass


@pytest.mark.lab
def test_a_full_disk_under_outputs_is_told_and_what_was_there_stays(tmp_path: Path, practice: PracticeHost) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(outputs)], check=True)
    try:
        inventory(tmp_path, practice, "[hosts.db-1]\n")
        grown(tmp_path, days=30)
        runbook(tmp_path, "collect", expect=0)
        first = runbook(tmp_path, "report", "disk-report")
        page = Path(first.stdout.split("file://")[1].strip())
        before = page.read_bytes()
        _fill(outputs / "ballast")
        report = runbook(tmp_path, "report", "disk-report", expect=1)
        assert "full" in report.stderr
        collect = runbook(tmp_path, "collect", expect=1)
        assert "full" in collect.stderr or "space" in collect.stderr
        assert page.read_bytes() == before
        (outputs / "ballast").unlink()
        runbook(tmp_path, "history", "check", expect=0)
        runbook(tmp_path, "collect", expect=0)
    finally:
        subprocess.run(["umount", str(outputs)], check=True)


def test_what_is_no_number_in_json_is_null() -> None:
    assert json.loads(terminal.as_json({"days": [math.inf, -math.inf, math.nan, 1.5]})) == {
        "days": [None, None, None, 1.5]
    }
