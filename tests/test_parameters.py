"""Parameters are declared in a notebook's cell and checked before a kernel starts, every mistake at once."""

import ast
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbooks_lib import parameters
from runbooks_lib.errors import ExitCode, UsageError
from runbooks_lib.parameters import Parameter, Value

CELL = '''\
"""What can be set."""
from datetime import date
from typing import Literal

host: str = ""  # one host; empty: every host
hosts: list[str] = []  # only these hosts
days: int = 90  # how far to look ahead, 7 to 365 days
ratio: float = 0.9  # at least 0.1
top: int = 5  # at most 50
style: Literal["short", "full"] = "full"  # how much to say
level: Literal[1, 2] = 1
quiet: bool = False
since: date | None = None  # first day
limits: list[int] = [1, 2]  # each 0 to 9
db_password: str = ""  # a reference
plain = 3  # at least 1
'''


def cell(source: str) -> dict[str, Any]:
    code = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source.splitlines(keepends=True)}
    return {"cells": [{"cell_type": "markdown", "metadata": {}, "source": "x"}, code]}


DECLARED = parameters.declared(cell(CELL))


def check(**given: object) -> dict[str, Value]:
    return parameters.check(DECLARED, given)


def refusal(*texts: str) -> str:
    with pytest.raises(UsageError) as refused:
        parameters.check(DECLARED, parameters.assignments(texts), report="disk-report")
    assert refused.value.exit_code == ExitCode.USAGE
    return str(refused.value)


def test_the_cell_declares_name_type_default_help_and_range() -> None:
    names = [parameter.name for parameter in DECLARED]
    assert names[:3] == ["host", "hosts", "days"]
    days = DECLARED[2]
    assert days == Parameter("days", "int", int, 90, "how far to look ahead, 7 to 365 days", lowest=7, highest=365)
    assert (DECLARED[3].lowest, DECLARED[3].highest) == (0.1, None)
    assert DECLARED[-1].kind is int


@pytest.mark.parametrize("text", ["007", "1e3", "None", "true", "[1]", " spaced ", "a,b", "a=b", "", "'quoted'", "\\n"])
def test_text_stays_the_text_that_was_typed(text: str) -> None:
    assert parameters.check(DECLARED, parameters.assignments([f"host={text}"])) == {"host": text}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("days", "7", 7),
        ("days", "+365", 365),
        ("ratio", "1e-1", 0.1),
        ("ratio", "1", 1.0),
        ("quiet", "Yes", True),
        ("quiet", "0", False),
        ("style", "short", "short"),
        ("level", "2", 2),
        ("since", "2026-02-28", date(2026, 2, 28)),
        ("since", "none", None),
        ("hosts", "007, 1e3,", ["007", "1e3"]),
        ("hosts", "", []),
        ("limits", "3,4", [3, 4]),
        ("db_password", "env:DB", "env:DB"),
    ],
)
def test_values_are_read_as_their_type_says(name: str, text: str, value: Value) -> None:
    assert check(**{name: text}) == {name: value}
    assert type(check(**{name: text})[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("days", "6"),
        ("days", "366"),
        ("days", "1e2"),
        ("days", "90.0"),
        ("days", ""),
        ("days", "0x10"),
        ("days", "9" * 40),
        ("ratio", "nan"),
        ("ratio", "inf"),
        ("ratio", "0.05"),
        ("top", "51"),
        ("plain", "0"),
        ("quiet", "maybe"),
        ("style", "Short"),
        ("level", "3"),
        ("since", "2026-02-30"),
        ("since", "20260228"),
        ("since", "1767225600"),
        ("limits", "1,10"),
        ("limits", "1,x"),
    ],
)
def test_what_is_not_of_the_type_or_out_of_range_is_refused(name: str, text: str) -> None:
    message = refusal(f"{name}={text}")
    assert f"{name}: found" in message
    assert "expected" in message
    assert "nothing was run" in message


@pytest.mark.parametrize(("name", "value"), [("days", True), ("days", 90.0), ("host", 7), ("hosts", "x"), ("quiet", 1)])
def test_typed_values_must_be_of_the_type_too(name: str, value: object) -> None:
    if name == "hosts":
        assert check(hosts=["a"]) == {"hosts": ["a"]}
        return
    with pytest.raises(UsageError):
        check(**{name: value})


def test_every_mistake_is_told_at_once_with_what_exists() -> None:
    message = refusal("hots=a", "days=x", "style=no", "host=a", "host=b")
    assert "disk-report: 4 mistakes" in message
    assert "hots: no such parameter; did you mean hosts?" in message
    assert 'days: found "x", expected a whole number from 7 to 365' in message
    assert 'style: found "no", expected short or full' in message
    assert "host: given 2 times" in message
    assert "days=90" in message
    assert "how far to look ahead" in message


def test_a_list_grows_with_every_p_and_every_comma() -> None:
    assert parameters.check(DECLARED, parameters.assignments(["hosts=a,b", "hosts=c"])) == {"hosts": ["a", "b", "c"]}


def test_an_assignment_without_a_value_is_told() -> None:
    with pytest.raises(UsageError, match="not NAME=VALUE"):
        parameters.assignments(["days", "=3"])


def test_a_parameter_named_like_a_secret_takes_only_a_reference_and_never_repeats_what_was_given() -> None:
    message = refusal("db_password=hunter2-x", "token=hunter2-y")
    assert "hunter2" not in message
    assert "env:NAME" in message
    with pytest.raises(UsageError) as refused:
        parameters.declared(cell('api_token: str = "hunter2"'))
    assert "hunter2" not in str(refused.value)


def test_a_value_that_is_not_text_is_refused_before_it_breaks_a_notebook() -> None:
    assert 'found "a\\udcff"' in refusal("host=a\udcff")


@pytest.mark.parametrize(
    ("source", "mistake"),
    [
        ("x: int = 'a'", "its default"),
        ("x: int = 9  # 1 to 5", "not a whole number from 1 to 5"),
        ("x: int", "has no default"),
        ("x = None", "needs a type"),
        ("x = []", "needs a type"),
        ("x: dict = {}", "cannot be checked"),
        ("x: int | str = 1", "more than one type"),
        ("x: str = open('f').read()", "not a plain value"),
        ("print('hello')", "declares no parameter"),
        ("import os\nos.system('x')", "declares no parameter"),
        ("x = 1\nx = 2", "declared twice"),
        ("x: int = (", "not Python"),
        ("x: Literal['a', 1] = 'a'", "not a choice"),
        ("x: date = date(2026, 2, 30)", "no day"),
    ],
)
def test_a_cell_that_cannot_be_checked_is_told(source: str, mistake: str) -> None:
    with pytest.raises(UsageError, match=r"(?s).*" + mistake):
        parameters.declared(cell(source), where="x.ipynb")


def test_two_parameter_cells_are_refused_and_none_is_no_parameters() -> None:
    twice = cell("x = 1")
    twice["cells"] *= 2
    with pytest.raises(UsageError, match="cells are tagged"):
        parameters.declared(twice)
    assert parameters.declared({"cells": []}) == ()
    assert parameters.describe(()) == "no parameters"


def test_the_same_declaration_is_the_help() -> None:
    text = parameters.describe(DECLARED)
    assert "days=90" in text
    assert "how far to look ahead, 7 to 365 days" in text
    assert "limits=1,2" in text
    assert "since=none" in text


@given(st.text(), st.lists(st.text()), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.dates())
def test_what_is_injected_is_the_value_whatever_it_holds(
    text: str, texts: list[str], number: int, ratio: float, day: date
) -> None:
    values: dict[str, Value] = {
        "a": text,
        "b": texts,
        "c": number,
        "d": ratio,
        "e": day,
        "f": None,
        "g": True,
        "h": [day],
    }
    source = parameters.injected(values)
    assert all(isinstance(node, ast.Assign | ast.ImportFrom) for node in ast.parse(source).body)
    found: dict[str, Any] = {}
    exec(compile(source, "cell", "exec"), found)  # noqa: S102 (what a kernel does with it)
    assert {name: found[name] for name in values} == values
    json.dumps(parameters.jsonable(values))


def test_the_shipped_notebooks_declare_parameters_that_can_be_checked() -> None:
    for path in (Path(__file__).parents[2] / "notebooks").rglob("*.ipynb"):
        if not {".ipynb_checkpoints", "filled-in"} & set(path.parts):  # copies that JupyterLab and triage make
            parameters.declared(json.loads(path.read_text()), where=str(path))
