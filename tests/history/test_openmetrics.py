"""A history can move to a Prometheus server: what was exported and made into blocks reads the same there."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory
from runbooks_lib.history.openmetrics import export
from runbooks_lib.history.prometheus import PrometheusHistory


def test_odd_names_are_escaped_or_left_out(history: SqliteHistory, noon: datetime) -> None:
    labels = {"mountpoint": 'a"b\\c\nd\udcff', "ümlaut": "x", "empty": ""}
    history.store_snapshot("db-01", noon, [Sample("node_x", 0.5, noon, labels), Sample("übel", 1, noon)])
    file = io.StringIO()
    assert export(history, file) == (1, ("übel",))
    second = int(noon.timestamp())
    assert file.getvalue() == (
        "# TYPE node_x unknown\n"
        f'node_x{{instance="db-01",job="node",mountpoint="a\\"b\\\\c\\nd?"}} 0.5 {second}\n# EOF\n'
    )


@pytest.mark.lab
def test_an_exported_history_reads_the_same_from_prometheus(
    history: SqliteHistory,
    disk: Callable[..., list[Sample]],
    prometheus: Callable[..., AbstractContextManager[str]],
) -> None:
    start = datetime.fromtimestamp(int(time.time()) // 86_400 * 86_400, UTC) - timedelta(days=6)
    for step in range(5 * 288):
        when = start + timedelta(minutes=5 * step)
        history.store_snapshot("db-01", when, disk(when, 20e9 + 1e6 * ((step * 37) % 288), mountpoint='/srv/ü "x"'))
    history.compact()
    file = io.StringIO()
    written, left_out = export(history, file)
    assert written == 5 * 288 * 8
    assert left_out == ()
    ours = history.filesystem("db-01", '/srv/ü "x"')
    with prometheus(file.getvalue()) as url:
        theirs = PrometheusHistory(url).filesystem("db-01", '/srv/ü "x"')
    assert ours is not None
    assert theirs is not None
    for column in ("days", "used_bytes_max", "size_bytes", "reserved_bytes", "inodes_used_max", "inodes_total"):
        np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column), err_msg=column)
    assert (theirs.samples, theirs.last_time) == (ours.samples, ours.last_time)
