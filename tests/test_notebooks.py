"""Every notebook runs, is committed without outputs, opens as the house wants it, and defines nothing."""

import ast
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import nbclient
import nbformat
import pytest
from nbformat import NotebookNode

from runbooks_lib import parameters
from runbooks_lib.history import SqliteHistory
from runbooks_lib.training import example_past

ROOT = Path(__file__).parents[1]
NOT_OURS = {".ipynb_checkpoints", "filled-in"}  # copies that JupyterLab and the triage make
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if not NOT_OURS & set(path.parts))
OPENING = (
    "What this is for.",
    "When not to run it.",
    "What it will change.",
    "How long it takes.",
    "How to undo.",
)
MOST_LINES = 5

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / "notebooks")))


def _read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inventory with one host whose past is the example's, as it stands in a first hour with this project."""
    directory = tmp_path_factory.mktemp("example")
    history = SqliteHistory(directory / "history.sqlite")
    example_past.write(history, "example-host", now=datetime.now(UTC))
    history.close()
    file = directory / "runbooks.toml"
    file.write_text('outputs = "."\n[hosts.example-host]\ngroups = ["databases"]\n')
    return file


def test_there_are_notebooks() -> None:
    assert ROOT / "notebooks/start-here.ipynb" in NOTEBOOKS
    assert ROOT / "notebooks/capacity/disk-report.ipynb" in NOTEBOOKS


@each_notebook
def test_is_a_valid_notebook_of_the_plain_python_kernel(path: Path) -> None:
    notebook = _read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    # The rest (versions, papermill's parameters) belongs to whoever ran it last and may hold what is nobody's business.
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert set(notebook.metadata.get("language_info", {})) <= {"name"}


@each_notebook
def test_is_committed_without_outputs(path: Path) -> None:
    for cell in _code(_read(path)):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert set(cell.metadata) <= {"tags", "jupyter", "editable", "deletable"}


@each_notebook
def test_opens_with_what_why_when_not_how_long_and_undo(path: Path) -> None:
    first = _read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    places = [first.source.find(f"**{part}**") for part in OPENING]
    assert -1 not in places
    assert places == sorted(places)


@each_notebook
def test_defines_nothing_and_its_cells_are_short(path: Path) -> None:
    for cell in _code(_read(path)):
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While}
        if "parameters" not in cell.metadata.get("tags", []):  # there a line is a parameter with its help
            assert 1 <= len([line for line in cell.source.splitlines() if line.strip()]) <= MOST_LINES


@each_notebook
def test_its_parameters_can_be_checked_and_each_says_what_it_is(path: Path) -> None:
    for parameter in parameters.declared(_read(path), where=str(path)):
        assert parameter.help, parameter.name


@each_notebook
def test_its_links_lead_to_files_that_exist(path: Path) -> None:
    for cell in _read(path).cells:
        for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", cell.source):
            assert (path.parent / link).is_file(), link


def test_start_here_names_every_notebook() -> None:
    start = ROOT / "notebooks/start-here.ipynb"
    text = "\n".join(cell.source for cell in _read(start).cells)
    for path in NOTEBOOKS:
        if path != start:
            assert f"({path.relative_to(start.parent)})" in text


@each_notebook
def test_runs_from_top_to_bottom(path: Path, inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOKS_CONFIG", str(inventory))
    notebook = _read(path)
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    assert all(cell.execution_count for cell in _code(notebook))


def test_start_here_runs_before_there_is_an_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOKS_CONFIG", str(tmp_path / "none.toml"))
    notebook = _read(ROOT / "notebooks/start-here.ipynb")
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert "no such file" in str(notebook.cells[-1].outputs)


def test_nbval_finds_the_notebooks_in_order(inventory: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q", "-p", "no:cacheprovider"]
    command += [
        "--ignore",
        str(ROOT / "notebooks/filled-in"),
        "--rootdir",
        str(ROOT),
        "--basetemp",
        str(tmp_path / "nbval"),
        str(ROOT / "notebooks"),
    ]
    environment = {**os.environ, "RUNBOOKS_CONFIG": str(inventory), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    cells = sum(len(_code(_read(path))) for path in NOTEBOOKS)
    assert f"{cells} passed" in done.stdout
