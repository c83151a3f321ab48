"""The logical volume with a new disk, and the filesystem on it, under operators that die and connections that are cut.

Whoever comes after them finishes, or takes it back as long as the filesystem has not been grown. The kernel here has no
device-mapper; the practice machine's has."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from runbooks_lib.training.lab.machine import Machine
from tests.procedures.storage.crashes import Work, check_to_the_point_of_no_return
from tests.procedures.storage.work import spare_disk

pytestmark = [
    pytest.mark.lab,
    pytest.mark.vm,
    pytest.mark.timeout(24 * 3600),
    pytest.mark.skipif(os.environ.get("RUNBOOKS_MATRIX_EVERY") != "1", reason="hours: make crash-matrix runs it"),
]

_BEGIN = """umount /srv/crash 2>/dev/null
lvs data/crash >/dev/null 2>&1 && lvremove -q -f data/crash
if pvs {disk} >/dev/null 2>&1; then
    [ -z "$(pvs --noheadings -o vg_name {disk} | tr -d ' ')" ] || vgreduce -q data {disk}
    pvremove -q {disk}
fi
dd if=/dev/zero of={disk} bs=1M count=16 conv=notrunc,fsync 2>/dev/null
set -e
lvcreate -q -y -W y -L 48M -n crash data
mkfs.ext4 -q -F /dev/data/crash
mkdir -p /srv/crash; mount /dev/data/crash /srv/crash
cp /usr/bin/mount /srv/crash/held; sync -f /srv/crash
rm -rf {place}; mkdir -p -m 1777 {place}
"""
_PICTURE = """lvs --noheadings -o lv_size,lv_layout --units b data/crash
pvs --noheadings -o pv_name,vg_name {disk} 2>&1 | tail -n 1
blkid -p {disk} >/dev/null; echo $?
head -c 16M {disk} | tr -d '\\000' | head -c 1 | wc -c
dumpe2fs -h /dev/data/crash 2>/dev/null | grep -E '^(Block count|Filesystem state)'
findmnt -n -o SOURCE,OPTIONS -M /srv/crash
cmp /usr/bin/mount /srv/crash/held && echo same
fuser {place}/* 2>/dev/null; :
"""


def test_a_volume_is_extended_once_or_given_back_whatever_dies(
    machine: Machine, quick_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, place = spare_disk(machine), quick_path / "place"
    words = {"disk": disk, "place": shlex.quote(str(place))}
    work = Work(
        "extend-volume",
        machine.ssh_config,
        machine.name,
        {"mountpoint": "/srv/crash", "to_mib": 96, "device": disk},
        begin=lambda: machine.sh(_BEGIN.format(**words), deadline_seconds=120),
        picture=lambda: machine.sh(_PICTURE.format(**words), changes=False, check=False),
        path=quick_path,
        count=lambda: int(machine.sh(f"cat {words['place']}/count", changes=False)),
        inside=("shell", "group"),
        mark=lambda: machine.sh(f"echo 0 >{words['place']}/count; chmod 666 {words['place']}/count"),
    )
    try:
        tried, of, ends = check_to_the_point_of_no_return(work, cases=2, refused="not made smaller")
    finally:
        machine.reset()
    with capsys.disabled():
        print(f"\ncrash matrix of extend-volume: {tried} of {of} cases, none ended wrongly: {ends}")
