"""Run one report: check its parameters, start the worker, watch over it, and say what its record says.

The notebook runs in a process of its own (`worker.py`), since a kernel may hang, die, or eat all memory. The worker
stops itself at the deadline; should it not, it is killed from here, with its process group, its kernel and whatever
they started, and the record and page are written here from what had reached the disk.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import runbooks_lib
from runbooks_lib import config as inventory
from runbooks_lib import parameters, secrets, writer
from runbooks_lib.config import Config
from runbooks_lib.errors import ExitCode, RunbookError, UsageError
from runbooks_lib.parameters import Parameter
from runbooks_lib.reports import index, processes, publishing, record
from runbooks_lib.reports.record import CellRun, Failure, Record
from runbooks_lib.reports.worker import LIFELINE_FD, SECRETS_FD

DEADLINE_SECONDS = 900.0
_LONGEST_SOCKET_DIRECTORY = 80  # a Unix socket's whole path has 103 to 107 bytes
_GRACE_SECONDS = 20.0  # for the worker to end its kernel and write what is known
_MOST_ERROR_BYTES = 200_000
_PACKAGE_ROOT = Path(runbooks_lib.__file__).resolve().parents[1]


@dataclass(frozen=True)
class ReportRun:
    """One run of a report, as its record says, and where its files are."""

    record: Record
    directory: Path
    index: Path

    @property
    def state(self) -> str:
        """ok, threshold, failed, timed out or interrupted."""
        return self.record.state

    @property
    def exit_code(self) -> ExitCode:
        """0, 3 when a threshold is crossed, else 1."""
        return self.record.exit_code

    @property
    def headline(self) -> str:
        """What the report found, or why it did not."""
        return self.record.headline if self.state in ("ok", "threshold") else self.record.message

    @property
    def page(self) -> Path:
        """The page."""
        return self.directory / record.PAGE

    @property
    def notebook(self) -> Path:
        """The notebook as it ran, with its outputs."""
        return self.directory / record.NOTEBOOK

    @property
    def log(self) -> Path:
        """The log."""
        return self.directory / record.LOG

    @property
    def sentence(self) -> str:
        """One line for a terminal: the report, its state, what it says, and where the page is."""
        words = {"ok": "ok", "threshold": "threshold crossed"}.get(self.state, self.state)
        return f"{self.record.report}: {words}. {self.headline or 'It published no headline'}\n{self.page.as_uri()}"


@dataclass(frozen=True)
class Report:
    """A notebook that can be run as a report: its name, file, text, title and declared parameters."""

    name: str
    path: Path
    data: bytes
    notebook: Mapping[str, Any]
    title: str
    parameters: tuple[Parameter, ...]


def run_report(
    name: str,
    given: Mapping[str, object] | Iterable[tuple[str, object]] = (),
    *,
    config: Config | None = None,
    config_path: Path | str | None = None,
    outputs: Path | None = None,
    deadline_seconds: float = DEADLINE_SECONDS,
    notebooks: Path | None = None,
) -> ReportRun:
    """Run a report and publish its page and the index. Returns also when it failed: the run's state says so.

    `name` is the notebook's (`disk-report`) or a path to one. `given` are its parameters, text or typed values. The
    inventory is `config`, or the file `config_path`, or the one that `config.find` finds; `outputs` replaces the
    inventory's. Raises UsageError, before anything is started, for an unknown report, unknown or wrong parameters, and
    RunbookError when nothing can be written. Ctrl-C and SIGTERM end the run; its record then says `interrupted`.
    """
    report = find(name, notebooks=notebooks)
    values = parameters.check(report.parameters, given, report=report.name)
    if config is None and (config_path is not None or outputs is None):
        config = inventory.load(config_path)
    if config is not None:
        # By convention these two name what the inventory has: a mistyped one must not cost a run that fails.
        chosen = {name: str(values[name]) for name in ("host", "group") if values.get(name)}
        config.select(**chosen)
    outputs = (outputs or (config.outputs if config else Path("outputs"))).absolute()
    now = datetime.now(UTC)
    started = _begin(report, values, now, deadline_seconds)
    writer.make_directory(outputs)
    directory = outputs / report.name / started.run
    writer.make_directory(directory)
    try:
        finished = _watch_over(report, values, started, directory, outputs, config)
    except BaseException as error:
        # Stopped before it could write its first record, it has nothing to show; later, its record says how it ended.
        if isinstance(error, RunbookError) or not (directory / record.RECORD).exists():
            _give_room(directory)
        raise
    index.forget_old_runs(outputs, report.name)
    index.update(outputs)
    return ReportRun(finished, directory, outputs / index.NAME)


def find(name: str, *, notebooks: Path | None = None) -> Report:
    """A report by its notebook's name or path. UsageError with the names that exist, or with what is wrong in it."""
    if name.endswith(".ipynb"):
        path = Path(name)
        if not path.is_file():
            raise UsageError("no such notebook", where=name, true_now="nothing was run")
    else:
        known = available(notebooks)
        if name not in known:
            raise UsageError(
                f"no such report: {name}",
                true_now="nothing was run",
                next=f"reports: {', '.join(sorted(known)) or 'none found'}; or name a file that ends with .ipynb",
            )
        path = known[name]
    try:
        data = path.read_bytes()
        notebook = json.loads(data)
        language = notebook.get("metadata", {}).get("kernelspec", {}).get("language", "python")
        cells = notebook["cells"]
        if notebook["nbformat"] != 4 or not isinstance(cells, list) or language != "python":
            raise ValueError("a Python notebook of format 4 is needed")
        title = _title(notebook) or path.stem
        declared = parameters.declared(notebook, where=str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"this notebook cannot be read: {error}",
            where=str(path),
            true_now="nothing was run",
            next="open it with `runbook lab` and save it again",
        ) from error
    return Report(_directory_name(path.stem), path, data, notebook, title, declared)


def available(notebooks: Path | None = None) -> dict[str, Path]:
    """The notebooks that declare parameters and publish a result, by name: from `notebooks`, else `./notebooks`, else
    the project's own. A runbook that changes a host publishes none; it can be named by its path only."""
    places = [notebooks] if notebooks else [Path("notebooks"), _PACKAGE_ROOT / "notebooks"]
    for place in places:
        found = [path for path in sorted(place.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
        reports: dict[str, Path] = {}
        for path in found:
            data = path.read_bytes()
            if b'"parameters"' in data and b"publish(" in data:
                reports.setdefault(path.stem, path)  # of two with one name the other is run by its path
        if reports:
            return reports
    return {}


def asked(values: Mapping[str, parameters.Value]) -> str:
    """What a run with these checked values records as asked."""
    return record.asked(writer.masked(parameters.jsonable(values)))


def _begin(report: Report, values: Mapping[str, parameters.Value], now: datetime, deadline_seconds: float) -> Record:
    if not 0 < deadline_seconds <= 86_400 * 7:
        raise UsageError("a deadline is more than 0 seconds and at most a week", true_now="nothing was run")
    shown = parameters.jsonable(values)
    others = {each.name: each.default for each in report.parameters if each.name not in values}
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = str(os.getuid())
    return Record(
        report=report.name,
        run=record.new_run_id(now),
        state="running",
        started=now,
        title=report.title,
        deadline_seconds=deadline_seconds,
        parameters=writer.masked(shown),
        defaults=writer.masked(parameters.jsonable(others)),
        source=str(report.path),
        sha256=hashlib.sha256(report.data).hexdigest(),
        machine=platform.node(),
        user=user,
        pid=os.getpid(),
    )


# -- watching over the worker ------------------------------------------------------------------------------------------


def _runtime_directory() -> Path:
    base = tempfile.gettempdir()
    if len(base) > _LONGEST_SOCKET_DIRECTORY:
        base = "/tmp"  # noqa: S108 (mkdtemp makes a private directory there)
    try:
        return Path(tempfile.mkdtemp(prefix="rb-", dir=base))
    except OSError as error:
        raise RunbookError(
            f"no directory for the kernel's sockets can be made: {error.strerror}",
            where=base,
            true_now="no notebook was run",
            next="make room there, or set TMPDIR to a directory that can be written",
        ) from error


def _watch_over(
    report: Report,
    values: Mapping[str, parameters.Value],
    started: Record,
    directory: Path,
    outputs: Path,
    config: Config | None,
) -> Record:
    with _terminated_like_interrupted(), contextlib.ExitStack() as at_the_end:
        runtime = _runtime_directory()
        at_the_end.callback(shutil.rmtree, runtime, ignore_errors=True)
        job = {
            "runtime": str(runtime),
            "record": started.as_json(),
            "directory": str(directory),
            "notebook": report.notebook,
            "injected": parameters.injected(values) if values else "",
            "parameters": parameters.jsonable(values),
            "references": [*_references(config), *(value for value in values.values() if isinstance(value, str))],
            "environment": _environment(config, outputs),
        }
        ours, theirs = socket.socketpair()
        lifeline, held = (os.fdopen(end, mode, buffering=0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        for end in (held, lifeline, theirs):
            at_the_end.callback(end.close)
        process = _worker(theirs, lifeline, started.run, ours)
        at_the_end.callback(_let_go, process, started.run)
        theirs.close()
        lifeline.close()
        threading.Thread(target=secrets.receive_from, args=(ours,), daemon=True).start()
        answer, said, stopped = _wait(process, json.dumps(job).encode(), started.deadline_seconds)
    return _verdict(started, directory, report, answer, said, stopped)


def _worker(theirs: socket.socket, lifeline: Any, run_id: str, ours: socket.socket) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        SECRETS_FD: str(theirs.fileno()),
        LIFELINE_FD: str(lifeline.fileno()),
        processes.RUN_VARIABLE: run_id,
    }
    if "site-packages" not in _PACKAGE_ROOT.parts:
        # Started from a checkout that is not installed: the worker and the kernel find the package all the same.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "runbooks_lib.reports.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=(theirs.fileno(), lifeline.fileno()),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise RunbookError(
            f"the report's process could not be started: {error.strerror}",
            true_now="no notebook was run",
            next="this machine is short of processes or memory: see what uses them, or call it again later",
        ) from error


def _wait(process: subprocess.Popen[bytes], job: bytes, deadline_seconds: float) -> tuple[bytes, bytes, str]:
    """The worker's answer, what it said on stderr, and why it was stopped from here ("" when it was not)."""
    stopped = ""
    patience = deadline_seconds + _GRACE_SECONDS
    send: bytes | None = job
    while True:
        try:
            answer, said = process.communicate(send, timeout=patience)
            return answer, said[-_MOST_ERROR_BYTES:], stopped
        except subprocess.TimeoutExpired:
            stopped = stopped or "timed out"
            processes.end_descendants(process.pid)
            process.send_signal(signal.SIGKILL)
        except KeyboardInterrupt:
            # Once: it may write what it knows. Twice: now.
            process.send_signal(signal.SIGKILL if stopped else signal.SIGTERM)
            stopped = "interrupted"
        send, patience = None, _GRACE_SECONDS


def _let_go(process: subprocess.Popen[bytes], run_id: str) -> None:
    _end(process, run_id)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _end(process: subprocess.Popen[bytes], run_id: str) -> None:
    if process.returncode is None:
        processes.end_descendants(process.pid)
        process.kill()
        process.wait()
    if process.returncode != 0:
        # It may not have come to ending its kernel; orphans are found by the run's mark in their environment.
        processes.end_group(process.pid)
        processes.end_marked(run_id)


def _verdict(started: Record, directory: Path, report: Report, answer: bytes, said: bytes, stopped: str) -> Record:
    """What the worker recorded; without it, what can be told from here."""
    try:
        told = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError):
        told = None
    if told is not None:
        raise RunbookError(told["what"], where=told["where"], true_now=told["true_now"], next=told["next"])
    with contextlib.suppress(record.DamagedRecordError):
        finished = record.read(directory)
        if finished.state != "running":
            return finished
    failure = None if stopped else Failure("WorkerDied", "the process that ran the report ended without a word")
    notebook, cells = _saved(directory, report)
    return publishing.publish(
        started, directory, notebook, cells, failure, log=said.decode("utf-8", "backslashreplace"), stopped=stopped
    )


def _saved(directory: Path, report: Report) -> tuple[Mapping[str, Any], dict[int, CellRun]]:
    """The notebook as far as it was saved; papermill's states are believed only where a cell has run."""
    try:
        notebook = json.loads((directory / record.NOTEBOOK).read_bytes())
        cells = {
            place: CellRun(place, "ok" if cell["metadata"]["papermill"]["status"] == "completed" else "stopped")
            for place, cell in enumerate(notebook["cells"])
            if cell["cell_type"] == "code" and cell.get("execution_count") is not None
        }
    except (OSError, ValueError, KeyError, TypeError):
        return report.notebook, {}
    return notebook, cells


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM or SIGHUP: what systemd sends, and a terminal that was closed."""


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        raise _TerminatedError(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- around it ---------------------------------------------------------------------------------------------------------


def _environment(config: Config | None, outputs: Path) -> dict[str, str]:
    """What the kernel finds in its environment: the inventory, and a cache for matplotlib's fonts."""
    found = {"MPLCONFIGDIR": str(outputs / ".cache" / "matplotlib")}
    if config is not None:
        found[inventory.CONFIG_ENV] = str(config.file)
    return found


def _references(config: Config | None) -> list[str]:
    if config is None:
        return []
    places = [config.history.password, config.history.token, *(entry.sudo_password for entry in config.hosts.values())]
    places += config.notify.references
    return [place for place in places if place]


def _give_room(directory: Path) -> None:
    """A run that could not be written leaves nothing half behind."""
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            entry.unlink()
        directory.rmdir()


def _title(notebook: Mapping[str, Any]) -> str:
    for cell in notebook["cells"]:
        source = cell.get("source", "")
        text = source if isinstance(source, str) else "".join(source)
        if cell.get("cell_type") == "markdown" and (match := re.search(r"^# +(.+)$", text, flags=re.MULTILINE)):
            return match[1].strip()[:120]
    return ""


def _directory_name(stem: str) -> str:
    """A directory for a report's runs: never hidden, never outside."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip(".")[:100] or "report"
