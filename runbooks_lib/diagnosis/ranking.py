"""The order of findings: causes before what they explain, red before yellow, surer before less sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runbooks_lib.diagnosis.finding import Finding, Severity

_ORDER = {Severity.RED: 0, Severity.YELLOW: 1, Severity.INFO: 2}


def ranked(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings in the order in which a person should read them. What another finding explains gets its `because` and
    stands below every cause. Of two that explain each other the one that would stand first keeps its place."""
    alone = sorted(findings, key=_place)
    told: list[Finding] = []
    for finding in alone:
        reasons = [other for other in alone if other is not finding and _explains(other, finding)
                   and not (_explains(finding, other) and alone.index(finding) < alone.index(other))]  # fmt: skip
        told.append(replace(finding, because=reasons[0].key) if reasons else finding)
    return tuple(sorted(told, key=lambda each: (bool(each.because), *_place(each))))


def _place(finding: Finding) -> tuple[bool, int, bool, float]:
    info = finding.severity is Severity.INFO
    return info, _ORDER[finding.severity], finding.symptom, -finding.confidence


def _explains(cause: Finding, other: Finding) -> bool:
    """A yellow doubt explains no red trouble unless it is fairly sure."""
    named = other.rule in cause.explains or other.key in cause.explains
    return named and cause.severity is not Severity.INFO and (
        cause.severity is Severity.RED or other.severity is not Severity.RED or cause.confidence >= 0.6
    )  # fmt: skip
