"""What the rules make of a scene: ranked findings, and what could not be told."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from runbooks_lib import words
from runbooks_lib.diagnosis.finding import Finding, Severity, Untold
from runbooks_lib.diagnosis.ranking import ranked
from runbooks_lib.diagnosis.rule import Rule
from runbooks_lib.diagnosis.rules import RULES
from runbooks_lib.diagnosis.rules.database import not_asked
from runbooks_lib.diagnosis.scene import NOT_YET, Scene
from runbooks_lib.facts.fact import Fact, State


@dataclass(frozen=True)
class Diagnosis:
    """The findings of one host at one time, as they are to be read; `untold` are questions without an answer, `asked`
    the number of questions, `seconds` how long the reading took."""

    host: str
    time: datetime
    seconds: float
    findings: tuple[Finding, ...]
    untold: tuple[Untold, ...]
    asked: int
    scene: Scene

    @property
    def red(self) -> bool:
        """Whether someone is needed now."""
        return any(finding.severity is Severity.RED for finding in self.findings)

    @property
    def first(self) -> Finding | None:
        """The finding to begin with: None when there is none but what is good to know."""
        return next((finding for finding in self.findings if finding.severity is not Severity.INFO), None)

    @property
    def headline(self) -> str:
        """One line: the first finding, or that nothing was found, and how much could not be told."""
        how = "still open" if self.scene.pending else "could not be answered"
        gaps = f"; {words.count(len(self.untold), 'question')} {how}" if self.untold else ""
        if self.first is None:
            return f"nothing wrong was found on {self.host}{gaps}"
        more = sum(not finding.because and finding.severity is not Severity.INFO for finding in self.findings) - 1
        return f"{self.host}: {self.first.cause}" + (f" (and {more} more)" if more > 0 else "") + gaps


def diagnose(scene: Scene, rules: tuple[Rule, ...] = RULES) -> Diagnosis:
    """Ask every rule. A rule whose facts are missing is told as such; where it could look at a part, it does."""
    findings: list[Finding] = []
    untold: dict[tuple[str, str], list[Rule]] = {}
    for rule in rules:
        for name in rule.needs:
            why = _missing(scene, name)
            if why:
                untold.setdefault((name, why), []).append(rule)
        findings += rule.look(scene)
    for place, walked in scene.deeper.directories.items():
        unknown = any(finding.rule == "filesystem-full" and finding.subject == place for finding in findings)
        cut_off = unknown and walked.value is not None and not walked.value.complete
        if walked.value is None or cut_off:
            detail = walked.value.detail if walked.value is not None else walked.detail
            why = f"the directories of {place}: {detail}"
            untold[place, why] = [rule for rule in rules if rule.name == "filesystem-full"]
    for why, names in (*_mounts(scene), *_servers(scene), *_services(scene)):
        untold["", why] = [rule for rule in rules if rule.name in names]
    unique = {finding.key: finding for finding in reversed(findings)}
    gaps = () if scene.unreached is not None else tuple(
        Untold("; ".join(rule.asks for rule in rules_without), why, tuple(rule.name for rule in rules_without))
        for (_, why), rules_without in untold.items()
    )  # fmt: skip
    return Diagnosis(scene.host, scene.now, scene.seconds, ranked(tuple(unique.values())), gaps, len(rules), scene)


# What cannot be told of one of several, though the others answered: the reason, and the rules that go without.


def _mounts(scene: Scene) -> Iterator[tuple[str, Collection[str]]]:
    """Mounts without figures, by the reason; those that were asked and do not answer are a finding."""
    places: dict[str, list[str]] = {}
    for each in scene.filesystems():
        if each.state not in (State.AVAILABLE, State.TIMED_OUT):
            places.setdefault(each.detail, []).append(words.plain(each.mountpoint))
    for detail, names in places.items():
        yield (
            f"{words.count(len(names), 'file system')} ({words.listing(names, 4)}): {detail}",
            ("filesystem-full", "inodes-exhausted", "mount-dead"),
        )


def _servers(scene: Scene) -> Iterator[tuple[str, Collection[str]]]:
    for activity in scene.deeper.postgres_activity.value or ():
        if said := not_asked(scene, activity):
            yield (
                f"postgres activity of the server with pid {activity.pid}: {words.plain(said, 200)}",
                {rule.name for rule in RULES if "postgres_activity" in rule.needs},
            )


def _services(scene: Scene) -> Iterator[tuple[str, Collection[str]]]:
    """A service that refuses our token, or shows no certificate."""
    for service in scene.services:
        closed: dict[str, list[str]] = {}
        for rule, fact, silent in (
            ("service-down", service.server, {State.NOT_ALLOWED}),
            ("queue-waits", service.queue, {State.NOT_ALLOWED}),
            ("agents-missing", service.agents, {State.NOT_ALLOWED}),
            ("certificate", service.certificate_until, {State.TIMED_OUT, State.UNREADABLE}),
        ):
            if fact.state in silent:
                closed.setdefault(fact.detail, []).append(rule)
        for detail, names in closed.items():
            yield f"the service {words.plain(service.name)}: {words.plain(detail, 200)}", names


# What every host could have: absent means that it cannot be told. Of the rest, that there is nothing to ask about.
_EVERYWHERE = frozenset({"rates", "connections", "process_io", "journal_use", "filesystems", "processes", "memory"})


def _missing(scene: Scene, name: str) -> str:
    """Why a fact that a rule needs is not known, in words; empty when it is, or when there is nothing to know."""
    fact: Fact[object] = scene.fact(name)
    if fact.known:
        return "" if "without root" not in fact.detail else f"{name.replace('_', ' ')}: only in part, {fact.detail}"
    if fact.detail == NOT_YET:
        return f"{name.replace('_', ' ')}: {NOT_YET}"
    if fact.state is State.ABSENT and name not in _EVERYWHERE:
        return ""
    return f"{name.replace('_', ' ')} is {fact.state}: {fact.detail}"
