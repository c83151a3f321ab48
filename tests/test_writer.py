"""What reports write is masked, whole or not at all, and private; a notebook stays a notebook."""

import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from runbooks_lib import secrets, writer
from runbooks_lib.errors import RunbookError


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    secrets.forget()
    yield
    secrets.forget()


def notebook(*outputs: dict[str, Any], source: str = "x") -> dict[str, Any]:
    cell = {"cell_type": "code", "metadata": {}, "source": source, "outputs": list(outputs), "execution_count": 1}
    return {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}


def stream(text: str | list[str], name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("old")
    path.chmod(0o644)
    writer.write(path, "new\udcff")
    assert path.read_text() == "new\\udcff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["page"]


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    (path / "x").write_text("")
    with pytest.raises(RunbookError, match="cannot be written"):
        writer.write(path, "a directory is in the way")
    assert [entry.name for entry in tmp_path.iterdir()] == ["directory"]
    with pytest.raises(RunbookError, match="No such file"):
        writer.write(tmp_path / "none" / "page", "x")


def test_readers_see_the_old_text_or_the_new_one_and_never_half_of_it(tmp_path: Path) -> None:
    path = tmp_path / "page"
    texts = ["a" * 300_000, "b" * 300_000]
    writer.write(path, texts[0])
    done = threading.Event()

    def replace() -> None:
        for number in range(30):
            writer.write(path, texts[number % 2])
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    while not done.is_set():
        assert path.read_text() in texts
    thread.join()


@pytest.mark.parametrize(
    "secret", ["code", "stream", "data", "stdout", "cells", "text/plain", "source", "display_data"]
)
def test_a_secret_that_is_a_word_of_the_notebook_s_grammar_does_not_break_it(secret: str) -> None:
    secrets.register(secret)
    shown = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": f"it is {secret}"}}
    text = writer.notebook_text(notebook(stream(f"look: {secret}"), shown, source=f"x = '{secret}'"))
    read = nbformat.reads(text, as_version=4)
    nbformat.validate(read)
    assert read.cells[0].source == "x = '***'"
    assert read.cells[0].outputs[0].text == "look: ***"
    assert read.cells[0].outputs[1].data["text/plain"] == "it is ***"


def test_a_secret_in_pieces_and_over_line_ends_is_found() -> None:
    secrets.register("one-line\ntwo-line")
    secrets.register("letters")
    letters = [stream(letter) for letter in "letters"]
    text = writer.notebook_text(notebook(stream(["a one-line\n", "two-line b"]), *letters))
    (output,) = json.loads(text)["cells"][0]["outputs"]
    assert output["text"] == "a *** b***"


def test_names_of_metadata_and_of_mime_types_are_masked_too() -> None:
    secrets.register("hunter2-hunter2")
    shown = {"output_type": "display_data", "metadata": {"hunter2-hunter2": 1}, "data": {"x/hunter2-hunter2": "y"}}
    about = {**notebook(shown), "metadata": {"papermill": {"parameters": {"p": ["hunter2-hunter2"]}}}}
    assert "hunter2" not in writer.notebook_text(about)


def test_papermill_s_own_writer_is_masked(tmp_path: Path) -> None:
    secrets.register("hunter2-hunter2")
    io = writer.MaskingIO(tmp_path)
    io.write(json.dumps(notebook(stream("hunter2-hunter2"))), "runbooks://x.ipynb")
    assert "***" in io.read("runbooks://x.ipynb")
    assert "hunter2" not in (tmp_path / "x.ipynb").read_text()
    assert io.listdir("runbooks://") == ["x.ipynb"]


def test_one_process_at_a_time_and_a_holder_that_hangs_stops_nobody_for_ever(tmp_path: Path) -> None:
    lock, order = tmp_path / "new" / ".lock", []

    def second() -> None:
        with writer.alone(lock, seconds=60):
            order.append("second")

    with writer.alone(lock, seconds=60):
        waits = threading.Thread(target=second)
        waits.start()
        with writer.alone(lock, seconds=0.1):
            order.append("went on")
        order.append("first")
    waits.join()
    assert order == ["went on", "first", "second"]
