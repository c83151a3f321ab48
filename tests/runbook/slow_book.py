"""A runbook with a quick step, a long one that runs detached, and a long one that does not: for the stop button."""

from __future__ import annotations

from collections.abc import Sequence

from runbooks_lib.runbook.step import Command, Known, Read
from tests.runbook.synthetic import at, book, write_step


def _copy(known: Known) -> Sequence[Command]:
    mark = at(known, "mark")
    return [Command(f'export "$(cat {mark})"; sleep 600 & sleep 600; : >{at(known, "copy")}', "the copy")]


def _wait(known: Known) -> Sequence[Command]:
    return [Command(f'export "$(cat {at(known, "mark")})"; sleep 600 & sleep 600', "the wait")]


_PROGRESS = Read("progress", lambda _: "echo 3221225472 8589934592", lambda data: [*map(int, data.split()), "bytes"])

SLOW = book(
    write_step("one", "one"),
    write_step("copy", "copy", commands=_copy, detached=True, progress=_PROGRESS, deadline_seconds=900),
    write_step("wait", "wait", commands=_wait, deadline_seconds=900),
    name="slow",
    title="A slow runbook",
)
