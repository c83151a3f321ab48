"""A report runs in a process of its own: what it says is true, what it leaves is masked, and nothing runs on."""

import base64
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from runbooks_lib import secrets
from runbooks_lib.errors import ExitCode, RunbookError, UsageError
from runbooks_lib.reports import processes, record, run, worker
from runbooks_lib.reports.run import ReportRun, run_report

Write = Callable[..., Path]
PUBLISH = "from runbooks_lib.reports.result import publish\n"


def ran(path: Path, outputs: Path, given: dict[str, object] | None = None, **options: object) -> ReportRun:
    result = run_report(str(path), given or {}, outputs=outputs, **options)  # type: ignore[arg-type]
    assert marked(result.record.run) == []
    return result


def marked(run_id: str) -> list[str]:
    """The processes that carry a run's mark: whatever a run started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(processes.RUN_VARIABLE) == run_id:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_a_report_that_is_well_says_so_and_everything_is_private(write: Write, tmp_path: Path) -> None:
    path = write(
        "## What was found",
        "print('seen', n, host)",
        PUBLISH + "publish('Nobody is needed', number=n, number_name='hosts')",
        parameters="n: int = 3  # 1 to 9\nhost: str = ''\n",
    )
    result = ran(path, tmp_path / "out", {"n": "4", "host": "007"})
    assert (result.state, result.exit_code, result.headline) == ("ok", ExitCode.OK, "Nobody is needed")
    assert (result.record.number, result.record.number_name) == (4, "hosts")
    assert result.record.parameters == {"n": 4, "host": "007"}
    assert [cell.state for cell in result.record.cells] == ["ok"] * 4
    assert result.record.versions["papermill"]
    page = result.page.read_text()
    assert "What was found" in page
    assert "seen 4 007" in page
    assert "seen 4 007" in result.notebook.read_text()
    assert (tmp_path / "out" / "index.html").is_file()
    for file in (result.page, result.notebook, result.log, result.directory / record.RECORD):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert {entry.name for entry in result.directory.iterdir()} == {
        "log.txt",
        "report.html",
        "report.ipynb",
        "run.json",
    }
    assert str(result.page.as_uri()) in result.sentence


def test_a_crossed_threshold_is_exit_code_3_and_the_last_word_counts(write: Write, tmp_path: Path) -> None:
    path = write(PUBLISH + "publish('early')", PUBLISH + "publish('One\\nis \\x1b full', threshold_crossed=True)")
    result = ran(path, tmp_path / "out")
    assert (result.state, result.exit_code) == ("threshold", ExitCode.THRESHOLD)
    assert result.headline == "One is \N{REPLACEMENT CHARACTER} full"


def test_a_cell_that_raises_fails_the_run_and_the_page_tells_what_is_known(write: Write, tmp_path: Path) -> None:
    result = ran(write("print('known so far')", "1 / 0", "print('never')"), tmp_path / "out")
    assert (result.state, result.exit_code) == ("failed", ExitCode.FAILED)
    assert result.record.failure == record.Failure("ZeroDivisionError", "division by zero", 2)
    assert [cell.state for cell in result.record.cells] == ["ok", "failed", "not run"]
    assert result.headline == "ZeroDivisionError: division by zero (code cell 2 of 3)"
    page = result.page.read_text()
    assert "known so far" in page
    assert "ZeroDivisionError" in page
    assert "An Exception was encountered" not in page  # papermill's own marks


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("import os\nos._exit(0)", "ended itself with code 0"),
        ("import sys\nsys.exit(0)", "SystemExit"),
    ],
)
def test_a_kernel_that_dies_is_a_failed_run_and_no_cell_after_it_is_called_done(
    cell: str, what: str, write: Write, tmp_path: Path
) -> None:
    result = ran(write(PUBLISH + "publish('all is well')", cell, "print('never')"), tmp_path / "out")
    assert (result.state, result.exit_code) == ("failed", ExitCode.FAILED)
    assert what in result.record.message
    assert result.record.cells[2].state == "not run"
    notebook = json.loads(result.notebook.read_text())
    assert notebook["cells"][-1]["metadata"]["papermill"]["status"] == "pending"
    assert "failed" in result.page.read_text()


def test_an_endless_loop_is_ended_at_the_deadline_with_its_grandchildren(write: Write, tmp_path: Path) -> None:
    # A daemon that left its session, as a cell may start one, and a loop that ignores an interrupt.
    daemon = "import os, subprocess, time\nsubprocess.Popen(['setsid', 'sh', '-c', 'sleep 300 & wait'])\nprint('begun')"
    loop = "while True:\n    try:\n        time.sleep(60)\n    except BaseException:\n        pass"
    begin = time.monotonic()
    result = ran(write(daemon, loop, "print('never')"), tmp_path / "out", deadline_seconds=4)
    assert time.monotonic() - begin < 30
    assert (result.state, result.exit_code) == ("timed out", ExitCode.FAILED)
    assert "deadline of 4 seconds" in result.record.message
    assert [cell.state for cell in result.record.cells] == ["ok", "stopped", "not run"]
    assert "begun" in result.page.read_text()


def test_what_a_notebook_leaves_running_is_ended_and_named(write: Write, tmp_path: Path) -> None:
    result = ran(write("import subprocess\nsubprocess.Popen(['setsid', 'sleep', '321'])"), tmp_path / "out")
    assert result.state == "ok"
    assert "sleep 321" in "".join(result.record.notes)


def test_a_worker_that_hangs_is_killed_from_outside_and_the_page_is_written_all_the_same(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_GRACE_SECONDS", 2.0)
    # The kernel stops the process that watches over it: nothing inside can act on the deadline any more.
    cell = "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(300)"
    result = ran(write("print('first')", cell), tmp_path / "out", deadline_seconds=4)
    assert (result.state, result.exit_code) == ("timed out", ExitCode.FAILED)
    assert "timed out" in result.page.read_text()


def test_a_worker_that_is_killed_is_a_failed_run(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "t"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place) if len(str(place)) < 80 else None)
    cell = "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(300)"
    result = ran(write(cell), tmp_path / "out", deadline_seconds=60)
    assert (result.state, result.exit_code) == ("failed", ExitCode.FAILED)
    assert "ended without a word" in result.record.message
    assert list(place.iterdir()) == []  # the kernel's sockets and keys
    assert "failed" in result.page.read_text()


def test_50_megabytes_of_output_become_a_page_that_can_be_opened(write: Write, tmp_path: Path) -> None:
    cell = "for _ in range(500):\n    print('x' * 99_999)\nprint('the end')"
    displays = "from IPython.display import HTML, display\ndisplay(HTML('y' * 9_000_000))\n"
    displays += "for n in range(1_200): display(n)"
    result = ran(write(cell, displays), tmp_path / "out")
    assert result.state == "ok"
    assert result.notebook.stat().st_size < 3_000_000
    page = result.page.read_text()
    assert len(page) < 3_000_000
    assert "the end" in page
    assert "was left out" in page
    assert "the rest was left out" in page


# -- secrets -----------------------------------------------------------------------------------------------------------

CANARY = "cänary/\"p@ss+word'<42>"


def escaped_forms(secret: str) -> list[bytes]:
    data = secret.encode()
    forms = [secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]]
    forms += [quote(secret), quote(secret, safe=""), data.hex()]
    forms += [base64.b64encode(b"\0" * n + data).decode()[2 * bool(n) : -4] for n in range(3)]
    # Any piece of it that is long enough to guess the rest counts as a leak too.
    forms += [secret[:8], secret[-10:]]
    return [form.encode() for form in forms]


def assert_nowhere(secret: str, outputs: Path) -> None:
    for file in outputs.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            for form in escaped_forms(secret):
                assert form not in data, f"{form!r} in {file}"


def test_a_planted_secret_is_nowhere_under_outputs_in_any_form(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    key = tmp_path / "key"
    key.write_text("file-canary-4711\n")
    key.chmod(0o600)
    path = write(
        "from runbooks_lib import secrets\nvalue = secrets.resolve(reference)\nother = secrets.resolve(place)",
        "import base64, html, json, sys, os, urllib.parse\nprint(value, repr(value), other, json.dumps(value))",
        "for letter in value: print(letter, end='', flush=True)",
        "print(base64.b64encode(('ab' + value).encode()).decode(), urllib.parse.quote(value), file=sys.stderr)",
        "os.write(1, value.encode())\nos.system('printf %s \"$CANARY\"')\nos.write(2, other.encode());",
        "from IPython.display import display, HTML, Markdown\n"
        "page = '<b title=\"' + html.escape(value) + '\">' + value + '</b>'\n"
        "display(HTML(page), metadata={'note': value, value: 1})\n"
        "display({'application/json': {value: [value]}, 'text/plain': value}, raw=True)",
        "value",
        "display(Markdown('look: ' + other))",
        PUBLISH + "publish('found ' + value, number_name=value)",
        "def deep(secret):\n    raise ValueError('cannot log in with ' + secret + ' or ' + repr(secret))\ndeep(value)",
        parameters="reference: str = 'env:CANARY'\nplace: str = ''\nnote: str = ''\n",
    )
    outputs = tmp_path / "out"
    result = ran(path, outputs, {"place": f"file:{key}", "note": f"the key is {CANARY}"})
    assert result.state == "failed"
    assert_nowhere(CANARY, outputs)
    assert_nowhere("file-canary-4711", outputs)
    assert CANARY not in result.sentence
    assert CANARY not in repr(result.record)
    assert "***" in result.page.read_text()
    assert result.record.failure is not None
    assert "cannot log in with ***" in result.record.failure.message
    assert result.record.headline == "found ***"


def test_secrets_in_a_killed_worker_s_leavings_are_masked_too(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    path = write(
        "from runbooks_lib import secrets\nvalue = secrets.resolve('env:CANARY')\nprint(value)",
        "import os, time\ntime.sleep(6)\nprint(value)\nos.system('kill -9 %d' % os.getppid())\ntime.sleep(300)",
        parameters="note: str = ''\n",
    )
    outputs = tmp_path / "out"
    result = ran(path, outputs, {"note": CANARY}, deadline_seconds=60)
    assert result.state == "failed"
    assert_nowhere(CANARY, outputs)
    assert CANARY not in repr(result.record)


def test_secrets_of_the_environment_are_masked_when_all_of_it_is_printed(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "canary-1f2e3d-9c8b7a6f5e")
    result = ran(write("import os\nprint(dict(os.environ))"), tmp_path / "out")
    assert "SERVICE_TOKEN" in result.page.read_text()
    assert_nowhere("canary-1f2e3d-9c8b7a6f5e", tmp_path / "out")


# -- used wrongly, stopped, full ---------------------------------------------------------------------------------------


def test_wrong_parameters_are_told_before_anything_is_started(write: Write, tmp_path: Path) -> None:
    path = write("print(days)", parameters="days: int = 90  # how far, 7 to 365 days\n")
    begin = time.monotonic()
    with pytest.raises(UsageError) as refused:
        run_report(str(path), {"days": "1e3", "dasy": "1", "password": "hunter2-x"}, outputs=tmp_path / "out")
    assert time.monotonic() - begin < 1
    assert not (tmp_path / "out").exists()
    assert "3 mistakes" in str(refused.value)
    assert "days=90" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_an_unknown_report_is_told_with_those_that_exist(tmp_path: Path, write: Write) -> None:
    write(PUBLISH + "publish('x')", name="known", parameters="n: int = 1")
    write("change()", name="runbook", parameters="n: int = 1")
    with pytest.raises(UsageError, match="no such report: unknown") as refused:
        run_report("unknown", {}, outputs=tmp_path, notebooks=tmp_path)
    assert "reports: known" in str(refused.value)
    (tmp_path / "broken.ipynb").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        run_report(str(tmp_path / "broken.ipynb"), {}, outputs=tmp_path)
    with pytest.raises(UsageError, match="deadline"):
        run_report("known", {}, outputs=tmp_path, notebooks=tmp_path, deadline_seconds=0)


def test_two_runs_at_once_do_not_mix(write: Write, tmp_path: Path) -> None:
    path = write("import time\ntime.sleep(1)\nprint('I am', n)", parameters="n: int = 0\n")
    results: dict[int, ReportRun] = {}

    def one(n: int) -> None:
        results[n] = run_report(str(path), {"n": n}, outputs=tmp_path / "out")

    threads = [threading.Thread(target=one, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert {result.state for result in results.values()} == {"ok"}
    assert results[1].directory != results[2].directory
    for n, result in results.items():
        assert f"I am {n}" in result.notebook.read_text()
        assert f"I am {3 - n}" not in result.notebook.read_text()
    index = (tmp_path / "out" / "index.html").read_text()
    assert all(result.record.run in index for result in results.values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_stopped_ends_its_run_and_the_record_says_so(
    number: signal.Signals, write: Write, tmp_path: Path
) -> None:
    path = write("import os, time\nprint('begun', flush=True)\nopen('began', 'w').close()\ntime.sleep(300)")
    source = (
        "import sys\nfrom pathlib import Path\nfrom runbooks_lib.reports.run import run_report\n"
        "result = run_report(sys.argv[1], {}, outputs=Path(sys.argv[2]))\nsys.exit(result.exit_code)"
    )
    outputs = tmp_path / "out"
    command = subprocess.Popen(
        [sys.executable, "-c", source, str(path), str(outputs)], cwd=tmp_path, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while not (tmp_path / "began").exists() and time.monotonic() < end:
        time.sleep(0.05)
    command.send_signal(number)
    _, said = command.communicate(timeout=60)
    (directory,) = (entry for entry in (outputs / "report").iterdir())
    while record.read(directory).state == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert record.read(directory).state == "interrupted"
    while marked(directory.name) and time.monotonic() < end:
        time.sleep(0.1)
    assert marked(directory.name) == []
    if number != signal.SIGKILL:
        assert command.returncode == ExitCode.FAILED
        assert said == b""
        assert "interrupted" in (directory / record.PAGE).read_text()


def test_it_runs_without_a_home_and_says_nothing_on_stderr(write: Write, tmp_path: Path) -> None:
    path = write("import matplotlib.pyplot as plt\nplt.plot([1, 2])", "from pathlib import Path\nprint('there')")
    source = (
        "import sys\nfrom pathlib import Path\nfrom runbooks_lib.reports.run import run_report\n"
        "sys.exit(run_report(sys.argv[1], {}, outputs=Path('out')).exit_code)"
    )
    (tmp_path / "startup.py").write_text("print('startup')")
    environment = {"PATH": os.environ["PATH"], "HOME": "", "MPLBACKEND": "TkAgg", "JUPYTER_CONFIG_DIR": "/nonexistent"}
    environment["PYTHONSTARTUP"] = str(tmp_path / "startup.py")
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, "-c", source, str(path)], cwd=tmp_path, env=environment, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (page,) = tmp_path.glob("out/report/*/report.html")
    assert "data:image/png;base64," in page.read_text()
    assert "startup" not in page.read_text()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "report.ipynb", "startup.py"]


@pytest.mark.lab
def test_a_full_disk_is_one_message_and_earlier_pages_stay(write: Write, tmp_path: Path) -> None:
    outputs = tmp_path / "small"
    outputs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(outputs)], check=True)
    try:
        path = write("print('x' * 200_000)")
        before = ran(path, outputs)
        assert before.state == "ok"
        kept = {file: file.read_bytes() for file in outputs.rglob("*") if file.is_file()}
        free = os.statvfs(outputs)
        (outputs / "filler").write_bytes(b"x" * (free.f_bavail * free.f_bsize - 65_536))
        with pytest.raises(RunbookError) as told:
            run_report(str(path), {}, outputs=outputs)
        assert told.value.exit_code == ExitCode.FAILED
        assert "the disk is full" in str(told.value)
        assert "make room" in str(told.value)
        assert {file: file.read_bytes() for file in kept} == kept
        assert [entry for entry in (outputs / "report").iterdir() if entry.name != before.record.run] == []
    finally:
        subprocess.run(["umount", str(outputs)], check=True)


def test_an_outputs_directory_that_cannot_be_written_is_told(write: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunbookError) as told:
        run_report(str(write("1")), {}, outputs=tmp_path / "file" / "out")
    assert "Not a directory" in str(told.value)


def teardown_function() -> None:
    secrets.forget()


class Silent(KernelManager):
    """A kernel that starts and never says a word."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=["sleep", "60"], display_name="silent", language="python", name="silent")


def test_a_kernel_that_is_not_ready_in_time_says_how_to_give_it_more() -> None:
    manager = Silent(transport="ipc")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        with pytest.raises(RuntimeError) as raised:
            client.wait_for_ready(timeout=0.3)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    failure = worker._failure(raised.value, 900)
    assert failure.kind == "KernelNotReady"
    assert "not ready within 300 s" in failure.message
    assert "--deadline" in failure.message


@pytest.mark.parametrize(("deadline", "start"), [(900, 300), (180, 60), (90, 60), (4, 4), (7200, 2400)])
def test_a_kernel_may_take_a_third_of_the_run_to_start_and_at_least_a_minute(deadline: float, start: float) -> None:
    assert worker.start_seconds(deadline) == start


def test_a_worker_that_cannot_be_started_is_one_sentence_and_leaves_nothing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("1")

    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    kept, outputs = tmp_path / "tmp", tmp_path / "outputs"
    kept.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(kept))
    monkeypatch.setattr(run.subprocess, "Popen", refused)
    before = psutil.Process().num_fds()
    with pytest.raises(RunbookError, match="could not be started: Resource temporarily unavailable"):
        run_report(str(path), {}, outputs=outputs)
    assert list(kept.iterdir()) == []
    assert list((outputs / path.stem).iterdir()) == []
    assert psutil.Process().num_fds() <= before
