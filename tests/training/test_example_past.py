"""The example past: labelled, the same for the same moment, and of four tempers."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from runbooks_lib.capacity import outlook
from runbooks_lib.config import PartitionSettings
from runbooks_lib.errors import UsageError
from runbooks_lib.history import SqliteHistory
from runbooks_lib.training import example_past

NOW = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> SqliteHistory:
    store = SqliteHistory(tmp_path_factory.mktemp("example") / "history.sqlite")
    example_past.write(store, "example-host", now=NOW)
    return store


def test_the_same_moment_gives_the_same_past() -> None:
    assert example_past.samples("a", now=NOW) == example_past.samples("a", now=NOW + timedelta(minutes=59))
    assert example_past.samples("a", now=NOW) != example_past.samples("a", now=NOW, seed=8)


def test_every_sample_is_possible_and_under_an_example_name() -> None:
    samples = example_past.samples("a", now=NOW)
    by_key: dict[tuple[str, datetime], dict[str, float]] = {}
    for sample in samples:
        assert sample.labels["mountpoint"].startswith("/example/")
        assert sample.time <= NOW
        by_key.setdefault((sample.labels["mountpoint"], sample.time), {})[sample.name] = sample.value
    for values in by_key.values():
        assert len(values) == 6
        assert 0 <= values["node_filesystem_avail_bytes"] <= values["node_filesystem_free_bytes"]
        assert values["node_filesystem_free_bytes"] <= values["node_filesystem_size_bytes"]
        assert 0 < values["node_filesystem_files_free"] < values["node_filesystem_files"]


def test_every_partition_is_marked_as_example_in_the_history(history: SqliteHistory) -> None:
    mounts = [mountpoint for _, mountpoint in history.filesystems("example-host")]
    assert sorted(mounts) == sorted(temper.mountpoint for temper in example_past.TEMPERS)
    for mountpoint in mounts:
        past = history.filesystem("example-host", mountpoint, end=NOW)
        assert past is not None
        assert past.origins == ("example",)


@pytest.mark.parametrize("days_later", [0, 1, 10, 37, 100, 200])
def test_one_needs_a_person_one_is_watched_one_is_well_and_one_cannot_be_told(tmp_path: Path, days_later: int) -> None:
    now = NOW + timedelta(days=days_later, hours=days_later)
    history = SqliteHistory(tmp_path / "history.sqlite")
    example_past.write(history, "example-host", now=now)
    states = {}
    for temper in example_past.TEMPERS:
        past = history.filesystem("example-host", temper.mountpoint, end=now)
        assert past is not None
        states[temper.mountpoint] = outlook(past, PartitionSettings(temper.mountpoint), now=now).state
    assert states == {
        "/example/db": "act",
        "/example/log": "watch",
        "/example/home": "ok",
        "/example/new": "cannot tell",
    }


def test_a_second_writing_on_the_same_day_changes_nothing(tmp_path: Path) -> None:
    history = SqliteHistory(tmp_path / "history.sqlite")
    now = datetime.now(UTC)
    assert example_past.write(history, "a", now=now) > 10_000
    assert example_past.write(history, "a", now=now + timedelta(hours=3)) == 0
    assert example_past.write(history, "b", now=now) > 10_000


def test_a_second_example_on_top_of_an_older_one_is_refused(tmp_path: Path) -> None:
    history = SqliteHistory(tmp_path / "history.sqlite")
    example_past.write(history, "a", now=datetime.now(UTC) - timedelta(days=3))
    with pytest.raises(UsageError, match=r"an example past of .* already"):
        example_past.write(history, "a", now=datetime.now(UTC))


def test_the_resized_one_was_resized_once(history: SqliteHistory) -> None:
    past = history.filesystem("example-host", "/example/home", end=NOW)
    assert past is not None
    sizes = Counter(np.round(past.size_bytes / 2**30).tolist())
    assert set(sizes) == {200.0, 320.0}
    assert past.used_bytes_max.max() < past.size_bytes.max()


def test_the_young_one_is_hours_old(history: SqliteHistory) -> None:
    past = history.filesystem("example-host", "/example/new", end=NOW)
    assert past is not None
    assert len(past.days) <= 2
