"""LVM on the capacity report's page: the pool fills, not the volume; and who can still be given space."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbooks_lib import config
from runbooks_lib.facts import lvm
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory
from runbooks_lib.reports import disk_report
from runbooks_lib.reports.disk_report import DiskReport

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
GIB = 2.0**30
MIB = 2**20


def volume(name: str, gib: float, *, pool: str = "", kind: str = "linear") -> lvm.LogicalVolume:
    size = int(gib * GIB)
    return lvm.LogicalVolume(name, "vg0", kind, "-wi-ao----", size, pool, "", None, None, None, f"/dev/vg0/{name}")


def disk(mountpoint: str, device: str, size: float, used: float, time: datetime) -> list[Sample]:
    labels = {"device": f"/dev/mapper/vg0-{device}", "fstype": "ext4", "mountpoint": mountpoint}
    figures = (("size", size), ("free", size - used), ("avail", size - used))
    return [Sample(f"node_filesystem_{name}_bytes", gib * GIB, time, labels) for name, gib in figures]


def group(free_gib: float, *volumes: lvm.LogicalVolume) -> lvm.Lvm:
    return lvm.Lvm((), (lvm.VolumeGroup("vg0", 1000 * 2**30, 0, MIB, 0, int(free_gib * 1024), 0),), tuple(volumes))


def prepared(directory: Path, history: SqliteHistory) -> DiskReport:
    history.compact(NOW)
    file = directory / "runbooks.toml"
    file.write_text('[history]\npath = "history.sqlite"\n[hosts.tc-db-01]\n')
    return disk_report.prepare(config.load(file), now=NOW)


@pytest.fixture
def history(tmp_path: Path) -> SqliteHistory:
    return SqliteHistory(tmp_path / "history.sqlite")


def fill(history: SqliteHistory, days: int, day: object) -> None:
    samples = [
        sample
        for number in range(days)
        for sample in day(number / (days - 1), NOW - timedelta(days=days - 1 - number))  # type: ignore[operator]
    ]
    history.import_samples(samples, origin="imported", instance="tc-db-01", now=NOW)


def test_the_pool_fills_and_not_the_volume(tmp_path: Path, history: SqliteHistory) -> None:
    def day(done: float, time: datetime) -> list[Sample]:
        pool = lvm.LogicalVolume(
            "thin", "vg0", "thin-pool", "twi-aotz--", int(100 * GIB), "", "", 0.3 + 0.55 * done, 0.1, 128 * MIB, ""
        )
        both = [volume(name, 300, pool="thin", kind="thin") for name in ("db", "log")]
        return [
            *lvm.samples(group(5, pool, *both), time),
            *disk("/srv/db", "db", 300, 20 + 40 * done, time),
            *disk("/srv/log", "log", 300, 10 + 15 * done, time),
        ]

    fill(history, 300, day)
    report = prepared(tmp_path, history)
    pool, *volumes = report.partitions
    assert pool.outlook.state in {"watch", "act"}
    assert pool.outlook.sentence.startswith("Thin pool `vg0/thin` on tc-db-01 will pass 90 % ")
    assert "When it is full, `/srv/db` and `/srv/log` stop writing, whatever df shows there." in pool.outlook.sentence
    assert [one.outlook.state for one in volumes] == ["ok", "ok"]
    for one in volumes:
        assert "It draws from thin pool `vg0/thin` (85 % full), which counts first." in one.outlook.sentence
    needs = report.needs().text
    assert "to thin pool `vg0/thin` on tc-db-01" in needs
    assert "Volume group `vg0` on tc-db-01 has 5 GiB left: `vg0/thin` cannot: it needs" in needs


def test_the_metadata_of_a_pool_may_end_first(tmp_path: Path, history: SqliteHistory) -> None:
    def day(done: float, time: datetime) -> list[Sample]:
        pool = lvm.LogicalVolume(
            "thin", "vg0", "thin-pool", "twi-aotz--", int(100 * GIB), "", "", 0.3, 0.2 + 0.65 * done, 4000 * MIB, ""
        )
        return lvm.samples(group(5, pool), time)

    fill(history, 300, day)
    (pool,) = prepared(tmp_path, history).partitions
    assert pool.outlook.resource == "metadata"
    assert "will pass 90 % of its metadata between" in pool.outlook.sentence


def test_who_can_still_be_given_space(tmp_path: Path, history: SqliteHistory) -> None:
    def day(done: float, time: datetime) -> list[Sample]:
        return [
            *lvm.samples(group(200, volume("db", 100), volume("log", 400), volume("home", 50)), time),
            *disk("/srv/db", "db", 100, 20 + 65 * done, time),
            *disk("/srv/log", "log", 400, 20 + 300 * done, time),
            *disk("/home", "home", 50, 5, time),
        ]

    fill(history, 365, day)
    report = prepared(tmp_path, history)
    (sentence,) = report.groups
    assert sentence.startswith("Volume group `vg0` on tc-db-01 has 200 GiB left: `/srv/db` can be given the ")
    assert "`/srv/log` cannot: it needs " in sentence
    assert "left then" in sentence
    assert sentence in report.needs().text


def test_a_group_that_nobody_needs_of_is_said_to_be_so(tmp_path: Path, history: SqliteHistory) -> None:
    def day(_: float, time: datetime) -> list[Sample]:
        return [*lvm.samples(group(200, volume("home", 50)), time), *disk("/home", "home", 50, 5, time)]

    fill(history, 200, day)
    assert prepared(tmp_path, history).groups == (
        "Volume group `vg0` on tc-db-01 has 200 GiB left; nothing need be added to `/home`.",
    )
