"""A round dealt out over processes says the same as one over threads, and no process outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.hosts import shares
from runbooks_lib.hosts.host import DeadlineExceeded, HostKeyChanged, HostUnreachable, OutputLimitExceeded
from runbooks_lib.hosts.pool import NOT_REACHED
from runbooks_lib.hosts.shares import MOST_PROCESSES, processes_for
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.training.practice_host import PracticeHost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


class Program:
    """One run of `shares_program`; `children` are the processes that it forked."""

    def __init__(self, config: Path, names: list[str], rounds: int = 1, deadline: float = 50) -> None:
        command = [sys.executable, "-m", "tests.hosts.shares_program", str(config), str(rounds), *names]
        environment = {**os.environ, "DEADLINE": str(deadline)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2]
        )
        assert self.process.stdout is not None
        self.out = self.process.stdout

    @property
    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def rows(self) -> Iterator[tuple[str, list[list[object]]]]:
        """(rows or interrupted, the rows) of each round."""
        for line in self.out:
            word, _, rest = line.partition(" ")
            if word != "row":
                yield word, json.loads(rest)

    def until_row(self) -> None:
        assert self.out.readline().startswith("row ")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.out.close()


@contextlib.contextmanager
def program(config: Path, names: list[str], rounds: int = 1, deadline: float = 50) -> Iterator[Program]:
    run = Program(config, names, rounds, deadline)
    try:
        yield run
    finally:
        run.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(true: object, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def practice(tmp_path: Path) -> Iterator[PracticeHost]:
    names = [*(f"h{number}" for number in range(8)), *(f"slow{number}" for number in range(4)), "odd", "dead"]
    with PracticeHost(tmp_path / "practice", names=names) as host:
        text = host.ssh_config.read_text()
        host.ssh_config.write_text(f"Host dead\n  Port 1\n  HostName 127.0.0.1\n{text}")
        yield host


def test_rows_come_in_order_from_two_processes_and_a_failure_is_one_row(practice: PracticeHost) -> None:
    names = ["h0", "dead", "h1", "odd", "h2", "h3", "h4", "h5"]
    with program(practice.ssh_config, names) as run:
        ((word, rows),) = run.rows()
        assert run.process.wait(10) == 0
    assert word == "rows"
    assert [row[0] for row in rows] == names
    states = {row[0]: row[1] for row in rows}
    assert states.pop("dead") == "unreachable"
    assert states.pop("odd") == "failed"
    assert set(states.values()) == {"ok"}
    assert {row[2][1] for row in rows if row[1] == "ok"} == {"read\n"}  # type: ignore[index]
    assert len({row[2][0] for row in rows if row[1] == "ok"} - {run.process.pid}) == 2  # type: ignore[index]
    assert "port 1" in str(rows[1][3])
    assert "cannot be handed over" in str(rows[3][3])


def test_a_silent_and_a_babbling_host_are_their_own_rows(practice: PracticeHost) -> None:
    def babble(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with contextlib.suppress(OSError):
                    while True:
                        sock.send(b"\xff\x00garbage " * 1000)

    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as loud:
        threading.Thread(target=babble, args=(loud,), daemon=True).start()
        extra = "".join(
            f"Host {name}\n  HostName 127.0.0.1\n  Port {sock.getsockname()[1]}\n"
            for name, sock in (("silent", silent), ("loud", loud))
        )
        practice.ssh_config.write_text(extra + practice.ssh_config.read_text())
        with program(practice.ssh_config, ["h0", "silent", "h1", "loud", "h2", "h3"], deadline=2) as run:
            ((_, rows),) = run.rows()
    assert [row[1] for row in rows] == ["ok", "timed out", "ok", "unreachable", "ok", "ok"]


def test_ctrl_c_ends_within_a_second_says_who_was_not_reached_and_leaves_no_process(practice: PracticeHost) -> None:
    names = ["h0", "h1", "slow0", "slow1", "slow2", "slow3"]
    with program(practice.ssh_config, names) as run:
        run.until_row()
        run.until_row()
        time.sleep(0.5)
        children = run.children
        assert len(children) == 2
        begin = time.monotonic()
        os.kill(run.process.pid, signal.SIGINT)
        ((word, rows),) = run.rows()
        assert time.monotonic() - begin < 1.5
        run.process.wait(5)
        assert all(gone(child) for child in children)
    assert word == "interrupted"
    states = {str(row[0]): row[1] for row in rows}
    assert [states["h0"], states["h1"]] == ["ok", "ok"]
    assert [states[name] for name in names[2:]] == [NOT_REACHED] * 4


def test_a_process_that_is_killed_loses_only_its_own_rows(practice: PracticeHost) -> None:
    names = ["h0", "h1", "slow0", "slow1", "h2", "h3"]
    with program(practice.ssh_config, names, deadline=4) as run:
        for _ in range(4):
            run.until_row()
        os.kill(run.children[0], signal.SIGKILL)
        ((_, rows),) = run.rows()
        assert run.process.wait(10) == 0
    by_name = {str(row[0]): row for row in rows}
    assert [by_name[name][1] for name in ("h0", "h1", "h2", "h3")] == ["ok"] * 4
    assert {str(by_name[name][1]) for name in ("slow0", "slow1")} == {"failed", "timed out"}
    lost = next(row for row in rows if row[1] == "failed")
    assert "ended by signal 9" in str(lost[3])


def test_when_the_process_that_forked_them_is_killed_the_others_end(practice: PracticeHost) -> None:
    with program(practice.ssh_config, ["h0", "slow0", "slow1", "h1"]) as run:
        run.until_row()
        children = run.children
        run.process.kill()
        assert until(lambda: all(gone(child) for child in children))


def test_rounds_over_kept_connections_log_in_once(practice: PracticeHost) -> None:
    names = [f"h{number}" for number in range(8)]
    with program(practice.ssh_config, names, rounds=3) as run:
        rounds = list(run.rows())
    assert [[row[1] for row in rows] for _, rows in rounds] == [["ok"] * 8] * 3
    assert practice.logins == 8


def test_hosts_behind_one_jump_host_stay_in_one_process(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host behind*\n  ProxyJump gate\nHost *\n  User someone\n")
    hosts = [
        SshHost(name, settings_source=lambda name: resolve(name, config_file=config))
        for name in ("behind1", "a", "behind2", "b", "c", "behind3", "d", "no such name")
    ]
    dealt = shares._deal(hosts, 2)
    assert sorted(index for share in dealt for index in share) == list(range(8))
    assert sum({0, 2, 5} <= set(share) for share in dealt) == 1
    assert {len(share) for share in dealt} == {4}
    assert len(shares._deal(hosts[:1], 4)) == 1


def test_few_hosts_need_no_second_process() -> None:
    assert processes_for(1) == processes_for(99) == 1
    assert 1 <= processes_for(100_000) <= MOST_PROCESSES


def test_no_hosts_are_no_rows() -> None:
    with shares.Shares[None]([], lambda _: None, processes=2) as none:
        assert none.round() == []


@pytest.mark.parametrize(
    "error",
    [
        RunbookError("what", where="x", true_now="y", next="z"),
        UsageError("what"),
        HostUnreachable("h1", "down", true_now="nothing"),
        HostKeyChanged("h1", "changed", key_type="ssh-ed25519", fingerprint="SHA256:x"),
        DeadlineExceeded("h1", "late", phase="banner", stdout=b"some", group_gone=False),
        OutputLimitExceeded("h1", "much", head=b"a", tail=b"b"),
    ],
)
def test_an_error_is_the_same_behind_a_pipe(error: RunbookError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
