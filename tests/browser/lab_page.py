"""JupyterLab in a real browser, for tests: a server over an inventory, a page, and what a person does with both."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

from runbooks_lib import jupyter
from runbooks_lib.reports.run import find

# Not through the menu: before the kernel is there it would ask which one, and wait for ever.
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
SETTLE_MILLISECONDS = 700
RUN_ALL = """async () => {
    const widget = jupyterapp.shell.currentWidget;
    await widget.context.ready;
    await widget.sessionContext.ready;
    await widget.sessionContext.session.kernel.info;
    window.allRun = jupyterapp.commands.execute('notebook:run-all-cells');
}"""
FINISH = """async () => { await window.allRun; await jupyterapp.shell.currentWidget.context.save(); }"""


def filled_in(notebook: str, to: Path, given: Mapping[str, object]) -> None:
    """A copy of a notebook (its name) in which these parameters are set."""
    copy = nbformat.reads(find(notebook).data.decode(), as_version=4)
    cell = next(each for each in copy.cells if "parameters" in each.metadata.get("tags", []))
    for name, value in given.items():
        lines = cell.source.splitlines()
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{name}:")]
        before, _, help_text = lines[at].partition("  # ")
        lines[at] = f"{before.partition(' = ')[0]} = {value!r}  # {help_text}"
        cell.source = "\n".join(lines)
    to.mkdir(exist_ok=True)
    nbformat.write(copy, to / f"{notebook}.ipynb")


@contextlib.contextmanager
def serving(place: Path, notebooks: Path, inventory: Path) -> Iterator[jupyter.Lab]:
    """`runbook lab` over these notebooks and this inventory."""
    prepared = jupyter.prepare(place / "lab", notebooks=notebooks, config_file=inventory)
    settings = prepared.directory / "config/jupyter_server_config.json"
    changed = json.loads(settings.read_text())
    changed["LabApp"]["expose_app_in_browser"] = True  # only here: the test speaks to the application itself
    settings.write_text(json.dumps(changed))
    with jupyter.running(prepared, log=place / "lab.log"):
        yield prepared


@contextlib.contextmanager
def browser_page(width: int = 1400, height: int = 1600, *, seconds: float = 300) -> Iterator[Any]:
    """A page of the system's chromium; nothing on it is waited for longer than `seconds`."""
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
            opened = started.new_page(viewport={"width": width, "height": height})
            opened.set_default_timeout(1000 * seconds)
            yield opened
        finally:
            started.close()


def run_all(page: Any, lab: jupyter.Lab, notebook: str) -> None:
    """Open a notebook (its path, without the ending) and press Run All; a question that it asks waits."""
    assert lab.token_file is not None
    page.goto(f"{lab.url.partition('/lab/')[0]}/doc/tree/{notebook}.ipynb?token={lab.token_file.read_text()}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.evaluate(RUN_ALL)


def finish(page: Any) -> None:
    """Wait until every cell has run, and save."""
    page.evaluate(FINISH)


def answer(page: Any, wanted: str) -> None:
    """Wait for the question that wants this name, and type it."""
    page.get_by_text(f"({wanted}) to go on").last.wait_for()
    type_in(page, wanted)


def type_in(page: Any, words: str) -> None:
    """Answer the question that waits, whatever it is, and wait until it has taken the answer."""
    question = page.locator("input.jp-Stdin-input").last
    question.fill(words)
    waiting = question.element_handle()
    question.press("Enter")
    waiting.wait_for_element_state("hidden")


def keep(page: Any, name: str, place: Path) -> None:
    """A picture, in $RUNBOOKS_SCREENSHOTS where that is set."""
    page.screenshot(path=Path(os.environ.get("RUNBOOKS_SCREENSHOTS") or place) / f"{name}.png")


def keep_every(page: Any, name: str, place: Path, shown: str, *, at: str = "end") -> None:
    """Three pictures: as it is, in the dark theme, and in a window of 600 pixels, each with the last output that holds
    the text `shown` (or is the class `.shown`) at the end (or the start) of the window."""
    usual = page.viewport_size
    for kind, theme, size in (
        ("", LIGHT, usual), ("-dark", DARK, usual), ("-narrow", LIGHT, {"width": 600, "height": 1000})
    ):  # fmt: skip
        page.set_viewport_size(size)
        page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: '{theme}'}})")
        page.wait_for_function(f"document.body.dataset.jpThemeName === '{theme}'")
        for _ in range(2):  # cells above are drawn when they come into sight, and then have another height
            page.evaluate(
                "([what, where]) => { const all = what.startsWith('.') ? [...document.querySelectorAll(what)] : "
                "[...document.querySelectorAll('.jp-OutputArea-child, .jp-Stdin, .jp-MarkdownOutput')]"
                ".filter((each) => each.textContent.includes(what)); "
                "all[all.length - 1].scrollIntoView({block: where}); }",
                [shown, at],
            )
            page.wait_for_timeout(SETTLE_MILLISECONDS)
        keep(page, name + kind, place)
    page.set_viewport_size(usual)
    page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: '{LIGHT}'}})")
