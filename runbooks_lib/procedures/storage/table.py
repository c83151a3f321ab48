"""A table and its sentences, as a notebook shows them and as a terminal does. Everything in it is escaped or made
printable: it holds what hosts say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import escape

from runbooks_lib.runbook.quoting import shown
from runbooks_lib.secrets import redact

_LEFT = 'style="text-align: left"'  # JupyterLab would set words to the right


@dataclass(frozen=True)
class Table:
    """Rows below a header, sentences before and after it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    before: Sequence[str] = ()
    after: Sequence[str] = ()

    def __str__(self) -> str:
        cells = [[_line(cell) for cell in row] for row in (self.header, *self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        table = lines if self.rows else []
        return "\n".join([*map(_line, self.before), *table, *map(_line, self.after)])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        head = "".join(f"<th {_LEFT}>{escape(_line(cell))}</th>" for cell in self.header)
        rows = "".join(
            "<tr>" + "".join(f"<td {_LEFT}>{escape(_line(cell))}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if self.rows else ""
        table = f'<div class="table-scroll">{table}</div>' if table else ""
        before = "".join(f"<p>{escape(_line(text))}</p>" for text in self.before)
        item = "li" if len(self.after) > 1 else "p"
        after = "".join(f"<{item}>{escape(_line(text))}</{item}>" for text in self.after)
        after = f'<ul class="unsaid">{after}</ul>' if item == "li" else after
        return {"text/html": f"{before}{table}{after}", "text/plain": str(self)}


def _line(text: str) -> str:
    return shown(redact(text)).replace("\n", " ")
