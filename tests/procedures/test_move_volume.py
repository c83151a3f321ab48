"""What LVM reports, by which pvmove is offered before any other way; the move itself is on a practice machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib.procedures import move_volume
from runbooks_lib.procedures.relocate_postgres.offers import offers, parse_disks
from runbooks_lib.runbook.step import Known, NoUndo
from tests.procedures.storage.disks import loop_disk, run

LVS = ["lvs", "--segments", "--reportformat", "json", "--units", "b", "--nosuffix"]
PVS = ["pvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", "pv_name,vg_name,pv_free,pv_missing"]


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[tuple[str, str, str]]:
    """A real volume group of two disks; its volumes need no device-mapper, as they are inactive. Its name and disks."""
    name = f"group-of-{tmp_path.name[-8:]}"
    with loop_disk(tmp_path, "one", 300) as one, loop_disk(tmp_path, "two", 300) as two:
        run("vgcreate", "-q", name, one.device, two.device)
        try:
            yield name, one.device, two.device
        finally:
            run("vgchange", "--driverloaded", "n", "-an", name)
            run("vgremove", "--driverloaded", "n", "-q", "-f", "-y", name)


def volume(group: str, name: str, mib: int, disk: str, *options: str) -> None:
    run(
        "lvcreate", "-q", "--driverloaded", "n", "-an", "-Zn", "-Wn", "-n", name, "-L", f"{mib}M", *options, group, disk
    )


def told(source: str, target: str, *, kind: str = "ext4", lvs: str = "", pvs: str = "", **more: str) -> dict[str, Any]:
    """As the read on the host answers."""
    said = {"mount": "/srv/db", "source": source, "kind": kind, "target": target, "lvs": lvs, "pvs": pvs, **more}
    return parse_disks("".join(f"{name} {text.encode().hex()}\n" for name, text in said.items()).encode())


def reported(group: str, source: str, target: str) -> list[str]:
    """What is offered by LVM's own reports, to a database on one volume and its new place on another."""
    name = group.replace("-", "--")
    lvs = run(*LVS, "-o", "vg_name,lv_name,lv_attr,segtype,seg_size,devices", group)
    return offers(told(f"/dev/mapper/{name}-{source}", f"/dev/mapper/{name}-{target}", lvs=lvs, pvs=run(*PVS)))


@pytest.mark.lab
@pytest.mark.skipif(not shutil.which("lvcreate"), reason="no LVM here")
def test_both_disks_in_one_group_is_recognised_by_lvm_s_own_reports(groups: tuple[str, str, str]) -> None:
    group, one, two = groups
    volume(group, "db", 100, one)
    volume(group, "new", 50, two)
    (said,) = reported(group, "db", "new")
    assert said == (
        f"first choice, no downtime at all: the volume {group}/db lies on {one} alone, and {two} is in its group with "
        f"room for it: runbook run move-volume -p mountpoint=/srv/db -p disk={two} (pvmove -n db {one} {two})"
    )
    run("lvextend", "-q", "--driverloaded", "n", "-L", "280M", f"{group}/new", two)
    (said,) = reported(group, "db", "new")
    assert f"pvmove would move it with no downtime at all if {two} had 105 MB of free extents" in said
    volume(group, "wide", 20, one, "-i", "1")
    run("lvextend", "-q", "--driverloaded", "n", "-L", "24M", f"{group}/wide", two)
    assert reported(group, "wide", "new") == []


@pytest.mark.lab
@pytest.mark.skipif(not shutil.which("lvcreate"), reason="no LVM here")
def test_the_volume_is_read_as_lvm_reports_it(groups: tuple[str, str, str]) -> None:
    group, one, two = groups
    volume(group, "db", 100, one)
    fields = ["lvs", "--segments", "--reportformat", "json", "-o", move_volume._FIELDS, group]
    found = move_volume.parse_volume(run(*fields).encode())
    assert found["devices"] == [one]
    assert (found["group"], found["name"], found["kind"], found["extents"]) == (group, "db", "linear", 25)
    run("lvextend", "-q", "--driverloaded", "n", "-l", "+60", f"{group}/db", two)
    assert move_volume.parse_volume(run(*fields).encode())["devices"] == sorted([one, two])


def test_without_lvm_and_btrfs_nothing_is_offered() -> None:
    assert offers(told("/dev/sda1", "/dev/sdb1")) == []


def test_a_btrfs_is_offered_the_empty_disks_that_are_large_enough() -> None:
    show = (
        "Label: none  uuid: 1-2\n\tTotal devices 1 FS bytes used 147456\n\tdevid    1 size 1000 used 5 path /dev/sda\n"
    )
    empty = {"type": "disk", "fstype": None, "mountpoint": None, "ro": False}
    blocks = [{"name": f"/dev/{name}", "size": size, **empty} for name, size in (("sdb", 999), ("sdc", 1000))]
    blocks += [{"name": "/dev/sdd", "size": 5000, **empty, "fstype": "ext4"}]
    blocks += [{"name": "/dev/sde", "size": 5000, **empty, "children": [{}]}]
    (said,) = offers(told("/dev/sda", "", kind="btrfs", btrfs=show, blocks=json.dumps({"blockdevices": blocks})))
    assert "(btrfs replace start /dev/sda /dev/sdc /srv/db)" in said
    (said,) = offers(told("/dev/sda", "", kind="btrfs", btrfs=show))
    assert "with an empty disk of 0 MB or more" in said


VOLUME = {"group": "data", "name": "db", "uuid": "u", "attributes": "-wi-ao----", "kind": "linear", "extents": 25}
KNOWN = Known(
    {"mountpoint": "/srv/d b", "disk": "/dev/vdb", "backup": "x", "most_io_pressure": 90},
    {"volume": VOLUME | {"devices": ["/dev/vda"]}},
)


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_every_text_is_one_that_a_shell_understands(shell: str) -> None:
    step = move_volume.MOVE
    assert not isinstance(step.undo, NoUndo)
    texts = [each.script(KNOWN) for each in (step.verify, *step.prechecks, step.undo.verify)]
    texts += [each.text for each in (*step.commands(KNOWN), *step.undo.commands(KNOWN))]
    for text in texts:
        subprocess.run([shutil.which(shell) or "/bin/sh", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        ({"devices": ["/dev/vda"]}, "yes "),
        ({"devices": ["/dev/vda", "/dev/vdb"]}, "no "),
        ({"devices": ["/dev/vda"], "kind": "thin"}, "no "),
        ({"devices": ["/dev/vda"], "attributes": "owi-aos---"}, "no "),  # the origin of a snapshot
        ({"devices": ["/dev/vda"], "attributes": "-wi-------"}, "no "),  # not active
    ],
)
def test_only_a_plain_volume_is_moved(volume: dict[str, Any], said: str) -> None:
    assert move_volume._plain(Known(KNOWN.parameters, {"volume": VOLUME | volume})).startswith(said)


@pytest.mark.parametrize(("other", "aborted"), [("", True), ("  theirs [pvmove0]\\n", False)])
def test_an_undo_does_not_end_somebody_elses_pvmove(other: str, aborted: bool, tmp_path: Path) -> None:
    """LVM's tools are stand-ins: two moves at once need device-mapper and four disks."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "lvs").write_text(
        f"#!/bin/sh\ncase $* in *vg_name*) printf '  ours [pvmove1]\\n{other}';; *lv_name*) echo '[pvmove1]';;"
        " *devices*) echo '/dev/vdb(0)';; esac\n"
    )
    (tools / "pvmove").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/called\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    names = "GROUP=ours VOLUME=db UUID=u FROM=/dev/vdb TO=/dev/vdc\n"
    script = f"PATH={tools}:$PATH\n{names}{move_volume._NAMES}{move_volume._BACK}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode == 0) == aborted, done.stderr
    assert (tmp_path / "called").exists() == aborted
    assert aborted or "under way in theirs too" in done.stderr
