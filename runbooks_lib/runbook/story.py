"""A run told from its journal, line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runbooks_lib.runbook.journal import Entry
from runbooks_lib.runbook.quoting import shown
from runbooks_lib.runbook.state import RunState


@dataclass(frozen=True)
class Line:
    """One line of the story. `kind`: person (somebody decided), change, check, end, why (it went no further), step."""

    time: datetime
    step: str
    what: str
    detail: str = ""
    bad: bool = False
    kind: str = "step"

    @property
    def short(self) -> bool:
        """The detail fits behind `what`."""
        return self.kind in ("check", "end", "why") and 0 < len(self.detail) < 120 and "\n" not in self.detail


def lines(entries: Sequence[Entry]) -> list[Line]:
    """The story, oldest first."""
    return [_line(entry) for entry in entries]


def text(state: RunState, entries: Sequence[Entry], *, full: bool = False) -> str:
    """The story for a terminal; `full` with commands, evidence and outputs. What went wrong is always told in full."""
    told = [f"{state.runbook} {state.version} on {state.host}: {state.outcome}", f"run {state.run}; times are UTC"]
    day = None
    for line in lines(entries):
        if line.time.date() != day:
            day = line.time.date()
            told.append(f"\n{day:%Y-%m-%d}")
        sign, step = "✗" if line.bad else " ", f"{line.step}: " if line.step else ""
        told.append(f"{line.time:%H:%M:%S} {sign} {step}{line.what}" + (f": {line.detail}" if line.short else ""))
        if line.detail and not line.short and (full or line.bad):
            told += [f"           | {each}" for each in line.detail.split("\n")]
    return shown("\n".join(told))


def _line(entry: Entry) -> Line:
    data, detail, bad, kind = entry.data, "", False, "step"
    match entry.kind:
        case "begin":
            what, kind = f"begun by {person(data['who'])}", "person"
            detail = "\n".join(f"{name} = {value}" for name, value in data["parameters"].items())
        case "resumed":
            what, kind = "carried on" + (f" by {person(data['who'])}" if data.get("who") else ""), "person"
            what += f"; approved: {data['digest']}" if data.get("digest") else "; each change is asked for"
        case "approval":
            what, kind = ("each change is asked for" if data.get("guided") else f"approved: {data['digest']}"), "person"
        case "undo approved":
            what, kind = ("each undo is asked for" if data["guided"] else f"undo approved: {data['digest']}"), "person"
        case "locked":
            what = "the host is held by this run"
            if data["taken_over"]:
                what, kind = f"{what}, taken over from {data['taken_over']}", "person"
        case "unlocked":
            what = "the host is given back" if data["given_back"] else "the host was no longer held by this run"
        case "not unlocked":
            what, detail, kind, bad = "the host could not be given back", data["why"], "why", True
        case "before":
            what, detail = "recorded: what was there, and its undo", "\n".join(each["text"] for each in data["undo"])
        case "change":
            what, detail, kind = (
                f"{data['change']} runs" + (" as root" if data["root"] else ""),
                data["command"],
                "change",
            )
        case "changed" | "change lost":
            status = data["exit_status"]
            ended = f"ended, status {status}" if data["became"] == "ended" else f"is {data['became']}"
            what, kind = f"{data['change']} {ended}", "change"
            detail = "\n".join(part for part in (data["error"], data["output"]) if part)
            bad = data["became"] != "ended" or status != 0
        case "checked":
            what, detail, kind = f"{data['check']}? {data['answer']}", data["evidence"], "check"
        case "done" | "undone":
            how = "" if data["how"] in ("changed", "changed back") else f", {data['how']}"
            what, detail, kind = f"{entry.kind}{how}", data.get("evidence", ""), "end"
        case "decision":
            what, kind = f"decided: {data['choice']}", "person"
        case "skipped":
            what, kind = f"skipped: {data['reason']}", "person"
        case "finished":
            what, kind = f"finished: {data['outcome']}", "end"
        case "cancelled":
            what, kind = "cancelled: what still ran was ended", "person"
        case "failed" | "stopped" | "cannot tell" | "interrupted":
            what, detail, kind = entry.kind, data.get("why", ""), "why"
            bad = detail != "you said stop"
        case _:
            what = entry.kind
            detail = ", ".join(f"{name} {value}" for name, value in data.items() if value not in ("", None))
    return Line(entry.time, entry.step, what, detail, bad, kind)


def person(who: Mapping[str, Any]) -> str:
    """`ada@desk, logged in as oncall with ssh-ed25519 SHA256:…`."""
    login = who["ssh"]
    told = f"{who['user']}@{who['machine']}"
    return told + (f", logged in as {login['user']} with {login['key']}" if login.get("key") else "")
