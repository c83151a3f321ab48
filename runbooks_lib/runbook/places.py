"""Where the engine keeps its few small files on a host: in a directory that a reboot empties.

Every operator, as whatever user, must come to the same directory, or two of them would not see each other's lock.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from runbooks_lib.runbook.quoting import words

# Sticky and writable to all: /run/lock on Debian, /dev/shm elsewhere; /tmp is the last one, and may survive a reboot,
# therefore every lock also holds the boot id.
CANDIDATES = ("/run/lock", "/dev/shm", "/tmp")  # noqa: S108 (chosen on the host, sticky, names checked)


@dataclass(frozen=True)
class Places:
    """The directories that are tried, in this order. Tests and drills name their own."""

    candidates: Sequence[str] = CANDIDATES

    def find(self) -> str:
        """Shell text that sets `base`, or ends with status 93 when there is no such directory."""
        return (
            "LC_ALL=C; export LC_ALL; base=\n"
            f"for d in {words(*self.candidates)}; do\n"
            '  [ -d "$d" ] && [ -k "$d" ] && [ -w "$d" ] && [ -x "$d" ] && { base=$d; break; }\n'
            "done\n"
            '[ -n "$base" ] || { echo "no sticky directory that all may write to" >&2; exit 93; }\n'
        )


def chosen() -> Places:
    """The usual places, or the one that RUNBOOKS_HOST_DIRECTORY names: for drills and tests, where several "hosts" are
    one machine. Operators with different values do not see each other's lock."""
    own = os.environ.get("RUNBOOKS_HOST_DIRECTORY", "")
    return Places((own,)) if own else Places()
