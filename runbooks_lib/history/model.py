"""What a history answers: series, the past of one partition, the last collection of a host; and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt

from runbooks_lib.errors import RunbookError, UsageError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Times = npt.NDArray[np.datetime64]

DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600

# The part of a file system's past that every history can answer. Used is size - free within one snapshot, so that the
# day of a resize is right; reserved is free - avail.
USED_BYTES = "runbook_filesystem_used_bytes"
USED_FILES = "runbook_filesystem_used_files"
SIZE_BYTES = "node_filesystem_size_bytes"
FREE_BYTES = "node_filesystem_free_bytes"
AVAIL_BYTES = "node_filesystem_avail_bytes"
FILES = "node_filesystem_files"
FILES_FREE = "node_filesystem_files_free"

COLLECTED = "collected"
EXAMPLE = "example"


class HistoryError(RunbookError):
    """The history could not answer or could not keep something; what was in it is as it was."""


class HistoryMissing(HistoryError):
    """There is no history yet."""


class HistoryLocked(HistoryError):
    """Another process kept the file locked for longer than the time allowed."""


class HistoryDamaged(HistoryError):
    """The file is not what was written. It was not altered."""


class HistoryTooNew(HistoryError):
    """The file was written by a later version of this program."""


@dataclass(frozen=True, eq=False)
class Series:
    """One metric of one instance over time.

    `labels` include `instance`. `times` is datetime64[s] in UTC, ascending and without repeats; `values` has its
    length, in the unit that the name carries. `origins` says where the numbers came from (`collected`, `example`,
    `imported from …`).
    """

    name: str
    labels: Mapping[str, str]
    times: Times
    values: Floats
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FilesystemHistory:
    """One partition's past, a row per UTC day that has data (missing days are simply missing).

    `used_bytes_max` and `inodes_used_max` are the highest values of each day; `size_bytes`, `reserved_bytes` and
    `inodes_total` the last ones of it; nan where not known. Where the device behind the mount point changed within a
    day, all of that day's values are those of the later device. `recent` is used bytes as finely as kept, for at most
    the last 14 days. `samples` counts what the days were made from. `origins` says where every number came from.
    `source_changed` are the days from which on the numbers are of another kind: measured after an import that knew no
    device, or the other way round. What differs there may be a matter of counting.
    """

    instance: str
    mountpoint: str
    device: str
    fstype: str
    days: Times  # datetime64[D], ascending
    used_bytes_max: Floats
    size_bytes: Floats
    reserved_bytes: Floats
    inodes_used_max: Floats
    inodes_total: Floats
    recent: Series
    last_time: datetime
    samples: int
    origins: tuple[str, ...]
    source_changed: Times = field(default_factory=lambda: np.empty(0, dtype="datetime64[D]"))


@dataclass(frozen=True)
class Collection:
    """The last attempt to read a host: when, `ok` or the kind of the HostError, and its message."""

    time: datetime
    state: str
    message: str = ""


class History(Protocol):
    """What was said before, wherever it is kept. All times are UTC; `end=None` means now."""

    def series(
        self,
        name: str,
        labels: Mapping[str, str] = {},
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[Series]:
        """Every series of that metric whose labels include the given ones (`instance` among them)."""
        ...

    def filesystems(self, instance: str | None = None) -> list[tuple[str, str]]:
        """Sorted (instance, mount point) of every partition that has a past."""
        ...

    def filesystem(
        self, instance: str, mountpoint: str, *, end: datetime | None = None, days: int = 400
    ) -> FilesystemHistory | None:
        """One partition's past over the last `days` days before `end`, or None when there is none."""
        ...

    def instances(self) -> list[str]:
        """Sorted names of the hosts that the history has heard of."""
        ...

    def last_collection(self, instance: str) -> Collection | None:
        """The last attempt to read that host, or None when there was none."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


def to_seconds(time: datetime) -> int:
    """Whole seconds since 1970 UTC, rounded down. Raises UsageError for a time without a zone or before 1970."""
    if time.tzinfo is None:
        raise UsageError(f"a time without a zone: {time.isoformat()}", next="give it in UTC, with +00:00")
    second = int(time.timestamp() // 1)
    if second < 0:
        raise UsageError(f"a time before 1970: {time.isoformat()}")
    return second


def from_seconds(second: int) -> datetime:
    """The UTC time of that many seconds since 1970."""
    return datetime.fromtimestamp(second, UTC)


def to_times(seconds: Ints) -> Times:
    """Seconds since 1970 as datetime64[s]."""
    return np.asarray(seconds, dtype=np.int64).astype("datetime64[s]")


def merge_origins(parts: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    """Names of origins, each once, ordered by the earliest time they stand for."""
    return tuple(dict.fromkeys(origin for _, origin in sorted(parts)))
