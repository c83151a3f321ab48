"""What stands beside the numbers of a history file: a person's annotations, and published forecasts with their
scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from runbooks_lib.errors import UsageError
from runbooks_lib.history.database import transaction
from runbooks_lib.history.model import from_seconds, to_seconds
from runbooks_lib.history.sqlite import SqliteHistory

Kind = Literal["exclude", "note"]


@dataclass(frozen=True)
class Annotation:
    """What a person knows about a span of time: `exclude` takes its days out of forecasts, `note` is only shown.

    `mountpoint` is None for the whole host.
    """

    id: int
    instance: str
    mountpoint: str | None
    start: datetime
    end: datetime
    kind: Kind
    text: str
    author: str


@dataclass(frozen=True)
class StoredForecast:
    """A forecast as it was published. `body` is capacity's own; `score` what came of it, None until it has come due."""

    id: int
    instance: str
    mountpoint: str
    resource: str
    made_at: datetime
    due_at: datetime
    method: str
    body: Mapping[str, Any]
    score: Mapping[str, Any] | None = None


def annotate(
    history: SqliteHistory,
    instance: str,
    start: datetime,
    end: datetime,
    *,
    text: str,
    author: str,
    kind: Kind = "note",
    mountpoint: str | None = None,
) -> int:
    """Keep an annotation; returns its id. Raises UsageError when the span is backwards."""
    first, last = to_seconds(start), to_seconds(end)
    if last < first:
        raise UsageError("the annotation's end is before its start")
    with history.write_access("the annotation was not stored") as writer, transaction(writer.connection, writing=True):
        cursor = writer.connection.execute(
            "INSERT INTO annotation (instance, mountpoint, start_time, end_time, kind, text, author, made_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                writer.instance_id(instance),
                None if mountpoint is None else _to_text(mountpoint),
                first,
                last,
                kind,
                _to_text(text),
                _to_text(author),
                to_seconds(datetime.now(UTC)),
            ),
        )
        return int(cursor.lastrowid or 0)


def remove_annotation(history: SqliteHistory, number: int) -> bool:
    """Take an annotation away; False when there was none of that id."""
    with history.write_access("the annotation was not removed") as writer, transaction(writer.connection, writing=True):
        return writer.connection.execute("DELETE FROM annotation WHERE id = ?", (number,)).rowcount > 0


def annotations_of(history: SqliteHistory, instance: str, mountpoint: str | None = None) -> list[Annotation]:
    """A host's annotations by time; with `mountpoint` those of that partition and of the whole host."""
    with history.read_access() as reader:
        rows = reader.connection.execute(
            "SELECT annotation.id, mountpoint, start_time, end_time, kind, text, author FROM annotation"
            " JOIN instance ON instance.id = annotation.instance WHERE instance.name = ?1"
            " AND (?2 IS NULL OR mountpoint IS NULL OR mountpoint = ?2) ORDER BY start_time, annotation.id",
            (instance, None if mountpoint is None else _to_text(mountpoint)),
        ).fetchall()
    return [
        Annotation(
            row[0],
            instance,
            None if row[1] is None else _from_text(row[1]),
            from_seconds(row[2]),
            from_seconds(row[3]),
            row[4],
            _from_text(row[5]),
            _from_text(row[6]),
        )
        for row in rows
    ]


def store_forecast(
    history: SqliteHistory,
    instance: str,
    mountpoint: str,
    *,
    resource: str,
    made_at: datetime,
    due_at: datetime,
    method: str,
    body: Mapping[str, Any],
) -> None:
    """Keep a published forecast, to be scored at `due_at`. The same one again replaces it, unless it has been scored.

    `body` is anything that JSON can hold.
    """
    packed = json.dumps(body, sort_keys=True, separators=(",", ":"))
    with history.write_access("the forecast was not stored") as writer, transaction(writer.connection, writing=True):
        writer.connection.execute(
            "INSERT INTO forecast (instance, mountpoint, resource, made_at, due_at, method, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (instance, mountpoint, resource, made_at, due_at, method)"
            " DO UPDATE SET body = excluded.body WHERE scored_at IS NULL",
            (
                writer.instance_id(instance),
                _to_text(mountpoint),
                resource,
                to_seconds(made_at),
                to_seconds(due_at),
                method,
                packed,
            ),
        )


def store_day(
    history: SqliteHistory,
    made_at: datetime,
    method: str,
    made: Sequence[tuple[str, str, str, datetime, Mapping[str, Any]]],
) -> int:
    """Keep a day's forecasts, rows (instance, mountpoint, resource, due_at, body), at once; returns how many.

    A partition that has forecasts of this `made_at` and `method` keeps them: what was published first is what counts.
    """
    when, stored = to_seconds(made_at), 0
    with history.write_access("the forecasts were not stored") as writer, transaction(writer.connection, writing=True):
        already = {
            (number, text)
            for number, text in writer.connection.execute(
                "SELECT instance, mountpoint FROM forecast WHERE made_at = ? AND method = ?", (when, method)
            )
        }
        for instance, mountpoint, resource, due_at, body in made:
            key = (writer.instance_id(instance), _to_text(mountpoint))
            if key in already:
                continue
            packed = json.dumps(body, sort_keys=True, separators=(",", ":"))
            writer.connection.execute(
                "INSERT INTO forecast (instance, mountpoint, resource, made_at, due_at, method, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*key, resource, when, to_seconds(due_at), method, packed),
            )
            stored += 1
    return stored


def score_forecasts(history: SqliteHistory, scores: Mapping[int, Mapping[str, Any]], *, now: datetime) -> None:
    """`score_forecast` of many, by id, in one transaction."""
    if not scores:
        return
    with (
        history.write_access("the forecasts' scores were not stored") as writer,
        transaction(writer.connection, writing=True),
    ):
        writer.connection.executemany(
            "UPDATE forecast SET scored_at = ?, score = ? WHERE id = ? AND scored_at IS NULL",
            [
                (to_seconds(now), json.dumps(score, sort_keys=True, separators=(",", ":")), number)
                for number, score in scores.items()
            ],
        )


def counted_since(history: SqliteHistory) -> datetime | None:
    """When the first forecast that is kept was made; None when none is."""
    with history.read_access() as reader:
        row = reader.connection.execute("SELECT min(made_at) FROM forecast").fetchone()
    return None if row is None or row[0] is None else from_seconds(row[0])


def due_forecasts(history: SqliteHistory, now: datetime) -> list[StoredForecast]:
    """Every forecast that has come due and has no score yet, oldest first."""
    return _forecasts(history, "scored_at IS NULL AND due_at <= ?", (to_seconds(now),))


def scored_forecasts(history: SqliteHistory) -> list[StoredForecast]:
    """Every forecast with its score, oldest first."""
    return _forecasts(history, "scored_at IS NOT NULL", ())


def score_forecast(history: SqliteHistory, number: int, score: Mapping[str, Any], *, now: datetime) -> None:
    """Keep what came of a forecast. A score is given once: a second one changes nothing."""
    packed = json.dumps(score, sort_keys=True, separators=(",", ":"))
    with (
        history.write_access("the forecast's score was not stored") as writer,
        transaction(writer.connection, writing=True),
    ):
        writer.connection.execute(
            "UPDATE forecast SET scored_at = ?, score = ? WHERE id = ? AND scored_at IS NULL",
            (to_seconds(now), packed, number),
        )


_FORECASTS = (
    "SELECT forecast.id, instance.name, mountpoint, resource, made_at, due_at, method, body, score"
    " FROM forecast JOIN instance ON instance.id = forecast.instance"
)


def _forecasts(history: SqliteHistory, condition: str, values: tuple[int, ...]) -> list[StoredForecast]:
    with history.read_access() as reader:
        rows = reader.connection.execute(
            f"{_FORECASTS} WHERE {condition} ORDER BY due_at, forecast.id",
            values,
        ).fetchall()
    return [
        StoredForecast(
            row[0],
            row[1],
            _from_text(row[2]),
            row[3],
            from_seconds(row[4]),
            from_seconds(row[5]),
            row[6],
            json.loads(row[7]),
            None if row[8] is None else json.loads(row[8]),
        )
        for row in rows
    ]


def _to_text(text: str) -> str:
    """SQLite takes no lone surrogates; JSON writes them in ASCII."""
    return json.dumps(text)


def _from_text(text: str) -> str:
    return str(json.loads(text))
