"""What is offered, what is refused and why, in which order: from a host's answers, without a host."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib.facts.answer import new_nonce
from runbooks_lib.facts.deleted_files import DeletedFiles, Holder
from runbooks_lib.facts.fact import Fact, State, available
from runbooks_lib.facts.filesystems import Usage
from runbooks_lib.facts.postgres import Archiver, Slot
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures.storage import deleted as deleted_ways
from runbooks_lib.procedures.storage import seen as seeing
from runbooks_lib.procedures.storage import shell, survey
from runbooks_lib.procedures.storage.seen import Disk, JournalFile, Log, Seen, Volume
from runbooks_lib.procedures.storage.way import NEVER, Safety, Way
from runbooks_lib.runbook.catalogue import find_runbook
from runbooks_lib.runbook.check import Answer, ask
from runbooks_lib.runbook.step import Check, Known
from tests.procedures.storage.hosts import GIB, MIB, deleted, filesystem, lvm, seen, server, thin


def ways(about: Seen, want: int = 2 * GIB) -> dict[str, Way]:
    return {way.name: way for way in survey.ways(about, want)}


def test_the_safest_and_quickest_come_first_and_what_is_refused_last() -> None:
    found = survey.ways(
        seen(
            disks=(Disk("vdc", 20 * GIB, ""),),
            packages={"/var/cache/apt/archives": 300 * MIB},
            journal=(JournalFile("/var/log/journal/x/system@1.journal", 400 * MIB),),
            **server(Slot("gone", "physical", active=False, retained_bytes=20 * GIB)),
        ),
        2 * GIB,
    )
    offered = [way.name for way in found if way.offered]
    assert offered == [
        "extend-volume", "add-disk:/dev/vdc", "lower-reserve", "clean-packages", "vacuum-journal", "drop-slot:gone"
    ]  # fmt: skip
    assert [way.offered for way in found] == sorted((way.offered for way in found), reverse=True)
    assert all(way.undo and way.measured and way.runbook for way in found if way.offered)


def test_only_as_much_as_is_wanted_is_taken_and_the_most_is_told() -> None:
    way = ways(seen(), want=3 * GIB)["extend-volume"]
    assert way.gain_bytes is not None
    assert way.most_bytes is not None
    assert 3 * GIB <= way.gain_bytes < 3.2 * GIB
    assert 9 * GIB < way.most_bytes < 10 * GIB
    assert 103 * 1024 < way.parameters["to_mib"] < 103.5 * 1024
    whole = ways(seen(), want=50 * GIB)["extend-volume"]
    assert whole.gain_bytes == whole.most_bytes == way.most_bytes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lvm": lvm(free_extents=0)}, "no free extent"),
        ({"lvm": lvm(kind="thin")}, "thin volume"),
        ({"lvm": lvm(kind="raid1")}, "by hand"),
        ({"lvm": Fact(State.NOT_ALLOWED, None, "it needs root")}, "needs root"),
        ({"filesystem": filesystem(super_options=("ro",), read_only=True)}, "read-only"),
        ({"filesystem": filesystem(fstype="reiserfs")}, "not grown online"),
        ({"filesystem": filesystem(detail="3 ext4 errors recorded: run fsck")}, "mended first"),
        ({"tools": frozenset({"lvextend"})}, "resize2fs is not installed"),
        ({"filesystem_bytes": None}, "could not be read"),
    ],
)
def test_a_volume_that_cannot_be_extended_says_why(changes: dict[str, Any], reason: str) -> None:
    assert reason in ways(seen(**changes))["extend-volume"].refused


def test_a_group_that_lacks_a_disk_and_a_volume_with_a_snapshot_are_left_alone() -> None:
    whole = lvm().require()
    (group,), (volume,) = whole.volume_groups, whole.logical_volumes
    lacking = replace(whole, volume_groups=(replace(group, missing_volumes=1),))
    snapped = replace(whole, logical_volumes=(volume, replace(volume, name="snap", origin="db")))
    assert "lacks 1" in ways(seen(lvm=available(lacking)))["extend-volume"].refused
    assert "snapshot" in ways(seen(lvm=available(snapped)))["extend-volume"].refused


def test_a_full_thin_pool_is_extended_and_nothing_else_helps() -> None:
    found = ways(seen(lvm=thin(pool_free=GIB // 2), packages={"/var/cache/apt/archives": GIB}), want=2 * GIB)
    way = found["extend-pool"]
    assert way.offered
    assert (way.gain_bytes, way.most_bytes) == (2 * GIB, 10 * GIB)
    assert way.parameters == {"mountpoint": "/srv/db", "to_mib": 102 * 1024}
    assert "until `fstrim` is run" in found["clean-packages"].refused
    assert "raised by hand" in found["extend-volume"].refused


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pool_free": 50 * GIB}, "takes no more than"),
        ({"pool_free": 0, "free_extents": 0}, "no free extent"),
        ({"pool_free": 0, "metadata": 0.95}, "metadata is 95 % full"),
    ],
)
def test_a_pool_that_cannot_be_extended_says_why(changes: dict[str, Any], reason: str) -> None:
    found = ways(seen(lvm=thin(**changes), packages={"/var/cache/apt/archives": GIB}))
    assert reason in found["extend-pool"].refused
    assert found["clean-packages"].offered == (changes["pool_free"] > 0)


def test_disks_are_offered_when_empty_refused_with_the_reason_and_not_named_when_in_use() -> None:
    disks = (Disk("vdc", 9 * GIB, ""), Disk("vdd", 9 * GIB, "it holds ext4"), Disk("vde", 9 * GIB, "it is mounted"))
    found = ways(seen(disks=disks))
    assert found["add-disk:/dev/vdc"].offered
    assert found["add-disk:/dev/vdc"].parameters["device"] == "/dev/vdc"
    assert found["add-disk:/dev/vdd"].refused == "/dev/vdd is not empty: it holds ext4"
    assert "add-disk:/dev/vde" not in found


def test_a_volume_whose_disk_has_grown_is_found() -> None:
    found = ways(seen(volumes=(Volume("/dev/vdb", 300 * GIB, 200 * GIB, 0, "data"),)))
    assert found["grow-volume:/dev/vdb"].offered
    part = ways(seen(volumes=(Volume("/dev/vdb1", 200 * GIB, 200 * GIB, 50 * GIB, "data"),), tools=frozenset()))
    assert "grow-volume:/dev/vdb1" in part


def test_hyphens_in_lvms_names_are_doubled_under_dev_mapper() -> None:
    whole = lvm().require()
    named = replace(
        whole,
        logical_volumes=(replace(whole.logical_volumes[0], name="my-db", group="vg-1"),),
        volume_groups=(replace(whole.volume_groups[0], name="vg-1"),),
    )
    assert ways(seen(lvm=available(named), source="/dev/mapper/vg--1-my--db"))["extend-volume"].offered


def test_roots_reserve_takes_its_part_first_and_that_is_said() -> None:
    eaten = filesystem(usage=Usage(100 * GIB, 2 * GIB, 0))
    way = ways(seen(filesystem=eaten, packages={"/var/cache/apt/archives": 4 * GIB}))["clean-packages"]
    assert way.gain_bytes is not None
    assert way.gain_bytes < GIB
    assert "root's reserve takes first" in way.measured


@pytest.mark.parametrize("mountpoint", ["/", "/var", "/home", "/usr/local"])
def test_the_reserve_of_a_systems_own_filesystem_stays(mountpoint: str) -> None:
    assert "root needs its reserve" in ways(seen(mountpoint=mountpoint))["lower-reserve"].refused


@pytest.mark.parametrize("mountpoint", ["/var/", "//var", "/home/", "/var/./log", "/srv/../var", "/var\n"])
def test_another_spelling_does_not_get_past_what_is_refused_by_name(mountpoint: str) -> None:
    for name in ("lower-reserve", "extend-volume", "archive-log", "move-files", "drop-slot"):
        runbook = find_runbook(name)
        given = {each.name: each.default for each in runbook.parameters}
        given |= {"mountpoint": mountpoint, "device": "", "file": "/srv/a.log", "length": 1, "store": "/srv/b",
                  "files": ["/srv/a"], "data_directory": "/srv/db", "slot": "a"}  # fmt: skip
        assert "must be an absolute path, without" in runbook.refuses(given), name


def test_a_service_is_reloaded_only_if_it_alone_holds_the_file_and_can_be() -> None:
    def found(name: str, units: dict[int, tuple[str, bool]]) -> Way:
        held = available(DeletedFiles((deleted(name, 7, GIB),), complete=True))
        (way,) = [way for way in survey.ways(seen(deleted=held, units=units), 0) if way.name.startswith("reload")]
        return way

    assert found("app", {7: ("app.service", True)}).gain_bytes == GIB
    assert "cannot be reloaded" in found("app", {7: ("app.service", False)}).refused
    assert "no service" in found("vim", {}).refused
    assert "database closes" in found("postgres", {7: ("postgresql@15-main.service", True)}).refused


def test_a_short_child_that_has_ended_since_holds_nothing() -> None:
    file = deleted("app", 7, GIB)
    file = replace(file, holders=(*file.holders, Holder(8, 3, "")))
    about = {"deleted": available(DeletedFiles((file,), complete=True)), "units": {7: ("app.service", True)}}
    assert ways(seen(**about, gone=frozenset({8})))["reload-service:app.service"].offered
    assert "several services" in ways(seen(**about))["reload-service:app.service"].refused
    assert not [name for name in ways(seen(**about, gone=frozenset({7, 8}))) if name.startswith("reload")]


@pytest.mark.parametrize(
    ("groups", "answer"),
    [
        ("0::/system.slice/app.service\n", Answer.NO),
        ("3:cpu,cpuacct:/\n1:name=systemd:/system.slice/app.service\n0::/\n", Answer.NO),
        ("0::/system.slice/app.service/worker: 1\n", Answer.NO),
        ("0::/system.slice/app.service2\n0::/app.service\n", Answer.CANNOT_TELL),
    ],
)
def test_what_a_service_holds_is_found_in_every_version_of_cgroups(tmp_path: Path, groups: str, answer: Answer) -> None:
    """A process as `/proc` shows it, with a deleted file of ours; where none is found, nothing is said of the unit."""
    process = tmp_path / "proc/7"
    (process / "fd").mkdir(parents=True)
    (process / "cgroup").write_text(groups)
    systemctl = 'systemctl() { case $* in "show -p ControlGroup"*) echo /system.slice/app.service;; esac; }\n'
    mountpoint = next(str(each) for each in tmp_path.parents if each.is_mount())
    closed = deleted_ways.RELOAD.verify.script(Known({"mountpoint": mountpoint, "unit": "app.service"}))
    with (tmp_path / "old.log").open("wb") as file:
        file.write(b"x" * 2 * MIB)
        file.flush()
        (tmp_path / "old.log").unlink()
        (process / "fd/3").symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        script = systemctl + closed.replace("/proc/", f"{tmp_path}/proc/")
        seen = ask(LocalHost(), Check("it is closed", lambda _: script), Known({}))
    assert seen.answer is answer, seen
    assert "app.service" in seen.evidence


def test_a_slot_is_offered_when_it_is_inactive_and_alone() -> None:
    gone = Slot("gone", "physical", active=False, retained_bytes=20 * GIB)
    assert ways(seen(**server(gone)))["drop-slot:gone"].gain_bytes == 19 * GIB
    assert ways(seen(**server(gone)))["drop-slot:gone"].safety is Safety.LOSES
    assert "drop-slot:gone" not in ways(seen(**server(replace(gone, active=True))))
    other = replace(gone, name="other")
    assert "would free nothing: the slot other" in ways(seen(**server(gone, other)))["drop-slot:gone"].refused


def test_a_failing_archiver_comes_before_the_slot_and_its_cause_is_what_is_mended() -> None:
    archiver = Archiver("on", 5, 9, None, datetime(2026, 11, 1, tzinfo=UTC), "0001", waiting=1000)
    way = ways(seen(**server(archiver=archiver)))["mend-archiver:/srv/db/15"]
    assert way.offered
    assert way.gain_bytes == 1000 * 16 * MIB - GIB
    assert "cp %p /b/%f" in way.title
    about = server(archiver=archiver)
    about["servers"]["/srv/db/15"]["altered"] = None
    assert "mend what it calls (false)" in ways(seen(**about))["mend-archiver:/srv/db/15"].refused


def test_logs_of_databases_and_names_that_are_no_text_are_refused() -> None:
    logs = (
        Log("/srv/db/app.log", 50 * MIB, 50 * MIB, of_database=False),
        Log("/srv/db/15/log/server.log", 50 * MIB, 50 * MIB, of_database=True),
        Log("/srv/db/\udcff.log", 50 * MIB, 50 * MIB, of_database=False),
    )
    found = ways(seen(logs=logs))
    assert found["archive-log:/srv/db/app.log"].parameters["store"] == "/var/lib/runbooks-archive"
    assert "database's directory" in found["archive-log:/srv/db/15/log/server.log"].refused
    assert "UTF-8" in found["archive-log:/srv/db/\udcff.log"].refused


def test_named_files_are_asked_for_and_measured() -> None:
    about = seen(files=(GIB, None))
    asked = {way.name: way for way in survey.ways(about, 0, ["/srv/db/a", "/srv/db/b"])}
    assert "/srv/db/b is not a file" in asked["move-files"].refused
    assert "one by one" in ways(seen())["move-files"].refused


def test_the_classic_mistakes_are_named_with_the_reason_and_what_to_do() -> None:
    assert all(each.mistake and each.why and each.instead for each in NEVER)
    assert any("pg_wal" in each.mistake for each in NEVER)
    assert any("pattern" in each.mistake for each in NEVER)


def test_a_row_of_the_survey_that_makes_no_sense_is_left_out() -> None:
    nonce = new_nonce()

    def answer(**sections: str) -> bytes:
        parts = "".join(f"\n@@{nonce} {name}\n{text}" for name, text in sections.items())
        return f"\n@@{nonce} begin 1{parts}\n@@{nonce} end\n".encode()

    read = seeing.parse(
        answer(
            filesystem="type ext4\nsource /dev/x y\ndevice_number 7\ndevice_bytes -1\nfilesystem_bytes 5\n",
            disks="vdc 100 empty\nvdd lots empty\nvde 100 \n",
            journal="7 8 512 /var/log/journal/a/system@1.journal\n9 8 512 /elsewhere\nrubbish\n",
            units="1 yes a.service\nx yes b.service\n2  \n",
            logs="8 100 nobody 2f61\n8 100 nobody zz\n",
            files="7 16\n- -\n",
        ),
        nonce,
    )
    assert read.source == "/dev/x y"
    assert (read.device_bytes, read.filesystem_bytes) == (None, 5)
    assert [(disk.name, bool(disk.why_not)) for disk in read.disks] == [("vdc", False), ("vde", True)]
    assert [file.allocated_bytes for file in read.journal] == [4096]
    assert read.units == {1: ("a.service", True)}
    assert read.logs[0].path == "/a"
    assert read.files == (8192, None)


@pytest.mark.parametrize("name", sorted(shell._FUNCTIONS))
def test_a_function_that_a_command_takes_along_is_whole(name: str) -> None:
    text = shell.only(name)
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0, text
    defined = subprocess.run(
        ["sh", "-c", f"{text}command -v {name}"], text=True, capture_output=True, check=False, timeout=10
    )
    assert defined.stdout.strip() == name


def test_no_function_of_look_is_forgotten() -> None:
    assert set(shell._FUNCTIONS) == set(re.findall(r"^([a-z_]+)\(\)", shell.LOOK, re.MULTILINE))
