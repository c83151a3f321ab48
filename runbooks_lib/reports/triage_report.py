"""The triage of a slow service as a notebook's cells: findings, charts beside normal, what could not be told."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runbooks_lib import config as inventory
from runbooks_lib import words
from runbooks_lib.config import Config
from runbooks_lib.diagnosis import telling
from runbooks_lib.diagnosis.diagnosis import Diagnosis
from runbooks_lib.diagnosis.finding import Finding, Severity
from runbooks_lib.diagnosis.triage import triage
from runbooks_lib.errors import UsageError
from runbooks_lib.reports import disk_page, processes, result, triage_mends, triage_page
from runbooks_lib.reports.disk_page import Piece

_NO_HOST = "No host is chosen: set `host` in the cell of parameters, then run all cells."


@dataclass(frozen=True)
class TriageReport:
    """One look at one host, each method a cell; `told` is None when no host was chosen: then each cell says so."""

    told: Diagnosis | None

    def findings(self) -> Piece:
        """What is wrong, ranked, each with its evidence and what mends it."""
        return disk_page.paragraph(_NO_HOST) if self.told is None else triage_page.findings(self.told)

    def mends(self) -> Piece:
        """The notebooks that mend it; in JupyterLab each as a copy with its parameters filled in."""
        if self.told is None:
            return disk_page.paragraph(_NO_HOST)
        causes = [finding for finding in self.told.findings if not finding.because]
        return triage_mends.mends(causes, self.told.host, write=processes.RUN_VARIABLE not in os.environ)

    def charts(self) -> None:
        """Shows every measure now beside its normal."""
        from IPython.display import display

        # Imported here: matplotlib costs half a second, in which the findings are read already.
        from runbooks_lib.reports.triage_chart import draw

        why = _NO_HOST if self.told is None else ""
        if self.told is not None and not self.told.scene.baseline.pasts:
            why = f"{telling.baseline_words(self.told)} So there is nothing to draw: the figures stand in the table."
        if self.told is None or why:
            display(disk_page.paragraph(why))  # type: ignore[no-untyped-call]
            return
        chart = draw(self.told.scene.deviations, self.told.scene.baseline, now=self.told.time)
        display(  # type: ignore[no-untyped-call]
            {"image/png": base64.b64encode(chart.png).decode("ascii"), "text/plain": chart.alt},
            raw=True,
            metadata={"image/png": {"alt": chart.alt, "width": chart.width}, "needs_background": "light"},
        )

    def measures(self) -> Piece:
        """The same as a table."""
        if self.told is None:
            return disk_page.paragraph(_NO_HOST)
        return triage_page.measures(self.told.scene.deviations, telling.baseline_words(self.told))

    def not_told(self) -> Piece:
        """The questions that could not be answered, and why."""
        return disk_page.paragraph(_NO_HOST) if self.told is None else triage_page.untold(self.told.untold)

    def publish(self) -> None:
        """Tells the list of reports the first finding; exit code 3 when something is red. What is behind that needs a
        person: one that was not there in the run before is news."""
        if self.told is None:
            result.publish("no host was chosen: nothing was looked at")
            return
        red = sum(finding.severity is Severity.RED for finding in self.told.findings)
        result.publish(
            words.sentence(self.told.headline).replace("`", ""),
            threshold_crossed=self.told.red,
            number=red,
            number_name="red findings",
            needed=needed(self.told),
        )


def needed(told: Diagnosis) -> tuple[str, ...]:
    """The causes behind what is red, in words that stay the same while they last: `tc-db-01: disk slow (vdb)`. They
    have no figures and no numbers of processes, with which every night would be news."""
    causes = {each.key: each for each in told.findings}
    behind = (causes[telling.root(told, each)] for each in told.findings if each.severity is Severity.RED)
    return tuple(dict.fromkeys(f"{told.host}: {_in_words(each)}" for each in behind))


def _in_words(finding: Finding) -> str:
    subject = "" if finding.subject.isdigit() else finding.subject
    return finding.rule.replace("-", " ") + (f" ({words.plain(subject)})" if subject else "")


def prepare(config: Config | str | Path | None = None, *, host: str = "") -> TriageReport:
    """Look at the host now; an empty `host` looks at none. Raises as `diagnosis.triage.triage`, and UsageError for an
    empty `host` under the runner: a report about nothing never counts as well."""
    if not host:
        if processes.RUN_VARIABLE in os.environ:
            raise UsageError("no host was chosen", true_now="nothing was looked at", next="give it one: -p host=NAME")
        return TriageReport(None)
    if not isinstance(config, Config):
        config = inventory.load(config or None)
    return TriageReport(_looked(config, host))


def _looked(config: Config, host: str) -> Diagnosis:
    """The whole diagnosis. What is known early stands on the page while the rest is waited for."""
    from IPython.display import display

    shown: list[Any] = []

    def early(known: Diagnosis) -> None:
        shown.append(display(triage_page.findings(known), display_id=True))  # type: ignore[no-untyped-call]

    # Nobody watches a page while it is made.
    told = triage(config, host, early=None if processes.RUN_VARIABLE in os.environ else early)
    for each in shown:
        if each is not None:  # outside of a notebook there is nothing to replace
            each.update(disk_page.paragraph("All has answered: the findings stand below."))
    return told
