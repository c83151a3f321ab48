"""A disk that is really full: nothing of what was stored is lost, and writing goes on when there is room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import HistoryError, SqliteHistory

pytestmark = pytest.mark.lab


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB in memory."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.fail("this test mounts a small tmpfs and needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_history_that_has_no_room_to_begin_leaves_nothing_half_and_begins_when_there_is(
    small_disk: Path, noon: datetime, disk: Callable[..., list[Sample]]
) -> None:
    told: list[str] = []
    for room in range(4, 1000, 40):
        subprocess.run(["mount", "-o", f"remount,size={room}k", small_disk], check=True)
        with SqliteHistory(small_disk / "h.sqlite") as history:
            try:
                history.store_snapshot("db-01", noon, disk(noon, 0))
            except HistoryError as error:
                told.append(error.what)
                continue
            assert history.check() == []
            break
    else:
        pytest.fail("it never began")
    assert len(told) > 3
    assert all("the disk is full" in what for what in told)  # never "damaged"


def test_a_full_disk_is_told_and_loses_nothing(
    small_disk: Path, noon: datetime, disk: Callable[..., list[Sample]]
) -> None:
    path = small_disk / "h.sqlite"
    stored = 0
    with SqliteHistory(path) as history:
        ballast = small_disk / "ballast"
        history.store_snapshot("db-01", noon, disk(noon, 0))
        stored += 1
        ballast.write_bytes(b"x" * 1_500_000)

        def fill() -> None:
            nonlocal stored
            for step in range(1, 100_000):
                time = noon + timedelta(minutes=5 * step)
                samples = [sample for n in range(20) for sample in disk(time, step * 1e6, mountpoint=f"/srv/{n}")]
                history.store_snapshot("db-01", time, samples)
                stored += 1

        with pytest.raises(HistoryError) as caught:
            fill()
        assert "the disk is full" in caught.value.what
        assert str(path) in str(caught.value)
        assert "unharmed" in caught.value.true_now
        assert stored > 10
        # Reading goes on, failures are told just as well, and compaction neither helps nor harms.
        assert len(history.series("node_filesystem_size_bytes", {"mountpoint": "/srv/3"})[0].times) == stored - 1
        with pytest.raises(HistoryError, match="full"):
            history.compact(noon + timedelta(days=3))
        assert history.check() == []
    with SqliteHistory(path) as history:
        assert len(history.series("node_filesystem_size_bytes", {"mountpoint": "/srv/3"})[0].times) == stored - 1
        ballast.unlink()
        later = noon + timedelta(days=90)
        history.store_snapshot("db-01", later, disk(later, 5e9, mountpoint="/srv/3"))
        history.compact(noon + timedelta(days=3))
        assert history.check() == []
        (series,) = history.series("node_filesystem_size_bytes", {"mountpoint": "/srv/3"}, end=later)
        assert len(series.times) == stored


def test_a_history_cannot_begin_on_a_full_disk_and_leaves_nothing(small_disk: Path, noon: datetime) -> None:
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(HistoryError, match=r"full|No space"):
        SqliteHistory(small_disk / "h.sqlite").store_snapshot("db-01", noon, [Sample("node_load1", 1, noon)])
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]
    ballast.unlink()
    SqliteHistory(small_disk / "h.sqlite").store_snapshot("db-01", noon, [Sample("node_load1", 1, noon)])
