"""JupyterLab as a person sees it: the report notebook is opened, all cells are run, and a picture is kept.

Needs the package chromium and `pip install -r tests/browser/requirements.txt`. The pictures are kept in
$RUNBOOKS_SCREENSHOTS where that is set.
"""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib import jupyter
from runbooks_lib.history import SqliteHistory
from runbooks_lib.training import example_past

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[2]
CANARY = "canary-5f3a-of-the-lab"
RUN_ALL = """async () => {
    const widget = jupyterapp.shell.currentWidget;
    await widget.context.ready;
    await widget.sessionContext.ready;
    await widget.sessionContext.session.kernel.info;
    await jupyterapp.commands.execute('notebook:run-all-cells');
    await widget.context.save();
}"""


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
    prepared = jupyter.prepare(tmp_path / "lab", notebooks=notebooks, config_file=inventory)
    settings = prepared.directory / "config/jupyter_server_config.json"
    changed = json.loads(settings.read_text())
    changed["LabApp"]["expose_app_in_browser"] = True  # only here: the test speaks to the application itself
    settings.write_text(json.dumps(changed))
    with jupyter.running(prepared, log=tmp_path / "lab.log"):
        yield prepared


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a real browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("playwright is missing: pip install -r tests/browser/requirements.txt")
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser, "chromium is missing: install the package chromium"
    arguments = ["--disable-gpu", "--disable-background-networking", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=arguments)
        try:
            opened = started.new_page(viewport={"width": 1400, "height": 1600})
            opened.set_default_timeout(120_000)
            yield opened
        finally:
            started.close()


def run_all(page: Any, lab: jupyter.Lab, notebook: str) -> None:
    assert lab.token_file is not None
    address = lab.url.partition("/lab/")[0]
    page.goto(f"{address}/doc/tree/{notebook}?token={lab.token_file.read_text()}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    # Not through the menu: before the kernel is there it would ask which one, and wait for ever.
    page.evaluate(RUN_ALL)


def keep(page: Any, name: str, tmp_path: Path) -> None:
    directory = Path(os.environ.get("RUNBOOKS_SCREENSHOTS") or tmp_path)
    page.screenshot(path=directory / f"{name}.png")


def test_the_report_notebook_runs_in_the_lab_and_shows_sentences_table_and_charts(
    page: Any, lab: jupyter.Lab, notebooks: Path, tmp_path: Path
) -> None:
    run_all(page, lab, "capacity/disk-report.ipynb")
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
    run_all(page, lab, "canary.ipynb")
    page.get_by_text("it is ***").wait_for()
    keep(page, "lab-canary", tmp_path)
    assert CANARY not in page.content()
    for file in (*notebooks.rglob("*"), *(tmp_path / "lab").rglob("*"), tmp_path / "lab.log"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file
