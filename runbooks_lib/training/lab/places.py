"""Where the lab keeps its things: images that are built once, and a directory for each machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from runbooks_lib.errors import UsageError

ENVIRONMENT = "RUNBOOKS_LAB_DIR"
_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?\Z")


@dataclass(frozen=True)
class Places:
    """The lab's directories below `root`; made on first use, readable by their owner alone."""

    root: Path

    @property
    def images(self) -> Path:
        return self._made("images")

    @property
    def machines(self) -> Path:
        return self._made("machines")

    @property
    def links(self) -> Path:
        return self._made("links")

    def machine(self, name: str) -> Path:
        """The directory of a machine, existing or not. Raises UsageError for what cannot be a host's name."""
        if not _NAME.match(name):
            raise UsageError(
                f"{name!r} cannot be the name of a practice machine",
                next="use small letters, digits and hyphens, at most 32, beginning with a letter",
            )
        return self.machines / name

    def _made(self, part: str) -> Path:
        path = self.root / part
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)
        return path


def places(root: Path | str | None = None) -> Places:
    """The lab at `root`, else at $RUNBOOKS_LAB_DIR, else at ~/.cache/runbooks/lab ($XDG_CACHE_HOME is respected)."""
    if root is not None:
        return Places(Path(root).resolve())
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Places(Path(named).expanduser().resolve())
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Places(Path(cache).expanduser().resolve() / "runbooks" / "lab")
