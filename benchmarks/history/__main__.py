"""Run the benchmark and print its table: `python -m benchmarks.history [--days 365]`."""

from __future__ import annotations

import argparse
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.history.model_host import snapshots
from runbooks_lib.history import Series, SqliteHistory

START = datetime(2024, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)
HOST = "db-01"
TIERS = {0: "samples, 14 days", 1: "hours, a year", 2: "days, for ever"}

Row = tuple[str, str]


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--days", type=int, default=365, help="how long the host is collected; default 365")
    days = parser.parse_args().days
    with tempfile.TemporaryDirectory() as directory:
        rows = [*_a_year_of_a_host(Path(directory) / "year.sqlite", days), *_a_year_at_five_minutes(Path(directory))]
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.machine()}, {days} days\n")
    print("| what | measured |\n| --- | --- |")
    for what, measured in rows:
        print(f"| {what} | {measured} |")


def _a_year_of_a_host(path: Path, days: int) -> list[Row]:
    """One host collected every five minutes and compacted once a day, as the timer does it."""
    count = days * 288
    storing = compacting = storing_wall = compacting_wall = 0.0
    samples_in_one = 0
    with SqliteHistory(path) as history:
        for index, (when, samples) in enumerate(snapshots(START, STEP, count)):
            samples_in_one = len(samples)
            cpu, wall = time.process_time(), time.perf_counter()
            history.store_snapshot(HOST, when, samples)
            storing += time.process_time() - cpu
            storing_wall += time.perf_counter() - wall
            if index % 288 == 12:
                cpu, wall = time.process_time(), time.perf_counter()
                history.compact(when)
                compacting += time.process_time() - cpu
                compacting_wall += time.perf_counter() - wall
    end = START + count * STEP
    stored = samples_in_one + 12
    with closing(sqlite3.connect(path)) as plain:
        series = plain.execute("SELECT count(*) FROM series").fetchone()[0]
        by_tier = dict(plain.execute("SELECT (key >> 20) & 15, sum(length(data)) FROM block GROUP BY 1").fetchall())
        young = plain.execute("SELECT sum(length(data)) FROM snapshot").fetchone()[0]
    size = path.stat().st_size
    rows = [
        (
            "series of the host (samples in a snapshot, and derived)",
            f"{series} ({samples_in_one} + {stored - samples_in_one})",
        ),
        ("storing a snapshot, CPU", f"{storing / count * 1e3:.2f} ms"),
        ("storing a snapshot, with the wait for the disk", f"{storing_wall / count * 1e3:.2f} ms"),
        (
            "written one after another",
            f"{count / storing_wall:.0f} snapshots, {count * stored / storing_wall:,.0f} samples a second",
        ),
        ("compacting one day of the host, CPU", f"{compacting / days * 1e3:.0f} ms"),
        (f"the file after {days} days", f"{size / 1e6:.1f} MB"),
        *((f"of it {name}", f"{by_tier.get(tier, 0) / 1e6:.2f} MB") for tier, name in TIERS.items()),
        ("of it the youngest day", f"{young / 1e6:.2f} MB"),
        ("each further year adds (days)", f"{by_tier.get(2, 0) * 365 / days / 1e6:.2f} MB"),
    ]
    partition = _median(lambda history: history.filesystem(HOST, "/srv/db", end=end), path)
    year = _median(lambda history: history.series("node_load1", {"instance": HOST}, end=end), path)
    with SqliteHistory(path) as history:
        six = [mountpoint for _, mountpoint in history.filesystems(HOST)]
    all_six = _median(lambda history: [history.filesystem(HOST, name, end=end) for name in six], path)
    rows += [
        ("reading one partition's 400 days (FilesystemHistory), file opened anew", partition),
        (f"reading all {len(six)} partitions of the host", all_six),
        ("reading one year of one series as kept (hours, then 14 days of samples)", year),
    ]
    return rows


def _a_year_at_five_minutes(directory: Path) -> list[Row]:
    """One series of which every sample of a year is still kept."""
    path = directory / "fine.sqlite"
    count = 365 * 288
    end = START + count * STEP
    random = np.random.default_rng(1)
    times = np.datetime64(START.replace(tzinfo=None), "s") + np.arange(count) * np.timedelta64(300, "s")
    values = np.cumsum(random.integers(0, 1 << 20, count)) * 4096.0
    labels = {"instance": HOST, "device": "/dev/sda1", "fstype": "ext4", "mountpoint": "/srv/db"}
    series = [
        Series("node_filesystem_size_bytes", labels, times, np.full(count, 2.0**50)),
        Series("node_filesystem_free_bytes", labels, times, 2.0**50 - values),
    ]
    with SqliteHistory(path, raw_days=400) as history:
        history.import_series(series, origin="benchmark", now=end)
        (found,) = history.series("node_filesystem_free_bytes", end=end)
        assert len(found.times) == count
        assert np.array_equal(found.values, series[1].values)
    fine = _median(lambda history: history.series("node_filesystem_free_bytes", end=end), path)
    partition = _median(lambda history: history.filesystem(HOST, "/srv/db", end=end), path)
    return [
        (f"reading one year of one series at 5 minutes ({count:,} samples)", fine),
        ("its partition's FilesystemHistory", partition),
    ]


def _median(read: Callable[[SqliteHistory], object], path: Path, times: int = 9) -> str:
    """The median time in words, each time with a history opened anew; the file is in the system's cache."""
    wall, cpu = [], []
    for _ in range(times):
        started, used = time.perf_counter(), time.process_time()
        with SqliteHistory(path) as history:
            read(history)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return f"{statistics.median(wall) * 1e3:.1f} ms ({statistics.median(cpu) * 1e3:.1f} ms of CPU)"


if __name__ == "__main__":
    main()
