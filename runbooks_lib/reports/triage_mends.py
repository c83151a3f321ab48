"""The notebooks that mend what was found, with their parameters filled in: copies that JupyterLab opens by a click."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from runbooks_lib.diagnosis.finding import Finding, Mend
from runbooks_lib.jupyter import NOTEBOOKS
from runbooks_lib.reports.disk_page import Piece, coded

FILLED_IN = "filled-in"  # below the notebooks, where JupyterLab can open it; git does not keep it

_ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters["coded"] = coded
_MENDS = _ENVIRONMENT.from_string("""\
{% if rows %}
<ul class="mends">
{% for mend, link, given in rows %}
<li>
{% if link %}
<a href="{{ link }}">{{ mend.notebook }}</a>
{% else %}
<code>notebooks/{{ mend.notebook }}</code>
{% endif %}
 with <code>{{ given }}</code>: {{ mend.why | coded }}. It shows its plan first and changes nothing without a yes.<br>
 From a shell: <code>{{ mend.command }}</code></li>
{% endfor %}
</ul>
{% else %}
<p>No notebook mends what was found; what to do stands with each finding.</p>
{% endif %}
""")


def mends(findings: Sequence[Finding], host: str, *, write: bool) -> Piece:
    """A line for each notebook that mends a finding, in their order; with `write`, linked to a filled-in copy."""
    wanted = {(found.mend.notebook, found.mend.command): found.mend for found in findings if found.mend is not None}
    rows = []
    for mend in wanted.values():
        given = ", ".join(f"{name} = {value!r}" for name, value in mend.parameters.items())
        rows.append((mend, _link(mend, host) if write else "", given))
    text = "\n".join(f"notebooks/{mend.notebook} with {given}\n  {mend.command}" for mend, _, given in rows)
    return Piece(_MENDS.render(rows=rows), text or "No notebook mends what was found.")


def _link(mend: Mend, host: str) -> str:
    """The copy's address as seen from a notebook one folder deep; empty where it cannot be made."""
    try:
        return f"../{FILLED_IN}/{fill(mend, host).name}"
    except OSError:
        return ""


def fill(mend: Mend, host: str, *, notebooks: Path = NOTEBOOKS) -> Path:
    """Write the notebook with a cell of these parameters behind its own; returns the copy. Raises OSError."""
    # Imported here: papermill takes a second, and most looks at a host find nothing to mend.
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    source = notebooks / mend.notebook
    notebook = parameterize_notebook(load_notebook_node(str(source)), dict(mend.parameters))
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{host}-{source.stem}")
    place = notebooks / FILLED_IN / f"{name}.ipynb"
    place.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, place)  # type: ignore[no-untyped-call]
    return place
