"""Every other way on one practice machine whose service works and whose database is written to all the while.

One load runs through all of the file. Around each way: commits go on, a build is finished, neither the database nor
the service was started anew, and nothing that was acknowledged is lost; at the end nothing that was refused is there.
What is a matter of filesystems or of PostgreSQL alone is tested natively beside this file. The ordinary run has the
quick ones."""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.procedures.storage.way import Way
from runbooks_lib.runbook.plan import Verdict
from runbooks_lib.runbook.resume import open_run
from runbooks_lib.runbook.run import Options, Refused, Run
from runbooks_lib.training.lab import faults
from runbooks_lib.training.lab.faults.sql import psql
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine, connected
from tests.procedures.storage.work import (
    GIB,
    PATIENCE,
    aim_at,
    available,
    done,
    fill,
    oracle,
    plan_of,
    spare_disk,
    undone,
    ways_by_name,
)

pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1200)]

# Half an hour on a machine that much other work keeps busy.
more = pytest.mark.skipif(os.environ.get("RUNBOOKS_MORE_WAYS") != "1", reason="RUNBOOKS_MORE_WAYS=1 runs it")

DATABASE = "/srv/db"
LOGS = f"{DATABASE}/build-server-logs"
MIB = 2**20
_WAL_BYTES = 72 * MIB
_SERVICES = "systemctl show -p MainPID -p NRestarts -p ActiveState postgresql@15-main build-server"


@dataclass(frozen=True)
class Busy:
    """The machine, a connection to it, and the clients that write to its database."""

    machine: Machine
    host: SshHost
    load: Load

    @contextlib.contextmanager
    def going_on(self, name: str) -> Iterator[None]:
        """What is done meanwhile stops neither clients nor services: a build that is queued before it is finished."""
        before, acknowledged = self.machine.sh(_SERVICES, changes=False), self.load.acknowledged
        build = queued(self.machine)
        begun = time.monotonic()
        yield
        seconds, count = time.monotonic() - begun, self.load.acknowledged - acknowledged
        gap = self.load.longest_gap(since=begun).seconds
        self.load.wait_acknowledged(5, seconds=PATIENCE)
        while psql(self.machine, f"select state from builds where id = {build}").strip() != "finished":  # noqa: S608
            assert time.monotonic() < begun + seconds + PATIENCE
            time.sleep(0.5)
        assert self.machine.sh(_SERVICES, changes=False) == before
        assert count > 0
        assert not self.load.missing()
        print(f"{name}: {seconds:.1f} s, {count} commits meanwhile, at most {gap:.1f} s apart")

    def ways(self, mountpoint: str = DATABASE, want_bytes: int = GIB) -> dict[str, Way]:
        return ways_by_name(self.host, mountpoint, want_bytes)

    def done(self, way: Way, options: Options, parameters: Mapping[str, Any] | None = None) -> None:
        """The way, as it was offered, and what it gained."""
        assert way.offered, way
        with self.going_on(way.name):
            done(self.host, way.runbook, parameters or way.parameters, options)

    def gained(self, way: Way, before: int) -> None:
        """About as foretold by df: meanwhile PostgreSQL keeps more of its WAL or less, up to max_wal_size, and a small
        filesystem's journal does not grow with it."""
        assert way.gain_bytes is not None
        gained = available(self.machine) - before
        assert 0.97 * way.gain_bytes - _WAL_BYTES <= gained <= 1.08 * way.gain_bytes + _WAL_BYTES, (way, gained)


@pytest.fixture(scope="module")
def busy(session_machine: Machine) -> Iterator[Busy]:
    try:
        with connected(session_machine) as host, oracle(session_machine) as load:
            load.wait_acknowledged(5, seconds=PATIENCE)
            yield Busy(session_machine, host, load)
        assert load.verify().ok
    finally:
        session_machine.reset()


def queued(machine: Machine) -> int:
    """One more build for the service; its number."""
    address, port = machine.address("http")
    body = json.dumps({"buildType": {"id": "Core_Compile"}}).encode()
    with urllib.request.urlopen(f"http://{address}:{port}/app/rest/buildQueue", data=body, timeout=60) as answer:
        return int(json.load(answer)["id"])


def volume_bytes(machine: Machine) -> int:
    return int(machine.sh("lvs --noheadings --nosuffix --units b -o lv_size data/db", changes=False))


def loop_device(machine: Machine, name: str, mib: int) -> str:
    """A disk that comes later, on the root filesystem."""
    said = machine.sh(f"truncate -s {mib}M /var/tmp/{name} && losetup -f --show -P /var/tmp/{name}")
    return said.strip()


@more
def test_an_inactive_slot_is_dropped_and_postgresql_itself_removes_the_wal(busy: Busy, options: Options) -> None:
    faults.inject(busy.machine, "disk-full-wal-slot")
    before = available(busy.machine)
    way = busy.ways()["drop-slot:standby_02"]
    busy.done(way, options)
    busy.gained(way, before)
    assert psql(busy.machine, "select count(*) from pg_replication_slots").strip() == "0"
    with pytest.raises(Refused, match="cannot be brought back"):
        undone(busy.host, way.runbook, way.parameters, options)


@more
def test_a_failing_archiver_is_mended_and_postgresql_itself_removes_the_wal(busy: Busy, options: Options) -> None:
    faults.inject(busy.machine, "disk-full-wal-archive")
    before = available(busy.machine)
    (way,) = (way for name, way in busy.ways().items() if name.startswith("mend-archiver"))
    busy.done(way, options)
    busy.gained(way, before)
    assert psql(busy.machine, "show archive_command").strip() == "/bin/true"


@more
def test_the_reserve_is_lowered_and_raised_again(busy: Busy, options: Options) -> None:
    def kept() -> int:
        block, free, may = busy.machine.sh(f"stat -f -c '%S %f %a' {DATABASE}", changes=False).split()
        return int(block) * (int(free) - int(may))

    way, before = busy.ways()["lower-reserve"], kept()
    busy.done(way, options)
    assert way.gain_bytes == pytest.approx(before - kept(), rel=0.1)
    with busy.going_on("lower-reserve, undone"):
        undone(busy.host, way.runbook, way.parameters, options)
    assert kept() == before


@more
def test_a_log_that_the_service_writes_is_archived_and_named_files_move(busy: Busy, options: Options) -> None:
    machine = busy.machine
    machine.sh(
        f"cd {LOGS}; seq -f 'line %014.0f' 2000000 | head -n 2000000 >app.log; head -c 20M /dev/urandom >artifact-1.tar"
        '; sync -f .; systemd-run --quiet --unit=app sh -c \'n=2000001; while :; do printf "line %014d\\n" $n'
        f" >>{LOGS}/app.log; n=$((n + 1)); sleep 0.1; done'"
    )
    way = busy.ways()[f"archive-log:{LOGS}/app.log"]
    blocks = int(machine.sh(f"stat -c %b {LOGS}/app.log", changes=False))
    busy.done(way, options, {**way.parameters, "store": "/srv/scratch/aside"})
    freed = (blocks - int(machine.sh(f"stat -c %b {LOGS}/app.log", changes=False))) * 512
    assert freed == pytest.approx(way.gain_bytes, rel=0.01)
    machine.sh(
        f"systemctl stop app; cd {LOGS}; n={way.parameters['length']}; {{ zcat /srv/scratch/aside/app.log.*.gz;"
        " tail -c +$((n + 1)) app.log; } | awk '{ if ($2 + 0 != NR) exit 1 } END { if (NR < 2000001) exit 1 }'"
        "; rm app.log"
    )
    given = {"mountpoint": DATABASE, "files": [f"{LOGS}/artifact-1.tar"], "store": "/srv/scratch/aside"}
    with busy.going_on("move-files"):
        done(busy.host, "move-files", given, options)
    assert machine.sh(f"ls {LOGS}/artifact-1.tar", check=False, changes=False) == ""
    with busy.going_on("move-files, undone"):
        undone(busy.host, "move-files", given, options)
    machine.sh(f"rm {LOGS}/artifact-1.tar")


def test_a_service_that_can_be_reloaded_closes_its_deleted_log(busy: Busy, options: Options) -> None:
    busy.machine.sh(
        f"""cat >/usr/local/bin/chatter <<'END'
#!/bin/bash
open() {{ exec 3>>{LOGS}/chatter.log; }}
trap open HUP
open
while :; do sleep 0.2; done
END
chmod +x /usr/local/bin/chatter
printf '[Service]\\nUser=buildserver\\nExecStart=/usr/local/bin/chatter\\nExecReload=kill -HUP $MAINPID\\n' \\
    >/etc/systemd/system/chatter.service
systemctl daemon-reload; systemctl start chatter; sleep 1
cd {LOGS}; runuser -u buildserver -- fallocate -l 100M chatter.log; rm chatter.log"""
    )
    held = f"lsof -nP -a +L1 {DATABASE} 2>/dev/null | grep -c chatter.log || :"
    way = busy.ways()["reload-service:chatter.service"]
    assert way.gain_bytes == 100 * MIB
    assert busy.machine.sh(held, changes=False).strip() != "0"
    busy.done(way, options)
    assert busy.machine.sh(held, changes=False).strip() == "0"


@more
def test_packages_and_the_journal_of_a_full_root_filesystem(busy: Busy, options: Options) -> None:
    machine = busy.machine
    machine.sh("cp /usr/bin/python3.11 /var/cache/apt/archives/python3_1_amd64.deb")
    faults.inject(machine, "journal-full")
    machine.sh("journalctl --rotate")
    fill(machine, "/var/tmp")
    assert "No space left" in machine.sh("cp /etc/services /root/more 2>&1", check=False)
    # Nothing of ours needs room there either: LVM keeps its records below /etc.
    way = busy.ways(want_bytes=GIB // 8)["extend-volume"]
    busy.done(way, options)
    assert volume_bytes(machine) == way.parameters["to_mib"] * MIB
    ways = busy.ways("/")
    for name in ("clean-packages", "vacuum-journal"):
        before = int(machine.sh("stat -f -c %f /", changes=False))
        busy.done(ways[name], options)
        assert int(machine.sh("stat -f -c %f /", changes=False)) > before
    assert machine.sh("ls /var/cache/apt/archives/*.deb 2>/dev/null", check=False, changes=False) == ""
    machine.sh("rm -f /var/tmp/filler-*; logger still here; sleep 1; journalctl -n 50 | grep -q 'still here'")


@more
def test_disks_that_hold_anything_are_refused_with_the_reason(busy: Busy) -> None:
    machine, device = busy.machine, spare_disk(busy.machine)
    name = f"add-disk:{device}"
    machine.sh(f"echo precious | dd of={device} bs=64k seek=128 conv=notrunc 2>/dev/null")
    assert "data of a kind that is not known" in busy.ways()[name].refused
    machine.sh(f"mkswap {device}")
    assert "it holds swap" in busy.ways()[name].refused
    for wrong in (device, "/dev/vda", "/dev/vdd", "/dev/data/scratch", "/dev/null"):
        plan = plan_of(busy.host, "extend-volume", {"mountpoint": DATABASE, "to_mib": 2000, "device": wrong})
        assert plan.blocked, wrong
    machine.sh(f"dd if=/dev/zero of={device} bs=1M count=40 conv=notrunc 2>/dev/null")


@more
def test_a_new_disk_joins_and_is_given_back_until_the_filesystem_is_grown(busy: Busy, options: Options) -> None:
    machine, device = busy.machine, spare_disk(busy.machine)
    way = busy.ways(want_bytes=3 * GIB)[f"add-disk:{device}"]
    before = volume_bytes(machine)
    aim = aim_at(busy.host, way.runbook, way.parameters)
    plan = aim.plan()
    assert [step.verdict for step in plan.steps] == [Verdict.ALREADY_SO, *[Verdict.WOULD_RUN] * 3]
    run = open_run(aim, replace(options, approve=plan.digest), plan)
    assert isinstance(run, Run)
    with busy.going_on("a new disk, given back"):
        for name in ("partition", "add", "extend"):
            run.do(aim.runbook.step(name))
        assert volume_bytes(machine) > before
        run.close()
        undone(busy.host, way.runbook, way.parameters, options)
    assert volume_bytes(machine) == before
    assert machine.sh(f"pvs {device} 2>&1; blkid -p {device}; echo $?", check=False).strip().endswith("2")
    free = available(machine)
    busy.done(way, replace(options, again="for good"))
    busy.gained(way, free)


@more
def test_a_volume_in_no_group_joins_and_later_its_larger_partition_is_used(busy: Busy, options: Options) -> None:
    machine = busy.machine
    disk = loop_device(machine, "later", 600)
    machine.sh(
        f"echo ', 200M' | sfdisk -q --label dos {disk}; partx --update {disk}; udevadm settle; pvcreate -q {disk}p1"
    )
    free = available(machine)
    way = busy.ways(want_bytes=4 * GIB)[f"add-volume:{disk}p1"]
    busy.done(way, options)
    busy.gained(way, free)
    free = available(machine)
    way = busy.ways(want_bytes=GIB // 4)[f"grow-volume:{disk}p1"]
    busy.done(way, options)
    busy.gained(way, free)


def test_a_partition_with_a_filesystem_grows_into_the_space_behind_it(busy: Busy, options: Options) -> None:
    machine = busy.machine
    disk = loop_device(machine, "partitioned", 400)
    machine.sh(
        f"echo ', 100M' | sfdisk -q --label gpt {disk}; partx --update {disk}; udevadm settle;"
        f" mkfs.ext4 -q {disk}p1; mkdir -p /srv/more; mount {disk}p1 /srv/more"
    )
    free = available(machine, "/srv/more")
    way = busy.ways("/srv/more")["grow-filesystem"]
    busy.done(way, options)
    assert way.gain_bytes is not None
    assert 0.9 <= (available(machine, "/srv/more") - free) / way.gain_bytes <= 1.35  # its journal does not grow


def test_none_of_it_kept_the_clients_waiting_for_long(busy: Busy) -> None:
    gap = busy.load.longest_gap()
    print(f"all ways: {busy.load.acknowledged} commits, at most {gap.seconds:.1f} s apart; {busy.load.refusals}")
    assert gap.seconds < 30
    assert not busy.load.refusals
