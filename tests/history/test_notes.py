"""Annotations and published forecasts beside the numbers."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.history import SqliteHistory
from runbooks_lib.history.notes import (
    annotate,
    annotations_of,
    due_forecasts,
    remove_annotation,
    score_forecast,
    scored_forecasts,
    store_forecast,
)

DAY = timedelta(days=1)


def test_an_annotation_is_found_by_its_partition_and_by_its_host(history: SqliteHistory, noon: datetime) -> None:
    first = annotate(history, "db-01", noon, noon + DAY, text="moved the backups", author="ü", mountpoint="/srv/\udcff")
    whole = annotate(history, "db-01", noon - DAY, noon, text="new kernel", author="x", kind="exclude")
    assert [one.id for one in annotations_of(history, "db-01")] == [whole, first]
    assert [one.id for one in annotations_of(history, "db-01", "/srv/\udcff")] == [whole, first]
    assert [one.id for one in annotations_of(history, "db-01", "/")] == [whole]
    assert annotations_of(history, "db-02") == []
    found = annotations_of(history, "db-01")[1]
    assert (found.mountpoint, found.text, found.author, found.kind) == ("/srv/\udcff", "moved the backups", "ü", "note")
    assert (found.start, found.end) == (noon, noon + DAY)
    assert remove_annotation(history, first)
    assert not remove_annotation(history, first)
    with pytest.raises(UsageError, match="before its start"):
        annotate(history, "db-01", noon, noon - DAY, text="", author="")


def test_a_forecast_comes_due_and_is_scored_once(history: SqliteHistory, noon: datetime) -> None:
    for horizon in (7, 30):
        for probability in (0.9, 0.3):  # published twice on one day: the later one counts
            store_forecast(
                history,
                "db-01",
                "/srv/db",
                resource="bytes",
                made_at=noon,
                due_at=noon + horizon * DAY,
                method="winmix",
                body={"probability": probability, "level": 9e11},
            )
    assert due_forecasts(history, noon + 6 * DAY) == []
    (due,) = due_forecasts(history, noon + 8 * DAY)
    assert (due.instance, due.mountpoint, due.resource, due.method) == ("db-01", "/srv/db", "bytes", "winmix")
    assert due.body == {"probability": 0.3, "level": 9e11}
    assert (due.made_at, due.due_at, due.score) == (noon, noon + 7 * DAY, None)
    score_forecast(history, due.id, {"came_true": False}, now=noon + 8 * DAY)
    score_forecast(history, due.id, {"came_true": True}, now=noon + 9 * DAY)
    assert [one.score for one in scored_forecasts(history)] == [{"came_true": False}]
    store_forecast(
        history,
        "db-01",
        "/srv/db",
        resource="bytes",
        made_at=noon,
        due_at=noon + 7 * DAY,
        method="winmix",
        body={"probability": 1.0},
    )
    assert scored_forecasts(history)[0].body["probability"] == 0.3
    assert len(due_forecasts(history, noon + 31 * DAY)) == 1
