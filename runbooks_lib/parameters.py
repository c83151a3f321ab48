"""A notebook's parameters: declared in its cell tagged `parameters`, checked before a kernel starts.

The cell is read, not run. Each line declares one parameter: a name, a type, a default, and a comment that is its help:

    horizon_days: int = 90  # how far to look ahead, 7 to 365 days
    hosts: list[str] = []  # only these hosts
    style: Literal["short", "full"] = "full"  # how much to say
    since: date | None = None  # first day; needs `from datetime import date` above

Types: int, float, bool, str, date, Literal of strings or whole numbers, list of these, and each of them `| None`. What
the comment of a number says is what is checked: "7 to 365", "at least 1", "at most 0.5".
"""

from __future__ import annotations

import ast
import difflib
import io
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from runbooks_lib.errors import UsageError
from runbooks_lib.secrets import is_reference, names_a_secret, redact

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Value = int | float | bool | str | date | list[Any] | None

_SIMPLE: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "date": date}
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    date: "a day such as 2026-11-23",
}
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_BETWEEN = re.compile(rf"{_NUMBER} to {_NUMBER}")
_AT_LEAST = re.compile(rf"at least {_NUMBER}", re.IGNORECASE)
_AT_MOST = re.compile(rf"at most {_NUMBER}", re.IGNORECASE)
_MOST_SHOWN = 60


@dataclass(frozen=True)
class Parameter:
    """One declared parameter.

    `kind` is the type of one value; with `choices` it must be one of them, with `is_list` there may be any number,
    with `optional` None is a value too. `lowest` and `highest` bound a number, both included.
    """

    name: str
    written: str  # the annotation as it stands in the notebook
    kind: type
    default: Value
    help: str = ""
    choices: tuple[str | int, ...] = ()
    is_list: bool = False
    optional: bool = False
    lowest: float | None = None
    highest: float | None = None

    @property
    def expected(self) -> str:
        """What a value looks like, in words."""
        one = " or ".join(map(str, self.choices)) if self.choices else _WORDS[self.kind]
        if self.lowest is not None and self.highest is not None:
            one += f" from {self.lowest:g} to {self.highest:g}"
        elif self.lowest is not None:
            one += f", at least {self.lowest:g}"
        elif self.highest is not None:
            one += f", at most {self.highest:g}"
        if self.is_list:
            one = f"a list (commas, or -p {self.name}=… again) of: {one}"
        if names_a_secret(self.name):
            one = "a reference to a secret, env:NAME or file:/path"
        return one + (", or none" if self.optional and self.kind is not str else "")

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        # Imported here: `runbook --help` and the worker's children need no pydantic.
        from pydantic import Field, TypeAdapter

        one: Any = Literal[self.choices] if self.choices else self.kind
        if self.kind in (int, float) and not self.choices:
            bounds: dict[str, Any] = {"ge": self.lowest, "le": self.highest}
            if self.kind is float:
                bounds["allow_inf_nan"] = False
            one = Annotated[self.kind, Field(**bounds)]
        whole: Any = list[one] if self.is_list else one
        return TypeAdapter(whole | None if self.optional else whole)

    def value(self, given: object) -> Value:
        """The checked value. Text is read as the type says; anything else must already be of it. ValueError if not."""
        if isinstance(given, str):
            given = self._from_text(given)
        elif self.is_list and isinstance(given, Sequence):
            given = [self._one(item) if isinstance(item, str) else item for item in given]
        checked: Value = self._adapter.validate_python(given, strict=True)
        if names_a_secret(self.name) and not (checked in ("", None) or is_reference(str(checked))):
            raise ValueError("not a reference")
        return checked

    def _from_text(self, text: str) -> object:
        if self.optional and self.kind is not str and text.strip().lower() in ("none", ""):
            return None
        if self.is_list:
            return [self._one(item.strip()) for item in text.split(",") if item.strip()]
        return self._one(text)

    def _one(self, text: str) -> object:
        """One value from text. ValueError when the text is not of this kind; a str is never anything but itself."""
        if self.choices:
            return next((choice for choice in self.choices if str(choice) == text), text)
        if self.kind is int and re.fullmatch(r"[+-]?\d{1,18}", text.strip()):
            return int(text)
        if self.kind is float and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", text.strip()):
            return float(text)
        if self.kind is bool and text.strip().lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            return text.strip().lower() in ("true", "yes", "on", "1")
        if self.kind is date and re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()):
            return date.fromisoformat(text.strip())
        if self.kind is str:
            text.encode()  # an argument that is not UTF-8 arrives with lone surrogates, which no notebook can hold
            return text
        raise ValueError(f"not {_WORDS[self.kind]}")


# -- declaring ---------------------------------------------------------------------------------------------------------


def declared(notebook: Mapping[str, Any], *, where: str = "") -> tuple[Parameter, ...]:
    """The parameters that a notebook (nbformat 4, as parsed JSON) declares, in its order; () when it declares none.

    Raises UsageError, with every mistake at once, when the cell declares something that cannot be checked.
    """
    cells = [
        cell
        for cell in notebook.get("cells", [])
        if cell.get("cell_type") == "code" and "parameters" in cell.get("metadata", {}).get("tags", [])
    ]
    if len(cells) > 1:
        raise UsageError(f"{len(cells)} cells are tagged `parameters`", where=where, next="keep one")
    if not cells:
        return ()
    source = cells[0].get("source", "")
    source = source if isinstance(source, str) else "".join(source)
    try:
        tree = ast.parse(source)
        comments = _comments(source)
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        raise UsageError(f"the parameters cell is not Python: {error}", where=where) from error
    found: dict[str, Parameter] = {}
    mistakes: list[str] = []
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom) or _is_text(statement):
            continue
        try:
            parameter = _parameter(statement, comments.get(statement.end_lineno or 0, ""))
            if parameter.name in found:
                raise ValueError(f"{parameter.name}: declared twice")
            found[parameter.name] = parameter
        except ValueError as error:
            mistakes.append(f"line {statement.lineno}: {error}")
    if mistakes:
        raise UsageError(
            _counted(mistakes, "the parameters cell"),
            where=where,
            true_now="nothing was run",
            next="write each as `name: type = default  # help`, for example `days: int = 90  # 7 to 365 days`",
        )
    return tuple(found.values())


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("#").strip() for token in tokens if token.type == tokenize.COMMENT}


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _parameter(statement: ast.stmt, comment: str) -> Parameter:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        name, annotation, value = statement.target.id, statement.annotation, statement.value
    elif (
        isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
    ):
        name, annotation, value = statement.targets[0].id, None, statement.value
    else:
        raise ValueError(f"`{ast.unparse(statement)[:_MOST_SHOWN]}` declares no parameter")
    if value is None:
        raise ValueError(f"{name}: has no default")
    default = _literal(name, value)
    if annotation is None:
        annotation = _inferred(name, default)
    parameter = _typed(name, annotation, default, comment)
    try:
        parameter.value(default)
    except ValueError as error:
        shown = "its default" if names_a_secret(name) else f"its default {_shown(default)}"
        raise ValueError(f"{name}: {shown} is not {parameter.expected}") from error
    return parameter


def _literal(name: str, node: ast.expr) -> Value:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "date" and not node.keywords:
        try:
            return date(*(ast.literal_eval(argument) for argument in node.args))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: its default is no day: {error}") from error
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: its default is not a plain value but `{ast.unparse(node)[:_MOST_SHOWN]}`") from error
    return list(value) if isinstance(value, tuple) else value


def _inferred(name: str, default: Value) -> ast.expr:
    if isinstance(default, list) and default and all(isinstance(item, type(default[0])) for item in default):
        written = f"list[{type(default[0]).__name__}]"
    else:
        written = type(default).__name__
    if written.removeprefix("list[").removesuffix("]") not in _SIMPLE:
        raise ValueError(f"{name}: needs a type, such as `{name}: list[str] = []`")
    return ast.parse(written, mode="eval").body


def _typed(name: str, annotation: ast.expr, default: Value, comment: str) -> Parameter:
    written, node, optional, is_list = ast.unparse(annotation), annotation, False, False
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [side for side in (node.left, node.right) if not _is_none(side)]
        optional = len(sides) == 1
        node = sides[0]
        if not optional:
            raise ValueError(f"{name}: `{written}` is more than one type")
    elif isinstance(node, ast.Subscript) and _name(node.value) == "Optional":
        node, optional = node.slice, True
    if isinstance(node, ast.Subscript) and _name(node.value) == "list":
        node, is_list = node.slice, True
    choices: tuple[str | int, ...] = ()
    if isinstance(node, ast.Subscript) and _name(node.value) == "Literal":
        listed = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        choices = tuple(
            item.value
            for item in listed
            if isinstance(item, ast.Constant) and isinstance(item.value, str | int) and not isinstance(item.value, bool)
        )
        if len(choices) < len(listed) or len({type(choice) for choice in choices}) != 1:
            raise ValueError(f"{name}: `{written}` is not a choice among strings or among whole numbers")
        kind: type = type(choices[0])
    elif _name(node) in _SIMPLE:
        kind = _SIMPLE[_name(node)]
    else:
        raise ValueError(
            f"{name}: the type `{written}` cannot be checked; use {', '.join(_SIMPLE)}, list[…], Literal[…]"
        )
    lowest, highest = _bounds(comment) if kind in (int, float) and not choices else (None, None)
    return Parameter(name, written, kind, default, comment, choices, is_list, optional, lowest, highest)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):  # datetime.date, typing.Literal
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _bounds(comment: str) -> tuple[float | None, float | None]:
    if match := _BETWEEN.search(comment):
        return float(match[1]), float(match[2])
    least, most = _AT_LEAST.search(comment), _AT_MOST.search(comment)
    return (float(least[1]) if least else None), (float(most[1]) if most else None)


# -- checking ----------------------------------------------------------------------------------------------------------


def assignments(texts: Iterable[str]) -> list[tuple[str, str]]:
    """`["host=db 1", …]` as typed after -p, as pairs. UsageError names every one that has no `=`."""
    pairs, mistakes = [], []
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name.strip():
            pairs.append((name.strip(), value))
        else:
            mistakes.append(f"`{redact(text)[:_MOST_SHOWN]}`: not NAME=VALUE")
    if mistakes:
        raise UsageError(_counted(mistakes, "-p"), true_now="nothing was run")
    return pairs


def check(
    parameters: Sequence[Parameter],
    given: Mapping[str, object] | Iterable[tuple[str, object]],
    *,
    report: str = "the report",
) -> dict[str, Value]:
    """The given values, checked and typed, in the order of the declaration; what was not given is not in it.

    Text is read as the parameter's type says (`host=007` stays "007" for a str); a list takes commas or the same name
    again. Raises UsageError with every mistake at once and the list of what exists. A value of a parameter whose name
    looks like a secret is never repeated, and must be a reference.
    """
    known = {parameter.name: parameter for parameter in parameters}
    together: dict[str, list[object]] = {}
    for name, value in given.items() if isinstance(given, Mapping) else given:
        together.setdefault(name, []).append(value)
    checked: dict[str, Value] = {}
    mistakes: list[str] = []
    for name, values in together.items():
        parameter = known.get(name)
        if parameter is None:
            close = difflib.get_close_matches(name, known, n=1)
            mistakes.append(f"{redact(name)}: no such parameter" + (f"; did you mean {close[0]}?" if close else ""))
            continue
        if len(values) > 1 and not parameter.is_list:
            mistakes.append(f"{name}: given {len(values)} times, and it takes one value")
            continue
        try:
            if len(values) > 1:
                lists = [parameter.value(value) for value in values]
                checked[name] = [item for items in lists if isinstance(items, list) for item in items]
            else:
                checked[name] = parameter.value(values[0])
        except ValueError:
            found = "" if names_a_secret(name) else f"found {', '.join(_shown(value) for value in values)}, "
            mistakes.append(f"{name}: {found}expected {parameter.expected}")
    if mistakes:
        raise UsageError(
            _counted(mistakes, report),
            true_now="nothing was run",
            next=f"{report} takes:\n{describe(parameters, indent='        ')}",
        )
    return {name: checked[name] for name in known if name in checked}


def describe(parameters: Sequence[Parameter], *, indent: str = "") -> str:
    """One block of lines per parameter: name, type, default, help. For people; `--parameters` shows it."""
    if not parameters:
        return f"{indent}no parameters"
    names = [f"{parameter.name}={_as_typed(parameter.default)}" for parameter in parameters]
    width = min(32, max(map(len, names)))
    return "\n".join(
        f"{indent}{name:<{width}}  {parameter.written}" + (f"  {parameter.help}" if parameter.help else "")
        for name, parameter in zip(names, parameters, strict=True)
    )


def injected(values: Mapping[str, Value]) -> str:
    """The source of a cell that sets these values: literals only, whatever they hold."""
    lines = ["# Parameters"]
    if any(
        isinstance(item, date) for value in values.values() for item in (value if isinstance(value, list) else [value])
    ):
        lines.append("from datetime import date")
    return "\n".join([*lines, *(f"{name} = {_source(value)}" for name, value in values.items())])


def jsonable(values: Mapping[str, Value]) -> dict[str, Any]:
    """The values as JSON knows them: days as 2026-11-23."""
    return {
        name: [_plain(item) for item in value] if isinstance(value, list) else _plain(value)
        for name, value in values.items()
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def _source(value: Value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_source(item) for item in value)}]"
    if isinstance(value, date):
        return f"date({value.year}, {value.month}, {value.day})"
    return repr(value)


def _as_typed(value: Value) -> str:
    """A default as one would type it after -p."""
    if isinstance(value, list):
        return ",".join(_as_typed(item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(_plain(value))


def _shown(value: object) -> str:
    text = redact(f'"{value}"' if isinstance(value, str) else _as_typed(value) if value is None else repr(value))
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def _counted(mistakes: Sequence[str], where: str) -> str:
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return "\n".join([f"{where}: {count}", *(f"  {mistake}" for mistake in mistakes)])
