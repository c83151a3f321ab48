"""What moving a mounted filesystem to another disk asks for, whatever moves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage.shell import absolute
from runbooks_lib.procedures.watching import IO_PRESSURE


def parameters(disk: str) -> tuple[Parameter, ...]:
    """The runbook's parameters; `disk` says what the other disk is."""
    return (
        Parameter("mountpoint", "str", str, "", "where the filesystem is mounted; an absolute path"),
        Parameter("disk", "str", str, "", disk),
        Parameter("backup", "str", str, "", "which backup you would restore if all else fails, and when it was taken"),
        IO_PRESSURE,
    )


def refuses(parameters: Mapping[str, Any]) -> str:
    """Why these parameters make no sense; empty when they do."""
    for name in ("mountpoint", "disk"):
        if not absolute(parameters[name]):
            return f"{name} must be an absolute path"
    if not str(parameters["backup"]).strip():
        return "backup must say which backup you would restore if all else fails, and when it was taken"
    return ""
