"""Many hosts at once: one row each, in order, whatever happens to any of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.host import DeadlineExceeded, HostError, HostUnreachable, Result, Script
from runbooks_lib.hosts.pool import NOT_REACHED, Interrupted, Outcome, run_on_all
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.training.practice_host import PracticeHost


class Plain:
    """A host that costs nothing, for what is the pool's own: order, bounds, rows. It hangs until it is closed."""

    def __init__(self, name: str, hangs: bool = False) -> None:
        self.name, self.hangs = name, hangs
        self.closed = threading.Event()

    def run(self, _script: Script, **_: object) -> Result:
        if self.hangs:
            self.closed.wait(60)
            raise HostUnreachable(self.name, "closed", true_now="the connection is closed")
        return None  # type: ignore[return-value]

    def close(self) -> None:
        self.closed.set()


def plain(count: int, **options: bool) -> list[Plain]:
    return [Plain(f"h{number}", **options) for number in range(count)]


def test_a_row_for_every_host_in_their_order_whatever_happens():
    def work(host: Plain) -> str:
        time.sleep(0.001 * (7 - int(host.name[1:])))
        if host.name == "h2":
            raise HostUnreachable("h2", "down")
        if host.name == "h3":
            raise ValueError("a defect")
        if host.name == "h4":
            raise RunbookError("the disk is full", where="/x")
        return host.name.upper()

    seen: list[Outcome[str]] = []
    rows = run_on_all(plain(7), work, workers=4, deadline_seconds=5, on_progress=seen.append)
    assert [row.host for row in rows] == [f"h{number}" for number in range(7)]
    assert [row.state for row in rows] == ["ok", "ok", "unreachable", "failed", "failed", "ok", "ok"]
    assert rows[0].value == "H0"
    assert "ValueError: a defect" in str(rows[3].error)
    assert isinstance(rows[3].error.__cause__, ValueError)
    assert "the disk is full" in str(rows[4].error)
    assert sorted(row.host for row in seen) == [row.host for row in rows]


class Busy:
    """Work that takes some time, and how much of it went on at once at the most."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.most, self._lock = seconds, 0, 0, threading.Lock()

    def __call__(self, _: Plain) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self._lock:
            self.now -= 1


def test_no_more_than_so_many_workers_at_once():
    busy = Busy(0.01)
    run_on_all(plain(40), busy, workers=5, deadline_seconds=5)
    assert busy.most == 5


def test_silent_hosts_lend_their_place_and_it_is_given_back(monkeypatch):
    """However slow all of them are: never more than a quarter above."""
    monkeypatch.setattr("runbooks_lib.hosts.pool.SILENT_SECONDS", 0.1)
    busy = Busy(0.3)
    run_on_all(plain(60), busy, workers=8, deadline_seconds=20)
    assert busy.most == 10
    monkeypatch.setattr("runbooks_lib.hosts.pool.SILENT_SECONDS", 0.3)
    busy, silent = Busy(0.05), threading.Event()

    def work(host: Plain) -> None:
        if host.name in ("h0", "h1"):
            silent.wait(20)
        else:
            busy(host)
        if host.name == "h199":
            silent.set()

    run_on_all(plain(200), work, workers=8, deadline_seconds=20)
    assert busy.most == 8, "six worked, and two more in the place of the silent ones"


def test_no_hosts_are_no_rows():
    assert run_on_all([], lambda host: host, deadline_seconds=1) == []


def test_connections_are_closed_after_each_host_unless_they_are_to_be_kept():
    closing, keeping = plain(3), plain(3)
    run_on_all(closing, lambda _: None, deadline_seconds=5)
    run_on_all(keeping, lambda _: None, deadline_seconds=5, keep_connections=True)
    time.sleep(0.05)
    assert all(host.closed.is_set() for host in closing)
    assert not any(host.closed.is_set() for host in keeping)


def test_hanging_hosts_cost_one_deadline_and_block_no_other():
    # 2,000 hosts of which 1 % hang; fewer workers than hanging hosts, so that they would block everything in turn.
    hosts = [Plain(f"h{number}", hangs=number % 100 == 7) for number in range(2000)]
    begin = time.monotonic()
    rows = run_on_all(hosts, lambda host: host.run(Script("")), workers=16, deadline_seconds=1.0)
    assert time.monotonic() - begin < 4 * 1.0
    late = [row for row in rows if row.state != "ok"]
    assert len(late) == 20
    assert all(isinstance(row.error, DeadlineExceeded) for row in late)
    assert "the connection is closed" in str(late[0].error)


def test_a_host_that_does_not_even_come_back_when_it_is_closed_is_a_row_and_holds_up_nobody(monkeypatch):
    monkeypatch.setattr("runbooks_lib.hosts.pool.OVERDUE_SECONDS", 0.5)
    stuck = threading.Event()
    rows = run_on_all(
        plain(3), lambda host: stuck.wait(20) if host.name == "h1" else None, workers=2, deadline_seconds=0.5
    )
    assert [row.state for row in rows] == ["ok", "timed out", "ok"]
    stuck.set()


def test_an_executor_can_be_handed_in_and_is_left_as_it_was():
    with ThreadPoolExecutor(3, thread_name_prefix="theirs") as executor:
        rows = run_on_all(plain(10), lambda _: threading.current_thread().name, deadline_seconds=5, executor=executor)
        assert all(row.value.startswith("theirs") for row in rows)
        assert executor.submit(lambda: 1).result() == 1


def test_workers_must_be_at_least_one():
    with pytest.raises(ValueError, match="workers"):
        run_on_all(plain(1), lambda _: None, workers=0, deadline_seconds=1)


def test_ctrl_c_ends_within_a_second_and_says_who_was_not_reached(tmp_path: Path):
    """In a process of its own, with the real signal and real SSH connections in the middle of their scripts."""
    with PracticeHost(tmp_path / "practice", names=[f"h{number}" for number in range(8)]) as practice:
        program = (
            "import sys, time\n"
            "from functools import partial\n"
            "from runbooks_lib.hosts.host import Script\n"
            "from runbooks_lib.hosts.pool import run_on_all, Interrupted\n"
            "from runbooks_lib.hosts.ssh import SshHost\n"
            "from runbooks_lib.hosts.ssh_settings import resolve\n"
            "hosts=[SshHost(f'h{n}', settings_source=partial(resolve, config_file=sys.argv[1])) for n in range(8)]\n"
            "def work(h):\n"
            "    return h.run(Script('true' if h.name == 'h0' else 'sleep 300'), deadline_seconds=60)\n"
            "try:\n"
            "    tell = lambda outcome: print('row', flush=True)\n"
            "    run_on_all(hosts, work, workers=3, deadline_seconds=100, on_progress=tell)\n"
            "except Interrupted as stopped:\n"
            "    print(stopped, [o.state for o in stopped.outcomes], flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, practice.ssh_config], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "row\n"
        time.sleep(0.7)
        begin = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        said = process.stdout.readline()
        while said == "row\n":
            said = process.stdout.readline()
        took = time.monotonic() - begin
        process.wait(2)
        process.stdout.close()
        assert time.monotonic() - begin < 1.5, "the process itself ends too"
        assert took < 1.0
        assert "not reached: h1, h2, h3, h4, h5, h6, h7" in said
        assert said.count("'ok'") == 1
        assert practice.logins == 3 + 1


def test_an_interrupted_round_keeps_the_rows_that_it_had():
    def work(host: Plain) -> str:
        if host.name == "h1":
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        return host.name

    begin = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        run_on_all(
            [*plain(2), Plain("h2", hangs=True), Plain("h3")], lambda h: (work(h), h.run(Script("")))[0], workers=3
        )
    assert time.monotonic() - begin < 1.5
    states = {row.host: row.state for row in caught.value.outcomes}
    assert states["h0"] == "ok"
    assert states["h2"] == NOT_REACHED
    assert isinstance(caught.value, KeyboardInterrupt)


def test_a_round_over_kept_connections_logs_in_once(tmp_path: Path):
    with PracticeHost(tmp_path / "practice", names=[f"h{number}" for number in range(30)]) as practice:
        source = partial(resolve, config_file=practice.ssh_config)
        hosts = [SshHost(name, settings_source=source) for name in practice.names]
        for _ in range(3):
            rows = run_on_all(
                hosts,
                lambda host: host.run(Script("echo x")).stdout,
                workers=16,
                deadline_seconds=30,
                keep_connections=True,
            )
            assert [row.value for row in rows] == [b"x\n"] * 30
        assert practice.logins == 30
        for host in hosts:
            host.close()


def test_one_dead_host_among_many_is_one_row(tmp_path: Path):
    with PracticeHost(tmp_path / "practice", names=[f"h{number}" for number in range(6)]) as practice:
        config = practice.ssh_config
        config.write_text(config.read_text().replace(f"Port {practice.port}", "Port 1", 1))
        hosts = [SshHost(name, settings_source=partial(resolve, config_file=config)) for name in practice.names]
        rows = run_on_all(hosts, lambda host: host.run(Script("echo x")), deadline_seconds=20)
        assert [row.state for row in rows] == ["unreachable"] + ["ok"] * 5
        assert isinstance(rows[0].error, HostError)
        assert NOT_REACHED not in [row.state for row in rows]
