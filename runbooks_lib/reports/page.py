"""An executed notebook as one self-contained page: prose and outputs, the code a click away, nothing that runs.

No script, no network: a Content-Security-Policy in the page says so to the browser too. Everything that outputs carry
is escaped or rebuilt by `sanitize`; names of hosts, mounts and processes stay text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from runbooks_lib.reports import result
from runbooks_lib.reports.record import LOG, NOTEBOOK, RECORD, Record
from runbooks_lib.reports.sanitize import clean

TEMPLATES = Path(__file__).parent / "templates"
STATES: Mapping[str, tuple[str, str, str]] = {
    # state of a run: class, sign, word
    "ok": ("ok", "●", "ok"),
    "threshold": ("crossed", "■", "threshold crossed"),
    "failed": ("failed", "✕", "failed"),
    "timed out": ("failed", "✕", "timed out"),
    "interrupted": ("failed", "✕", "interrupted"),
    "running": ("watch", "◌", "running"),
    "stale": ("act", "▲", "stale: expected, and missing"),
    "never ran": ("unknown", "?", "never ran"),
    "damaged": ("failed", "✕", "record damaged"),
}
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_LONGEST_TEXT = 200_000  # of one text output on the page; the notebook beside it has more
_MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905


@dataclass
class Block:
    """One piece of the page: prose or outputs, and the code that stands behind it."""

    html: Markup
    code: list[Markup] = field(default_factory=list)


def render(notebook: Mapping[str, Any], record: Record) -> str:
    """The page of one run, from its masked notebook (nbformat 4 JSON) and its record."""
    about, blocks = _blocks(notebook, record)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            record=record,
            blocks=blocks,
            about=about,
            state=STATES[record.state],
            headline=_unsaid(record.headline, blocks),
            failed=record.state not in ("ok", "threshold"),
            traceback=_traceback(notebook),
            files={"notebook": NOTEBOOK, "log": LOG, "record": RECORD},
            css=stylesheet("base.css", "page.css"),
        )
    )


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Templates with autoescape and the filters that pages and the index share."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"moment": moment, "span": span, "plain": plain, "shown": shown, "brief": brief}
    return made


def stylesheet(*names: str) -> Markup:
    """The named style sheets as one."""
    return Markup("\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names))  # noqa: S704 (our own)


# -- words -------------------------------------------------------------------------------------------------------------


def moment(when: datetime) -> str:
    """`23 November 2026, 21:30 UTC`."""
    return f"{when.day} {_MONTHS[when.month - 1]} {when.year}, {when:%H:%M} UTC"


def span(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")


def plain(text: object) -> str:
    """A text as one line without characters that cannot be seen or that turn its direction."""
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)


def shown(value: object) -> str:
    """A parameter's value for people."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value) or "(empty list)"
    return plain(value) if value != "" else "(empty)"


def brief(text: str) -> str:
    """A digest's first twelve digits; the page's foot has all of them. Anything else as it is."""
    return f"{text[:12]}…" if _DIGEST.match(text) else text


# -- cells -------------------------------------------------------------------------------------------------------------


def _blocks(notebook: Mapping[str, Any], record: Record) -> tuple[Markup, list[Block]]:
    """The notebook's opening (its title's cell) without the title, and the other cells.

    Code without outputs waits for the next outputs, so that a page has no empty places.
    """
    about, blocks, waiting = Markup(), [], []
    for place, cell in enumerate(notebook["cells"]):
        source = _text(cell.get("source", ""))
        tags = cell.get("metadata", {}).get("tags", [])
        if cell.get("cell_type") == "markdown":
            if not about and (title := re.match(r"\s*# +(.+)\n*", source)):
                if title[1].strip()[:120] != record.title:
                    blocks.append(Block(_markdown(f"## {title[1]}")))
                about = _markdown(source[title.end() :])
            elif source.strip():
                blocks.append(Block(_markdown(source)))
        elif cell.get("cell_type") == "code" and source.strip():
            if not {"parameters", "injected-parameters"} & set(tags):
                waiting.append(_highlighted(source))
            outputs = [_output(output) for output in cell.get("outputs", [])]
            html = Markup("\n").join(output for output in outputs if output)
            if html or _is_last_code(notebook["cells"], place):
                blocks.append(Block(html, waiting))
                waiting = []
    return about, blocks


def _unsaid(headline: str, blocks: list[Block]) -> str:
    """The headline, unless the page says it already."""
    said = " ".join(plain(block.html.striptags()) for block in blocks)
    return "" if plain(headline).replace("`", "").rstrip(".").lower() in said.replace("`", "").lower() else headline


def _is_last_code(cells: list[Mapping[str, Any]], place: int) -> bool:
    return not any(
        cell.get("cell_type") == "code" and _text(cell.get("source", "")).strip() for cell in cells[place + 1 :]
    )


def _output(output: Mapping[str, Any]) -> Markup:
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return _preformatted(_text(output.get("text", "")), f"stream {name}")
    if kind == "error":
        return Markup()  # the page's head says it, with the traceback
    data, about = output.get("data", {}), output.get("metadata", {})
    if not isinstance(data, Mapping) or result.MIME_TYPE in data:
        return Markup()
    if "text/html" in data:
        return Markup('<div class="output">{}</div>').format(Markup(clean(_text(data["text/html"]))))  # noqa: S704 (rebuilt)
    for mime in (*_PICTURES, "image/svg+xml"):
        if mime in data:
            return _picture(mime, data, about if isinstance(about, Mapping) else {})
    if "text/markdown" in data:
        return Markup('<div class="output">{}</div>').format(_markdown(_text(data["text/markdown"])))
    return _preformatted(_text(data.get("text/plain", "")), "result")


def _picture(mime: str, data: Mapping[str, Any], about: Mapping[str, Any]) -> Markup:
    details = about.get(mime) if isinstance(about.get(mime), Mapping) else {}
    alt = str((details or {}).get("alt") or about.get("alt") or "")
    if not alt:
        said = _text(data.get("text/plain", ""))
        alt = said if said and not said.startswith("<") else "A picture that its author has not described"
    raw = _text(data[mime])
    try:
        # In an <img> nothing of an SVG runs and nothing is loaded.
        # Strictly: a picture in which something was masked is told as damaged, and not shown in pieces.
        picture = raw.encode() if mime == "image/svg+xml" else base64.b64decode("".join(raw.split()), validate=True)
        payload = base64.b64encode(picture)
    except (binascii.Error, ValueError):
        return _preformatted(f"[a damaged {mime} was left out]", "result")
    ground = "" if about.get("needs_background") == "dark" or mime == "image/jpeg" else "on-light"
    width = (details or {}).get("width")
    size = Markup(' width="{}"').format(int(width)) if isinstance(width, int | float) and 0 < width < 10_000 else ""
    return Markup('<figure class="{}"><img src="data:{};base64,{}" alt="{}"{}></figure>').format(
        ground, mime, payload.decode("ascii"), plain(alt), size
    )


def _preformatted(text: str, kind: str) -> Markup:
    text = without_colours(text)
    if not text.strip():
        return Markup()
    if len(text) > _LONGEST_TEXT:
        half = _LONGEST_TEXT // 2
        text = f"{text[:half]}\n[… {len(text) - _LONGEST_TEXT:,} characters are in the notebook only …]\n{text[-half:]}"
    return Markup('<pre class="{}">{}</pre>').format(kind, text)


def without_colours(text: str) -> str:
    """A terminal's text without escape sequences, and as its carriage returns leave it: a progress bar is one line."""
    lines = _ANSI.sub("", text).replace("\r\n", "\n").split("\n")
    return _visible("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines))


def _visible(text: str) -> str:
    """The text with control and direction characters written out; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


def _traceback(notebook: Mapping[str, Any]) -> str:
    found = [
        output
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if output.get("output_type") == "error" and "raises-exception" not in cell.get("metadata", {}).get("tags", [])
    ]
    if not found:
        return ""
    lines = found[-1].get("traceback") or []
    return without_colours("\n".join(map(str, lines)))[-_LONGEST_TEXT:]


def _markdown(source: str) -> Markup:
    import mistune  # what nbconvert uses too

    html = mistune.create_markdown(escape=False, plugins=["table", "strikethrough"])(source)
    # The page's own title is its only first heading.
    return Markup(re.sub(r"<(/?)h1>", r"<\1h2>", clean(str(html))))  # noqa: S704 (rebuilt)


def _highlighted(source: str) -> Markup:
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters.html import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers.python import PythonLexer  # type: ignore[import-untyped]

    source = _visible(source)
    try:
        return Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip())  # noqa: S704 (it escapes)
    except Exception:  # a lexer must not cost a report
        return escape(source)


def _text(value: object) -> str:
    """nbformat keeps texts whole or as a list of their lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(str, value))
    return str(value)
