"""A small runbook over a directory, with every kind of step that tests need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runbooks_lib.parameters import Parameter
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Check, Command, Known, NoUndo, Read, Runbook, Step, Undo

PARAMETERS = (
    Parameter("directory", "str", str, "/tmp/x", "where the files are"),
    Parameter("text", "str", str, "text", "what is written"),
)


def at(known: Known, name: str) -> str:
    return word(f"{known.parameters['directory']}/{name}")


def write_step(name: str, file: str, **changes: Any) -> Step:
    """A step that writes a text into a file, keeping what was there."""
    old = Read(
        "old",
        lambda known: f"[ ! -e {at(known, file)} ] || cat {at(known, file)}; echo x",
        lambda data: text_of(data[:-2]),
    )

    def holds(known: Known) -> str:
        return (
            f"x=$(cat {at(known, file)} 2>/dev/null; echo x); "
            f"[ \"$x\" = {word(str(known.parameters['text']) + 'x')} ] && yes {word(file)}' holds it'; no 'it does not'"
        )

    def restored(known: Known) -> str:
        before = str(known.before["old"])
        left = f"[ ! -e {at(known, file)}.part ] || no 'a cut command has left something'; "
        if not before:
            return left + f"[ -e {at(known, file)} ] && no 'it is there'; yes 'it is not there'"
        return (
            left + f"x=$(cat {at(known, file)} 2>/dev/null; echo x); "
            f"[ \"$x\" = {word(before + 'x')} ] && yes 'it is as it was'; no 'it is not as it was'"
        )

    def put(known: Known, text: str) -> str:
        return f"printf %s {word(text)} >{at(known, file)}.part && mv -f {at(known, file)}.part {at(known, file)}"

    def commands(known: Known) -> Sequence[Command]:
        return [Command(put(known, str(known.parameters["text"])), file)]

    def back(known: Known) -> Sequence[Command]:
        before = str(known.before["old"])
        text = put(known, before) if before else f"rm -f {at(known, file)} {at(known, file)}.part"
        return [Command(text, file)]

    step = Step(
        name=name,
        title=f"Write {file}",
        why="A test wants it.",
        reads=(old,),
        prechecks=(
            Check("the directory is there", lambda known: f"[ -d {at(known, '')} ] && yes it is; no it is not"),
        ),
        commands=commands,
        verify=Check(f"{file} holds the text", holds),
        undo=Undo(back, Check(f"{file} is as it was", restored), takes="no time"),
        deadline_seconds=10,
        verify_seconds=0.0,
    )
    return replace(step, **changes)


def book(*steps: Step, version: str = "1", **changes: Any) -> Runbook:
    made = Runbook(
        name="synthetic",
        version=version,
        title="Synthetic",
        purpose="Tests.",
        not_when="Never on a host of yours.",
        takes="seconds",
        undo_takes="seconds",
        parameters=PARAMETERS,
        steps=steps,
        touches=_touches,
    )
    return replace(made, **changes)


def _touches(parameters: Mapping[str, Any]) -> Sequence[str]:
    return [str(parameters["directory"])]


NO_WAY_BACK = NoUndo("the old server has been told to forget.", "restore the backup.")
