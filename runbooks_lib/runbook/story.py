"""A run told from its journal: lines for a terminal, and a page for the post-mortem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment

from runbooks_lib.runbook.journal import Entry
from runbooks_lib.runbook.quoting import shown
from runbooks_lib.runbook.state import RunState

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ state.run }}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{font:16px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}
td{vertical-align:top;padding:.2em .6em;border-top:1px solid #ccc}td.time{white-space:nowrap}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font-size:13px}.bad{font-weight:bold}</style></head><body>
<h1>{{ state.runbook }} {{ state.version }} on {{ state.host }}</h1>
<p>Run {{ state.run }}: {{ state.outcome }}. By {{ state.who }}. Times are UTC.</p>
<table>{% for line in lines %}
<tr><td class="time">{{ line.time }}</td><td>{{ line.step }}</td><td{% if line.bad %} class="bad"{% endif %}>
{{- line.what }}{% if line.detail %}<pre>{{ line.detail }}</pre>{% endif %}</td></tr>{% endfor %}
</table>
{% if difference %}<h2>What is different on the host</h2><table>{% for each in difference %}
<tr><td>{{ each[0] }}</td><td>{{ each[1] }}</td><td>{{ each[2] }}</td></tr>{% endfor %}</table>{% endif %}
</body></html>
"""


@dataclass(frozen=True)
class Line:
    """One line of the story."""

    time: str
    step: str
    what: str
    detail: str = ""
    bad: bool = False


def lines(entries: Sequence[Entry]) -> list[Line]:
    """The story, oldest first."""
    return [_line(entry) for entry in entries]


def text(state: RunState, entries: Sequence[Entry], *, full: bool = False) -> str:
    """The story for a terminal; `full` with commands and outputs."""
    told = [f"{state.runbook} {state.version} on {state.host}: {state.outcome}", f"run {state.run}, by {state.who}"]
    for line in lines(entries):
        told.append(f"{line.time}  {line.step + ': ' if line.step else ''}{line.what}")
        if line.detail and (full or line.bad):
            told += [f"    | {each}" for each in line.detail.split("\n")]
    return shown("\n".join(told))


def page(state: RunState, entries: Sequence[Entry], difference: Sequence[tuple[str, str, str]] = ()) -> str:
    """The story as a page without scripts; every text of a host is escaped."""
    template = Environment(autoescape=True).from_string(_PAGE)
    clean = [replace(line, what=shown(line.what), detail=shown(line.detail)) for line in lines(entries)]
    return template.render(state=state, lines=clean, difference=difference)


def _line(entry: Entry) -> Line:
    data, detail, bad = entry.data, "", False
    match entry.kind:
        case "begin":
            what = f"begun by {_person(data['who'])}"
            detail = "\n".join(f"{name} = {value}" for name, value in data["parameters"].items())
        case "resumed":
            what = "carried on" + (f" by {_person(data['who'])}" if data.get("who") else "")
            what += f", approved: {data['digest']}" if data.get("digest") else ", guided: each change is asked for"
        case "approval":
            what = "guided: each change is asked for" if data.get("guided") else f"approved: {data['digest']}"
        case "locked":
            what = "the host's lock is taken" + (f", from {data['taken_over']}" if data["taken_over"] else "")
        case "before":
            what, detail = "before-values and undo recorded", "\n".join(each["text"] for each in data["undo"])
        case "change":
            what, detail = f"change {data['change']}", data["command"]
        case "changed" | "change lost":
            status = data["exit_status"]
            what = f"{data['change']} {data['became']}" + ("" if status is None else f", status {status}")
            detail = "\n".join(part for part in (data["error"], data["output"]) if part)
            bad = data["became"] != "ended" or status != 0
        case "checked":
            what, detail = f"{data['check']}? {data['answer']}", data["evidence"]
        case "done" | "undone":
            what, detail = f"{entry.kind}: {data['how']}", data.get("evidence", "")
        case "decision":
            what = f"decided: {data['choice']}"
        case "skipped":
            what = f"skipped: {data['reason']}"
        case "finished":
            what = f"finished: {data['outcome']}"
        case "failed" | "stopped" | "cannot tell" | "interrupted":
            what, detail, bad = entry.kind, data.get("why", ""), True
        case _:
            what = entry.kind
            detail = ", ".join(f"{name} {value}" for name, value in data.items() if value not in ("", None))
    return Line(entry.time.strftime("%Y-%m-%d %H:%M:%S"), entry.step, what, detail, bad)


def _person(who: Mapping[str, Any]) -> str:
    """`ada@desk, logged in as oncall with ssh-ed25519 SHA256:…`."""
    login = who["ssh"]
    told = f"{who['user']}@{who['machine']}"
    return told + (f", logged in as {login['user']} with {login['key']}" if login.get("key") else "")
