"""JupyterLab as a person sees it: the report notebook is opened, all cells are run, and a picture is kept.

Needs the package chromium and `pip install -r tests/browser/requirements.txt`. The pictures are kept in
$RUNBOOKS_SCREENSHOTS where that is set.
"""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib import jupyter
from runbooks_lib.history import SqliteHistory
from runbooks_lib.training import example_past
from tests.browser.lab_page import browser_page, finish, keep, run_all, serving

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[2]
CANARY = "canary-5f3a-of-the-lab"


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """A copy of the notebooks, and one that shows a secret."""
    copy = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", copy, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    source = "from runbooks_lib.secrets import resolve\nvalue = resolve('env:CANARY')\nprint('it is', value)\nvalue"
    cell = {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}
    (copy / "canary.ipynb").write_text(json.dumps(notebook))
    return copy


@pytest.fixture
def lab(tmp_path: Path, notebooks: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[jupyter.Lab]:
    """A running lab over an inventory with an example past."""
    monkeypatch.setenv("CANARY", CANARY)
    history = SqliteHistory(tmp_path / "history.sqlite")
    example_past.write(history, "example-host", now=datetime.now(UTC))
    history.close()
    inventory = tmp_path / "runbooks.toml"
    inventory.write_text('outputs = "."\n[hosts.example-host]\nexample = true\n')
    with serving(tmp_path, notebooks, inventory) as running:
        yield running


@pytest.fixture
def page() -> Iterator[Any]:
    with browser_page(seconds=120) as opened:
        yield opened


def test_the_report_notebook_runs_in_the_lab_and_shows_sentences_table_and_charts(
    page: Any, lab: jupyter.Lab, notebooks: Path, tmp_path: Path
) -> None:
    run_all(page, lab, "capacity/disk-report")
    finish(page)
    page.wait_for_selector(".jp-OutputArea-output table.partitions")
    page.wait_for_selector(".jp-OutputArea-output img")
    saved = json.loads((notebooks / "capacity/disk-report.ipynb").read_text())
    code = [cell for cell in saved["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    page.evaluate("document.querySelector('.report-sentences').scrollIntoView()")
    keep(page, "lab-disk-report", tmp_path)
    # No toast about news, no question about a kernel.
    assert page.query_selector_all(".Toastify__toast, .jp-Dialog") == []


def test_a_secret_that_a_cell_reads_is_neither_shown_nor_saved_in_the_lab(
    page: Any, lab: jupyter.Lab, notebooks: Path, tmp_path: Path
) -> None:
    run_all(page, lab, "canary")
    finish(page)
    page.get_by_text("it is ***").wait_for()
    keep(page, "lab-canary", tmp_path)
    assert CANARY not in page.content()
    for file in (*notebooks.rglob("*"), *(tmp_path / "lab").rglob("*"), tmp_path / "lab.log"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file
