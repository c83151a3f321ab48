"""One way to more space on one host for one mount point, as it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Safety(IntEnum):
    """What a way takes away, the safest first."""

    ADDS = 1  # space is added and nothing is taken away
    KEEPS = 2  # something is moved or compressed, and nothing is lost
    RENEWS = 3  # what goes can be had again
    LOSES = 4  # what goes is gone for good

    @property
    def words(self) -> str:
        """For a person."""
        return {
            Safety.ADDS: "adds space, takes nothing away",
            Safety.KEEPS: "nothing is lost",
            Safety.RENEWS: "what goes can be had again",
            Safety.LOSES: "what goes is gone for good",
        }[self]


@dataclass(frozen=True)
class Way:
    """A way to more space.

    `gain_bytes` is what an ordinary user could write more afterwards, as measured now; None when it could not be
    measured. `most_bytes` is what the same way could gain at most, where that can be chosen. `measured` says by what.
    `seconds` is about how long it takes. `undo` says how it is taken back, or why it is not. `runbook` with
    `parameters` does it. `refused` says why it is not offered; empty when it is.
    """

    name: str
    title: str
    safety: Safety
    gain_bytes: int | None = None
    most_bytes: int | None = None
    measured: str = ""
    seconds: float = 0.0
    undo: str = ""
    runbook: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""

    @property
    def offered(self) -> bool:
        """Whether it can be chosen."""
        return not self.refused

    @property
    def order(self) -> tuple[bool, int, float, int, str]:
        """A sort key: what can be done first, then the safer, the quicker, the larger."""
        return (not self.offered, self.safety, self.seconds, -(self.gain_bytes or 0), self.name)


@dataclass(frozen=True)
class Never:
    """A thing that people do to a full disk at night, why it is not done here, and what is done instead."""

    mistake: str
    why: str
    instead: str


NEVER = (
    Never(
        "Removing files under pg_wal (once pg_xlog), or moving them away",
        "After the next crash the server does not start (could not locate a valid checkpoint record), and pg_resetwal "
        "then brings it up with rows missing.",
        "What keeps the files there is mended: an inactive slot, a failing archiver. Then PostgreSQL removes them.",
    ),
    Never(
        "rm with a pattern",
        "At three in the morning a pattern matches one thing more than was meant.",
        "Files are named one by one, moved to another filesystem, compared there, and can be brought back.",
    ),
    Never(
        "rm of a log that is being written",
        "The name goes and the space stays, for the process has the file open.",
        "Its lines are copied away and their blocks given back (archive-log); the writer notices nothing.",
    ),
    Never(
        "Shrinking a filesystem or a volume to make room for another",
        "XFS cannot, ext4 only unmounted, and one wrong figure cuts the filesystem's end off.",
        "Only growing is offered.",
    ),
    Never(
        "Setting root's reserve of a system's own filesystem to nothing",
        "Then the last block goes to whoever asks first, and root cannot log in to mend it.",
        "The reserve is lowered on pure data volumes only, and not below one per cent.",
    ),
)
