"""The same runbook from a notebook's cells and from the command line, over real SSH."""

from __future__ import annotations

import json
from pathlib import Path

import click
import nbclient
import nbformat
import pytest
from click.testing import CliRunner

from runbooks_lib import parameters
from runbooks_lib.errors import RunbookError
from runbooks_lib.procedures.clean_log_directory import RUNBOOK
from runbooks_lib.runbook import commands, evidence, runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.training.practice_host import PracticeHost
from tests.runbook.logs import make_logs, picture

NOTEBOOK = Path(__file__).parents[2] / "notebooks/incident/clean-log-directory.ipynb"


@click.group()
def group() -> None:
    """As the real command is."""


commands.add_to(group)


@pytest.fixture
def logs(quick_path: Path) -> Path:
    return make_logs(quick_path / "logs", ("app.log", "größe.log"))


@pytest.fixture
def inventory(quick_path: Path, practice: PracticeHost, places: Places, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = quick_path / "runbooks.toml"
    name = practice.names[0]
    file.write_text(f'outputs = "out"\nssh_config = "{practice.ssh_config}"\n[hosts.{name}]\n')
    monkeypatch.setenv("RUNBOOKS_CONFIG", str(file))
    monkeypatch.setenv("RUNBOOKS_HOST_DIRECTORY", places.candidates[0])
    monkeypatch.setenv("IPYTHONDIR", str(quick_path / "ipython"))
    return file


def call(*words: str) -> str:
    result = CliRunner().invoke(group, words, catch_exceptions=True)
    if isinstance(result.exception, RunbookError):
        raise result.exception
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def digest_in(text: str) -> str:
    return next(line.split()[1] for line in reversed(text.splitlines()) if line.startswith("Digest: "))


def executed(**values: str) -> str:
    """Everything that the notebook's cells printed, run as papermill runs them: with nobody to ask."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(parameters.injected(values)))
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_the_commands_plan_run_prove_show_and_undo(inventory: Path, logs: Path, practice: PracticeHost) -> None:
    what = ("clean-log-directory", "--host", practice.names[0], "-p", f"directory={logs}")
    before = picture(logs)
    planned = call("plan", *what)
    assert "[would run] rotate" in planned
    assert "PLAN ONLY" in call("run", *what)
    assert picture(logs) == before

    digest = digest_in(planned)
    assert "Done. The evidence is in" in call("run", *what, "--approve", digest)
    done = picture(logs)
    assert len(list(logs.glob("*.gz"))) == 3
    assert "Done before" in call("run", *what, "--approve", digest)
    assert picture(logs) == done

    (directory,) = runs.directories(inventory.parent / "out/runs")
    assert "done" in call("runs")
    story = call("show", directory.name, "--full")
    assert story.index("begun by") < story.index("recorded: what was there") < story.index("rotate.1.1 runs")
    kept = {path.name for path in directory.iterdir()}
    assert {"journal.jsonl", evidence.PLAN, evidence.BEFORE, evidence.AFTER, evidence.TIMELINE} <= kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())
    assert json.loads((directory / evidence.AFTER).read_text())["state"] == "ok"

    undo_digest = digest_in(call("undo", directory.name))
    assert picture(logs) == done
    assert "Undone" in call("undo", directory.name, "--approve", undo_digest)
    assert picture(logs) == before


@pytest.mark.usefixtures("inventory")
def test_a_notebook_that_nobody_watches_only_plans(logs: Path, practice: PracticeHost) -> None:
    before = picture(logs)
    assert executed().count("PLAN ONLY") == 4
    said = executed(host=practice.names[0], directory=str(logs))
    assert said.count("PLAN ONLY") == 4
    assert "[would run] compress" in said
    assert picture(logs) == before


def test_an_approved_notebook_runs_once_and_the_command_line_knows(
    inventory: Path, logs: Path, practice: PracticeHost
) -> None:
    what = ("clean-log-directory", "--host", practice.names[0], "-p", f"directory={logs}")
    digest = digest_in(call("plan", *what))
    values = {"host": practice.names[0], "directory": str(logs), "approve": digest}
    assert "Done. The evidence is in" in executed(**values)
    done = picture(logs)
    assert "done, proven now" in executed(**values)
    assert "Done before" in call("run", *what, "--approve", digest)
    assert picture(logs) == done
    (directory,) = runs.directories(inventory.parent / "out/runs")
    _is_executed(directory / "notebook.ipynb")


def _is_executed(path: Path) -> None:
    """The evidence's notebook: its prose, every cell that ran with what it said, the last one's last word too."""
    kept = nbformat.read(path, as_version=4)
    nbformat.validate(kept)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "**When not to run it.**" in kept.cells[0].source
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5, 6, 7]
    said = {cell.source: "".join(output.get("text", "") for output in cell.outputs) for cell in code}
    assert "[would run] compress" in said["work.plan()"]
    assert "rotate: done: 2 logs are rotated" in said['work.step("rotate")']
    (finish,) = (text for source, text in said.items() if source.startswith("work.finish()"))
    assert "Done. The evidence is in" in finish
    assert any("directory = " in source for source in said)


@pytest.mark.usefixtures("inventory")
def test_lint_finds_nothing_missing_in_what_is_shipped() -> None:
    assert "nothing is missing" in call("lint", str(NOTEBOOK))


@pytest.mark.usefixtures("inventory")
def test_the_command_lists_the_runbooks() -> None:
    assert f"{RUNBOOK.name}  {RUNBOOK.title}" in call("run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "clean-log-dir", "-H", "x"), "did you mean clean-log-directory"),
        (("show", "nothing"), "there is no run nothing"),
        (("plan", "clean-log-directory", "-H", "x", "-p", "director=/x"), "did you mean directory"),
    ],
)
@pytest.mark.usefixtures("inventory")
def test_mistakes_are_told(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(RunbookError, match=said):
        call(*words)
