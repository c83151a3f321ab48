"""A thin pool with two volumes on a practice machine, and several partitions on its volume group: what the collection
makes of LVM's own words, what the report says of it, and what is offered when the pool is full to the last block."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbooks_lib import config as inventory
from runbooks_lib.facts import lvm
from runbooks_lib.facts.collect import read_slow, read_snapshot
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.reports import disk_report
from runbooks_lib.runbook.run import Options, Refused
from runbooks_lib.training.lab.machine import Machine, connected
from tests.procedures.storage.work import done, undone

pytestmark = [
    pytest.mark.lab,
    pytest.mark.vm,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.environ.get("RUNBOOKS_MORE_WAYS") != "1", reason="minutes: RUNBOOKS_MORE_WAYS=1 runs it"),
]

ROOT = Path(__file__).parents[3]
DAYS = 300
GROWS = ("/srv/db", "/srv/scratch", "/srv/thin-a", "/srv/thin-b")
# Takes FILE MIB: one small write into each of the pool's chunks makes the pool give them all.
_TAKE = """import os, sys
with open(sys.argv[1], "wb") as file:
    os.posix_fallocate(file.fileno(), 0, int(sys.argv[2]) << 20)
    for at in range(0, int(sys.argv[2]) << 20, 1 << 19):
        file.seek(at)
        file.write(b"%016d" % at)
    file.flush()
    os.fsync(file.fileno())
"""
_HELD = """import sys
with open(sys.argv[1], "rb") as file:
    for at in range(0, int(sys.argv[2]) << 20, 1 << 19):
        file.seek(at)
        assert file.read(16) == b"%016d" % at, at
"""
# A report says nothing of what is smaller than a GiB.
_POOL = f"""lvcreate -q -y -L 1100M -c 512K -Z n --thinpool the-pool data
echo 600 >/sys/module/dm_thin_pool/parameters/no_space_timeout
cat >/root/take <<'END'
{_TAKE}END
cat >/root/held <<'END'
{_HELD}END
for each in a b; do
    lvcreate -q -y -V 1000M --thin -n thin-$each data/the-pool
    mkfs.ext4 -q /dev/data/thin-$each
    mkdir -p /srv/thin-$each; mount /dev/data/thin-$each /srv/thin-$each
    python3 /root/take /srv/thin-$each/data 440
done
fallocate -l 250M /srv/scratch/artifacts; sync"""
_USED = "lvs --noheadings -o data_percent data/the-pool"


@pytest.fixture
def pooled(machine: Machine) -> Iterator[Machine]:
    machine.sh(_POOL, deadline_seconds=120)
    try:
        yield machine
    finally:
        machine.reset()


@pytest.fixture
def host(pooled: Machine) -> Iterator[SshHost]:
    with connected(pooled) as opened:
        yield opened


@pytest.fixture
def config(pooled: Machine, tmp_path: Path) -> Path:
    file = tmp_path / "runbooks.toml"
    file.write_text(
        f'outputs = "out"\nssh_config = "{pooled.ssh_config}"\n[history]\npath = "history.sqlite"\n'
        f"[hosts.{pooled.name}]\nlvm = true\n[hosts.{pooled.name}.partitions]\n"
        '"/srv/db" = {}\n"/srv/scratch" = {}\n'
    )
    return file


def remember(host: SshHost, file: Path) -> None:
    """A past in which the pool, its volumes and the database grew to what they are now."""
    said = read_slow(host, ("lvm",)).lvm
    found = read_snapshot(host, sample_seconds=0, deadline_seconds=60).filesystems.require()
    assert said is not None
    now, whole = datetime.now(UTC), said.require()
    samples: list[Sample] = []
    for day in range(DAYS):
        share, then = 0.6 + 0.4 * day / DAYS, now - timedelta(days=DAYS - day)
        volumes = tuple(
            replace(each, data_ratio=each.data_ratio * share) if each.is_thin_pool and each.data_ratio else each
            for each in whole.logical_volumes
        )
        samples += lvm.samples(replace(whole, logical_volumes=volumes), then)
        for row in (found.at(place) for place in GROWS):
            assert row is not None
            assert row.usage is not None
            labels = {"device": row.device, "fstype": row.fstype, "mountpoint": row.mountpoint}
            used, size = row.usage.used_bytes * share, row.usage.size_bytes
            figures = (("size", size), ("free", size - used), ("avail", size - used - row.usage.reserved_bytes))
            samples += [Sample(f"node_filesystem_{name}_bytes", float(value), then, labels) for name, value in figures]
    history = SqliteHistory(file)
    history.import_samples(samples, origin="imported for a test", instance=host.name, now=now)
    history.close()


def runbook(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runbooks_lib", *words, "--config", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_pool_fills_and_not_the_volume_and_who_can_be_given_space(
    pooled: Machine, host: SshHost, config: Path, options: Options
) -> None:
    remember(host, config.parent / "history.sqlite")
    collected = runbook(config, "collect")
    assert collected.returncode == 0, collected.stdout + collected.stderr
    report = disk_report.prepare(inventory.load(config), now=datetime.now(UTC))
    told = {each.outlook.mountpoint: each.outlook for each in report.partitions}
    pool = told["data/the-pool"]
    assert pool.state in ("act", "watch"), pool
    assert f"Thin pool `data/the-pool` on {pooled.name}" in pool.sentence
    assert "`/srv/thin-a` and `/srv/thin-b` stop writing, whatever df shows there" in pool.sentence
    for volume in ("/srv/thin-a", "/srv/thin-b"):
        assert told[volume].state == "ok"
        assert "It draws from thin pool `data/the-pool`" in told[volume].sentence
    (sentence,) = report.groups
    assert f"Volume group `data` on {pooled.name} has " in sentence
    assert "`data/the-pool` can" in sentence, sentence  # be given, or not
    assert "`/srv/scratch` can" in sentence, sentence
    print(pool.sentence, sentence, sep="\n")

    # One writes on until the pool is full, and then waits for space; df goes on showing plenty.
    pooled.sh(
        "systemd-run --quiet --unit=writer python3 /root/take /srv/thin-a/more 300;"
        f" i=0; until [ $({_USED} | cut -d. -f1) -ge 100 ]; do i=$((i + 1)); [ $i -lt 240 ]; sleep 0.5; done",
        deadline_seconds=180,
    )
    said = runbook(config, "relieve", pooled.name, "/srv/thin-a", "--json")
    found = json.loads(said.stdout)
    ways = {way["name"]: way for way in found["ways"]}
    way = ways["extend-pool"]
    assert not way["refused"], way
    assert found["usage"]["avail_bytes"] > 100 * 2**20
    assert way["gain_bytes"] > 64 * 2**20
    assert found["enough"] == ["extend-pool"]
    assert all("until `fstrim` is run" in each["refused"] for each in ways.values() if each["name"] == "lower-reserve")
    assert "is a thin volume" in ways["extend-volume"]["refused"]
    words = runbook(config, "relieve", pooled.name, "/srv/thin-a").stdout
    assert "It draws from the thin pool data/the-pool" in words
    print(words)
    done(host, way["runbook"], way["parameters"], options)
    end = time.monotonic() + 120
    while "active" in (state := pooled.sh("systemctl is-active writer", check=False, changes=False)).split():
        assert time.monotonic() < end
        time.sleep(1)
    assert state.strip() == "inactive", "the writer has failed"
    pooled.sh("echo 3 >/proc/sys/vm/drop_caches; python3 /root/held /srv/thin-a/more 300")
    assert pooled.sh("journalctl -k -q | grep -i 'i/o error\\|ext4-fs error'", check=False, changes=False) == ""
    assert "extend-pool" in {way["name"] for way in json.loads(
        runbook(config, "relieve", pooled.name, "/srv/thin-a", "--json").stdout)["ways"]}  # fmt: skip
    with pytest.raises(Refused, match="does not make a thin pool smaller"):
        undone(host, way["runbook"], way["parameters"], options)
