"""Mistakes in `runbooks.toml` in words: which key, what was found, what is expected, what may have been meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from runbooks_lib.config.channels import Alertmanager, Channel
from runbooks_lib.config.form import TABLES, HostTable, InventoryFile, PartitionTable, ServiceTable

_EXPECTED = {
    "bool_type": "true or false",
    "string_type": "a string in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "list_type": 'a list such as ["databases"]',
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "path_type": "a path in quotes",
    "date_type": "a date without quotes, such as 2026-12-25",
    "date_from_datetime_inexact": "a date without a time, such as 2026-12-25",
    "missing": "a value: this key must be given",
}


def all_mistakes(path: Path, error: ValidationError) -> str:
    """Every mistake of a file, one a line, below their count."""
    found = [mistake(detail) for detail in error.errors(include_url=False)]
    count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
    return "\n".join([f"{path}: {count}", *(f"  {line}" for line in found)])


def mistake(detail: ErrorDetails) -> str:
    """One mistake: its key as TOML has it, what was found (never a secret), what is expected."""
    parts = [str(part) for part in detail["loc"] if part != "[key]"]
    key = ".".join(_toml_key(part) for part in parts) or "(whole file)"
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: found an unknown key, expected {_known_keys(parts)}"
    if kind == "missing":
        return f"{key}: found nothing, expected {_EXPECTED['missing']}"
    if kind == "value_error":
        expected = str(context["error"])
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
    elif kind.startswith(("greater_than", "less_than")):
        expected = _range(kind, context, parts)
    elif kind == "literal_error":
        expected = f"one of {context['expected']}"
    else:
        expected = detail["msg"]
    secret = bool(parts) and (parts[-1] in _SECRETS or (parts[0], parts[-1]) == ("notify", "url"))
    found = "a value" if secret else _shown(detail["input"], address=bool(parts) and parts[-1] in _ADDRESSES)
    return f"{key}: found {found}, expected {expected}"


_SECRETS = {"sudo_password", "password", "token"}
_ADDRESSES = {"url", "pages", "teamcity", "health", "certificate"}


def _shown(value: object, *, address: bool = False) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if address and isinstance(value, str):  # before the @ stand a user and a password
        value = re.sub(r"^([a-z]+://)?.*@", r"\1…@", value, flags=re.DOTALL | re.IGNORECASE)
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 60 else text[:57] + "…"


def _range(kind: str, context: Mapping[str, Any], parts: list[str]) -> str:
    limit = next(iter(context.values()))
    words = {
        "greater_than": "more than",
        "greater_than_equal": "at least",
        "less_than": "less than",
        "less_than_equal": "at most",
    }[kind]
    hint = " (0.9 means 90 %)" if parts and parts[-1].endswith("_ratio") else ""
    return f"{words} {limit:g}{hint}"


def _toml_key(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'


def _known_keys(parts: list[str]) -> str:
    """The keys that stand beside an unknown one, nearest first."""
    model: type[BaseModel] = InventoryFile
    if parts[0] == "hosts":
        deeper: type[BaseModel] = ServiceTable if len(parts) > 3 and parts[2] == "services" else PartitionTable
        model = deeper if len(parts) > 3 else HostTable
    elif parts[:2] == ["notify", "channels"]:
        model = Channel
    elif parts[:2] == ["notify", "alertmanager"] and len(parts) > 2:
        model = Alertmanager
    elif len(parts) > 1:
        model = TABLES[parts[0]]
    known = sorted(model.model_fields)
    close = difflib.get_close_matches(parts[-1], known, n=1)
    everything = ", ".join(known)
    return f"{close[0]} (all keys here: {everything})" if close else f"one of {everything}"


def suggestion(name: str, existing: Iterable[str], kind: Literal["hosts", "groups"]) -> str:
    """What an unknown name may have meant, and the names that there are, at most twenty of them."""
    names = sorted(existing)
    if not names:
        return f"the inventory has no {kind} yet"
    close = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return (f"did you mean {close[0]}? " if close else "") + f"{kind}: {shown}"
