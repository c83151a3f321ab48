"""Which runbooks there are: every module under `runbooks_lib.procedures` with a RUNBOOK in it."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from runbooks_lib.errors import UsageError
from runbooks_lib.runbook.step import Runbook

# Found by name: the engine imports no procedure.
PACKAGE = "runbooks_lib.procedures"


def all_runbooks(package: str = PACKAGE) -> dict[str, Runbook]:
    """The runbooks by name. UsageError when two have one name."""
    found: dict[str, Runbook] = {}
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        runbook = getattr(importlib.import_module(module.name), "RUNBOOK", None)
        if isinstance(runbook, Runbook):
            if runbook.name in found:
                raise UsageError(f"two runbooks are called {runbook.name}", where=module.name)
            found[runbook.name] = runbook
    return dict(sorted(found.items()))


def find_runbook(name: str) -> Runbook:
    """The runbook of this name. UsageError, with what there is, when there is none."""
    found = all_runbooks()
    if name in found:
        return found[name]
    close = difflib.get_close_matches(name, found, n=1)
    raise UsageError(
        f"there is no runbook {name}",
        true_now="nothing was run",
        next=f"did you mean {close[0]}?" if close else f"there are: {', '.join(found) or 'none'}",
    )
