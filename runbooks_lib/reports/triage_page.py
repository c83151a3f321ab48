"""The triage's pieces as HTML and as text: findings with their evidence, measures beside their normal, what is not
told.

Made by jinja2 with autoescape, as the capacity report's: hosts wrote much of it, and nothing of theirs is marked as
safe.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, StrictUndefined

from runbooks_lib import words
from runbooks_lib.diagnosis import telling
from runbooks_lib.diagnosis.deviation import Deviation, shown
from runbooks_lib.diagnosis.diagnosis import Diagnosis
from runbooks_lib.diagnosis.finding import Finding, Untold
from runbooks_lib.reports.disk_page import Piece, coded

_ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters["coded"] = coded
_ENVIRONMENT.filters["sentence"] = words.sentence
_ENVIRONMENT.filters["percent"] = words.percent
_ENVIRONMENT.globals["signs"] = telling.SIGNS

_FINDINGS = _ENVIRONMENT.from_string("""\
<div class="triage-findings">
<p class="nobody-needed"><strong>{{ told.headline | sentence | coded }}</strong></p>
<p class="looked-at">{{ looked_at | coded }}</p>
{% if told.scene.pending %}
<p class="looked-at"><strong>{{ so_far | coded }}</strong></p>
{% endif %}
{% for finding, explained in causes %}
<h3 class="finding state-{{ finding.severity }}">{{ loop.index }}. <span class="sign">{{ signs[finding.severity]
}}</span>
 {{ finding.severity }}: {{ finding.cause | sentence | coded }}
 <small class="state">{{ finding.sureness }}, {{ finding.confidence | percent }}</small></h3>
<ul class="evidence">
{% for sign in finding.evidence %}
<li>{{ sign.text | sentence | coded }}</li>
{% endfor %}
</ul>
<p><strong>Confirm:</strong> {{ finding.confirm | sentence | coded }}</p>
<p><strong>Do:</strong> {{ finding.act | sentence | coded }}</p>
{% if finding.mend %}
<p class="mend"><strong>Mend:</strong> <code>notebooks/{{ finding.mend.notebook }}</code>
 {{ finding.mend.why | coded }}. With its parameters: <code>{{ finding.mend.command }}</code></p>
{% endif %}
{% if explained %}
<p class="note">Explains: {{ explained | sentence | coded }}</p>
{% endif %}
{% endfor %}
</div>
""")

_MEASURES = _ENVIRONMENT.from_string("""\
<div class="table-scroll">
<table class="measures">
<thead><tr>{% for name in head %}<th scope="col" style="text-align: left">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for cell in row %}<td style="text-align: left">{{ cell | coded }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table>
</div>
<p class="note">{{ baseline | coded }}</p>
""")

_UNTOLD = _ENVIRONMENT.from_string("""\
{% if untold %}
<ul class="unsaid">
{% for gap in untold %}
<li><strong>{{ gap.why | sentence | coded }}</strong>; so not answered: {{ gap.asks | coded }}</li>
{% endfor %}
</ul>
{% else %}
<p>Every question was answered.</p>
{% endif %}
""")

_HEAD = ("Measure", "Our few seconds", "Since the last collection", "Normal at this hour", "")


def findings(told: Diagnosis) -> Piece:
    """The headline, and every cause with its evidence, what would confirm it, what to do, and what it explains."""
    causes = [(finding, _explained(told, finding)) for finding in told.findings if not finding.because]
    looked_at = telling.looked_at(told)
    so_far = telling.so_far(told)
    return Piece(_FINDINGS.render(told=told, causes=causes, looked_at=looked_at, so_far=so_far), telling.text(told))


def _explained(told: Diagnosis, cause: Finding) -> str:
    return words.listing(
        [each.cause for each in told.findings if each.because and telling.root(told, each) == cause.key], 6
    )


def measures(rows: Sequence[Deviation], baseline: str) -> Piece:
    """Every measure now, beside its normal; in words where it lies far outside."""
    cells = [
        (
            each.measure.words,
            "–" if each.now is None else shown(each.now, each.measure),
            "–" if each.lately is None else shown(each.lately, each.measure),
            "no baseline" if each.band is None
            else f"{shown(each.band.low, each.measure)} to {shown(each.band.high, each.measure)}",
            f"far {each.direction} normal" if each.direction else "",
        )
        for each in rows
    ]  # fmt: skip
    text = "\n".join("  ".join(row) for row in (_HEAD, *cells))
    return Piece(_MEASURES.render(head=_HEAD, rows=cells, baseline=baseline), f"{text}\n{baseline}")


def untold(gaps: Sequence[Untold]) -> Piece:
    """The questions without an answer, each with the reason."""
    text = "\n".join(f"{words.sentence(gap.why)}; so not answered: {gap.asks}" for gap in gaps)
    return Piece(_UNTOLD.render(untold=gaps), text or "Every question was answered.")
