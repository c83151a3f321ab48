"""The history and the import on a real Prometheus, with blocks written by promtool."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.history import HistoryError, SqliteHistory
from runbooks_lib.history.import_prometheus import import_prometheus, instances_of
from runbooks_lib.history.prometheus import PrometheusHistory
from runbooks_lib.history.prometheus_api import PrometheusApi

pytestmark = pytest.mark.lab

Server = Callable[..., AbstractContextManager[str]]

DAY = 86_400
GB = 1e9
STEP = 300
TODAY = int(time.time()) // DAY * DAY
FIRST = TODAY - 40 * DAY
RESIZED = FIRST + 20 * DAY + DAY // 2  # at noon: 100 GB become 400 GB

METRICS = ("size_bytes", "free_bytes", "avail_bytes", "files", "files_free")


def value(metric: str, second: int) -> float:
    """A disk that grows by a GB a day, with a peak of 7 GB at six every morning; resized once."""
    size = 100 * GB if second < RESIZED else 400 * GB
    peak = 7 * GB if second % DAY == 6 * 3600 else 0
    used = 20 * GB + (second - FIRST) / DAY * GB + peak
    inodes_used = 1000 + (second - FIRST) // 3600
    return {
        "size_bytes": size,
        "free_bytes": size - used,
        "avail_bytes": size - used - 0.05 * size,
        "files": 6e6,
        "files_free": 6e6 - inodes_used,
    }[metric]


def past(
    instance: str = "db-01:9100", mountpoint: str = "/srv/db", extra: str = "", since: int = FIRST, until: int = TODAY
) -> str:
    lines = []
    for metric in METRICS:
        labels = f'instance="{instance}",job="node",device="/dev/sdb1",fstype="ext4",mountpoint="{mountpoint}"{extra}'
        lines += [
            f"node_filesystem_{metric}{{{labels}}} {value(metric, second)!r} {second}"
            for second in range(since, until, STEP)
        ]
    return "\n".join(lines) + "\n# EOF\n"


def test_a_partition_of_a_server_reads_like_one_of_the_file(prometheus: Server) -> None:
    with prometheus(past()) as url:
        history = PrometheusHistory(url)
        assert history.filesystems() == [("db-01", "/srv/db")]
        assert history.filesystems("db-01") == [("db-01", "/srv/db")]
        assert history.filesystems("db-0") == []
        assert history.instances() == ["db-01"]
        found = history.filesystem("db-01", "/srv/db")
        assert found is not None
        assert found.days[0] == np.datetime64(FIRST, "s").astype("datetime64[D]")
        assert len(found.days) == 40
        assert (found.device, found.fstype) == ("/dev/sdb1", "ext4")
        # The highest value of each day: 23:55, or six o'clock's peak, also on the day of the resize.
        starts = found.days.astype("datetime64[s]").astype(np.int64)
        expected = [max(20 * GB + (s + 6 * 3600 - FIRST) / DAY * GB + 7 * GB, 0) for s in starts.tolist()]
        np.testing.assert_allclose(found.used_bytes_max, expected)
        assert found.size_bytes[19] == 100 * GB
        assert found.size_bytes[20] == 400 * GB
        np.testing.assert_allclose(found.reserved_bytes, 0.05 * found.size_bytes)
        assert found.inodes_used_max[3] == 1000 + 4 * 24 - 1
        assert set(found.inodes_total) == {6e6}
        assert abs(found.samples - 40 * 288) <= 40
        assert found.last_time == datetime.fromtimestamp(TODAY - STEP, UTC)
        recent = found.recent.times.astype(np.int64)
        assert recent[-1] == TODAY - STEP or recent[-1] == TODAY  # the server repeats a value for five minutes
        assert recent[0] >= time.time() - 14 * DAY - STEP
        assert found.origins == (f"Prometheus at {url.removeprefix('http://')}",)


def test_a_target_whose_port_or_job_has_changed_is_one_host_with_one_past(prometheus: Server, tmp_path: Path) -> None:
    changed = TODAY - 5 * DAY + 8 * 3600
    before = past("db-01:9200", until=changed).removesuffix("# EOF\n")
    after = past("db-01:9100", since=changed).replace('job="node"', 'job="hosts"')
    plain = past("db-02").removesuffix("# EOF\n")
    with prometheus(plain + before + after) as url:
        expected = PrometheusHistory(url).filesystem("db-02", "/srv/db")
        found = PrometheusHistory(url).filesystem("db-01", "/srv/db")
        assert expected is not None
        assert found is not None
        np.testing.assert_array_equal(found.days, expected.days)
        np.testing.assert_allclose(found.used_bytes_max, expected.used_bytes_max)
        np.testing.assert_allclose(found.size_bytes, expected.size_bytes)
        np.testing.assert_allclose(found.inodes_used_max, expected.inodes_used_max)
        np.testing.assert_array_equal(found.recent.times, expected.recent.times)
        np.testing.assert_allclose(found.recent.values, expected.recent.values)
        assert found.last_time == expected.last_time
        (theirs,) = PrometheusHistory(url).series("node_filesystem_free_bytes", {"instance": "db-02"})
        (series,) = PrometheusHistory(url).series("node_filesystem_free_bytes", {"instance": "db-01"})
        np.testing.assert_array_equal(series.times, theirs.times)
        np.testing.assert_allclose(series.values, theirs.values)
        history = SqliteHistory(tmp_path / "history.sqlite")
        start, end = datetime.fromtimestamp(TODAY - 12 * DAY, UTC), datetime.fromtimestamp(TODAY - 1, UTC)
        brought = import_prometheus(history, PrometheusApi(url), start=start, end=end, instances=["db-01"], now=end)
        assert brought.samples == {"db-01": 12 * 288 * len(METRICS)}
        kept = history.filesystem("db-01", "/srv/db", end=end)
        assert kept is not None
        assert len(kept.days) == 12, "none is missing in the week of the change"
        history.close()


def test_an_end_in_the_past_shows_nothing_of_what_came_later(prometheus: Server) -> None:
    with prometheus(past()) as url:
        end = datetime.fromtimestamp(FIRST + 10 * DAY + 4 * 3600, UTC)
        found = PrometheusHistory(url).filesystem("db-01", "/srv/db", end=end, days=5)
        assert found is not None
        assert len(found.days) == 5
        # Up to the step before four o'clock, and without six o'clock's peak.
        np.testing.assert_allclose(found.used_bytes_max[-1], 20 * GB + (10 + (4 * 3600 - STEP) / DAY) * GB)
        np.testing.assert_allclose(found.used_bytes_max[-2], 27 * GB + 9.25 * GB)
        assert found.last_time <= end
        assert found.recent.times[-1] <= np.datetime64(int(end.timestamp()), "s")


def test_names_are_matched_whole_and_quoted(prometheus: Server) -> None:
    mountpoint = 'odd "one" \\ $1.*+ ü'
    escaped = mountpoint.replace("\\", "\\\\").replace('"', '\\"')
    lines = "".join(
        past(instance, f"/{escaped}", until=FIRST + 30 * STEP).removesuffix("# EOF\n")
        for instance in ("db.01", "db-01:9100", "[::1]:9100")
    )
    with prometheus(lines + "# EOF\n") as url:
        history = PrometheusHistory(url)
        end = datetime.fromtimestamp(FIRST + 30 * STEP, UTC)
        assert history.filesystem("db.01", f"/{mountpoint}", end=end) is not None
        assert history.filesystem("::1", f"/{mountpoint}", end=end) is not None
        assert history.filesystem("db-0", f"/{mountpoint}", end=end) is None
        assert history.filesystem(".*", f"/{mountpoint}", end=end) is None
        assert history.filesystem("db.01", "/.*", end=end) is None
        only = history.series("node_filesystem_files", {"instance": "db.01"}, end=end)
        assert [series.labels["instance"] for series in only] == ["db.01"]


def test_a_series_has_even_steps_and_its_labels(prometheus: Server) -> None:
    with prometheus(past()) as url:
        start = datetime.fromtimestamp(TODAY - 2 * DAY, UTC)
        (found,) = PrometheusHistory(url).series(
            "node_filesystem_free_bytes", {"instance": "db-01", "mountpoint": "/srv/db"}, start=start
        )
        assert found.labels == {"instance": "db-01", "device": "/dev/sdb1", "fstype": "ext4", "mountpoint": "/srv/db"}
        seconds = found.times.astype(np.int64)
        assert set(np.diff(seconds)) == {STEP}
        assert found.values[5] == value("free_bytes", int(seconds[5]))
        (long,) = PrometheusHistory(url).series("node_filesystem_free_bytes")
        assert long.times[0] <= np.datetime64(FIRST + 3600, "s")


def test_the_import_is_what_the_server_has_and_again_changes_nothing(prometheus: Server, tmp_path: Path) -> None:
    with prometheus(past()) as url, SqliteHistory(tmp_path / "h.sqlite") as history:
        api = PrometheusApi(url)
        start, end = datetime.fromtimestamp(FIRST, UTC), datetime.fromtimestamp(TODAY - STEP, UTC)
        assert instances_of(api, start=start, end=end) == {"db-01": ("db-01:9100",)}
        heard: list[float] = []
        done = import_prometheus(
            history,
            api,
            start=start,
            end=end,
            instances={"db-01": "tc-db-01"},
            on_progress=lambda _, x: heard.append(x),
        )
        assert done.samples == {"tc-db-01": 40 * 288 * len(METRICS)}
        assert heard[-1] == 1.0
        first = history.filesystem("tc-db-01", "/srv/db")
        assert first is not None
        assert first.origins == (f"imported from Prometheus at {url.removeprefix('http://')}",)
        assert first.samples == 40 * 288
        theirs = PrometheusHistory(url).filesystem("db-01", "/srv/db")
        assert theirs is not None
        for column in ("days", "used_bytes_max", "size_bytes", "reserved_bytes", "inodes_used_max", "inodes_total"):
            np.testing.assert_array_equal(getattr(first, column), getattr(theirs, column), err_msg=column)
        import_prometheus(history, api, start=start, end=end, instances={"db-01:9100": "tc-db-01"})
        again = history.filesystem("tc-db-01", "/srv/db")
        assert again is not None
        assert again.samples == first.samples
        np.testing.assert_array_equal(again.used_bytes_max, first.used_bytes_max)
        np.testing.assert_array_equal(again.recent.times, first.recent.times)
        with pytest.raises(UsageError, match="does not know db-02"):
            import_prometheus(history, api, start=start, end=end, instances=["db-02"])


def test_a_server_without_hosts_says_so(prometheus: Server, history: SqliteHistory) -> None:
    with prometheus() as url:
        empty = PrometheusHistory(url)
        assert empty.filesystems() == []
        assert empty.filesystem("db-01", "/srv/db") is None
        assert empty.last_collection("db-01") is None
        assert empty.series("node_load1") == []
        with pytest.raises(HistoryError, match="no file systems of any host"):
            import_prometheus(
                history,
                PrometheusApi(url),
                start=datetime.now(UTC) - timedelta(days=1),
                end=datetime.now(UTC),
            )


def test_the_servers_own_error_is_told(prometheus: Server) -> None:
    with prometheus() as url, pytest.raises(HistoryError, match="parse error"):
        PrometheusApi(url).query("node_load1{", time=time.time())


def test_a_live_node_exporter_is_read_and_its_death_is_seen(
    prometheus: Server, needs: Callable[..., None], free_port: Callable[[], int], tmp_path: Path
) -> None:
    needs(("prometheus-node-exporter", "prometheus-node-exporter"))
    port = free_port()
    exporter = subprocess.Popen(
        ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        job = f'{{job_name: node, static_configs: [{{targets: ["localhost:{port}"]}}]}}'
        with prometheus(scrape=job) as url:
            history = PrometheusHistory(url)
            _until(lambda: bool(history.filesystems("localhost")))
            collection = history.last_collection("localhost")
            assert collection is not None
            assert collection.state == "ok"
            found = history.filesystem("localhost", "/")
            assert found is not None
            assert found.used_bytes_max[-1] > 0
            with SqliteHistory(tmp_path / "h.sqlite") as file:
                now = datetime.now(UTC)
                import_prometheus(
                    file, PrometheusApi(url), start=now - timedelta(minutes=1), end=now, step_seconds=15, now=now
                )
                (load,) = file.series("node_load1", {"instance": "localhost"})
                assert load.values[-1] >= 0
            exporter.kill()
            exporter.wait()
            _until(lambda: history.last_collection("localhost").state == "unreachable")  # type: ignore[union-attr]
    finally:
        exporter.kill()
        exporter.wait()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "waited for 30 s"
        time.sleep(0.3)
