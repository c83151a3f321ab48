"""What the lab does on this side of the machine; needs no qemu."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.training.lab import faults, image, lab, needs
from runbooks_lib.training.lab.commands import lab_host
from runbooks_lib.training.lab.image import Image
from runbooks_lib.training.lab.machine import Machine
from runbooks_lib.training.lab.needs import LabUnavailable
from runbooks_lib.training.lab.places import Places, places
from runbooks_lib.training.lab.processes import process_id, this_process
from runbooks_lib.training.lab.qemu import Start, command_line, disks_in
from runbooks_lib.training.lab.qmp import Qmp, QmpError
from runbooks_lib.training.lab.records import Record, read_record, write_record
from runbooks_lib.training.lab.seed import SeedFile, write_seed


def record(name: str, **changes: object) -> Record:
    values: dict[str, object] = {
        "name": name, "role": "build-server", "filesystem": "ext4", "image_key": "i", "role_key": "r",
        "acceleration": "tcg", "memory_mb": 1024, "ports": {"ssh": 1}, "link": None,
        "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Record(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def where(tmp_path: Path) -> Places:
    return places(tmp_path / "lab")


def ended_process() -> object:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_id(child.pid)
    child.kill()
    child.wait()
    return identity


def test_a_machine_whose_operator_crashed_is_found_and_its_process_ended(where: Places) -> None:
    directory = where.machine("left")
    directory.mkdir()
    with subprocess.Popen(["sleep", "600"], cwd=directory) as machine_process:
        held = process_id(machine_process.pid)
        write_record(directory, record("left", process=held, owner=ended_process()))
        ended = lab.end_left_overs(where)
        assert [(one.name, one.gone) for one in ended] == [("left", True)]
        assert machine_process.wait(timeout=5) < 0
    assert not directory.exists()


def test_a_machine_that_was_asked_to_stay_is_left_alone(where: Places) -> None:
    directory = where.machine("kept")
    directory.mkdir()
    with subprocess.Popen(["sleep", "600"], cwd=directory) as process:
        try:
            write_record(directory, record("kept", process=process_id(process.pid), owner=None, ready=True))
            assert lab.end_left_overs(where) == []
            assert process.poll() is None
        finally:
            process.kill()


def test_a_machine_that_is_being_started_by_a_living_operator_is_left_alone(where: Places) -> None:
    directory = where.machine("starting")
    directory.mkdir()
    write_record(directory, record("starting", owner=this_process()))
    assert lab.end_left_overs(where) == []


def test_a_machine_whose_record_is_lost_is_ended_by_the_number_in_qemus_own_file(where: Places) -> None:
    directory = where.machine("broken")
    directory.mkdir()
    (directory / "machine.json").write_text('{"name": "bro')
    with subprocess.Popen(["sleep", "600"], cwd=directory) as process:
        (directory / "qemu.pid").write_text(f"{process.pid}\n")
        assert [one.gone for one in lab.end_left_overs(where)] == [True]
        assert process.wait(timeout=5) < 0


@pytest.mark.parametrize("linked", [False, True], ids=["as it is", "through a link"])
def test_a_machine_that_is_ended_before_its_record_knows_qemu_takes_qemu_along(tmp_path: Path, linked: bool) -> None:
    root = tmp_path / "lab"
    if linked:
        (tmp_path / "elsewhere").mkdir()
        root.symlink_to(tmp_path / "elsewhere")
    directory = places(root).machine("starting")
    directory.mkdir()
    write_record(directory, record("starting", process=None, owner=this_process()))
    with subprocess.Popen(["sleep", "600"], cwd=directory) as qemu:
        (directory / "qemu.pid").write_text(f"{qemu.pid}\n")
        assert Machine(directory).end()
        assert qemu.wait(timeout=5) < 0
    assert not directory.exists()


def test_images_are_not_removed_under_who_prepares_from_them(where: Places) -> None:
    base = where.images / "base-1"
    base.mkdir()
    (base / "root.img").write_text("blocks")
    with lab._images_in_use(where), pytest.raises(RunbookError, match="in use"):
        lab.clean(where)
    assert base.exists()
    lab.clean(where)
    assert not base.exists()


def test_a_number_in_qemus_file_that_another_program_has_now_is_not_killed(where: Places, tmp_path: Path) -> None:
    directory = where.machine("old")
    directory.mkdir()
    with subprocess.Popen(["sleep", "600"], cwd=tmp_path) as stranger:
        try:
            (directory / "qemu.pid").write_text(f"{stranger.pid}\n")
            lab.end_left_overs(where)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_process_number_that_was_used_again_is_another_process() -> None:
    mine = this_process()
    assert mine.alive
    assert not type(mine)(mine.pid, mine.start_ticks + 1, mine.boot_id).alive
    assert not type(mine)(mine.pid, mine.start_ticks, "another boot").alive


def test_a_record_is_read_as_it_was_written(where: Places) -> None:
    directory = where.machine("one")
    directory.mkdir()
    written = record("one", owner=this_process(), link=("pair", 1), faults=("cpu-hog",))
    write_record(directory, written)
    assert read_record(directory) == written
    assert written.link_address == "10.77.0.2"


def test_a_record_of_a_newer_version_is_read_as_far_as_it_is_known(where: Places) -> None:
    directory = where.machine("newer")
    directory.mkdir()
    write_record(directory, record("newer", ready=True))
    file = directory / "machine.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "of-next-year": [1]}))
    assert read_record(directory) == record("newer", ready=True)


def test_a_password_is_found_by_the_machines_address_and_is_its_owners_alone(where: Places) -> None:
    directory = where.machine("one")
    directory.mkdir()
    write_record(directory, record("one", ports={"postgres": 4321}, passwords={"buildserver": "made for this one"}))
    assert lab.password("buildserver", ("127.0.0.1", 4321), where) == "made for this one"
    assert (directory / "machine.json").stat().st_mode & 0o077 == 0
    assert "made for this one" not in repr(read_record(directory))
    with pytest.raises(UsageError, match="port 4322"):
        lab.password("buildserver", ("127.0.0.1", 4322), where)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": 1}', json.dumps({"owner": {"pid": 1}})])
def test_a_damaged_record_is_no_record_and_no_crash(where: Places, text: str) -> None:
    directory = where.machine("damaged")
    directory.mkdir()
    (directory / "machine.json").write_text(text)
    assert read_record(directory) is None


@pytest.mark.parametrize("name", ["", "UP", "a/b", "../x", "-x", "x-", "a b", "a\n", "x" * 40, "1a"])
def test_a_name_that_cannot_be_a_hosts_name_is_refused(where: Places, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        where.machine(name)


def test_the_labs_directories_are_their_owners_alone(where: Places) -> None:
    assert where.machines.stat().st_mode & 0o077 == 0
    assert where.root.stat().st_mode & 0o077 == 0


def test_missing_programs_are_one_sentence_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "_which", lambda _: None)
    with pytest.raises(LabUnavailable) as caught:
        needs.require_programs(("qemu-system-x86_64", "qemu-img"))
    assert "apt-get install --no-install-recommends qemu-system-x86 qemu-utils" in str(caught.value)
    assert "nothing was started" in str(caught.value)


def test_too_little_space_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabUnavailable, match="GB of disk space"):
        needs.require_space(tmp_path, 10**18, "a practice machine")


def test_too_little_memory_is_one_sentence() -> None:
    with pytest.raises(LabUnavailable, match="does not fit"):
        needs.require_memory(2**30)


def test_an_unknown_acceleration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOKS_LAB_ACCEL", "warp")
    needs.acceleration.cache_clear()
    try:
        with pytest.raises(UsageError, match="kvm or tcg"):
            needs.acceleration()
    finally:
        needs.acceleration.cache_clear()


@pytest.mark.parametrize(
    ("flags", "khz"),
    [("fpu constant_tsc hypervisor", 2596098), ("constant_tsc", None), ("constant_tsc hypervisor aperfmperf", None)],
)
def test_the_rate_of_the_time_stamp_counter_is_taken_only_where_the_kernel_says_it(flags: str, khz: int | None) -> None:
    text = f"processor\t: 0\ncpu MHz\t\t: 2596.098\nflags\t\t: {flags}\n\nprocessor\t: 1\n"
    assert needs.tsc_khz(text) == khz
    assert needs.tsc_khz("processor: 0\n") is None


def test_the_images_name_changes_with_everything_that_goes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.image_key("deb here", "bookworm")
    assert image.image_key("deb here", "bookworm") == before
    assert image.image_key("deb there", "bookworm") != before
    assert image.image_key("deb here", "trixie") != before
    monkeypatch.setattr(image, "guest_text", lambda name: f"other {name}")
    assert image.image_key("deb here", "bookworm") != before


def test_a_killed_building_leaves_nothing_that_is_taken_for_an_image(tmp_path: Path) -> None:
    target = tmp_path / "base-1"
    left = tmp_path / ".base-1.being-made"
    left.mkdir()
    (left / "root.img").write_bytes(b"half")

    def fail_in_the_middle() -> None:
        with image.making(target, lab.silent) as fresh:
            assert fresh is not None
            assert not (fresh / "root.img").exists()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail_in_the_middle()
    assert not target.exists()
    assert not left.exists()
    with image.making(target, lab.silent) as fresh:
        assert fresh is not None
        (fresh / "seconds").write_text("1")
    with image.making(target, lab.silent) as fresh:
        assert fresh is None


def test_the_seed_is_whole_sectors_and_keeps_modes_and_owners(tmp_path: Path) -> None:
    path = tmp_path / "seed.tar"
    write_seed(
        path, [SeedFile("etc/secret", "key\n", 0o600), SeedFile("home/oncall/.ssh/authorized_keys", "", 0o600, 1000)]
    )
    assert path.stat().st_size % 512 == 0
    assert path.stat().st_mode & 0o077 == 0
    with tarfile.open(path) as tar:
        assert tar.getmember("etc/secret").mode == 0o600
        assert tar.getmember("home/oncall/.ssh/authorized_keys").uid == 1000


def test_the_machine_is_reached_on_the_loopback_only_and_has_no_way_out(tmp_path: Path) -> None:
    start = Start("x", tmp_path, "tcg", 1024, {"ssh": 4000, "postgres": 4001}, None, 1)
    try:
        line = " ".join(command_line(Image(tmp_path, "k", 0), disks_in(tmp_path), start))
    except LabUnavailable:
        pytest.skip("qemu is not here; the machine's own tests fail then")
    assert "restrict=on" in line
    assert "hostfwd=tcp:127.0.0.1:4000-:22" in line
    assert "hostfwd=tcp::" not in line


def test_a_socket_deep_down_is_reached_all_the_same(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["directory-with-a-long-name"] * 6)
    deep.mkdir(parents=True)
    with pytest.raises(QmpError, match="does not answer"):
        Qmp(deep, deadline_seconds=1)


def test_an_unknown_fault_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(UsageError) as caught:
        faults.fault("plague")
    assert "power-cut" in str(caught.value)


def test_every_fault_has_a_name_and_a_sentence_of_its_own() -> None:
    assert len({one.sentence for one in faults.FAULTS.values()}) == len(faults.FAULTS) >= 19


def test_the_command_lists_no_machines_in_an_empty_lab(where: Places) -> None:
    said = CliRunner().invoke(lab_host, ["list"], env={"RUNBOOKS_LAB_DIR": str(where.root)})
    assert said.exit_code == 0
    assert said.output == "no practice machine is up\n"


def test_the_command_says_how_to_start_a_machine_that_is_not_there(where: Places) -> None:
    said = CliRunner().invoke(lab_host, ["status"], env={"RUNBOOKS_LAB_DIR": str(where.root)})
    assert isinstance(said.exception, UsageError)
    assert "runbook lab-host up builds-01" in str(said.exception)


def test_two_machines_fit_on_a_link_and_a_third_does_not(where: Places) -> None:
    for number in (0, 1):
        end = lab._link_end(where, "pair")
        assert end == ("pair", number)
        directory = where.machine(f"m{number}")
        directory.mkdir()
        write_record(directory, record(f"m{number}", link=end))
    with pytest.raises(UsageError, match="already joins two"):
        lab._link_end(where, "pair")


def shown(process: subprocess.Popen[bytes]) -> None:
    """Wait until /proc shows the command line: it is empty for a moment after exec, when Popen has returned already."""
    while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
        time.sleep(0.001)


def test_a_qemu_of_a_killed_preparing_is_found_and_one_that_is_being_used_is_not(where: Places) -> None:
    target = where.images / "role-1"
    program = ["sh", "-c", "sleep 600; true", "runbooks-lab-prepare"]
    with image.making(target, lab.silent) as fresh:
        assert fresh is not None
        with subprocess.Popen(program, cwd=fresh, start_new_session=True) as qemu:
            shown(qemu)
            assert lab.end_left_overs(where) == []
            assert qemu.poll() is None
            os.killpg(qemu.pid, signal.SIGKILL)
    left = where.images / ".role-2.being-made"
    left.mkdir()
    with subprocess.Popen(program, cwd=left, start_new_session=True) as qemu:
        try:
            shown(qemu)
            assert [ended.gone for ended in lab.end_left_overs(where)] == [True]
            assert qemu.wait(timeout=5) < 0
        finally:
            with contextlib.suppress(ProcessLookupError):  # the whole group may be gone already: that is what is tested
                os.killpg(qemu.pid, signal.SIGKILL)
    assert not left.exists()
