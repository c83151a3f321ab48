"""What is stored is what is read, across the tiers, whatever the clock does."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbooks_lib.config import HistorySettings
from runbooks_lib.errors import UsageError
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import HistoryMissing, Series, SqliteHistory, open_history
from runbooks_lib.history.prometheus import PrometheusHistory

Disk = Callable[..., list[Sample]]
GB = 1e9
DAY = timedelta(days=1)


def seconds(*times: datetime) -> list[int]:
    return [int(time.timestamp()) for time in times]


def load(time: datetime, value: float) -> list[Sample]:
    return [Sample("node_load1", value, time)]


def test_a_snapshot_reads_back_with_its_labels(history: SqliteHistory, noon: datetime, disk: Disk) -> None:
    history.store_snapshot("db-01", noon, [*disk(noon, 20 * GB), *load(noon, 0.5)])
    (found,) = history.series("node_load1")
    assert found.labels == {"instance": "db-01"}
    assert found.times.dtype == np.dtype("datetime64[s]")
    assert found.times.tolist() == [noon.replace(tzinfo=None)]
    assert found.values.tolist() == [0.5]
    assert found.origins == ("collected",)
    (size,) = history.series("node_filesystem_size_bytes", {"mountpoint": "/srv/db", "instance": "db-01"})
    assert size.labels == {"instance": "db-01", "device": "/dev/sdb1", "fstype": "ext4", "mountpoint": "/srv/db"}
    assert history.series("node_filesystem_size_bytes", {"mountpoint": "/"}) == []
    assert history.series("node_load1", {"instance": "db-02"}) == []
    assert history.instances() == ["db-01"]
    assert history.filesystems() == history.filesystems("db-01") == [("db-01", "/srv/db")]
    assert history.filesystems("db-02") == []


def test_the_partition_of_one_snapshot(history: SqliteHistory, noon: datetime, disk: Disk) -> None:
    history.store_snapshot("db-01", noon, disk(noon, 20 * GB, inodes_used=77))
    found = history.filesystem("db-01", "/srv/db", end=noon + DAY)
    assert found is not None
    assert found.days.tolist() == [noon.date()]
    assert found.used_bytes_max.tolist() == [20 * GB]
    assert found.size_bytes.tolist() == [100 * GB]
    assert found.reserved_bytes.tolist() == [5 * GB]
    assert found.inodes_used_max.tolist() == [77]
    assert found.inodes_total.tolist() == [6.5e6]
    assert found.recent.values.tolist() == [20 * GB]
    assert (found.last_time, found.samples, found.origins) == (noon, 1, ("collected",))
    assert (found.device, found.fstype) == ("/dev/sdb1", "ext4")
    assert history.filesystem("db-01", "/") is None
    assert history.filesystem("db-02", "/srv/db") is None


@pytest.mark.parametrize("compacted", [False, True])
def test_the_days_maximum_is_right_on_the_day_of_a_resize(
    history: SqliteHistory, noon: datetime, disk: Disk, compacted: bool
) -> None:
    # 95 of 100 GB, then 96 of 400 GB. From the day's size and the day's free it would be 395 or 4.
    for hour, (used, size) in enumerate([(90, 100), (95, 100), (96, 400), (70, 400)]):
        time = noon + timedelta(hours=hour)
        history.store_snapshot("db-01", time, disk(time, used * GB, size=size * GB))
    if compacted:
        assert history.compact(noon + 2 * DAY).snapshots == 4
    found = history.filesystem("db-01", "/srv/db", end=noon + 2 * DAY)
    assert found is not None
    assert found.used_bytes_max.tolist() == [96 * GB]
    assert found.size_bytes.tolist() == [400 * GB]


def test_another_device_behind_the_mount_point_never_mixes_within_a_day(
    history: SqliteHistory, noon: datetime, disk: Disk
) -> None:
    history.store_snapshot("db-01", noon - DAY, disk(noon - DAY, 90 * GB))
    history.store_snapshot("db-01", noon, disk(noon, 91 * GB))
    later = noon + timedelta(hours=1)
    history.store_snapshot("db-01", later, disk(later, 60 * GB, size=900 * GB, device="/dev/vg/db"))
    found = history.filesystem("db-01", "/srv/db", end=noon + DAY)
    assert found is not None
    assert found.device == "/dev/vg/db"
    assert found.used_bytes_max.tolist() == [90 * GB, 60 * GB]
    assert found.size_bytes.tolist() == [100 * GB, 900 * GB]
    assert found.recent.values.tolist() == [90 * GB, 91 * GB, 60 * GB]


def test_each_age_is_kept_in_its_tier(history: SqliteHistory, noon: datetime) -> None:
    start = noon - 500 * DAY
    history.import_samples(
        (sample for step in range(500 * 8) for sample in load(start + timedelta(hours=3 * step), step % 8)),
        origin="test",
        instance="db-01",
        now=noon,
    )
    history.import_samples(
        (sample for step in range(60) for sample in load(noon - 300 * DAY + timedelta(minutes=step), 100 + step)),
        origin="test",
        instance="db-01",
        now=noon,
    )
    (found,) = history.series("node_load1", end=noon)
    ages = (np.datetime64(noon.replace(tzinfo=None), "s") - found.times) / np.timedelta64(1, "D")
    assert np.count_nonzero(ages > 365.5) == pytest.approx(134, abs=2)  # one a day
    assert np.count_nonzero(ages <= 365.5) == pytest.approx(8 * 365.5, abs=9)  # every third hour, once an hour
    # Sixty samples of one hour a year ago are one value, their last.
    hour = (found.times >= np.datetime64(int((noon - 300 * DAY).timestamp()), "s")) & (ages > 300 - 1 / 24)
    assert found.values[hour].tolist() == [159]
    days = history.filesystem("db-01", "/", end=noon)
    assert days is None


def test_compacting_changes_nothing_that_is_read(history: SqliteHistory, noon: datetime, disk: Disk) -> None:
    times = [noon - timedelta(minutes=5 * step) for step in range(3 * 288)]
    for step, time in enumerate(times):
        history.store_snapshot("db-01", time, disk(time, 20 * GB + step))
    before = history.filesystem("db-01", "/srv/db", end=noon)
    series = history.series("node_filesystem_free_bytes", end=noon)
    for _ in range(2):
        history.compact(noon)
        after = history.filesystem("db-01", "/srv/db", end=noon)
        assert before is not None
        assert after is not None
        for column in ("days", "used_bytes_max", "size_bytes", "reserved_bytes", "inodes_used_max", "inodes_total"):
            np.testing.assert_array_equal(getattr(after, column), getattr(before, column))
        assert (after.samples, after.last_time, after.origins) == (before.samples, before.last_time, before.origins)
        np.testing.assert_array_equal(after.recent.times, before.recent.times)
        (again,) = history.series("node_filesystem_free_bytes", end=noon)
        np.testing.assert_array_equal(again.values, series[0].values)
    assert history.compact(noon).days == 0


def test_old_samples_go_and_their_days_stay(history: SqliteHistory, noon: datetime) -> None:
    start = noon - 30 * DAY
    for step in range(30 * 4):
        time = start + timedelta(hours=6 * step)
        history.store_snapshot("db-01", time, load(time, step))
        history.compact(time)
    history.compact(noon)
    (found,) = history.series("node_load1", end=noon)
    assert len(found.times) == 30 * 4  # an hour's last value is its only one here
    with SqliteHistory(history.path) as fresh:
        fresh.compact(noon)
    with sqlite3.connect(history.path) as plain:
        raw = plain.execute("SELECT count(*) FROM block WHERE (key >> 20) & 15 = 0").fetchone()[0]
        assert raw == 14
        assert plain.execute("SELECT count(*) FROM snapshot").fetchone()[0] == 2  # today's


def test_a_clock_that_went_back_loses_and_doubles_nothing(history: SqliteHistory, noon: datetime, disk: Disk) -> None:
    forward = [noon + timedelta(minutes=5 * step) for step in range(12)]
    back = [noon - timedelta(hours=1) + timedelta(minutes=5 * step, seconds=30) for step in range(30)]
    for step, time in enumerate([*forward, *back]):
        history.store_snapshot("db-01", time, disk(time, 20 * GB + step))
        if step in (5, 20):
            history.compact(noon + DAY)  # while days are already in blocks
    history.compact(noon + 2 * DAY)
    found = history.filesystem("db-01", "/srv/db", end=noon + DAY)
    assert found is not None
    assert found.recent.times.astype(np.int64).tolist() == sorted(seconds(*forward, *back))
    assert found.used_bytes_max.tolist() == [20 * GB + 41]
    collection = history.last_collection("db-01")
    assert collection is not None
    assert collection.time == back[-1]


def test_a_late_snapshot_is_added_to_a_day_whose_samples_are_gone(history: SqliteHistory, noon: datetime) -> None:
    for day in range(40):
        time = noon + day * DAY
        history.store_snapshot("db-01", time, load(time, day))
        history.compact(time)
    late = noon + timedelta(minutes=10)
    history.store_snapshot("db-01", late, load(late, 99))
    for _ in range(2):
        (found,) = history.series("node_load1", end=noon + 2 * DAY)
        assert found.values.tolist()[-3:] == ([0, 99, 1, 2][-3:])
        history.compact(noon + 41 * DAY)
    (found,) = history.series("node_load1", end=noon + DAY / 2)
    assert found.values.tolist() == [99]  # the hour's last
    assert found.times.astype(np.int64).tolist() == seconds(late)


def test_one_run_with_a_clock_years_ahead_costs_at_most_a_day(history: SqliteHistory, noon: datetime) -> None:
    for day in range(20):
        time = noon + day * DAY
        history.store_snapshot("db-01", time, load(time, day))
        history.compact(time)
    ahead = noon + timedelta(days=4000)
    history.store_snapshot("db-01", ahead, load(ahead, 1000))
    history.compact(ahead)
    history.compact(ahead + 2 * DAY)
    now = noon + 20 * DAY
    history.store_snapshot("db-01", now, load(now, 20))
    history.compact(now + DAY)
    (found,) = history.series("node_load1", end=now)
    assert found.values.tolist() == list(range(21))
    with sqlite3.connect(history.path) as plain:
        assert plain.execute("SELECT count(*) FROM block WHERE (key >> 20) & 15 = 0").fetchone()[0] >= 14


def test_a_day_that_is_packed_by_a_clock_years_ahead_keeps_its_samples(history: SqliteHistory, noon: datetime) -> None:
    times = [noon + timedelta(minutes=minutes) for minutes in range(0, 120, 5)]
    for number, time in enumerate(times):
        history.store_snapshot("db-01", time, load(time, number))
    history.compact(noon + timedelta(days=2000))
    history.compact(noon + 2 * DAY)
    (found,) = history.series("node_load1", end=noon + DAY)
    assert found.values.tolist() == list(range(len(times)))
    with sqlite3.connect(history.path) as plain:
        tiers = plain.execute("SELECT DISTINCT (key >> 20) & 15 FROM block ORDER BY 1").fetchall()
    assert tiers == [(0,), (1,), (2,)]


def test_the_future_is_kept_and_read_when_it_has_come(history: SqliteHistory) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    ahead = now + timedelta(days=3)
    history.store_snapshot("db-01", now, load(now, 1))
    history.store_snapshot("db-01", ahead, load(ahead, 2))
    assert history.compact().snapshots == 0
    assert history.series("node_load1")[0].values.tolist() == [1]
    assert history.series("node_load1", end=ahead)[0].values.tolist() == [1, 2]


def test_the_same_second_twice_is_one_snapshot_of_both(history: SqliteHistory, noon: datetime) -> None:
    history.store_snapshot("db-01", noon, [Sample("node_load1", 1, noon), Sample("node_load5", 1, noon)])
    history.store_snapshot("db-01", noon, [Sample("node_load1", 2, noon), Sample("node_load15", 3, noon)])
    values = {name: history.series(name)[0].values.tolist() for name in ("node_load1", "node_load5", "node_load15")}
    assert values == {"node_load1": [2], "node_load5": [1], "node_load15": [3]}


def test_an_import_twice_is_an_import_once(history: SqliteHistory, noon: datetime, disk: Disk) -> None:
    samples = [
        sample
        for step in range(450 * 4)
        for sample in disk(noon - timedelta(hours=6 * step), 20 * GB + 1e6 * (step % 97))
    ]
    first = history.import_samples(samples, origin="imported from x.csv", instance="db-01", now=noon)
    assert (first.samples, first.series, first.instances) == (len(samples), 6, ("db-01",))
    before = history.filesystem("db-01", "/srv/db", end=noon, days=500)
    for part in (samples, samples[:1000], samples[500:]):
        history.import_samples(part, origin="imported from x.csv", instance="db-01", now=noon)
    after = history.filesystem("db-01", "/srv/db", end=noon, days=500)
    assert before is not None
    assert after is not None
    assert after.samples == before.samples == 450 * 4
    np.testing.assert_array_equal(after.used_bytes_max, before.used_bytes_max)
    assert after.origins == ("imported from x.csv",)


def test_import_and_collection_stand_side_by_side_with_their_origins(
    history: SqliteHistory, noon: datetime, disk: Disk
) -> None:
    past = [sample for day in range(1, 50) for sample in disk(noon - day * DAY, 10 * GB)]
    history.import_samples(past, origin="example", instance="db-01", now=noon)
    history.store_snapshot("db-01", noon, disk(noon, 20 * GB))
    found = history.filesystem("db-01", "/srv/db", end=noon)
    assert found is not None
    assert found.origins == ("example", "collected")
    for month in range(1, 30):
        time = noon + timedelta(days=30 * month)
        history.store_snapshot("db-01", time, disk(time, 20 * GB))
        history.compact(time + 2 * DAY)
    found = history.filesystem("db-01", "/srv/db", end=noon + timedelta(days=900), days=2000)
    assert found is not None
    assert found.origins == ("example", "collected")
    recent = history.filesystem("db-01", "/srv/db", end=noon + timedelta(days=900), days=100)
    assert recent is not None
    assert recent.origins == ("collected",)


def test_whole_series_are_imported_like_their_samples(history: SqliteHistory, noon: datetime) -> None:
    times = np.arange(0, 86_400, 300).astype("timedelta64[s]") + np.datetime64("2025-03-08T00:00:00", "s")
    labels = {"instance": "db-01", "mountpoint": "/", "device": "x", "fstype": "xfs"}
    whole = Series("node_filesystem_size_bytes", labels, times, np.full(288, 100.0))
    free = Series("node_filesystem_free_bytes", labels, times, np.linspace(90, 10, 288))
    history.import_series([whole, free], origin="example", now=noon)
    found = history.filesystem("db-01", "/", end=noon)
    assert found is not None
    assert found.used_bytes_max.tolist() == [90]
    assert found.samples == 288


def test_what_cannot_be_imported_is_refused_whole(history: SqliteHistory, noon: datetime) -> None:
    history.store_snapshot("db-01", noon, load(noon, 1))
    with pytest.raises(UsageError, match="without a host"):
        history.import_samples(load(noon, 1), origin="x", now=noon)
    with pytest.raises(UsageError, match="from the future"):
        history.import_samples(load(noon + 3 * DAY, 1), origin="x", instance="db-01", now=noon)
    nat = Series("node_load1", {"instance": "a"}, np.array(["NaT"], dtype="datetime64[s]"), np.array([1.0]))
    with pytest.raises(UsageError, match="before 1970"):
        history.import_series([nat], origin="x", now=noon)
    with pytest.raises(UsageError, match="not collected"):
        history.import_samples(load(noon, 1), origin="collected", instance="db-01", now=noon)
    with pytest.raises(UsageError, match="an origin"):
        history.import_samples(load(noon, 1), origin="a\nb", instance="db-01", now=noon)
    with pytest.raises(UsageError, match="zone"):
        history.store_snapshot("db-01", datetime(2026, 1, 1), load(noon, 1))  # noqa: DTZ001
    assert history.instances() == ["db-01"]


def test_failures_are_remembered_and_the_last_attempt_is_told(history: SqliteHistory, noon: datetime) -> None:
    history.prepare()
    assert history.last_collection("db-01") is None
    history.store_snapshot("db-01", noon, load(noon, 1))
    for minute in range(1, 300):
        history.record_failure("db-01", noon + timedelta(minutes=minute), "unreachable", "no route \udcff")
    found = history.last_collection("db-01")
    assert found is not None
    assert (found.time, found.state, found.message) == (noon + timedelta(minutes=299), "unreachable", "no route ?")
    with sqlite3.connect(history.path) as plain:
        assert plain.execute("SELECT count(*), max(count) FROM failure").fetchone() == (1, 299)
    history.record_failure("db-02", noon, "refused", "")
    assert history.instances() == ["db-01", "db-02"]
    history.store_snapshot("db-01", noon, load(noon, 1))
    assert history.last_collection("db-01").state == "ok"  # type: ignore[union-attr]


names = st.text(min_size=1, max_size=20)


@given(mountpoint=names, device=names, other=names)
@settings(max_examples=25, deadline=None)
def test_labels_of_any_unicode_come_back(
    tmp_path_factory: pytest.TempPathFactory, mountpoint: str, device: str, other: str
) -> None:
    time = datetime(2026, 3, 10, tzinfo=UTC)
    labels = {"mountpoint": mountpoint, "device": device, "fstype": "ext4", other: "\udcff\x00\n'\""}
    samples = [Sample(f"node_filesystem_{name}_bytes", 5.0, time, labels) for name in ("size", "free")]
    with SqliteHistory(tmp_path_factory.mktemp("any") / "h.sqlite") as history:
        history.store_snapshot("db-01", time, samples)
        assert history.filesystems() == [("db-01", labels["mountpoint"])]
        (found,) = history.series("node_filesystem_size_bytes")
        assert found.labels == {**labels, "instance": "db-01"}
        assert history.filesystem("db-01", labels["mountpoint"]) is not None


@pytest.mark.parametrize("name", ["", "a\nb", "a\x00", "\ud800"])
def test_a_host_whose_name_cannot_be_is_refused(history: SqliteHistory, noon: datetime, name: str) -> None:
    with pytest.raises(UsageError, match="host's name"):
        history.store_snapshot(name, noon, load(noon, 1))
    with pytest.raises(UsageError, match="host's name"):
        history.record_failure(name, noon, "x", "")


def test_an_end_within_a_day_shows_nothing_of_what_came_later(
    history: SqliteHistory, noon: datetime, disk: Disk
) -> None:
    times = [noon + timedelta(minutes=10 * step) for step in range(40 * 144)]
    history.import_samples(
        [sample for step, time in enumerate(times) for sample in disk(time, step * 1e6)],
        origin="test",
        instance="db-01",
        now=noon + 40 * DAY,
    )
    for age_days in (35, 3):  # where hours are kept, and where samples are
        end = noon + (40 - age_days) * DAY + timedelta(minutes=1)
        found = history.filesystem("db-01", "/srv/db", end=end)
        assert found is not None
        latest = max(step for step, time in enumerate(times) if time <= end)
        # Hours are taken whole: the one that holds `end` is left out.
        assert latest - 6 <= found.used_bytes_max[-1] / 1e6 <= latest
        assert found.last_time <= end
        assert found.days[-1].item() == end.date()


def test_threads_store_at_the_same_time(history: SqliteHistory, noon: datetime) -> None:
    def work(host: int) -> None:
        for step in range(20):
            time = noon + timedelta(seconds=step)
            history.store_snapshot(f"host-{host}", time, load(time, step))

    threads = [threading.Thread(target=work, args=(host,)) for host in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = history.series("node_load1")
    assert len(found) == 16
    assert all(series.values.tolist() == list(range(20)) for series in found)


def test_a_reader_sees_each_sample_once_while_days_are_compacted(tmp_path: Path, noon: datetime, disk: Disk) -> None:
    path = tmp_path / "h.sqlite"
    with SqliteHistory(path) as writer:
        for step in range(10 * 24):
            time = noon + timedelta(hours=step)
            writer.store_snapshot("db-01", time, disk(time, step * GB / 10))
        stop = threading.Event()
        wrong: list[object] = []

        def read() -> None:
            with SqliteHistory(path) as reader:
                while not stop.is_set():
                    found = reader.filesystem("db-01", "/srv/db", end=noon + 10 * DAY)
                    if found is None or found.samples != 240 or len(found.recent.times) != 240:
                        wrong.append(found)

        thread = threading.Thread(target=read)
        thread.start()
        for day in range(12):
            writer.compact(noon + day * DAY)
        stop.set()
        thread.join()
    assert wrong == []


def test_an_open_notebook_sees_what_a_timer_adds(tmp_path: Path, noon: datetime, disk: Disk) -> None:
    path = tmp_path / "h.sqlite"
    with SqliteHistory(path) as timer, SqliteHistory(path) as notebook:
        for step in range(5):
            time = noon + timedelta(minutes=step)
            timer.store_snapshot("db-01", time, disk(time, step * GB, mountpoint=f"/m{step}"))
            assert len(notebook.filesystems()) == step + 1
            assert len(notebook.series("node_filesystem_files")) == step + 1


def test_the_settings_say_which_history(tmp_path: Path) -> None:
    opened = open_history(HistorySettings(path=tmp_path / "h.sqlite"))  # type: ignore[call-arg]
    assert isinstance(opened, SqliteHistory)
    with pytest.raises(HistoryMissing, match="no history yet"):
        opened.instances()
    assert not (tmp_path / "h.sqlite").exists()
    server = open_history(HistorySettings(url="http://127.0.0.1:1", instance_label="node"))  # type: ignore[call-arg]
    assert isinstance(server, PrometheusHistory)
    with pytest.raises(UsageError, match="neither"):
        open_history(HistorySettings())  # type: ignore[call-arg]
