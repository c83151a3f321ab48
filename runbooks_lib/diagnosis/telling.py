"""A diagnosis as text for a terminal, and as data for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runbooks_lib import words
from runbooks_lib.diagnosis.diagnosis import Diagnosis
from runbooks_lib.diagnosis.finding import Finding, Severity

SIGNS = {Severity.RED: "■", Severity.YELLOW: "▲", Severity.INFO: "·"}
_FORMAT = 1


def text(told: Diagnosis) -> str:
    """The findings in the order in which they should be read, what is unusual, and what could not be told."""
    return "\n".join(_lines(told))


def _lines(told: Diagnosis) -> Iterator[str]:
    yield f"{told.headline[:1].upper()}{told.headline[1:]}."
    yield looked_at(told)
    if told.scene.pending:
        yield so_far(told)
    causes = [finding for finding in told.findings if not finding.because]
    for number, finding in enumerate(causes, 1):
        yield ""
        yield from _finding(number, finding)
        explained = [each for each in told.findings if each.because and root(told, each) == finding.key]
        if explained:
            yield f"   explains: {words.listing([each.cause for each in explained], 6)}"
    unusual = [each for each in told.scene.deviations if each.direction]
    if unusual:
        yield ""
        yield "Unusual for this hour:"
        yield from (f"   {each.direction:5}  {each.sentence}" for each in unusual)
    if told.untold:
        yield ""
        yield "Could not be told:"
        for gap in told.untold:
            yield f"   {words.sentence(gap.why)}"
            yield f"      so not answered: {gap.asks}"


def _finding(number: int, finding: Finding) -> Iterator[str]:
    yield f"{number}. {SIGNS[finding.severity]} {finding.severity.upper()} ({finding.sureness},"\
          f" {words.percent(finding.confidence)}): {words.sentence(finding.cause)}"  # fmt: skip
    for sign in finding.evidence:
        yield f"     - {words.sentence(sign.text)}"
    yield f"   confirm: {words.sentence(finding.confirm)}"
    yield f"   do:      {words.sentence(finding.act)}"
    if finding.mend is not None:
        yield f"   mend:    notebooks/{finding.mend.notebook}: {finding.mend.why}"
        yield f"            {finding.mend.command}"


def looked_at(told: Diagnosis) -> str:
    """How much was asked, how long that took, when, and what the present is compared with."""
    return f"{told.asked} questions in {told.seconds:.1f} s, {words.moment(told.time)}. {baseline_words(told)}"


def so_far(told: Diagnosis) -> str:
    """Whose answers are still waited for, for a diagnosis that is told early."""
    waited = words.listing([words.plain(what) for what in told.scene.pending])
    return f"This is what is known so far: no answer yet about {waited}."


def baseline_words(told: Diagnosis) -> str:
    """What the present is compared with; plainly, when with nothing."""
    bands = {past.band.of for past in told.scene.baseline.pasts.values() if past.band}
    if bands:
        return f"Normal is {words.listing(sorted(bands))}."
    why = told.scene.baseline.why_none
    return f"No baseline: {why}." if why else "No baseline."


def root(told: Diagnosis, finding: Finding) -> str:
    """The key of the cause at the end of the chain of becauses."""
    by_key = {each.key: each for each in told.findings}
    seen: set[str] = set()
    while finding.because and finding.because in by_key and finding.key not in seen:
        seen.add(finding.key)
        finding = by_key[finding.because]
    return finding.key


def as_data(told: Diagnosis) -> Mapping[str, Any]:
    """Everything as dicts and lists: findings in their order, deviations, and what could not be told."""
    return {
        "format": _FORMAT,
        "host": told.host,
        "time": told.time,
        "seconds": round(told.seconds, 2),
        "red": told.red,
        "headline": told.headline,
        "findings": [
            {
                "rank": rank,
                "rule": each.rule,
                "subject": each.subject,
                "severity": each.severity,
                "cause": each.cause,
                "confidence": round(each.confidence, 2),
                "symptom": each.symptom,
                "because": each.because,
                "evidence": [{"text": sign.text, "weight": sign.weight} for sign in each.evidence],
                "confirm": each.confirm,
                "act": each.act,
                "mend": each.mend and {"notebook": each.mend.notebook, "parameters": dict(each.mend.parameters),
                                       "command": each.mend.command},
            }
            for rank, each in enumerate(told.findings, 1)
        ],
        "baseline": baseline_words(told),
        "deviations": [
            {
                "measure": each.measure.name,
                "now": each.now,
                "since_last_collection": each.lately,
                "low": each.band.low if each.band else None,
                "high": each.band.high if each.band else None,
                "direction": each.direction,
                "words": each.sentence,
            }
            for each in told.scene.deviations
        ],
        "untold": [{"asks": gap.asks, "why": gap.why, "rules": list(gap.rules)} for gap in told.untold],
    }  # fmt: skip
