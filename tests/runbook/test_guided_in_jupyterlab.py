"""Guided mode in JupyterLab, in a real browser: Run All waits at each change for a typed name.

Needs the package chromium and `pip install -r tests/browser/requirements.txt`. The pictures are kept in
$RUNBOOKS_SCREENSHOTS where that is set.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib import jupyter
from runbooks_lib.runbook import evidence, journal, runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.training.practice_host import PracticeHost
from tests.runbook.logs import make_logs

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[2]
NOTEBOOK = "clean-log-directory.ipynb"
RUN_ALL = """async () => {
    const widget = jupyterapp.shell.currentWidget;
    await widget.context.ready;
    await widget.sessionContext.ready;
    await widget.sessionContext.session.kernel.info;
    window.allRun = jupyterapp.commands.execute('notebook:run-all-cells');
}"""
FINISH = """async () => { await window.allRun; await jupyterapp.shell.currentWidget.context.save(); }"""


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return make_logs(tmp_path / "logs", ("app.log", "größe.log"))


@pytest.fixture
def lab(
    tmp_path: Path, logs: Path, practice: PracticeHost, places: Places, monkeypatch: pytest.MonkeyPatch
) -> Iterator[jupyter.Lab]:
    monkeypatch.setenv("RUNBOOKS_HOST_DIRECTORY", places.candidates[0])
    inventory = tmp_path / "runbooks.toml"
    inventory.write_text(f'outputs = "out"\nssh_config = "{practice.ssh_config}"\n[hosts.{practice.names[0]}]\n')
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    text = (ROOT / "notebooks/incident" / NOTEBOOK).read_text(encoding="utf-8")
    text = text.replace('host: str = \\"\\"', f'host: str = \\"{practice.names[0]}\\"')
    text = text.replace('directory: str = \\"\\"', f'directory: str = \\"{logs}\\"')
    (notebooks / NOTEBOOK).write_text(text, encoding="utf-8")
    prepared = jupyter.prepare(tmp_path / "lab", notebooks=notebooks, config_file=inventory)
    settings = tmp_path / "lab/config/jupyter_server_config.json"
    changed = json.loads(settings.read_text())
    changed["LabApp"]["expose_app_in_browser"] = True  # only here: the test speaks to the application itself
    settings.write_text(json.dumps(changed))
    with jupyter.running(prepared, log=tmp_path / "lab.log"):
        yield prepared


@pytest.fixture
def page() -> Iterator[Any]:
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


def keep(page: Any, name: str, tmp_path: Path) -> None:
    page.screenshot(path=Path(os.environ.get("RUNBOOKS_SCREENSHOTS") or tmp_path) / f"{name}.png")


def test_run_all_waits_for_each_name_and_the_evidence_is_kept(
    page: Any, lab: jupyter.Lab, logs: Path, tmp_path: Path
) -> None:
    assert lab.token_file is not None
    address = lab.url.partition("/lab/")[0]
    page.goto(f"{address}/doc/tree/{NOTEBOOK}?token={lab.token_file.read_text()}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.evaluate(RUN_ALL)

    question = page.locator("input.jp-Stdin-input").last  # the one that was answered goes a little later
    question.wait_for()
    assert "(rotate) to go on" in page.locator(".jp-Stdin-prompt").inner_text()
    keep(page, "guided-rotate", tmp_path)
    assert not list(logs.glob("*log-2*")), "something changed before the answer"
    question.fill("no")
    question.press("Enter")
    page.get_by_text("is none of these; nothing was run").wait_for()
    question.fill("rotate")
    question.press("Enter")
    page.get_by_text("rotate: done: 2 logs are rotated").wait_for()
    page.get_by_text("(compress) to go on").last.wait_for()
    assert not list(logs.glob("*.gz"))
    keep(page, "guided-compress", tmp_path)
    question.fill("compress")
    question.press("Enter")
    page.get_by_text("Done. The evidence is in").wait_for()
    page.evaluate(FINISH)
    keep(page, "guided-done", tmp_path)

    assert len(list(logs.glob("*.gz"))) == 3
    (directory,) = runs.directories(tmp_path / "out/runs")
    decisions = [entry for entry in journal.read(directory / journal.NAME).entries if entry.kind == "decision"]
    assert [entry.data["typed"] for entry in decisions] == ["rotate", "compress"]
    assert (directory / evidence.TIMELINE).is_file()
