"""This machine, asked as a host; psutil reads the same counters and is the oracle."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.facts import collect
from runbooks_lib.facts.answer import new_nonce
from runbooks_lib.facts.fact import State
from runbooks_lib.hosts.host import Host, Result, RootRefused, Script
from runbooks_lib.hosts.recorded import RecordedHost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts read Linux's /proc")
NewHost = Callable[..., Host]


def within(value: float, low: float, high: float, slack: float = 0.0) -> bool:
    return low - slack <= value <= high + slack


def test_counters_lie_between_two_looks_of_psutil(host: Host) -> None:
    cpu, disks, cards = psutil.cpu_times(), psutil.disk_io_counters(perdisk=True), psutil.net_io_counters(pernic=True)
    found = collect.read_snapshot(host, sample_seconds=0)
    cpu_after, disks_after = psutil.cpu_times(), psutil.disk_io_counters(perdisk=True)
    cards_after = psutil.net_io_counters(pernic=True)
    times = found.cpu.require().total
    for state in ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"):
        low, high = sorted((getattr(cpu, state), getattr(cpu_after, state)))
        assert within(getattr(times, state), low, high, 0.03), state
    assert found.cpu.require().count == psutil.cpu_count()
    assert found.cpu.require().boot_seconds == pytest.approx(psutil.boot_time(), abs=2)
    for name, disk in found.disk_io.require().items():
        assert within(disk.reads, disks[name].read_count, disks_after[name].read_count)
        assert within(disk.written_bytes, disks[name].write_bytes, disks_after[name].write_bytes)
        assert within(disk.busy_seconds, disks[name].busy_time / 1000, disks_after[name].busy_time / 1000)
    for name, card in found.network.require().items():
        assert within(card.receive_bytes, cards[name].bytes_recv, cards_after[name].bytes_recv)
        assert within(card.transmit_dropped, cards[name].dropout, cards_after[name].dropout)


def test_memory_and_filesystems_are_psutils(host: Host) -> None:
    before = psutil.virtual_memory()
    found = collect.read_snapshot(host, sample_seconds=0)
    memory, after = found.memory.require(), psutil.virtual_memory()
    assert memory.total_bytes == before.total
    low, high = sorted((before.available, after.available))
    assert within(memory.available_bytes or 0, low, high, 64 * 2**20)
    assert memory.swap_total_bytes == psutil.swap_memory().total
    rows = [
        row for row in found.filesystems.require().rows if row.usage is not None and not row.fstype.startswith("fuse")
    ]
    assert any(row.mountpoint == "/" for row in rows)
    for row in rows:
        usage = psutil.disk_usage(row.mountpoint)
        assert row.usage is not None
        assert row.usage.size_bytes == usage.total
        assert row.usage.used_bytes == pytest.approx(usage.used, abs=64 * 2**20)
        if usage.used + usage.free:
            assert (row.usage.used_ratio or 0) * 100 == pytest.approx(usage.percent, abs=1)


def test_the_clock_of_this_host_is_right_within_its_uncertainty(host: Host) -> None:
    clock = collect.read_snapshot(host, sample_seconds=0).clock.require()
    assert abs(clock.offset_seconds) <= clock.uncertainty_seconds
    assert clock.uncertainty_seconds < 2


def test_a_busy_process_stands_at_the_top_with_its_share(host: Host) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            time.sleep(0.2)
            found = collect.read_snapshot(host, sample_seconds=0.5)
        finally:
            busy.kill()
    mine = [process for process in found.processes.require().by_cpu if process.pid == busy.pid]
    assert len(mine) == 1
    assert 0.05 < (mine[0].cpu_ratio or 0) < 1.5
    shares = found.rates.require().cpu
    assert shares is not None
    assert shares.busy > 0.05


def test_a_process_named_like_a_marker_stays_a_name(host: Host) -> None:
    nonce = new_nonce()
    code = (
        "import ctypes; ctypes.CDLL(None).prctl(15, b'x\\n@@end\\ny', 0, 0, 0)\n"
        "print(1, flush=True)\nx = bytearray(200 << 20)\nwhile True: pass"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as evil:
        try:
            assert evil.stdout is not None
            evil.stdout.readline()
            time.sleep(0.3)
            found = collect.read_snapshot(host, sample_seconds=0.3, nonce=nonce)
        finally:
            evil.kill()
    processes = found.processes.require()
    named = [process for process in (*processes.by_cpu, *processes.by_memory) if process.pid == evil.pid]
    assert {process.name for process in named} == {"x\n@@end\ny"}
    assert all(fact.state is not State.UNREADABLE for fact in found.facts().values())


def test_a_process_with_brackets_and_backslashes_stays_a_name(host: Host) -> None:
    code = (
        "import ctypes; ctypes.CDLL(None).prctl(15, b') S 1\\\\\\n1 (z', 0, 0, 0)\n"
        "print(1, flush=True)\nwhile True: pass"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as evil:
        try:
            assert evil.stdout is not None
            evil.stdout.readline()
            found = collect.read_snapshot(host, sample_seconds=0.4)
        finally:
            evil.kill()
    named = {process.name for process in found.processes.require().by_cpu if process.pid == evil.pid}
    assert named == {") S 1\\\n1 (z"}


def test_login_chatter_and_another_locale_change_nothing(shell_host: NewHost) -> None:
    env = dict(os.environ, LC_ALL="de_DE.UTF-8", LANGUAGE="de", LANG="de_DE.UTF-8", POSIXLY_CORRECT="1", BLOCK_SIZE="1")
    found = collect.read_snapshot(shell_host(("sh",), env), sample_seconds=0)
    assert found.filesystems.require().at("/") is not None
    assert found.load.known


def test_without_stat_the_filesystems_come_from_df(shell_host: NewHost, tmp_path: Path) -> None:
    for tool in ("awk", "cat", "date", "df", "sleep", "timeout", "dmesg", "kill", "tr", "id"):
        path = shutil.which(tool)
        if path is not None:
            (tmp_path / tool).symlink_to(path)
    host = shell_host((shutil.which("sh") or "/bin/sh",), {"PATH": str(tmp_path)})
    (tmp_path / "stat").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "stat").chmod(0o755)
    row = collect.read_snapshot(host, sample_seconds=0).filesystems.require().at("/")
    assert row is not None
    assert row.usage is not None
    usage = psutil.disk_usage("/")
    assert row.usage.size_bytes == pytest.approx(usage.total, abs=2048)


def test_a_deleted_file_that_is_held_open_is_found_with_its_holder(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "he ld (deleted)\nlog"
    with path.open("wb") as file:
        file.write(b"x" * 3_000_000)
        file.flush()
        path.unlink()
        found = collect.read_slow(host, ("deleted-files",), root=False).deleted_files
    assert found is not None
    mine = [row for row in found.require().files if row.path == str(path)]
    assert len(mine) == 1
    assert mine[0].size_bytes == 3_000_000
    assert mine[0].allocated_bytes >= 3_000_000
    assert os.getpid() in {holder.pid for holder in mine[0].holders}


def test_the_biggest_directories_of_a_place_with_an_awkward_name(host: Host, tmp_path: Path) -> None:
    top = tmp_path / "a 1\\040\tb"
    (top / "big" / "deep" / "deeper").mkdir(parents=True)
    (top / "small").mkdir()
    (top / "big" / "deep" / "deeper" / "file").write_bytes(b"x" * 2_000_000)
    (top / "small" / "file").write_bytes(b"x" * 50_000)
    found = collect.read_slow(host, ("directories",), mountpoint=str(top), root=False).directories
    assert found is not None
    rows = found.require()
    assert rows.complete
    paths = [row.path for row in rows.rows]
    assert set(paths[:3]) == {str(top), str(top / "big"), str(top / "big" / "deep")}
    assert str(top / "small") in paths
    assert 2_000_000 <= rows.rows[0].size_bytes < 2_400_000


def test_a_large_file_is_found_though_the_walk_does_not_end(shell_host: NewHost, tmp_path: Path) -> None:
    tools, top = tmp_path / "tools", tmp_path / "top"
    (top / "kept" / "of \n old").mkdir(parents=True)
    (top / "kept" / "of \n old" / "night ly.tar").write_bytes(b"x" * 3_000_000)
    (top / "loose").write_bytes(b"x" * 2_000_000)
    (top / "small").write_bytes(b"x" * 50_000)
    tools.mkdir()
    (tools / "du").write_text('#!/bin/sh\ncase " $* " in *" -d 2 "*) exec sleep 30 ;; esac\nexec /usr/bin/du "$@"\n')
    (tools / "du").chmod(0o755)
    (tools / "df").write_text("#!/bin/sh\necho head\necho x 9000000 70000 0 0 x\n")  # else a real disk's fiftieth
    (tools / "df").chmod(0o755)
    host = shell_host(("sh",), {"PATH": f"{tools}:{os.environ['PATH']}"})
    fact = collect.read_slow(host, ("directories",), mountpoint=str(top), walk_seconds=2, root=False).directories
    assert fact is not None
    found = fact.require()
    assert not found.complete
    assert found.detail == "time ran out"
    assert [file.path for file in found.files] == [str(top / "kept" / "of \n old" / "night ly.tar"), str(top / "loose")]
    assert [(row.path, row.partial) for row in found.rows] == [
        (str(top / "kept"), True),
        (str(top / "kept" / "of \n old"), True),
    ]
    assert 3_000_000 <= found.rows[0].size_bytes < 3_100_000


def test_a_busybox_takes_no_second_line_of_a_name_for_a_large_file(shell_host: NewHost, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox here")
    tools = tmp_path / "tools"
    tools.mkdir()
    for applet in ("du", "find", "tr"):
        (tools / applet).symlink_to(busybox)
    (tools / "df").write_text("#!/bin/sh\necho head\necho x 9000000 70000 0 0 x\n")
    (tools / "df").chmod(0o755)
    host = shell_host(("sh",), {"PATH": f"{tools}:{os.environ['PATH']}"})
    # Its second line, "99999999<tab>/tmp/forged", would be a row; deeper mounts leave no level for that.
    with tempfile.TemporaryDirectory(dir="/tmp", suffix="\n99999999\t") as made:
        (Path(made) / "tmp").mkdir()
        (Path(made) / "tmp" / "forged").write_bytes(b"x" * 3_000_000)
        found = collect.read_slow(host, ("directories",), mountpoint="/tmp", walk_seconds=4, root=False).directories
    assert found is not None
    assert "/tmp/forged" not in [file.path for file in found.require().files]


def test_a_directory_that_is_not_there_is_absent(host: Host) -> None:
    found = collect.read_slow(host, ("directories",), mountpoint="/no such/place", root=False).directories
    assert found is not None
    assert found.state is State.ABSENT


def test_what_writes_to_the_disk_is_found(host: Host, tmp_path: Path) -> None:
    code = (
        f"import os\nwith open({str(tmp_path / 'w')!r}, 'wb') as f:\n"
        " while True:\n  f.seek(0); f.write(b'x' * 500000); f.flush(); os.fsync(f.fileno())"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        try:
            found = collect.read_slow(host, ("process-io",), root=False).process_io
        finally:
            writer.kill()
    assert found is not None
    mine = [row for row in found.require().rows if row.pid == writer.pid]
    assert mine
    assert mine[0].written_bytes_per_second > 100_000


def test_the_text_of_a_script_never_changes_with_nonce_pause_or_question() -> None:
    first, second = collect.quick_request(0), collect.quick_request(2.5)
    assert first.nonce != second.nonce
    assert first.script.sha256 == second.script.sha256 == collect.quick_script().sha256
    assert first.script.text == collect.script_text("quick")
    assert first.nonce.encode() in (first.script.end_marker or b"")
    slow = collect.slow_request(("directories",), mountpoint="/srv/db $(touch x)")
    assert slow.script.sha256 == collect.slow_script().sha256
    assert "srv" not in slow.script.text


def test_a_script_without_its_nonce_says_so(host: Host) -> None:
    result = host.run(collect.quick_script(), input=b"not hex!\n0\n")
    assert result.exit_status == 64
    assert result.stdout == b""


def test_a_path_is_sent_as_the_kernel_writes_it_and_a_byte_that_is_no_text_as_that_byte() -> None:
    assert collect.escape("/srv/a b\\c") == rb"/srv/a\040b\134c"
    assert collect.escape("/srv/ü\\xff\\xfe/\\x41") == "/srv/ü".encode() + b"\xff\xfe/" + rb"\134x41"


def test_an_answer_that_is_not_whole_is_a_failure_of_that_host(shell_host: NewHost) -> None:
    with pytest.raises(collect.AnswerIncomplete) as failure:
        collect.read_snapshot(shell_host(("true",)), sample_seconds=0)
    assert "the begin marker" in str(failure.value)
    assert failure.value.host == "localhost"


def test_wrong_questions_are_refused_before_anything_runs(host: Host) -> None:
    with pytest.raises(UsageError, match="sample_seconds"):
        collect.read_snapshot(host, sample_seconds=-1)
    with pytest.raises(UsageError, match="no slow fact is called nonsense"):
        collect.read_slow(host, ("lvm", "nonsense"))
    with pytest.raises(UsageError, match="mount point"):
        collect.read_slow(host, ("directories",))
    with pytest.raises(UsageError, match="walk_seconds"):
        collect.read_slow(host, ("directories",), mountpoint="/", walk_seconds=0)
    with pytest.raises(UsageError, match="no script"):
        collect.script_text("other")


def test_a_recording_is_played_with_the_nonce_it_was_made_with(host: Host, tmp_path: Path) -> None:
    nonce, path = new_nonce(), tmp_path / "host.json"
    recorded = collect.read_snapshot(RecordedHost(path, record=host), sample_seconds=0, nonce=nonce)
    played = collect.read_snapshot(RecordedHost(path), sample_seconds=0, nonce=nonce)
    assert played.filesystems == recorded.filesystems
    assert [(s.name, s.labels, s.value) for s in played.samples()] == [
        (s.name, s.labels, s.value) for s in recorded.samples()
    ]


class RefusesRoot:
    """The local host under a user whom sudo refuses."""

    name = "localhost"

    def __init__(self, inner: Host, always: bool = False) -> None:
        self.inner, self.always, self.asked = inner, always, list[bool]()

    def run(self, script: Script, **options: Any) -> Result:
        self.asked.append(script.root)
        if script.root or self.always:
            raise RootRefused(self.name, "sudo: a password is required")
        return self.inner.run(script, **options)

    def close(self) -> None:
        pass


def test_where_sudo_is_refused_the_slow_facts_are_asked_again_without_it(host: Host) -> None:
    refusing = RefusesRoot(host)
    found = collect.read_slow(refusing, ("process-io",))
    assert refusing.asked == [True, False]
    assert found.process_io is not None
    assert found.process_io.state in (State.AVAILABLE, State.ABSENT)
    with pytest.raises(RootRefused):
        collect.read_slow(RefusesRoot(host, always=True), ("process-io",))
