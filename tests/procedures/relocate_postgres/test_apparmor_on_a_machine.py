"""AppArmor for real: on a practice machine a profile confines PostgreSQL to its paths, and a move meets it before
anything is copied.

A machine has a kernel with AppArmor and no user's tools; the parser and its files come from this machine's own package.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.relocate.moving import by_runbook
from runbooks_lib.procedures.relocate_postgres import RUNBOOK
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.run import target
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine, connected

pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1800)]

OLD, NEW, UNIT = "/srv/db/postgresql/15/main", "/srv/new/pg/main", "postgresql@15-main"
PARAMETERS = {"directory": OLD, "target": NEW, "backup": "a test's"}
NAME = "usr.lib.postgresql.15.bin.postgres"
# What a server needs, and of data its own directory only: begun as apparmor.d(5) wants it.
PROFILE = f"""include <tunables/global>

profile postgres /usr/lib/postgresql/15/bin/postgres flags=(attach_disconnected) {{
  include <abstractions/base>
  capability,
  network,
  unix,
  signal,
  /usr/** mrix,
  /etc/** r,
  @{{PROC}}/** r,
  owner @{{PROC}}/@{{pid}}/oom_score_adj w,
  /dev/shm/** rwk,
  /run/** rwk,
  /tmp/** rwk,
  /var/log/postgresql/** rw,
  "{OLD}/" r,
  "{OLD}/**" rwkl,
  include if exists <local/{NAME}>
}}
"""


@pytest.fixture
def confined(machine: Machine) -> Iterator[Machine]:
    """A machine with another disk, whose PostgreSQL runs under the profile; all of it is undone by a reset."""
    parser = shutil.which("apparmor_parser")
    assert parser, "the package apparmor is missing"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(parser, "usr/sbin/apparmor_parser")
        for name in ("abi", "abstractions", "tunables"):
            tar.add(f"/etc/apparmor.d/{name}", f"etc/apparmor.d/{name}")
    text = base64.encodebytes(packed.getvalue()).decode()
    machine.sh(f"base64 -d <<'end' | tar -xz -C /usr/.. --no-overwrite-dir\n{text}end\nmkdir -p /etc/apparmor.d/local")
    machine.sh(f"cat >/etc/apparmor.d/{NAME} <<'end'\n{PROFILE}end\napparmor_parser -r /etc/apparmor.d/{NAME}")
    machine.sh(
        "mkfs.ext4 -q /dev/disk/by-id/virtio-spare && mkdir -p /srv/new && mount /dev/disk/by-id/virtio-spare /srv/new "
        f"&& install -d -o postgres -g postgres /srv/new/pg && systemctl restart {UNIT}",
        deadline_seconds=180,
    )
    yield machine
    machine.reset()


def under(machine: Machine, directory: str) -> str:
    """What the kernel says of the server that runs in a directory."""
    return machine.sh(f"cat /proc/$(head -n 1 {directory}/postmaster.pid)/attr/apparmor/current", changes=False).strip()


def asked(machine: Machine, text: str) -> str:
    """What the server says to its superuser, also when it says no."""
    return machine.sh(f'runuser -u postgres -- psql -XAtqc "{text}" 2>&1', check=False, deadline_seconds=120).strip()


def test_a_confined_server_moves_once_its_profile_names_the_new_place(confined: Machine, tmp_path: Path) -> None:
    machine = confined
    assert under(machine, OLD) == "postgres (enforce)"
    beyond = "copy (select 1) to '/srv/new/pg/beyond'"
    assert "Permission denied" in asked(machine, beyond)

    with connected(machine) as host:
        plan = target(RUNBOOK, host, PARAMETERS).plan()
    assert [step.name for step in plan.blocked][:1] == ["copy"]
    said = plan.blocked[0].because
    mends = re.search(r"confines the server by the profile postgres: (printf .*apparmor_parser -r \S+)", said)
    assert mends, said
    assert f'"{NEW}/**" rw' in mends[1]
    machine.sh(mends[1])  # word for word

    with Load([machine.address("postgres")]) as load, connected(machine) as host:
        load.wait_acknowledged(30, seconds=120)
        by_runbook(host, tmp_path / "runs", Places(), PARAMETERS)
        load.wait_acknowledged(30, seconds=120)
        for _ in range(3):  # segments that are used again are given another name
            assert asked(machine, "select 1 from pg_switch_wal()") == "1"
            assert asked(machine, "checkpoint") == ""
        load.wait_acknowledged(30, seconds=120)
    assert load.verify().ok
    assert machine.sh(f"readlink -f {OLD}", changes=False).strip() == NEW
    assert under(machine, NEW) == "postgres (enforce)"
    assert "Permission denied" in asked(machine, beyond)
    denied = machine.sh(f"dmesg | grep 'apparmor=\"DENIED\"' | grep -c '{NEW}' || true", changes=False).strip()
    assert denied == "0", machine.sh("dmesg | grep DENIED", changes=False)
