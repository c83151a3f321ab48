"""What hosts said before: one SQLite file, or a Prometheus-compatible server."""

from runbooks_lib.history.model import (
    Collection,
    FilesystemHistory,
    History,
    HistoryDamaged,
    HistoryError,
    HistoryLocked,
    HistoryMissing,
    HistoryTooNew,
    Series,
)
from runbooks_lib.history.opening import open_history
from runbooks_lib.history.sqlite import SqliteHistory

__all__ = [
    "Collection",
    "FilesystemHistory",
    "History",
    "HistoryDamaged",
    "HistoryError",
    "HistoryLocked",
    "HistoryMissing",
    "HistoryTooNew",
    "Series",
    "SqliteHistory",
    "open_history",
]
