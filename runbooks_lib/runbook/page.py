"""The timeline of a run as a page for the post-mortem: who, what, when, what it changed, and what is different now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from runbooks_lib.runbook import story
from runbooks_lib.runbook.difference import Difference
from runbooks_lib.runbook.journal import Entry
from runbooks_lib.runbook.quoting import shown
from runbooks_lib.runbook.state import Phase, RunState, fold
from runbooks_lib.runbook.words import duration

# Signs beside the words: colour alone tells nothing to many readers.
_OUTCOMES = {
    "done": ("ok", "✓", "done"),
    "undone": ("watch", "↶", "taken back"),
    "not begun": ("watch", "–", "not begun"),
}
_PHASES = {
    Phase.DONE: ("ok", "✓", "done"),
    Phase.SKIPPED: ("watch", "–", "skipped"),
    Phase.UNDONE: ("watch", "↶", "taken back"),
    Phase.BEGUN: ("crossed", "✗", "half done"),
    Phase.UNDOING: ("crossed", "✗", "half taken back"),
    Phase.UNTOUCHED: ("cannot-tell", "·", "not begun"),
}
_MOST_SEEN_LINES, _MOST_SEEN_CHARACTERS = 4, 400


@dataclass(frozen=True)
class Bar:
    """A piece of time, in percent of the run."""

    kind: str
    left: float
    width: float


@dataclass(frozen=True)
class Row:
    """One step on the page."""

    name: str
    title: str
    kind: str
    sign: str
    word: str
    note: str
    seen: str
    began: str
    took: str
    bars: tuple[Bar, ...]


def page(run: str, entries: Sequence[Entry], differences: Sequence[Difference] = ()) -> str:
    """The whole page: one file, no scripts, nothing fetched; every text of a host is escaped."""
    state = fold(run, entries)
    first, last = entries[0].time, entries[-1].time
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = shown
    room = files("runbooks_lib")
    template = environment.from_string(room.joinpath("runbook/page.html.j2").read_text(encoding="utf-8"))
    begin = next((entry.data for entry in entries if entry.kind == "begin"), {})
    half = ("crossed", "✗", "half done") if state.half_done else ("act", "…", "not finished")
    return template.render(
        css=room.joinpath("reports/templates/base.css").read_text(encoding="utf-8"),
        state=state,
        title=begin.get("title") or state.runbook,
        badge=_OUTCOMES.get(state.outcome, half),
        began=f"{first:%d %b %Y, %H:%M:%S} UTC",
        took=duration((last - first).total_seconds()),
        people=_people(entries),
        approval=_approval(entries),
        counts=_counts(state),
        said=_said(begin, state),
        rows=[_row(name, titles, state, entries) for titles in [_titles(begin, state)] for name in titles],
        differences=differences,
        lines=[(line, _offset(line.time, first)) for line in story.lines(entries)],
        text=story.text(state, entries),
    )


def _said(begin: dict[str, Any], state: RunState) -> str:
    """What everybody asks afterwards, as a sentence without its full stop; empty when there is no such thing."""
    said = state.step(begin.get("says", "")).evidence.partition("\n")[0] if state.outcome == "done" else ""
    return said[:1].upper() + said[1:].rstrip(".")


def _titles(begin: dict[str, Any], state: RunState) -> dict[str, str]:
    """Each step's title, in the runbook's order."""
    known: dict[str, str] = begin.get("titles", {})
    names = [each["step"] for each in state.promised.get("steps", [])] or list(state.steps)
    return {name: known.get(name, name) for name in names}


def _row(name: str, titles: dict[str, str], state: RunState, entries: Sequence[Entry]) -> Row:
    step = state.step(name)
    kind, sign, word = _PHASES[step.phase]
    if step.phase is Phase.DONE and step.note == "already so":
        word = "was so already"
    mine = [entry for entry in entries if entry.step == name]
    first, whole = entries[0].time, max((entries[-1].time - entries[0].time).total_seconds(), 0.001)
    changes = [(change, _end(change, mine)) for change in mine if change.kind == "change"]

    def bar(kind: str, begin: datetime, end: datetime) -> Bar:
        left = (begin - first).total_seconds() / whole * 100
        return Bar(kind, round(left, 3), round(max((end - begin).total_seconds() / whole * 100, 0.4), 3))

    bars = [bar("step", mine[0].time, mine[-1].time)] if mine else []
    bars += [
        bar("undo" if ".undo." in change.data["change"] else "change", change.time, end) for change, end in changes
    ]
    spent = sum((end - change.time).total_seconds() for change, end in changes)
    note = "" if step.phase in (Phase.DONE, Phase.UNDONE) else step.note.partition("\n")[0]
    return Row(
        name,
        titles[name],
        kind,
        sign,
        word,
        note,
        _first(step.evidence) if step.phase in (Phase.DONE, Phase.UNDONE) else "",
        _offset(mine[0].time, first) if mine else "",
        duration(spent) if changes else "",
        tuple(bars),
    )


def _first(evidence: str) -> str:
    """The beginning of what was seen at the end of a step; all of it stands in the timeline."""
    lines = evidence.split("\n")
    told = "\n".join(lines[:_MOST_SEEN_LINES])
    cut = len(lines) > _MOST_SEEN_LINES or len(told) > _MOST_SEEN_CHARACTERS
    return told[:_MOST_SEEN_CHARACTERS] + (" …" if cut else "")


def _end(change: Entry, mine: Sequence[Entry]) -> datetime:
    """When a change was over; one that nobody saw the end of lasts until the next word about its step."""
    after = [entry for entry in mine if entry.number > change.number]
    named = [entry for entry in after if entry.data.get("change") == change.data["change"]]
    return (named or after or [change])[0].time


def _people(entries: Sequence[Entry]) -> list[str]:
    told = [story.person(entry.data["who"]) for entry in entries if entry.data.get("who")]
    return list(dict.fromkeys(told))


def _approval(entries: Sequence[Entry]) -> list[str]:
    found = [entry.data for entry in entries if entry.kind in ("approval", "resumed", "undo approved")]
    told = [
        "each change was asked for" if not each.get("digest") or each.get("guided") else each["digest"]
        for each in found
    ]
    return list(dict.fromkeys(told))


def _counts(state: RunState) -> str:
    """`2 steps changed something, 1 was so already.`"""
    phases = [state.step(each["step"]) for each in state.promised.get("steps", [])]
    changed = sum(step.phase is Phase.DONE and step.note != "already so" for step in phases)
    already = sum(step.phase is Phase.DONE and step.note == "already so" for step in phases)
    others = {
        f"{'was' if already == 1 else 'were'} so already": already,
        "skipped": sum(step.phase is Phase.SKIPPED for step in phases),
        "taken back": sum(step.phase is Phase.UNDONE for step in phases),
        "half done": len(state.half_done),
        "not begun": sum(step.phase is Phase.UNTOUCHED for step in phases),
    }
    parts = [f"{count} {word}" for word, count in others.items() if count]
    return ", ".join([f"{changed} of {len(phases)} steps changed something", *parts])


def _offset(time: datetime, first: datetime) -> str:
    """`+3:07`, since the run's beginning."""
    seconds = int((time - first).total_seconds())
    hours = f"{seconds // 3600}:" if seconds >= 3600 else ""
    return f"+{hours}{seconds % 3600 // 60:{'02' if hours else ''}}:{seconds % 60:02}"
