"""The tables of the history file, and how an older file becomes a newer one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from runbooks_lib.history.model import HistoryTooNew

APPLICATION_ID = 0x52424831  # "RBH1", so that another program's database is not mistaken for a history

# Keys are one integer each, so that a table is one B-tree in the order in which it is read:
#   snapshot.key = instance << 40 | time           time in seconds
#   block.key    = series << 24 | tier << 20 | n   n-th period of the tier since 1970
_VERSION_1 = """
CREATE TABLE instance (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_time INTEGER,  -- of the last attempt to collect, in the order of storing
    last_state TEXT,
    last_message TEXT
);
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL REFERENCES instance,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,  -- JSON, keys sorted, ASCII, without `instance`
    UNIQUE (instance, name, labels)
);
-- Which series the numbers of a snapshot belong to. An id is never used again (AUTOINCREMENT).
CREATE TABLE layout (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    instance INTEGER NOT NULL REFERENCES instance,
    digest BLOB NOT NULL,
    series BLOB NOT NULL,  -- unsigned 32-bit little-endian ids
    UNIQUE (instance, digest)
);
-- The youngest day or two, as collected: one row per snapshot. `data`: zlib over float64 little-endian, one per series.
CREATE TABLE snapshot (
    key INTEGER PRIMARY KEY,
    layout INTEGER NOT NULL REFERENCES layout,
    data BLOB NOT NULL
);
-- Everything older and everything imported: one row per series and period (packing.py, tiers.py).
CREATE TABLE block (
    key INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);
CREATE TABLE origin (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
-- Never deleted: where each series' numbers came from stays visible for ever. `last_time` null: still going on.
CREATE TABLE series_origin (
    series INTEGER NOT NULL REFERENCES series,
    origin INTEGER NOT NULL REFERENCES origin,
    first_time INTEGER NOT NULL,
    last_time INTEGER,
    PRIMARY KEY (series, origin)
) WITHOUT ROWID;
CREATE TABLE import (
    id INTEGER PRIMARY KEY,
    origin INTEGER NOT NULL REFERENCES origin,
    imported_at INTEGER NOT NULL,
    first_time INTEGER NOT NULL,
    last_time INTEGER NOT NULL,
    samples INTEGER NOT NULL
);
-- Failed collections; the same failure again and again is one row.
CREATE TABLE failure (
    id INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL REFERENCES instance,
    first_time INTEGER NOT NULL,
    last_time INTEGER NOT NULL,
    state TEXT NOT NULL,
    message TEXT NOT NULL,
    count INTEGER NOT NULL
);
CREATE INDEX failure_instance ON failure (instance, id);
-- What a person knows about a time span: mountpoint null for the whole host. kind: 'exclude' or 'note'.
CREATE TABLE annotation (
    id INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL REFERENCES instance,
    mountpoint TEXT,
    start_time INTEGER NOT NULL,
    end_time INTEGER NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    author TEXT NOT NULL,
    made_at INTEGER NOT NULL
);
CREATE INDEX annotation_instance ON annotation (instance, start_time);
-- Every published forecast, to be scored when it has come due. body: JSON of capacity's own making.
CREATE TABLE forecast (
    id INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL REFERENCES instance,
    mountpoint TEXT NOT NULL,
    resource TEXT NOT NULL,
    made_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    method TEXT NOT NULL,
    body TEXT NOT NULL,
    scored_at INTEGER,
    score TEXT,
    UNIQUE (instance, mountpoint, resource, made_at, due_at, method)
);
CREATE INDEX forecast_due ON forecast (due_at) WHERE scored_at IS NULL;
"""


def _version_1(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_1.split(";\n"):
        if statement.strip():
            connection.execute(statement)


# The n-th brings a file from version n to n + 1, inside one transaction.
MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_version_1]


def version(connection: sqlite3.Connection) -> int:
    """The schema's version of an open file; 0 for a file without tables."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def refuse_newer(found: int, where: str) -> None:
    """Raises HistoryTooNew for a file that a later program wrote."""
    if found > len(MIGRATIONS):
        raise HistoryTooNew(
            f"written by a later version of this program (file version {found}, this one knows {len(MIGRATIONS)})",
            where=where,
            true_now="the file was not touched",
            next="use the later program, or name another file under [history] path",
        )


def migrate(connection: sqlite3.Connection, where: str) -> None:
    """Bring an open file to this program's version: all of it or nothing. Raises HistoryTooNew."""
    refuse_newer(version(connection), where)
    if version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: another process may have been quicker.
        for number in range(version(connection), len(MIGRATIONS)):
            MIGRATIONS[number](connection)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after a full disk SQLite has rolled back already
            connection.execute("ROLLBACK")
        raise
