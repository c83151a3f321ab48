"""The runs of this operator's machine: one directory each under `outputs/runs/`."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib import writer
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.runbook import digest as digests
from runbooks_lib.runbook import journal
from runbooks_lib.runbook.plan import Plan
from runbooks_lib.runbook.state import RunState, fold

_UNSAFE = re.compile(r"[^a-z0-9.]+")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_PLANS, _MOST_PLANS = ".plans", 200


def new_name(runbook: str, host: str) -> str:
    """A name that sorts by time and that nobody else has: 20261123T224500.123456Z-clean-log-directory-web-1-3f9a12."""
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    slug = _UNSAFE.sub("-", f"{runbook}-{host}".lower()).strip("-.")[:80]
    return f"{time}-{slug}-{secrets.token_hex(3)}"


def directories(runs: Path) -> list[Path]:
    """The runs' directories, newest first."""
    if not runs.is_dir():
        return []
    return sorted((path.parent for path in runs.glob(f"*/{journal.NAME}")), key=lambda path: path.name, reverse=True)


def state_of(directory: Path) -> RunState:
    """What a run's journal tells. Raises RunbookError when it is damaged."""
    return fold(directory.name, journal.read(directory / journal.NAME).entries)


def find(runs: Path, name: str) -> Path:
    """The run of this name, or the only one whose name begins or ends so. UsageError otherwise."""
    known = directories(runs)
    exact = [each for each in known if each.name == name]
    close = exact or [each for each in known if name and (each.name.startswith(name) or each.name.endswith(name))]
    if len(close) == 1:
        return close[0]
    raise UsageError(
        f"{len(close)} runs are called {name}" if close else f"there is no run {name}",
        where=str(runs),
        true_now="nothing was done",
        next="`runbook runs` lists them",
    )


def latest(runs: Path, key: str) -> tuple[Path, RunState] | None:
    """The newest run of this key, if there is one. A damaged journal stops the search if it may be of this key.

    Raises RunbookError.
    """
    for directory in directories(runs):
        try:
            state = state_of(directory)
        except journal.JournalDamaged:
            if _first_key(directory) not in ("", key):
                continue
            raise
        if state.key == key and state.outcome != "not begun":
            return directory, state
    return None


def keep_plan(runs: Path, plan: Plan) -> None:
    """Keep what a plan promises, so that a later approval of it can be told what differs by then. That it cannot be
    written is no hindrance: an approval is a digest, and never comes from a file."""
    place = runs / _PLANS
    with suppress(RunbookError, OSError):
        writer.make_directory(place)
        writer.write_json(place / f"{plan.digest}.json", plan.promised())
        for old in sorted(place.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-_MOST_PLANS]:
            old.unlink()


def kept_plan(runs: Path, digest: str) -> Mapping[str, Any] | None:
    """What the plan of this digest promised, if it was kept and is whole."""
    if not _DIGEST.match(digest):
        return None
    try:
        promised = json.loads((runs / _PLANS / f"{digest}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return promised if isinstance(promised, dict) and digests.digest(promised) == digest else None


def _first_key(directory: Path) -> str:
    """The key in a damaged journal's first line; empty when not even that can be read."""
    try:
        with (directory / journal.NAME).open("rb") as file:
            return str(json.loads(file.readline(1 << 20))["data"]["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@contextmanager
def alone(runs: Path) -> Iterator[None]:
    """Nobody else on this machine finds or begins a run meanwhile."""
    try:
        runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(runs / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunbookError(
            f"cannot be written: {error.strerror}", where=str(runs), true_now="nothing was run on the host"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
