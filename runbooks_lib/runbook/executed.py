"""The executed notebook, as the kernel that ran it saw it: what was run, in which order, and all that came of it.

The file that JupyterLab shows is saved by a browser, now and then; papermill's lies where only papermill knows. What
either shows has left the kernel through one method of its session, and is written down there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import runbooks_lib
from runbooks_lib import writer
from runbooks_lib.errors import RunbookError
from runbooks_lib.runbook.check import bounded

NAME = "notebook.ipynb"
_NOTEBOOKS = Path(runbooks_lib.__file__).parents[1] / "notebooks"
_MOST_CHARACTERS = 200_000
_MOST_BYTES = 20 * 1024 * 1024
_OUTPUTS = ("stream", "display_data", "execute_result", "error")


@dataclass
class Executed:
    """One execution of one cell. `count` is the number in front of it."""

    source: str
    count: int
    outputs: list[dict[str, Any]] = field(default_factory=list)


class _Recorder:
    """A kernel's executions since it was made; those before it are known without what they printed."""

    def __init__(self, shell: Any) -> None:
        sources = list(enumerate(shell.history_manager.input_hist_raw))[1:]
        self._cells = {str(count): Executed(source, count) for count, source in sources}
        if sources:  # the cell that is running was announced before anybody listened
            request = shell.kernel.get_parent("shell").get("header", {}).get("msg_id", "")
            self._cells[request] = self._cells.pop(str(sources[-1][0]))
        self._places: dict[Path, Path] = {}
        self._ending: set[Path] = set()
        shell.events.register("post_run_cell", self.write)
        session = shell.kernel.session
        send = session.send

        def recorded_send(*arguments: Any, **options: Any) -> Any:
            message = send(*arguments, **options)
            with suppress(Exception):  # whatever it was, the notebook goes on
                self._note(message)
            return message

        session.send = recorded_send

    def _note(self, message: Mapping[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        request = message["parent_header"]["msg_id"]
        if kind == "execute_input":
            self._cells[request] = Executed(content["code"], content["execution_count"])
        elif kind in _OUTPUTS:
            output = {key: value for key, value in content.items() if key != "transient"}
            self._cells[request].outputs.append({"output_type": kind, **deepcopy(output)})
        elif kind == "input_request":
            asked = {"output_type": "stream", "name": "stdout", "text": f"{content['prompt']}\n"}
            self._cells[request].outputs.append(asked)

    def keep(self, directory: Path, template: Path) -> None:
        self._ending.discard(directory)
        if directory not in self._places:
            number = len(list(directory.glob("notebook*.ipynb"))) + 1
            self._places[directory] = directory / (NAME if number == 1 else f"notebook-{number}.ipynb")
            self._template = template

    def let_go(self, directory: Path) -> None:
        self._ending.add(directory)

    def write(self, *_: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for directory, path in list(self._places.items()):
            with suppress(RunbookError, OSError, ValueError):
                text = writer.notebook_text(merged(_read(self._template), list(self._cells.values())))
                writer.write_exactly(path, text.encode("utf-8", "backslashreplace"))
            if directory in self._ending:
                self._ending.discard(directory)
                del self._places[directory]


_recorder: _Recorder | None = None


def listen() -> None:
    """Inside a kernel, take up from now on what its cells say; anywhere else do nothing."""
    global _recorder
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    if _recorder is None and getattr(shell, "kernel", None) is not None:
        _recorder = _Recorder(shell)


def keep(directory: Path, notebook: str) -> None:
    """Write the notebook into a run's directory after each cell from now on, if there is a kernel to listen to.

    Its prose is that of the file which the kernel belongs to (JPY_SESSION_NAME, set by Jupyter), or of `notebook`, a
    path under `notebooks/`. A second kernel's notebook stands beside the first's."""
    if _recorder is not None:
        opened = Path(os.environ.get("JPY_SESSION_NAME", ""))
        _recorder.keep(directory, opened if opened.suffix == ".ipynb" else _NOTEBOOKS / notebook)


def let_go(directory: Path) -> None:
    """Write it once more, when the cell that is running has ended, and then no more."""
    if _recorder is not None:
        _recorder.let_go(directory)


def merged(template: Mapping[str, Any], executions: Sequence[Executed]) -> dict[str, Any]:
    """A notebook (nbformat 4) with every execution, in order: in the template's cell of the same source the first time;
    otherwise - run again, changed, or new - in a cell of its own after the one that ran before it."""
    cells = [
        {**cell, "outputs": [], "execution_count": None} if cell["cell_type"] == "code" else dict(cell)
        for cell in template.get("cells", [])
    ]
    place = -1
    for number, each in enumerate(executions):
        ran = {"outputs": [_bounded(output) for output in each.outputs], "execution_count": each.count}
        for index, cell in enumerate(cells):
            if cell["cell_type"] == "code" and cell["execution_count"] is None and _source(cell) == each.source.strip():
                cell.update(ran)
                place = index
                break
        else:
            place += 1
            cells.insert(
                place,
                {"cell_type": "code", "id": f"ran-{number}", "metadata": {}, "source": each.source, **ran},
            )
    return {
        "cells": cells,
        "metadata": dict(template.get("metadata", {})),
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _source(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"]).strip()


def _bounded(output: dict[str, Any]) -> dict[str, Any]:
    if output["output_type"] == "stream":
        return {**output, "text": bounded(str(output["text"]), _MOST_CHARACTERS)}
    if len(json.dumps(output.get("data", {}))) > _MOST_BYTES:
        return {**output, "data": {"text/plain": "(too large to be kept)"}}
    return output


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
