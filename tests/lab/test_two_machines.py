"""The other filesystem, the other role, and the link between two machines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.training.lab import faults, lab, world
from runbooks_lib.training.lab.faults import disk
from runbooks_lib.training.lab.faults.sql import psql
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine
from tests.lab.seen import inject_see_and_remove

# The first test of a run may have to build the image.
pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1200)]

LINK = f"pair-{os.getpid()}"


@pytest.fixture(scope="module")
def old() -> Iterator[Machine]:
    with lab.held_machine(f"old-{os.getpid()}", filesystem="xfs", link=LINK, say=print) as machine:
        yield machine


@pytest.fixture(scope="module")
def new(old: Machine) -> Iterator[Machine]:
    assert old.record.link_address == "10.77.0.1"
    with lab.held_machine(f"new-{os.getpid()}", role_name="database", link=LINK, save=False, say=print) as machine:
        yield machine


@pytest.fixture(scope="module")
def before(old: Machine) -> world.World:
    return world.look(old)


# Those in which the filesystem itself acts: until the very end, for a file that has no name, and after an error.
ON_XFS = ("disk-full-log", "disk-full-deleted", "read-only")
EVERY = tuple(one.name for one in disk.FAULTS if "xfs" in one.filesystems)


@pytest.mark.parametrize("name", EVERY if os.environ.get("RUNBOOKS_LAB_EVERY") else ON_XFS)
def test_a_fault_of_the_disk_is_made_seen_and_removed_on_xfs(old: Machine, before: world.World, name: str) -> None:
    try:
        inject_see_and_remove(old, before, name)
    except BaseException:
        old.reset()
        raise


def test_a_fault_that_xfs_cannot_have_is_refused(old: Machine) -> None:
    assert old.sh("findmnt -no FSTYPE /srv/db", changes=False).strip() == "xfs"
    with pytest.raises(UsageError, match="needs a database on ext4"):
        faults.inject(old, "inodes")


def test_a_standby_on_the_empty_host_follows_over_the_link(old: Machine, new: Machine) -> None:
    with Load([old.address("postgres"), new.address("postgres")]) as load:
        load.wait_acknowledged(20)
        new.sh(
            f"export PGPASSWORD={old.record.passwords['replicator']}"
            r"""
cd /; cluster=/srv/db/postgresql/15/main
pg_createcluster 15 main --datadir $cluster
printf "listen_addresses = '*'\nmax_connections = 60\nwal_level = logical\n" > /etc/postgresql/15/main/conf.d/lab.conf
echo 'host all all 10.0.2.0/24 scram-sha-256' >> /etc/postgresql/15/main/pg_hba.conf
rm -rf $cluster
runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_basebackup -D $cluster -X stream -c fast -R \
    -d 'host=10.77.0.1 user=replicator'
systemctl start postgresql@15-main""",
            deadline_seconds=240,
        )
        streaming = "select count(*) from pg_stat_replication where state = 'streaming'"
        end = time.monotonic() + 180
        while psql(old, streaming).strip() != "1":
            assert time.monotonic() < end
            time.sleep(0.2)
        load.wait_acknowledged(20)
        # The move itself: the old one stops cleanly, the new one takes over, and clients follow by themselves.
        old.sh("systemctl stop build-server postgresql@15-main", deadline_seconds=180)
        new.sh("cd /; runuser -u postgres -- psql -qAt -c 'select pg_promote()'", deadline_seconds=60)
        load.wait_acknowledged(20, seconds=180)
    verdict = load.verify(new.address("postgres"))
    print(f"move: {verdict}, gap {load.longest_gap()}, {load.refusals}")
    assert verdict.ok, verdict
