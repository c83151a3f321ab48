"""The process in which one report runs: papermill, then the page. Started by `run.py`, never by hand.

It reads one job (JSON) from stdin, runs the notebook, and leaves notebook, page, log and record in the run's directory.
stdout gets one line of JSON: `{}`, or `{"error": …}` when nothing could be written. It stops at the deadline, on
SIGTERM, and when the command that started it is gone; the kernel and all that it started are then ended first.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib import secrets, writer
from runbooks_lib.errors import RunbookError
from runbooks_lib.reports import processes, publishing, record
from runbooks_lib.reports.record import CellRun, Failure

LIFELINE_FD = "RUNBOOKS_LIFELINE_FD"
SECRETS_FD = "RUNBOOKS_SECRETS_FD"
_LEAST_START_SECONDS = 60.0
_START_SHARE = 1 / 3  # of the run's deadline: a kernel that died is seen at once, only a silent one is waited for
_LOG_LIMIT = 1_000_000
_STOPPING_SECONDS = 0.5
_NOT_FOR_KERNELS = {"PYTHONSTARTUP"}  # IPython would run it


class Log:
    """The run's log: what the kernel's processes write past Jupyter, warnings, and when each cell ended."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._size = 0
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        """Add lines with the time before them; of more than a million characters the rest is left out."""
        with self._lock:
            if self._size > _LOG_LIMIT:
                return
            now = datetime.now(UTC)
            for line in text.splitlines() or [""]:
                self._lines.append(f"{now:%H:%M:%S} {line}\n")
                self._size += len(line)
            if self._size > _LOG_LIMIT:
                self._lines.append("[the rest was left out]\n")

    def text(self) -> str:
        """All of it; not masked yet."""
        with self._lock:
            return "".join(self._lines)


class Watch:
    """Ends the kernel when the time is over, when the command is gone, or when it says so; `reason` says which."""

    def __init__(self, log: Log) -> None:
        self.reason = ""
        self._log = log
        self._lock = threading.Lock()

    def start(self, deadline_seconds: float, lifeline: int | None) -> None:
        """Begin to watch."""
        timer = threading.Timer(deadline_seconds, self.stop, ("timed out",))
        timer.daemon = True
        timer.start()
        if lifeline is not None:
            threading.Thread(target=self._wait_for_end_of, args=(lifeline,), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # In a thread: the handler runs between two instructions of the loop that waits for the kernel.
            signal.signal(number, self._interrupted)

    def stop(self, reason: str) -> None:
        """End the kernel and everything below it, from now on; the main thread finds it dead and writes what is known.

        Does not return: a kernel that was just being started would otherwise be missed.
        """
        with self._lock:
            if not self.reason:
                self.reason = reason
                self._log.add(f"stopping: {reason}")
            while True:
                processes.end_descendants()
                time.sleep(_STOPPING_SECONDS)

    def _interrupted(self, *_: object) -> None:
        threading.Thread(target=self.stop, args=("interrupted",), daemon=True).start()

    def _wait_for_end_of(self, lifeline: int) -> None:
        while os.read(lifeline, 1):
            pass
        self.stop("interrupted")


def main() -> int:
    """Run the job on stdin."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nobody else's print may get into the answer
    job = json.load(sys.stdin)
    try:
        run(job)
    except RunbookError as error:
        told = {"what": error.what, "where": error.where, "true_now": error.true_now, "next": error.next}
        answer.write(json.dumps({"error": {name: secrets.redact(text) for name, text in told.items()}}))
        answer.flush()
        return 1
    answer.write("{}")
    answer.flush()
    return 0


def run(job: Mapping[str, Any]) -> None:
    """Run a job: execute, then write notebook, page, log and record. RunbookError when these cannot be written."""
    started = record.from_json(job["record"])
    place = Path(job["directory"])
    _listen()
    secrets.register_environment()
    secrets.register_references(job["references"])
    processes.adopt_orphans()
    log = Log()
    watch = Watch(log)
    watch.start(started.deadline_seconds, _descriptor(LIFELINE_FD))
    writer.write_json(place / record.RECORD, started.as_json())
    runtime = Path(job["runtime"])
    try:
        notebook, cells, failure = _execute(job, place, runtime, log, watch, started.deadline_seconds)
    finally:
        shutil.rmtree(runtime, ignore_errors=True)  # here too: the command may be gone
    notes = _end_what_is_left(log)
    publishing.publish(started, place, notebook, cells, failure, log=log.text(), stopped=watch.reason, notes=notes)


# -- executing ---------------------------------------------------------------------------------------------------------


def start_seconds(deadline_seconds: float) -> int:
    """How long a kernel may take to be ready, of a run that may last so long: whole seconds, as nbclient wants them."""
    return math.ceil(min(deadline_seconds, max(_LEAST_START_SECONDS, deadline_seconds * _START_SHARE)))


def _failure(error: BaseException, deadline_seconds: float) -> Failure:
    if isinstance(error, RuntimeError) and str(error).startswith("Kernel didn't respond"):  # jupyter_client's words
        message = f"the notebook's kernel was not ready within {start_seconds(deadline_seconds)} s: this machine is"
        message += f" busy, or slow. The run may last {deadline_seconds:g} s; --deadline gives both more time"
        return Failure("KernelNotReady", message)
    return Failure(type(error).__name__, str(error))


def _execute(
    job: Mapping[str, Any], place: Path, runtime: Path, log: Log, watch: Watch, deadline_seconds: float
) -> tuple[Mapping[str, Any], Mapping[int, CellRun], Failure | None]:
    """Run the notebook through papermill. Never raises for what the notebook or its kernel did."""
    os.environ.update(_private_jupyter(runtime))
    # nbformat imports jsonschema, which (where JupyterLab is installed too) imports 35 Lark grammars of URIs for 0.9 s
    # that no notebook needs: https://github.com/python-jsonschema/jsonschema/issues/1428. It can do without them.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill
    from papermill.iorw import papermill_io

    from runbooks_lib.reports import engine

    logger = _logger(log)
    engine.register()
    papermill_io.register(writer.MaskingIO.scheme, writer.MaskingIO(place))
    ours, theirs = socket.socketpair()
    threading.Thread(target=secrets.receive_from, args=(ours,), daemon=True).start()
    read_end, write_end = os.pipe()
    threading.Thread(target=_copy, args=(read_end, log), daemon=True).start()
    progress = engine.Progress(
        runtime=runtime,
        kernel_environment={
            **{name: it for name, it in os.environ.items() if name not in _NOT_FOR_KERNELS},
            **job["environment"],
        },
        secrets_fd=theirs.fileno(),
        output_fd=write_end,
        log=log,
        stopping=lambda: bool(watch.reason),
    )
    notebook = _with_parameters(job["notebook"], job)
    failure = None
    try:
        papermill.execute_notebook(
            papermill.iorw.load_notebook_node(_as_node(notebook)),
            f"{writer.MaskingIO.scheme}{record.NOTEBOOK}",
            engine_name=engine.NAME,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=start_seconds(deadline_seconds),
            progress=progress,
            logger=logger,
        )
    except RunbookError:
        raise  # it is the writer's: the disk is full
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: there is always a page
        failure = progress.failure or _failure(error, deadline_seconds)
        log.add(f"{failure.kind}: {failure.message}")
    finally:
        theirs.close()
        os.close(write_end)
    if progress.notebook is None:
        return notebook, progress.cells, failure
    # papermill puts red cells before the one that failed; the page says it better.
    progress.notebook.cells = [
        cell for cell in progress.notebook.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]
    engine.tell_truth(progress.notebook, dict(progress.cells))
    return progress.notebook, progress.cells, progress.failure or failure


def _as_node(notebook: Mapping[str, Any]) -> Any:
    import nbformat

    return nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]


def _with_parameters(notebook: Mapping[str, Any], job: Mapping[str, Any]) -> Mapping[str, Any]:
    """The notebook with a cell that sets the given parameters, after the one that declares them (papermill's place).

    papermill's own injection knows no days, and guesses at types.
    """
    cells = [{**cell, "metadata": dict(cell.get("metadata", {}))} for cell in notebook["cells"]]
    if job["injected"]:
        where = next(
            (place for place, cell in enumerate(cells, 1) if "parameters" in cell["metadata"].get("tags", [])), 0
        )
        cell = {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": job["injected"]}
        cells.insert(where, {**cell, "execution_count": None, "outputs": [], "id": "injected-parameters"})
        if (notebook.get("nbformat"), notebook.get("nbformat_minor", 0)) < (4, 5):
            cells[where].pop("id")
    about = {**notebook.get("metadata", {}), "papermill": {"parameters": job["record"]["parameters"]}}
    return {**notebook, "cells": cells, "metadata": about}


def _private_jupyter(runtime: Path) -> dict[str, str]:
    """Settings with which nothing of the user's own Jupyter, IPython or matplotlib is read or written."""
    return {
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_DATA_DIR": str(runtime / "data"),
        "JUPYTER_CONFIG_DIR": str(runtime / "config"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "IPYTHONDIR": str(runtime / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # Agg; and a figure left open is shown
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _end_what_is_left(log: Log) -> tuple[str, ...]:
    if not processes.has_children():
        return ()
    ended = processes.end_descendants()
    for command in ended:
        log.add(f"ended a process that the notebook left running: {command}")
    return tuple(f"A process that the notebook left running was ended: {command}" for command in ended[:20])


def _copy(descriptor: int, log: Log) -> None:
    """What the kernel's process writes to its real stdout and stderr; ipykernel catches the rest."""
    with io.TextIOWrapper(io.FileIO(descriptor), encoding="utf-8", errors="backslashreplace") as stream:
        for line in stream:
            # jupyter_client interrupts a kernel before it asks it to end, and ipykernel calls that an error.
            if "KeyboardInterrupt caught in kernel" not in line:
                log.add(line.rstrip("\n")[:10_000])


class _ToLog(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, entry: logging.LogRecord) -> None:
        self._log.add(f"{entry.name}: {entry.getMessage()}")


def _logger(log: Log) -> logging.Logger:
    """Every library's warnings go to the log, none to stderr."""
    logging.basicConfig(level=logging.WARNING, handlers=[_ToLog(log)], force=True)
    logging.captureWarnings(True)
    return logging.getLogger("papermill")


def _listen() -> None:
    descriptor = _descriptor(SECRETS_FD)
    if descriptor is not None:
        secrets.send_to(socket.socket(fileno=descriptor))


def _descriptor(variable: str) -> int | None:
    text = os.environ.pop(variable, "")
    if not text.isdigit():
        return None
    os.set_inheritable(int(text), False)
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
