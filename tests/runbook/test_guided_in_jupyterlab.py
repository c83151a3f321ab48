"""Guided mode in JupyterLab, in a real browser: Run All waits at each change for a typed name; papermill beside it
changes nothing a second time; the stop button says what is done, what runs and how to go on.

Needs the package chromium and `pip install -r tests/browser/requirements.txt`. The pictures are kept in
$RUNBOOKS_SCREENSHOTS where that is set.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from runbooks_lib import jupyter
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook import evidence, executed, journal, runs
from runbooks_lib.runbook.detached import cancel
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import resume
from runbooks_lib.runbook.run import Options, target
from runbooks_lib.training.practice_host import PracticeHost
from tests.browser.lab_page import RUN_ALL, answer, browser_page, filled_in, finish, keep, run_all, serving
from tests.hosts.processes import wait_for, with_mark
from tests.runbook.logs import make_logs, picture
from tests.runbook.marks import mark
from tests.runbook.slow_book import SLOW

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[2]
NOTEBOOK = "clean-log-directory"
SLOW_NOTEBOOK = "slow"


def slow_notebook(host: str, work: Path) -> nbformat.NotebookNode:
    """Cells as every notebook of a runbook has them, for the tests' slow one."""
    opening = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    opening += "from runbooks_lib.runbook.session import open_runbook\nfrom tests.runbook.slow_book import SLOW\n"
    opening += f"work = open_runbook(SLOW, host={host!r}, directory={str(work)!r}, text='new')"
    cells = [opening, "work.plan()", *(f"work.step({name!r})" for name in ("one", "copy", "wait")), "work.finish()"]
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells],
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    )


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
    filled_in(NOTEBOOK, notebooks, {"host": practice.names[0], "directory": str(logs)})
    nbformat.write(slow_notebook(practice.names[0], tmp_path / "work"), notebooks / f"{SLOW_NOTEBOOK}.ipynb")
    with serving(tmp_path, notebooks, inventory) as running:
        yield running


@pytest.fixture
def page() -> Iterator[Any]:
    with browser_page(seconds=120) as opened:
        yield opened


def first_question(page: Any, lab: jupyter.Lab) -> Any:
    """Run all of the notebook; its first question, when it is there."""
    run_all(page, lab, NOTEBOOK)
    question = page.locator("input.jp-Stdin-input").last  # the one that was answered goes a little later
    question.wait_for()
    return question


def stop(page: Any, after: str) -> None:
    """A person's click on the stop button, when `after` is to be read."""
    page.get_by_text(after).first.wait_for()
    page.locator('[data-jp-item-name="interrupt"]').click()


def test_run_all_waits_for_each_name_and_the_evidence_is_kept(
    page: Any, lab: jupyter.Lab, logs: Path, tmp_path: Path
) -> None:
    question = first_question(page, lab)
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
    finish(page)
    keep(page, "guided-done", tmp_path)

    assert len(list(logs.glob("*.gz"))) == 3
    (directory,) = runs.directories(tmp_path / "out/runs")
    decisions = [entry for entry in journal.read(directory / journal.NAME).entries if entry.kind == "decision"]
    assert [entry.data["typed"] for entry in decisions] == ["rotate", "compress"]
    assert (directory / evidence.TIMELINE).is_file()
    kept = nbformat.read(directory / executed.NAME, as_version=4)
    assert "**When not to run it.**" in kept.cells[0].source
    told, headline = kept.cells[-2].outputs
    assert "Done. The evidence is in" in told.text
    assert headline.data["text/plain"].startswith("● Done on ")


def test_papermill_beside_jupyterlab_changes_nothing_a_second_time(
    page: Any, lab: jupyter.Lab, logs: Path, tmp_path: Path
) -> None:
    question = first_question(page, lab)
    before = picture(logs)
    digest = page.get_by_text("Digest: ").first.inner_text().rpartition("Digest: ")[2].split()[0]
    beside = papermill(lab, tmp_path, approve=digest)
    assert beside.returncode == 1
    assert "another process on this machine carries on with this run" in beside.stderr
    assert picture(logs) == before
    answer(page, "rotate")
    page.get_by_text("rotate: done: 2 logs are rotated").wait_for()
    assert papermill(lab, tmp_path, approve=digest).returncode == 1
    answer(page, "compress")
    page.get_by_text("Done. The evidence is in").wait_for()
    question.wait_for(state="detached")
    done = picture(logs)
    after = papermill(lab, tmp_path, approve=digest)
    assert after.returncode == 0, after.stderr
    assert "done, proven now" in (tmp_path / "papermill.ipynb").read_text()
    assert picture(logs) == done
    (directory,) = runs.directories(tmp_path / "out/runs")
    changes = [entry.step for entry in journal.read(directory / journal.NAME).entries if entry.kind == "change"]
    assert changes == ["rotate", "compress"]


def papermill(lab: jupyter.Lab, tmp_path: Path, **values: str) -> subprocess.CompletedProcess[str]:
    given = [word for name, value in values.items() for word in ("-r", name, value)]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            tmp_path / f"notebooks/{NOTEBOOK}.ipynb",
            tmp_path / "papermill.ipynb",
            *given,
        ],
        env={**lab.environment, "RUNBOOKS_CONFIG": str(tmp_path / "runbooks.toml")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_stop_button_says_what_is_done_what_runs_and_how_to_go_on(
    page: Any, lab: jupyter.Lab, tmp_path: Path, host: SshHost, places: Places
) -> None:
    marked = mark()
    work = tmp_path / "work"
    work.mkdir()
    (work / "mark").write_text(marked)
    run_all(page, lab, SLOW_NOTEBOOK)
    answer(page, "one")
    answer(page, "copy")
    stop(page, "copy: running, 3 GiB of 8 GiB")
    page.get_by_text("interrupted in `copy`").wait_for()
    keep(page, "stopped-job", tmp_path)
    shown = page.locator(".jp-OutputArea-output", has_text="interrupted in `copy`").last.inner_text()
    for words in ("its job goes on on the host", "one   done", "go on: `runbook resume", "take back: `runbook undo"):
        assert words in shown
    assert "Traceback" not in shown
    assert len(with_mark(marked)) == 2

    # The notebook is run again: what is done is proven, the job is the same one; now it is cancelled.
    page.evaluate(RUN_ALL)
    stop(page, "copy: attached to its job")
    page.get_by_text("interrupted in `copy`").last.wait_for()
    (directory,) = runs.directories(tmp_path / "out/runs")
    aim = target(SLOW, host, {"directory": str(work), "text": "new"})
    assert "its process group is gone" in cancel(resume(directory, aim, Options(tmp_path / "out/runs", places)))
    assert with_mark(marked) == []
    changes = [entry.step for entry in journal.read(directory / journal.NAME).entries if entry.kind == "change"]
    assert changes == ["one", "copy"]

    # A step that does not run detached ends with its notebook.
    (work / "copy").write_text("new")
    page.evaluate(RUN_ALL)
    answer(page, "wait")
    wait_for(marked, 2)
    page.locator('[data-jp-item-name="interrupt"]').click()
    page.get_by_text("interrupted in `wait`").wait_for()
    keep(page, "stopped-command", tmp_path)
    shown = page.locator(".jp-OutputArea-output", has_text="interrupted in `wait`").last.inner_text()
    assert "its commands were ended on the host, and that is proven" in shown
    assert with_mark(marked) == []
