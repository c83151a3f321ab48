"""LVM's past: kept by a collection that was asked to read it, and given back as groups and as pools."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from runbooks_lib import config
from runbooks_lib.facts import lvm
from runbooks_lib.history import SqliteHistory, collecting, volumes

GIB = 2**30
CAPTURED = Path(__file__).parents[1] / "facts/lvm/debian-12-thin-pool.json"


def captured() -> lvm.Lvm:
    output = json.loads(CAPTURED.read_text())["output"]
    return lvm.parse(*("\n".join(output[name]) for name in ("pvs", "vgs", "lvs")))


def filling(ratio: float, metadata: float, *, with_pool: bool = True) -> lvm.Lvm:
    """Group vg-0 with 40 GiB left, `root` outside and `db-1` inside thin pool `thin`, which is `ratio` full."""
    group = lvm.VolumeGroup("vg-0", 200 * GIB, 40 * GIB, 4 * 2**20, 51_200, 10_240, 0)
    pool = lvm.LogicalVolume(
        "thin", "vg-0", "thin-pool", "twi-aotz--", 100 * GIB, "", "", ratio, metadata, 128 * 2**20, ""
    )
    root = lvm.LogicalVolume(
        "root", "vg-0", "linear", "-wi-ao----", 60 * GIB, "", "", None, None, None, "/dev/vg-0/root"
    )
    thin = lvm.LogicalVolume(
        "db-1", "vg-0", "thin", "Vwi-aotz--", 300 * GIB, "thin", "", 0.3, None, None, "/dev/vg-0/db-1"
    )
    return lvm.Lvm((), (group,), (pool, root, thin) if with_pool else (root,))


def keep(history: SqliteHistory, told: lvm.Lvm, time: datetime) -> None:
    history.store_snapshot("tc-db-01", time, lvm.samples(told, time))


def test_what_is_kept_of_a_real_answer_names_pools_groups_and_mapped_devices() -> None:
    kept = {(one.name, *sorted(one.labels.values())): one.value for one in lvm.samples(captured(), datetime.now(UTC))}
    assert kept[lvm.POOL_SIZE_BYTES, "data", "pool"] == 419430400
    assert kept[lvm.POOL_USED_BYTES, "data", "pool"] == pytest.approx(0.725 * 419430400)
    assert kept[lvm.POOL_METADATA_USED_BYTES, "data", "pool"] == pytest.approx(0.1289 * 4194304)
    assert kept[lvm.VOLUME_SIZE_BYTES, "/dev/mapper/data-thinvol", "data", "pool", "thinvol"] == 1073741824
    assert not [name for name in kept if "tdata" in str(name)], "hidden volumes hold no file system"


def test_hyphens_in_names_are_doubled_as_device_mapper_does() -> None:
    (thin,) = [one for one in filling(0.5, 0.1).logical_volumes if one.name == "db-1"]
    assert lvm.device_of(thin) == "/dev/mapper/vg--0-db--1"


def test_a_pool_comes_back_in_the_shape_of_a_partition(history: SqliteHistory, noon: datetime) -> None:
    for day in range(40):
        at = noon - timedelta(days=39 - day)
        keep(history, filling(0.4 + 0.01 * day, 0.1), at - timedelta(hours=2))
        keep(history, filling(0.4 + 0.01 * day - 0.005, 0.1), at)
    assert volumes.pools_of(history, "tc-db-01", now=noon) == [("tc-db-01", "vg-0/thin")]
    past = volumes.past_of(history, "tc-db-01", "vg-0/thin", end=noon)
    assert past is not None
    assert (past.fstype, len(past.days)) == ("thin-pool", 40)
    assert past.used_bytes_max[-1] == pytest.approx(0.79 * 100 * GIB), "the highest of the day counts"
    assert np.all(past.size_bytes == 100 * GIB)
    assert past.inodes_used_max[-1] == pytest.approx(0.1 * 128 * 2**20)
    assert past.recent.values[-1] == pytest.approx(0.785 * 100 * GIB)


def test_a_group_is_as_it_was_when_lvm_was_last_read(history: SqliteHistory, noon: datetime) -> None:
    keep(history, filling(0.5, 0.1), noon - timedelta(days=2))
    keep(history, filling(0.5, 0.1, with_pool=False), noon)
    (group,) = volumes.groups_of(history, "tc-db-01", now=noon)
    assert (group.name, group.free_bytes, group.size_bytes, group.time) == ("vg-0", 40 * GIB, 200 * GIB, noon)
    assert [one.device for one in group.volumes] == ["/dev/mapper/vg--0-root"], "what was removed is gone"
    assert volumes.groups_of(history, "another", now=noon) == []


def test_a_pool_that_was_removed_is_no_longer_looked_at(history: SqliteHistory, noon: datetime) -> None:
    keep(history, filling(0.5, 0.1), noon - timedelta(days=2))
    keep(history, filling(0.5, 0.1, with_pool=False), noon)
    assert volumes.pools_of(history, "tc-db-01", now=noon) == []


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Config:
    """This machine, with commands of LVM that answer what was captured on a practice machine."""
    output = json.loads(CAPTURED.read_text())["output"]
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("pvs", "vgs", "lvs"):
        (tools / f"{name}.json").write_text("\n".join(output[name]))
        (tools / name).write_text(f"#!/bin/sh\ncat '{tools}/{name}.json'\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    file = tmp_path / "runbooks.toml"
    file.write_text('[history]\npath = "history.sqlite"\n[hosts.here]\nlocal = true\nlvm = true\n')
    return config.load(file)


@pytest.mark.lab
def test_collecting_keeps_lvm_where_the_inventory_asks_for_it(local: config.Config) -> None:
    (row,) = collecting.collect(local, local.select(), sample_seconds=0)
    assert row.ok, row.message
    assert local.history.path is not None
    with SqliteHistory(local.history.path) as kept:
        (group,) = volumes.groups_of(kept, "here", now=datetime.now(UTC) + timedelta(minutes=1))
    assert group.name == "data"


@pytest.mark.skipif(os.geteuid() == 0, reason="root is not refused")
def test_a_refused_lvm_is_told_and_costs_no_other_number(local: config.Config) -> None:
    (row,) = collecting.collect(local, local.select(), sample_seconds=0)
    assert not row.ok
    assert row.state == "ok"
    assert "LVM was not read" in row.message
    assert local.history.path is not None
    with SqliteHistory(local.history.path) as kept:
        assert kept.filesystems("here") or kept.series("node_load1", {"instance": "here"})
