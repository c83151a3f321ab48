"""The logical volume under a database that has filled it to the last block is extended, and the database gets on."""

from __future__ import annotations

import pytest

from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.runbook.run import Options, Refused
from runbooks_lib.training.lab.machine import Machine
from tests.procedures.storage.work import (
    GIB,
    PATIENCE,
    available,
    done,
    fill,
    oracle,
    undone,
    ways_by_name,
)

pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1200)]

DATABASE = "/srv/db"


def test_a_disk_that_is_full_to_the_last_block_is_extended_and_the_database_gets_on(
    machine: Machine, host: SshHost, options: Options
) -> None:
    fill(machine, DATABASE)
    assert available(machine) == 0
    way = ways_by_name(host, DATABASE, GIB // 2)["extend-volume"]
    done(host, way.runbook, way.parameters, options)
    machine.sh("systemctl reset-failed postgresql@15-main; systemctl start postgresql@15-main", check=False)
    with oracle(machine) as load:
        load.wait_acknowledged(5, seconds=PATIENCE)
    assert load.verify().ok
    assert available(machine) >= 0.9 * GIB / 2
    with pytest.raises(Refused, match="not made smaller while it is used"):
        undone(host, way.runbook, way.parameters, options)
