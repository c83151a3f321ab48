"""papermill's engine for reports: one kernel over ipc, honest cell states, bounded outputs, few saves.

papermill itself says "completed" for every cell after a kernel died; here each cell's state is what happened to it.
Imported by the worker only.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from runbooks_lib.reports import kernel_start
from runbooks_lib.reports.kernel import SECRETS_FD
from runbooks_lib.reports.record import CellRun, Failure

NAME = "runbooks"
STREAM_LIMIT = 1_000_000  # characters of one stream of one cell; of more, head and tail are kept
DISPLAY_LIMIT = 8_000_000  # characters of one display: a chart is a tenth of it
CELL_OUTPUTS = 1_000
_SAVE_EVERY_SECONDS = 5.0
_KERNEL_ARGUMENTS = (
    "--HistoryManager.enabled=False",
    "--HistoryManager.hist_file=:memory:",
    "--InteractiveShell.colors=nocolor",  # colour codes would cut a secret in a traceback into pieces
    "--IPKernelApp.ignore_cwd=True",  # a numpy.py in the present directory is not numpy
    "--ext=runbooks_lib.reports.kernel",
)


class Kernel(AsyncKernelManager):
    """A kernel of this very interpreter: no kernelspec is looked for, so none can be missing or another's."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command of the kernel."""
        # `-P`: what lies in the present directory is no part of it.
        start = [sys.executable, "-P", "-m", kernel_start.__name__]
        argv = [*start, "-f", "{connection_file}", *_KERNEL_ARGUMENTS]
        return KernelSpec(argv=argv, display_name="Python 3", language="python", name="python3")


@dataclass
class Progress:
    """What is known of a run while it runs; the watch and the record read it."""

    runtime: Path  # short and private: the kernel's sockets are in it
    kernel_environment: dict[str, str]
    secrets_fd: int
    output_fd: int
    log: Any
    stopping: Any  # () -> bool
    cells: dict[int, CellRun] = field(default_factory=dict)
    failure: Failure | None = None
    notebook: Any = None
    started: dict[int, float] = field(default_factory=dict)


class Client(PapermillNotebookClient):  # type: ignore[misc]
    """nbclient's client that tells what became of each cell and keeps outputs within bounds."""

    progress: Progress

    def papermill_execute_cells(self) -> None:
        """Run the cells in order until one fails."""
        numbers = _numbers(self.nb.cells)
        for index, cell in enumerate(self.nb.cells):
            if index not in numbers:
                continue
            self._begin(index)
            try:
                self.nb_man.cell_start(cell, index)
                self.execute_cell(cell, index)
                self._end(index, "ok")
            except CellExecutionError as error:
                self._end(index, "failed")
                self.progress.failure = Failure(error.ename, error.evalue, numbers[index])
                self.nb_man.cell_exception(self.nb.cells[index], cell_index=index, exception=error)
                break
            except BaseException as error:
                self._end(index, "stopped")
                self.progress.failure = Failure(type(error).__name__, self._why(error), numbers[index])
                self.nb_man.cell_exception(self.nb.cells[index], cell_index=index, exception=error)
                raise
            finally:
                self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)

    def _begin(self, index: int) -> None:
        self.progress.started[index] = time.monotonic()
        self.progress.cells[index] = CellRun(index, "stopped")

    def _end(self, index: int, state: str) -> None:
        seconds = round(time.monotonic() - self.progress.started[index], 3)
        self.progress.cells[index] = CellRun(index, state, seconds)
        self.progress.log.add(f"cell {_numbers(self.nb.cells)[index]}: {state} after {seconds:.1f} s")

    def _why(self, error: BaseException) -> str:
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        code = process.poll() if process is not None else None
        if code is None:
            return str(error)
        if code < 0:
            hint = "; out of memory is the usual reason" if code == -9 else ""
            return f"the kernel was killed by signal {-code}{hint}"
        return f"the kernel ended itself with code {code}"

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
        """One output as it arrives: streams run together, and nothing grows without end."""
        last = outs[-1] if outs else None
        content = msg["content"]
        is_stream = msg["msg_type"] == "stream" and not self.clear_before_next_output
        if is_stream and last is not None and last.output_type == "stream" and last.name == content["name"]:
            last.text = _bounded(last.text + content["text"])
            return None
        if len(outs) >= CELL_OUTPUTS:
            if len(outs) == CELL_OUTPUTS:
                note = f"[more than {CELL_OUTPUTS} outputs: the rest was left out]\n"
                outs.append(new_output("stream", name="stderr", text=note))  # type: ignore[no-untyped-call]
            return None
        if msg["msg_type"] == "stream":
            msg = {**msg, "content": {**content, "text": _bounded(content["text"])}}
        elif "data" in content:
            msg = {
                **msg,
                "content": {**content, "data": {kind: _small(kind, it) for kind, it in content["data"].items()}},
            }
        elif msg["msg_type"] == "error":
            lines = [_bounded(line) for line in content["traceback"]]
            msg = {**msg, "content": {**content, "evalue": _bounded(content["evalue"]), "traceback": lines}}
        return super().output(outs, msg, display_id, cell_index)


class Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's NBClientEngine with the client and the kernel above."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        """Run the notebook that papermill manages; called by papermill."""
        progress: Progress = options["progress"]
        progress.notebook = nb_man.nb
        nb_man.save = _seldom(nb_man.save)
        manager = Kernel(
            connection_file=str(progress.runtime / "kernel.json"), transport="ipc", kernel_name=kernel_name
        )
        manager.context.setsockopt(zmq.RCVHWM, kernel_start.MOST_WAITING)
        client = Client(
            nb_man,
            km=manager,
            timeout=None,  # the run's deadline is the watch's
            startup_timeout=options["start_timeout"],
            kernel_name=kernel_name,
            log=options["logger"],
            ipython_hist_file="",
            iopub_timeout=30,
            raise_on_iopub_timeout=False,
        )
        client.progress = progress
        if progress.stopping():
            raise RuntimeError("stopped before the kernel began")
        client.execute(
            cleanup_kc=True,
            env={**progress.kernel_environment, SECRETS_FD: str(progress.secrets_fd)},
            pass_fds=(progress.secrets_fd,),
            stdout=progress.output_fd,
            stderr=progress.output_fd,
        )


def register() -> None:
    """Make the engine known to papermill as `runbooks`."""
    papermill_engines.register(NAME, Engine)


def tell_truth(notebook: Any, cells: dict[int, CellRun]) -> None:
    """Correct what papermill wrote into the notebook: only cells that ran to their end are "completed"."""
    words = {"ok": "completed", "failed": "failed", "stopped": "failed"}
    for index, cell in enumerate(notebook.cells):
        run = cells.get(index)
        if "papermill" in cell.metadata and cell.cell_type == "code":
            cell.metadata.papermill["status"] = words[run.state] if run else "pending"


def _numbers(cells: list[Any]) -> dict[int, int]:
    """Code cells that hold anything: their place among all cells (from 0), and among each other (from 1)."""
    places = [index for index, cell in enumerate(cells) if cell.cell_type == "code" and cell.source.strip()]
    return {index: number for number, index in enumerate(places, start=1)}


def _seldom(save: Any) -> Any:
    """papermill saves twice a cell; every save is a flush to the disk. Every few seconds is enough to tell the tale."""
    last = time.monotonic()

    def seldom(**options: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= _SAVE_EVERY_SECONDS:
            save(**options)
            last = time.monotonic()

    return seldom


def _bounded(text: str) -> str:
    if len(text) <= STREAM_LIMIT:
        return text
    half = STREAM_LIMIT // 2
    # The tail is shorter than the head, so that there is room for a while: cutting costs a copy of the whole text.
    return f"{text[:half]}\n[… the middle of a long output was left out …]\n{text[-half // 2 :]}"


def _small(kind: str, value: Any) -> Any:
    size = len(value) if isinstance(value, str) else len(repr(value))
    if size <= DISPLAY_LIMIT:
        return value
    return f"[{kind} of {size} characters was left out]" if kind.startswith("text/") else ""
