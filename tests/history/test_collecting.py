"""A round of `runbook collect`: every host is a row and stands in the history, also when processes share the hosts."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbooks_lib import config
from runbooks_lib.history import SqliteHistory, collecting
from runbooks_lib.hosts.shares import processes_for
from runbooks_lib.training.practice_host import PracticeHost

MANY = 110  # enough for two processes where there are two CPUs


@pytest.fixture
def practice(tmp_path: Path) -> Iterator[PracticeHost]:
    with PracticeHost(tmp_path / "practice", names=[f"h{number:03}" for number in range(MANY)]) as host:
        yield host


def inventory(directory: Path, practice: PracticeHost, *more: str, extra: str = "", before: str = "") -> Path:
    (directory / "ssh_config").write_text(before + practice.ssh_config.read_text())
    path = directory / "runbooks.toml"
    hosts = "".join(f"[hosts.{name}]\n" for name in (*practice.names, *more))
    path.write_text(f'ssh_config = "ssh_config"\n{extra}[history]\npath = "history.sqlite"\n{hosts}')
    return path


def collected(directory: Path) -> dict[str, str | None]:
    """The last state of every host in the history, and that each of its snapshots is whole."""
    with SqliteHistory(directory / "history.sqlite") as history:
        assert history.check() == []
        return {name: found.state if (found := history.last_collection(name)) else None for name in history.instances()}


def test_many_hosts_are_read_by_several_processes_and_each_is_stored(tmp_path: Path, practice: PracticeHost) -> None:
    before = "Host dead\n  HostName 127.0.0.1\n  Port 1\n"
    inventory(tmp_path, practice, "dead", before=before, extra="[collect]\nworkers = 16\n")
    done = subprocess.run(
        [sys.executable, "-m", "runbooks_lib", "collect"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert f"{MANY} of {MANY + 1} hosts read" in done.stdout
    states = collected(tmp_path)
    assert states.pop("dead") == "unreachable"
    assert states == dict.fromkeys(practice.names, "ok")


@pytest.mark.skipif(processes_for(MANY) < 2, reason="one CPU: one process")
def test_a_process_that_is_killed_in_a_round_is_told_and_what_was_read_is_kept(
    tmp_path: Path, practice: PracticeHost
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        before = f"Host silent*\n  HostName 127.0.0.1\n  Port {silent.getsockname()[1]}\n"
        names = [f"silent{number}" for number in range(6)]
        inventory(tmp_path, practice, *names, before=before, extra="[collect]\nworkers = 32\ndeadline_seconds = 15\n")
        process = subprocess.Popen(
            [sys.executable, "-m", "runbooks_lib", "collect"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            path, end = tmp_path / "history.sqlite", time.monotonic() + 60
            while time.monotonic() < end and stored(path) < 20:
                time.sleep(0.1)
            os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
            out, said = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert "ended by signal 9" in out + said
    states = collected(tmp_path)
    assert sorted(states) == sorted([*practice.names, *names])
    assert set(states.values()) == {"ok", "failed", "timed out"}
    assert stored(path) == sum(state == "ok" for state in states.values()) >= 20


def stored(path: Path) -> int:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM snapshot").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_who_brought_nothing_last_time_is_asked_first_but_not_by_every_worker(
    tmp_path: Path, practice: PracticeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = config.load(inventory(tmp_path, practice, extra="[collect]\nworkers = 8\n"))
    entries = list(loaded.hosts.values())
    sick = {"h003", "h050", "h108"}
    asked: list[str] = []

    def in_turn(hosts: list[object], _work: object, **_: object) -> list[object]:
        asked.extend(host.name for host in hosts)  # type: ignore[attr-defined]
        return []

    with SqliteHistory(tmp_path / "history.sqlite") as history:
        for name in sorted(sick):
            history.record_failure(name, collecting.datetime.now(collecting.UTC), "timed out", "never spoke")
        history.store_snapshot("h001", collecting.datetime.now(collecting.UTC), [])
        assert history.not_read_last() == sick
    monkeypatch.setattr(collecting, "run_on_all", in_turn)
    collecting.collect(loaded, entries)
    assert asked[:4] == ["h003", "h050", "h000", "h001"]
    assert sorted(asked) == [entry.name for entry in entries]
