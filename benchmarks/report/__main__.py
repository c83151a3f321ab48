"""`runbook report` against `papermill` + `jupyter nbconvert` on an empty notebook: python -m benchmarks.report [RUNS]

All three are whole commands, from the start of the process to its end, in turns in one run, so that a busy machine is
busy for each of them. Reported are the least wall time and the least CPU time (children included) of each side.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

EMPTY = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "metadata": {"tags": ["parameters"]},
            "outputs": [],
            "source": "days: int = 1",
        }
    ],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 4,
}


def main() -> None:
    """Measure and print the figures and their ratio."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        (directory / "empty.ipynb").write_text(json.dumps(EMPTY))
        (directory / "runbooks.toml").write_text('outputs = "out"\n[hosts.nobody]\nexample = true\n')
        sides: dict[str, Callable[[], tuple[float, float]]] = {
            "runbook report": lambda: _timed(directory, _runbook()),
            "papermill + nbconvert": lambda: _timed(directory, *_papermill_and_nbconvert()),
        }
        best: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for number in range(runs + 1):
            for name, measure in sides.items():
                figures = measure()
                if number:  # the first of each fills the caches
                    best[name].append(figures)
    wall = {name: min(each[0] for each in figures) for name, figures in best.items()}
    cpu = {name: min(each[1] for each in figures) for name, figures in best.items()}
    print(f"{'least of ' + str(runs):24}{'wall':>10}{'CPU':>10}")
    for name in sides:
        print(f"{name:24}{wall[name]:8.2f} s{cpu[name]:8.2f} s")
    ours, theirs = sides
    print(f"{'ratio':24}{wall[ours] / wall[theirs]:10.2f}{cpu[ours] / cpu[theirs]:10.2f}")


def _runbook() -> list[str]:
    return [sys.executable, "-m", "runbooks_lib", "report", "empty.ipynb", "-p", "days=2"]


def _papermill_and_nbconvert() -> list[list[str]]:
    papermill = [sys.executable, "-m", "papermill", "-p", "days", "2", "empty.ipynb", "out.ipynb"]
    return [papermill, [sys.executable, "-m", "nbconvert", "--to", "html", "out.ipynb"]]


def _timed(directory: Path, *commands: list[str]) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    for command in commands:
        subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    wall = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
