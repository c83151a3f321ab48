"""A runbook with every kind of step: one that is so already, one that needs another's output, a detached one with a
watcher, one whose undo is nothing."""

from __future__ import annotations

from dataclasses import replace

from runbooks_lib.runbook.step import Check, Command, Known, NoUndo, Read, Watcher
from tests.runbook.synthetic import at, book, write_step


def _there(known: Known) -> str:
    return f"[ -d {at(known, '')} ] && yes 'it is'; no 'it is not'"


_ALREADY = write_step("already", "already")
_FIRST = replace(write_step("first", "first"), outputs=lambda known: {"length": len(known.parameters["text"])})
_SECOND = replace(write_step("second", "second"), needs=("first",))
_LONG = replace(
    write_step("long", "long"),
    needs=("second",),
    detached=True,
    progress=Read("progress", lambda _: "echo 1 2", lambda data: [int(each) for each in data.split()]),
    watchers=(Watcher(Check("the directory is there", _there), every_seconds=0.1),),
)
_HARMLESS = replace(
    write_step("harmless", "harmless"),
    commands=lambda known: [Command(f"cat {at(known, 'first')} >/dev/null", "nothing")],
    verify=Check("the first can be read", lambda known: f"[ -s {at(known, 'first')} ] && yes 'it can'; no 'it cannot'"),
    undo=NoUndo("it only looked.", "nothing.", harmless=True),
)

EVERY_KIND = book(_ALREADY, _FIRST, _SECOND, _LONG, _HARMLESS, name="every-kind")
