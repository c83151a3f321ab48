"""The parameters that every move has, and when they make no sense."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# These get into unit files, fstab and configuration as well; a path with quotes or a line end is not worth its risk.
PATH = re.compile(r"/[^\x00-\x1f\x7f'\"`$%\\]*[^\x00-\x1f\x7f'\"`$%\\/]\Z")


def refuses_paths(parameters: Mapping[str, Any]) -> str:
    """Why `directory`, `target` and `backup` make no sense; empty when they do."""
    missing = [name for name in ("directory", "target", "backup") if not parameters[name]]
    if missing:
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
    for name in ("directory", "target"):
        path = str(parameters[name])
        if not PATH.match(path) or "//" in path or {".", ".."} & set(path.split("/")):
            return f"{name} must be an absolute path, without quotes, $, %, a backslash, . or .."
    if parameters["directory"] == parameters["target"]:
        return "directory and target are the same"
    if not str(parameters["backup"]).strip():
        return "backup must say which backup you would restore if all else fails, and when it was taken"
    return ""
