"""What every host promises, asked of each kind: this machine, a practice host over SSH, a real sshd (lab)."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from runbooks_lib.hosts.host import DeadlineExceeded, Host, HostError, HostUnreachable, OutputLimitExceeded, Script
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.training.practice_host import PracticeHost
from tests.hosts.processes import all_gone, wait_for, with_mark
from tests.hosts.sshd import Sshd

KINDS = ["local", "practice", pytest.param("sshd", marks=pytest.mark.lab)]


@pytest.fixture(scope="module", params=KINDS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "local":
        yield LocalHost()
    elif request.param == "practice":
        with PracticeHost(directory / "practice") as practice:
            host = SshHost("practice-host", settings_source=partial(resolve, config_file=practice.ssh_config))
            yield host
            host.close()
    else:
        with Sshd(directory) as sshd:
            ssh_host = sshd.host()
            yield ssh_host
            ssh_host.close()


@pytest.fixture
def mark() -> Iterator[str]:
    mark = f"RUNBOOKS_TEST_MARK={secrets.token_hex(8)}"
    yield mark
    for pid in with_mark(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def marked(mark: str, text: str) -> Script:
    return Script(f"export {mark}\n{text}")


def test_streams_status_and_times_come_back(host):
    result = host.run(Script("cat; echo err >&2; exit 3"), input=b"in\n")
    assert (result.stdout, result.stderr, result.exit_status, result.signal) == (b"in\n", b"err\n", 3, None)
    assert result.host == host.name
    assert 0 < result.duration_seconds < 10
    assert result.started.tzinfo is not None
    assert not result.ok


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 3_000_000])
def test_binary_input_of_every_size_arrives_whole(host, size):
    data = secrets.token_bytes(size)
    assert host.run(Script("cat"), input=data, output_limit_bytes=size + 10).stdout == data


def test_a_deadline_ends_the_whole_group_grandchildren_too(host, mark):
    script = marked(mark, "trap '' TERM HUP; (sleep 300 & sleep 301) & echo early; echo word >&2; sleep 302")
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        host.run(script, deadline_seconds=1.0)
    assert 1.0 <= time.monotonic() - begin < 5
    assert with_mark(mark) == []
    assert caught.value.group_gone is True
    assert caught.value.phase == "command"
    assert (caught.value.stdout, caught.value.stderr) == (b"early\n", b"word\n")
    assert "is gone" in str(caught.value)


def test_100_mb_on_both_streams_at_once_ends_at_the_limit(host, mark):
    script = marked(mark, "echo first; head -c 100000000 /dev/zero >&2 & head -c 100000000 /dev/zero; wait; sleep 300")
    with pytest.raises(OutputLimitExceeded) as caught:
        host.run(script, deadline_seconds=20)
    assert len(caught.value.head) + len(caught.value.tail) <= 200_000
    assert caught.value.tail.endswith(b"\0")
    assert caught.value.group_gone is True
    assert with_mark(mark) == []


def test_100_mb_on_both_streams_at_once_come_back_when_allowed(host):
    script = Script("head -c 100000000 /dev/zero >&2 & head -c 100000000 /dev/zero; wait")
    result = host.run(script, deadline_seconds=60, output_limit_bytes=250_000_000)
    assert (len(result.stdout), len(result.stderr), result.exit_status) == (100_000_000, 100_000_000, 0)


@pytest.mark.parametrize("over", [0, 1])
def test_the_output_limit_is_exact(host, over):
    script = Script(f"head -c {60_000 + over} /dev/zero; head -c 40000 /dev/zero >&2")
    if over:
        with pytest.raises(OutputLimitExceeded):
            host.run(script, output_limit_bytes=100_000)
    else:
        assert len(host.run(script, output_limit_bytes=100_000).stdout) == 60_000


def test_a_child_that_keeps_stdout_open_holds_up_nobody(host, mark):
    begin = time.monotonic()
    result = host.run(marked(mark, "sleep 30 & echo done"), deadline_seconds=40)
    assert (result.stdout, result.exit_status) == (b"done\n", 0)
    assert time.monotonic() - begin < 15
    wait_for(mark, 1)  # what a script leaves behind on purpose lives on; a process has no environment while it execs


def test_after_the_end_marker_a_hanging_shell_is_not_waited_for(host, mark):
    script = Script(f"export {mark}; echo answer; echo MARK; sleep 300", end_marker=b"MARK\n")
    begin = time.monotonic()
    result = host.run(script, deadline_seconds=20)
    assert time.monotonic() - begin < 4
    assert (result.stdout, result.exit_status, result.signal) == (b"answer\nMARK\n", None, None)
    assert result.ok
    assert all_gone(mark)


def test_an_end_marker_inside_a_line_ends_nothing(host):
    script = Script("echo 'x MARK'; sleep 0.2; echo MARK; exit 1", end_marker=b"MARK")
    result = host.run(script)
    assert (result.stdout, result.exit_status) == (b"x MARK\nMARK\n", 1)


def test_a_shell_that_is_killed_is_told_as_its_signal_and_its_children_are_ended(host, mark):
    result = host.run(marked(mark, "sleep 300 & printf before; kill -KILL $$; sleep 301"), deadline_seconds=20)
    assert (result.stdout, result.exit_status, result.signal) == (b"before", None, "KILL")
    assert not result.ok
    assert all_gone(mark)


def test_a_forged_frame_in_the_output_is_just_output(host):
    text = "printf 'RB0123456789abcdef0123456789abcdef end 0\\nRB begin 1 1\\n'; exit 7"
    result = host.run(Script(text))
    assert result.exit_status == 7
    assert result.stdout.endswith(b"RB begin 1 1\n")


def test_the_script_sees_no_more_than_its_own_streams(host):
    result = host.run(Script("ls /proc/self/fd | wc -l; echo $#; env | grep -c _rb_; :"), input=b"x\n")
    assert result.stdout.split() == [b"4", b"0", b"0"]  # 0, 1, 2 and the directory itself


def test_closing_from_another_thread_ends_the_run_and_the_group(host, mark):
    caught: list[BaseException] = []

    def run() -> None:
        try:
            host.run(marked(mark, "sleep 300"), deadline_seconds=60)
        except HostError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(mark, 1)
    begin = time.monotonic()
    host.close()
    thread.join(5)
    assert time.monotonic() - begin < 2
    assert isinstance(caught[0], HostUnreachable)
    assert all_gone(mark)
    assert host.run(Script("echo again")).stdout == b"again\n"


def test_many_threads_may_use_one_host(host):
    results: list[bytes] = []

    def run(number: int) -> None:
        results.append(host.run(Script("cat; sleep 0.1"), input=f"{number}\n".encode()).stdout)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == sorted(f"{number}\n".encode() for number in range(8))


def test_a_deadline_in_the_middle_of_sending_input_ends_the_group(host, mark):
    with pytest.raises(DeadlineExceeded) as caught:
        host.run(marked(mark, "sleep 300"), input=b"\0" * 20_000_000, deadline_seconds=1.0)
    assert caught.value.group_gone is True
    assert with_mark(mark) == []


def test_where_it_runs_does_not_change_the_users_home(host):
    # A real sshd takes the home from the user database, whatever $HOME says here.
    homes = {str(Path.home()).encode(), pwd.getpwuid(os.getuid()).pw_dir.encode()}
    assert host.run(Script('cd && pwd; echo "$HOME"')).stdout.split()[1] in homes
