"""Causes before what they explain, red before yellow, surer before less sure."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbooks_lib import parameters
from runbooks_lib.diagnosis.finding import Evidence, Finding, Mend, Severity
from runbooks_lib.diagnosis.ranking import ranked
from runbooks_lib.diagnosis.rules import RULES

RED, YELLOW, INFO = Severity.RED, Severity.YELLOW, Severity.INFO
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def finding(rule: str, severity: Severity = RED, weight: float = 0.8, **more: object) -> Finding:
    return Finding(rule, severity, f"{rule} it is", (Evidence("a sign", weight),), "look", "do", **more)  # type: ignore[arg-type]


def order(*findings: Finding) -> list[str]:
    return [each.rule for each in ranked(findings)]


def test_a_cause_stands_above_the_red_symptom_that_it_explains() -> None:
    down = finding("service-down", RED, 0.99, symptom=True)
    full = finding("disk-full", YELLOW, 0.7, explains=frozenset({"service-down"}))
    assert order(down, full) == ["disk-full", "service-down"]
    assert ranked((down, full))[1].because == "disk-full:"


def test_an_unsure_yellow_explains_nothing_red() -> None:
    down = finding("service-down", RED, 0.9, symptom=True)
    doubt = finding("cpu", YELLOW, 0.3, explains=frozenset({"service-down"}))
    assert order(down, doubt) == ["service-down", "cpu"]


def test_red_stands_above_yellow_and_surer_above_less_sure() -> None:
    assert order(finding("a", YELLOW, 0.99), finding("b", RED, 0.3), finding("c", RED, 0.6)) == ["c", "b", "a"]


def test_what_is_only_good_to_know_stands_last_and_explains_nothing() -> None:
    known = finding("x", INFO, 0.9, explains=frozenset({"y"}))
    assert order(known, finding("y", YELLOW, 0.2)) == ["y", "x"]


def test_two_that_explain_each_other_do_not_both_vanish() -> None:
    one = finding("a", RED, 0.9, explains=frozenset({"b"}))
    two = finding("b", RED, 0.5, explains=frozenset({"a"}))
    told = ranked((two, one))
    assert [(each.rule, bool(each.because)) for each in told] == [("a", False), ("b", True)]


def test_an_explanation_may_name_one_subject_only() -> None:
    lock = finding("lock-queue", RED, 0.9, explains=frozenset({"idle-transaction:7"}))
    seven, nine = (finding("idle-transaction", YELLOW, 0.8, subject=pid) for pid in ("7", "9"))
    assert [(each.subject, bool(each.because)) for each in ranked((lock, seven, nine))] == [
        ("", False), ("9", False), ("7", True),
    ]  # fmt: skip


def test_signs_add_up_and_never_to_certainty() -> None:
    both = Finding("a", RED, "", (Evidence("x", 0.5), Evidence("y", 0.6)), "", "")
    assert both.confidence == pytest.approx(0.8)
    assert Finding("a", RED, "", (Evidence("x", 1.0),), "", "").confidence == 0.99
    assert (finding("a", weight=0.9).sureness, finding("a", weight=0.3).sureness) == ("sure", "possible")


def test_a_mend_quotes_what_hosts_said_for_the_shell() -> None:
    mend = Mend("incident/relieve-disk-pressure.ipynb", {"host": "a", "mountpoint": "/srv/x; rm -rf ~"}, "…")
    assert mend.command.endswith("-p host=a -p mountpoint='/srv/x; rm -rf ~'")


def test_every_rule_says_what_it_asks_why_and_from_where() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.asks.endswith("?"), rule.name
        assert rule.reason, rule.name
        assert rule.source, rule.name


def mends() -> list[tuple[str, str]]:
    """(notebook, parameter) of every Mend that the rules write, read from their sources."""
    import ast

    found = []
    for path in (Path(__file__).parents[2] / "runbooks_lib/diagnosis/rules").glob("*.py"):
        constants = {"RELIEVE": "incident/relieve-disk-pressure.ipynb"}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Mend":
                place, given = node.args[0], node.args[1]
                notebook = place.value if isinstance(place, ast.Constant) else constants[getattr(place, "id", "")]
                dicts = [each for each in ast.walk(given) if isinstance(each, ast.Dict)]
                keys = [key.value for each in dicts for key in each.keys if isinstance(key, ast.Constant)]
                found += [(str(notebook), str(key)) for key in keys]
    return found


def test_the_notebook_that_mends_exists_and_takes_these_parameters() -> None:
    import nbformat

    assert mends()
    for notebook, parameter in mends():
        path = NOTEBOOKS / notebook
        declared = {each.name for each in parameters.declared(nbformat.read(path, as_version=4), where=str(path))}
        assert parameter in declared, (notebook, parameter)
