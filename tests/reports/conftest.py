"""Notebooks for the tests of the runner: real ones, written by the test, run by a real kernel."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def notebook(*cells: str, parameters: str | None = None, title: str = "A report of the tests") -> dict[str, Any]:
    """A notebook of format 4: `parameters` in a tagged cell, every other cell code, or Markdown if it begins with #."""
    made: list[dict[str, Any]] = [
        {"cell_type": "markdown", "metadata": {}, "source": f"# {title}\n\n**What this is for.** The tests."}
    ]
    if parameters is not None:
        made.append(code(parameters, "parameters"))
    made += [
        {"cell_type": "markdown", "metadata": {}, "source": cell} if cell.startswith("## ") else code(cell)
        for cell in cells
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}


def code(source: str, *tags: str) -> dict[str, Any]:
    """A code cell."""
    return {
        "cell_type": "code",
        "metadata": {"tags": list(tags)},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a notebook (see `notebook`) and returns its path."""

    def written(*cells: str, name: str = "report", **options: Any) -> Path:
        path = tmp_path / f"{name}.ipynb"
        path.write_text(json.dumps(notebook(*cells, **options)), encoding="utf-8")
        return path

    return written
