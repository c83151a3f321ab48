"""The capacity report's pieces as HTML and as text: sentences, table, one part per partition, what cannot be said.

Each piece is made by jinja2 with autoescape from names, sentences and error messages that hosts and files wrote;
nothing of theirs is ever marked as safe. States are told by a word and a sign, never by colour alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from runbooks_lib import words

STATE_WORDS = {
    "crossed": ("■", "crossed"),
    "act": ("▲", "begin now"),
    "watch": ("◆", "watch"),
    "cannot tell": ("?", "cannot tell"),
    "ok": ("●", "ok"),
}


@dataclass(frozen=True)
class Piece:
    """One piece of the report: a notebook and the page show its HTML, a terminal its text."""

    html: str
    text: str

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        return {"text/html": self.html, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Row:
    """One partition in words, for the table and for its own part."""

    state: str
    mountpoint: str
    instance: str
    mark: str  # "example", "database", "inodes", joined: what the reader must know about this row
    used: str
    between: str
    full_30_days: str
    begin_by: str
    sentence: str
    dates_of: str  # what the dates are of: passing the threshold, or being full
    dates: tuple[tuple[str, str], ...]  # (10 %, by 9 December) ...
    chances: tuple[tuple[str, str], ...]  # (within 7 days, 4 %) ...
    buys: tuple[tuple[str, str], ...]  # (10 GiB, 23 days) ...
    notes: tuple[str, ...]

    @property
    def sign(self) -> str:
        return STATE_WORDS[self.state][0]

    @property
    def word(self) -> str:
        return STATE_WORDS[self.state][1]


@dataclass(frozen=True)
class Unsaid:
    """One thing the report could not look at or cannot say: about what, why, and what to do about it.

    `missing` is set for a partition that the inventory lists and the host does not have: that needs a person.
    """

    subject: str
    why: str
    next: str = ""
    missing: bool = False


_NUMBER_AND_UNIT = re.compile(
    r"(?<=\d) (?=%|[KMGTP]?iB\b|days?\b|hours?\b|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
)


def tied(text: str) -> str:
    """The text with numbers that stay on one line with their unit or month."""
    return _NUMBER_AND_UNIT.sub("\u00a0", text)


def coded(text: str) -> Markup:
    """The text escaped and tied; what stands in `backticks` as <code>, untied, since it is copied into terminals."""
    parts = re.split(r"`([^`]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else Markup("{}").format(tied(part))
        for index, part in enumerate(parts)
    )


_ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters["coded"] = coded
_ENVIRONMENT.filters["tied"] = tied
# JupyterLab sets every cell of a table to the right; a page with a style sheet of its own may drop this.
_ENVIRONMENT.globals["left"] = Markup('style="text-align: left"')

_SENTENCES = _ENVIRONMENT.from_string("""\
<div class="report-sentences">
{% if rows %}
<ul class="needs-a-person">
{% for row in rows %}
<li class="state-{{ row.state | replace(' ', '-') }}">
<span class="sign">{{ row.sign }}</span> {{ row.sentence | coded }}
{%- if row.mark %} <small class="mark">{{ row.mark }}</small>{% endif %}</li>
{% endfor %}
</ul>
{% else %}
<p class="nobody-needed"><strong>{{ calm | coded }}</strong></p>
{% endif %}
<p class="looked-at">{{ looked_at | coded }}</p>
{% for line in warnings %}
<p class="warning">{{ line | coded }}</p>
{% endfor %}
</div>
""")

_HEAD = ("State", "Partition", "Used", "Passes its threshold", "Full in 30 days", "Begin by")
_TABLE = _ENVIRONMENT.from_string("""\
<div class="table-scroll">
<table class="partitions">
<thead><tr>{% for name in head %}<th scope="col" {{ left }}>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr class="state-{{ row.state | replace(' ', '-') }}">
<td class="state" {{ left }}><span class="sign">{{ row.sign }}</span> {{ row.word }}</td>
<td {{ left }}><code>{{ row.mountpoint }}</code> on {{ row.instance }}
{%- if row.mark %} <small class="mark">{{ row.mark }}</small>{% endif %}</td>
<td {{ left }}>{{ row.used | tied }}</td>
<td {{ left }}>{{ row.between | tied }}</td>
<td {{ left }}>{{ row.full_30_days | tied }}</td>
<td {{ left }}>{{ row.begin_by | tied }}</td></tr>
{% endfor %}
</tbody></table>
</div>
""")

_OPENING = _ENVIRONMENT.from_string("""\
<h3 class="partition state-{{ row.state | replace(' ', '-') }}"><code>{{ row.mountpoint }}</code> on {{ row.instance }}
 <small class="state"><span class="sign">{{ row.sign }}</span> {{ row.word }}</small></h3>
<p>{{ row.sentence | coded }}</p>
""")

_CLOSING = _ENVIRONMENT.from_string("""\
{% if row.dates or row.chances or row.buys %}
<div class="table-scroll">
<table class="figures">
<tbody>
{% if row.dates %}
<tr><th scope="row" {{ left }}>{{ row.dates_of | tied }}</th>
{% for name, value in row.dates %}
<td {{ left }}><small>{{ name | tied }}</small> {{ value | tied }}</td>
{% endfor %}</tr>
{% endif %}
{% if row.chances %}
<tr><th scope="row" {{ left }}>Chance of being full</th>
{% for name, value in row.chances %}
<td {{ left }}><small>{{ name | tied }}</small> {{ value | tied }}</td>
{% endfor %}</tr>
{% endif %}
{% if row.buys %}
<tr><th scope="row" {{ left }}>Adding space buys</th>
{% for name, value in row.buys %}
<td {{ left }}><small>{{ name | tied }}</small> {{ value | tied }}</td>
{% endfor %}</tr>
{% endif %}
</tbody></table>
</div>
{% endif %}
{% for note in row.notes %}
<p class="note">{{ note | coded }}</p>
{% endfor %}
""")

_NEEDS = _ENVIRONMENT.from_string("""\
<div class="report-needs">
{% if paragraphs %}
<ul>
{% for text in paragraphs %}
<li>{{ text | coded }}</li>
{% endfor %}
</ul>
{% endif %}
{% for text in rest %}
<p class="note">{{ text | coded }}</p>
{% endfor %}
</div>
""")

_UNSAID = _ENVIRONMENT.from_string("""\
{% if items %}
<ul class="unsaid">
{% for item in items %}
<li><strong>{{ item.subject | coded }}</strong>: {{ item.why | coded }}
{%- if item.next %} <em>{{ item.next | coded }}</em>{% endif %}</li>
{% endfor %}
</ul>
{% else %}
<p>{{ nothing }}</p>
{% endif %}
{% if left %}
<p class="note">{{ left | coded }}</p>
{% endif %}
""")

_PARAGRAPH = _ENVIRONMENT.from_string("""<p class="note">{{ text | coded }}</p>""")


def sentences(rows: Sequence[Row], *, calm: str, looked_at: str, warnings: Sequence[str]) -> Piece:
    """The first lines: one sentence per partition that needs a person, or `calm`; then what was looked at."""
    html = _SENTENCES.render(rows=rows, calm=calm, looked_at=looked_at, warnings=warnings)
    lines = [f"{row.sign} {row.sentence}{_bracketed(row.mark)}" for row in rows] or [calm]
    return Piece(html, "\n".join([*lines, looked_at, *(f"! {line}" for line in warnings)]))


def table(rows: Sequence[Row]) -> Piece:
    """All partitions, one row each, in the order given."""
    cells = [
        (
            f"{row.sign} {row.word}",
            f"{row.mountpoint} on {row.instance}{_bracketed(row.mark)}",
            row.used,
            row.between,
            row.full_30_days,
            row.begin_by,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [_HEAD, *cells]) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [_HEAD, *cells]]
    return Piece(_TABLE.render(rows=rows, head=_HEAD), "\n".join(line.rstrip() for line in lines))


def opening(row: Row) -> Piece:
    """Name, state and sentence of one partition: what stands above its chart."""
    return Piece(_OPENING.render(row=row), f"{row.mountpoint} on {row.instance}: {row.sign} {row.word}\n{row.sentence}")


def closing(row: Row) -> Piece:
    """Dates, chances and notes of one partition: what stands below its chart."""
    lines = []
    if row.dates:
        lines.append(f"{row.dates_of}: " + " · ".join(f"{name} {value}" for name, value in row.dates))
    if row.chances:
        lines.append("Chance of being full: " + " · ".join(f"{name} {value}" for name, value in row.chances))
    if row.buys:
        lines.append("Adding space buys: " + " · ".join(f"{name}: {value}" for name, value in row.buys))
    return Piece(_CLOSING.render(row=row), "\n".join([*lines, *row.notes]))


def needs(paragraphs: Sequence[str], rest: Sequence[str]) -> Piece:
    """What to add, a paragraph for each partition that needs space; then the bill, and what needs nothing."""
    rest = rest or ["No partition was looked at."] if not paragraphs else rest
    return Piece(
        _NEEDS.render(paragraphs=paragraphs, rest=rest), "\n".join([*(f"- {text}" for text in paragraphs), *rest])
    )


def unsaid(items: Sequence[Unsaid], *, left_out: Sequence[str] = ()) -> Piece:
    """What was not reached and what cannot be said, one line each; then what was left out on purpose."""
    nothing = "Nothing: every selected host was reached, and something could be said about every partition."
    lines = [f"- {item.subject}: {item.why}" + (f" {item.next}" if item.next else "") for item in items] or [nothing]
    left = f"Left out on purpose: {words.listing(list(left_out), limit=20)}." if left_out else ""
    return Piece(
        _UNSAID.render(items=items, nothing=nothing, left=left), "\n".join([*lines, *([left] if left else [])])
    )


def paragraph(text: str) -> Piece:
    """One sentence."""
    return Piece(_PARAGRAPH.render(text=text), text)


def _bracketed(mark: str) -> str:
    return f" ({mark})" if mark else ""
