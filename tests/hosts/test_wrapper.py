"""The envelope on every shell that is here: dash, bash and busybox where installed, `/bin/sh` always."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from runbooks_lib.hosts.capture import Capture
from runbooks_lib.hosts.wrapper import SMALL_INPUT_BYTES, Wrapped, end_group_script, wrap

SHELLS = [command for command in (["dash"], ["bash"], ["busybox", "sh"]) if shutil.which(command[0])]
if Path("/bin/sh").resolve().name not in ("dash", "bash", "busybox"):
    SHELLS.append(["/bin/sh"])
ALL_SHELLS = pytest.mark.parametrize("shell", SHELLS, ids=" ".join)


class Run:
    """One wrapped script under one shell; `finish` plays the operator's part."""

    def __init__(self, shell: list[str], wrapped: Wrapped) -> None:
        self.wrapped = wrapped
        self.process = subprocess.Popen(
            [*shell, "-s"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self.capture = Capture(wrapped.nonce, 50_000_000)
        self.process.stdin.write(wrapped.program)

    def read(self, seconds: float, until) -> None:
        deadline = time.monotonic() + seconds
        feeds = {self.process.stdout: self.capture.feed_stdout, self.process.stderr: self.capture.feed_stderr}
        for pipe in feeds:
            os.set_blocking(pipe.fileno(), False)
        while not until():
            assert time.monotonic() < deadline, (bytes(self.capture.stdout.data), bytes(self.capture.stderr.data))
            for pipe, feed in feeds.items():
                data = pipe.read(65536)
                if data:
                    feed(data)
            time.sleep(0.002)

    def finish(self) -> tuple[bytes, bytes, int]:
        raw = self.wrapped.raw_input
        if raw is not None:
            self.read(5, lambda: self.capture.begun)
            os.set_blocking(self.process.stdin.fileno(), False)
            view = memoryview(raw)

            def pushed() -> bool:
                nonlocal view
                if view:
                    sent = self.process.stdin.write(view[:65536])
                    view = view[sent or 0 :]
                return self.capture.framed or (not view and self.capture.stderr.hold(self.wrapped.nonce + b" fed\n"))

            self.read(20, pushed)
            if not self.capture.framed:
                self.process.stdin.write(b"\n")
        self.read(10, lambda: self.capture.framed)
        status = self.process.wait(5)
        self.close()
        assert status == self.capture.exit_status
        stderr = self.capture.stderr.payload.replace(self.wrapped.nonce + b" fed\n", b"")
        return self.capture.stdout.payload, stderr, status

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


def run(shell: list[str], text: str, input: bytes = b"") -> tuple[bytes, bytes, int]:
    return Run(shell, wrap(text, input)).finish()


def alive_in_session(session: int) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(stat.parent.name)
    return found


def gone(session: int, seconds: float = 3.0) -> bool:
    deadline = time.monotonic() + seconds
    while alive_in_session(session):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@ALL_SHELLS
@pytest.mark.parametrize(
    "input",
    [
        b"",
        b"a line\n",
        b"no newline; it's `quoted` $HOME \\ %s %% \\n\n'\"",
        b"x" * SMALL_INPUT_BYTES,
        b"x" * (SMALL_INPUT_BYTES + 1),
        b"\0\1\xff" * 300_000,
        "schön ✓\n".encode(),
        b"\xff\xfe",
    ],
    ids=["none", "line", "quotes", "4096", "4097", "binary", "utf-8", "not utf-8"],
)
def test_every_byte_of_the_input_reaches_the_script(shell, input):
    assert run(shell, "cat", input) == (input, b"", 0)


@ALL_SHELLS
@pytest.mark.parametrize("input", [b"", b"small", b"\0raw"], ids=["none", "small", "raw"])
def test_no_exported_timeout_ends_the_read_that_watches_the_connection(shell, input, monkeypatch):
    """bash(1): TMOUT is the default timeout of the builtin read."""
    monkeypatch.setenv("TMOUT", "1")
    assert run(shell, "cat; echo ${TMOUT-unset}; env | grep TMOUT", input) == (input + b"unset\n", b"", 1)


@ALL_SHELLS
def test_both_streams_and_the_status_come_back_exactly(shell):
    text = "printf 'no newline at the end'; printf 'one\\ntwo\\n' >&2; exit 42"
    assert run(shell, text) == (b"no newline at the end", b"one\ntwo\n", 42)


@ALL_SHELLS
@pytest.mark.parametrize(
    ("text", "out"),
    [
        ('echo "it\'s $# args" \'and "quotes"\' \\\\', b'it\'s 0 args and "quotes" \\\n'),
        ("cat <<'END'\n$HOME `x` 'y'\nEND\n", b"$HOME `x` 'y'\n"),
        ("# a comment without newline at the end", b""),
        ("if true\nthen echo yes; fi\n\n", b"yes\n"),
        ("set -eu\nf() { echo f; }\nf\n", b"f\n"),
        ("read -r line || echo 'nothing to read'", b"nothing to read\n"),
    ],
)
def test_the_script_is_read_as_it_is_written(shell, text, out):
    assert run(shell, text)[0] == out


@ALL_SHELLS
def test_a_syntax_error_is_a_status_and_not_a_lost_run(shell):
    _, err, status = run(shell, "echo before\nif then fi (")
    assert status == 2
    assert err
    assert b"RB" not in err.split(b":")[0]


@ALL_SHELLS
def test_a_script_killed_by_a_signal_prints_nothing_of_itself(shell):
    text = "printf out; kill -9 $(sh -c 'echo $PPID')"
    _, err, status = run(shell, text, b"secret-in-the-input\n")
    assert status == 137
    assert b"secret" not in err


@ALL_SHELLS
def test_a_script_may_close_its_stdin_and_go_on(shell):
    assert run(shell, "exec <&-; sleep 0.2; echo on", b"input\n")[0] == b"on\n"


@ALL_SHELLS
def test_a_script_need_not_read_its_input(shell):
    assert run(shell, "echo done", b"x" * 3_000_000)[0] == b"done\n"


@ALL_SHELLS
def test_a_daemon_that_the_script_leaves_behind_lives_on(shell):
    started = Run(shell, wrap("sleep 30 >/dev/null 2>&1 </dev/null & echo $!", b""))
    pid = int(started.finish()[0])
    time.sleep(0.2)
    os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)


@ALL_SHELLS
def test_nothing_of_ours_is_left_after_the_end(shell):
    for input in (b"", b"small\n", b"\0" * 10_000):
        started = Run(shell, wrap("cat >/dev/null; echo x", input))
        started.finish()
        assert gone(started.process.pid)


@ALL_SHELLS
@pytest.mark.parametrize("input", [b"", b"small\n", b"\0" * 100_000], ids=["none", "small", "raw"])
def test_the_watchdog_ends_the_group_when_the_operators_side_is_cut(shell, input):
    text = "cat >/dev/null; (sleep 300 & sleep 301) & echo ready; sleep 302"
    started = Run(shell, wrap(text, input))
    if started.wrapped.raw_input is not None:
        started.read(5, lambda: started.capture.begun)
        started.process.stdin.write(started.wrapped.raw_input)
        started.read(5, lambda: started.capture.stderr.hold(b" fed\n"))
        started.process.stdin.write(b"\n")
    started.read(5, lambda: b"ready" in started.capture.stdout.payload)
    assert len(alive_in_session(started.process.pid)) >= 4
    started.process.stdin.close()
    started.process.wait(5)
    assert gone(started.process.pid)
    started.close()


@ALL_SHELLS
def test_a_cut_in_the_middle_of_the_input_never_looks_like_its_end(shell, tmp_path):
    target = tmp_path / "file"
    started = Run(shell, wrap(f"cat > '{target}.new' && mv '{target}.new' '{target}'; sleep 60", b"\0" * 1_000_000))
    started.read(5, lambda: started.capture.begun)
    started.process.stdin.write(b"\0" * 50_000)
    started.process.stdin.close()
    started.process.wait(5)
    assert gone(started.process.pid)
    assert not target.exists()
    started.close()


@ALL_SHELLS
def test_a_group_is_ended_grandchildren_too_and_proven_gone(shell):
    started = Run(shell, wrap("trap '' TERM HUP; (sleep 300 & sleep 301) & echo ready; wait", b""))
    started.read(5, lambda: b"ready" in started.capture.stdout.payload)
    group, leader_started = started.capture.group
    assert group == started.process.pid
    assert run(shell, end_group_script(group, leader_started))[0] == b"gone\n"
    assert alive_in_session(group) == []
    started.process.wait(5)
    started.close()


@ALL_SHELLS
def test_a_recycled_group_number_is_never_killed(shell):
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert run(shell, end_group_script(other.pid, 12345))[0] == b"gone\n"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_nul_in_a_script_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        wrap("echo \0", b"")


def test_input_never_touches_the_disk_nor_a_process_list(tmp_path):
    secret = "s3cret-canary"
    text = "cat >/dev/null; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; ls -la \"$TMPDIR\""
    environment = dict(os.environ, TMPDIR=str(tmp_path))
    for shell in SHELLS:
        wrapped = wrap(text, secret.encode())
        assert wrapped.raw_input is None
        done = subprocess.run([*shell, "-s"], input=wrapped.program, capture_output=True, env=environment, check=True)
        assert secret.encode() not in done.stdout
    assert list(tmp_path.iterdir()) == []
