"""Each way on real filesystems of this machine: measured, done, taken back; full to the last block; hostile names."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.relocate.here import unmount
from runbooks_lib.errors import UsageError
from runbooks_lib.hosts.host import Result, Script
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.procedures.storage import partition, survey
from runbooks_lib.runbook.check import Answer, ask
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import carry_out, open_run
from runbooks_lib.runbook.run import Options, Refused, Run, Stopped, target
from runbooks_lib.runbook.step import Known, Undo
from tests.procedures.storage.disks import MIB, LoopDisk, fill, loop_disk, mounted, run
from tests.procedures.storage.work import aim_at, done, plan_of, quiet_options, undone, ways_by_name

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for loop devices")]

HOST = LocalHost()
HOSTILE = "it's $(touch oops) \\ größe\nend"


@pytest.fixture
def options(tmp_path: Path) -> Options:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o1777)
    return replace(quiet_options(tmp_path / "runs"), places=Places((str(place),)))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with loop_disk(tmp_path, "disk", 320) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """Another real filesystem, where things may be put aside."""
    with loop_disk(tmp_path, "other", 400) as other, mounted(other.device, "ext4", tmp_path / "store fs") as at:
        yield at / "aside"


def available(mountpoint: Path) -> int:
    said = os.statvfs(mountpoint)
    return said.f_bavail * said.f_frsize


def may_grow_ext4() -> bool:
    """CAP_SYS_RESOURCE, which root may lack in a container or a microVM."""
    said = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    return bool(int(said, 16) >> 24 & 1)


def digest(path: Path, length: int | None = None) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read() if length is None else file.read(length)).hexdigest()


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_a_filesystem_that_is_full_to_the_last_block_grows_into_its_larger_device(
    fstype: str, disk: LoopDisk, tmp_path: Path, options: Options
) -> None:
    with mounted(disk.device, fstype, tmp_path / HOSTILE) as at:
        fill(at)
        assert "grow-filesystem" not in ways_by_name(HOST, str(at))
        disk.enlarge(700)
        way = ways_by_name(HOST, str(at))["grow-filesystem"]
        assert way.offered, way
        before, content = available(at), digest(at / "filler")
        if fstype == "ext4" and not may_grow_ext4():
            assert "CAP_SYS_RESOURCE" in plan_of(HOST, way.runbook, way.parameters).steps[1].because
            return
        done(HOST, way.runbook, way.parameters, options)
        assert way.gain_bytes is not None
        assert 0.95 <= (available(at) - before) / way.gain_bytes <= 1.35  # a small one's journal does not grow with it
        assert digest(at / "filler") == content
        with pytest.raises(Refused, match="not made smaller"):
            undone(HOST, way.runbook, way.parameters, options)
        assert "grow-filesystem" not in ways_by_name(HOST, str(at))
    assert not (tmp_path / "oops").exists()


def test_the_reserve_of_a_full_data_volume_is_lowered_and_raised_again(
    disk: LoopDisk, tmp_path: Path, options: Options
) -> None:
    with mounted(disk.device, "ext4", tmp_path / HOSTILE) as at:
        fill(at)
        os.truncate(at / "filler", (at / "filler").stat().st_size - 10 * MIB)
        assert available(at) == 0
        way = ways_by_name(HOST, str(at))["lower-reserve"]
        assert way.offered
        done(HOST, way.runbook, way.parameters, options)
        assert way.gain_bytes is not None
        assert 0.9 <= available(at) / way.gain_bytes <= 1.1
        undone(HOST, way.runbook, way.parameters, options)
        assert available(at) == 0
        assert "lower-reserve" in ways_by_name(HOST, str(at))


def test_a_link_to_a_mount_point_is_not_taken_for_it(disk: LoopDisk, tmp_path: Path) -> None:
    """What is refused by name could be reached through a link."""
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        (tmp_path / "link").symlink_to(at)
        plan = plan_of(HOST, "lower-reserve", {"mountpoint": str(tmp_path / "link")})
        assert f"link is another name of {at}: give that" in plan.steps[0].because


def test_the_reserve_of_the_systems_own_filesystems_is_not_touched() -> None:
    for system in ("/", "/var", "/var/log", "/home", "/usr/local"):
        with pytest.raises(UsageError, match="root needs its reserve"):
            target(aim_at(HOST, "lower-reserve", {"mountpoint": "/srv"}).runbook, HOST, {"mountpoint": system})


@pytest.mark.parametrize(
    ("kernel", "table", "answer"), [(50, 50, Answer.YES), (50, 90, Answer.NO), (90, 50, Answer.NO)]
)
def test_a_partition_has_its_old_size_when_the_kernel_and_the_table_say_so(
    disk: LoopDisk, tmp_path: Path, kernel: int, table: int, answer: Answer
) -> None:
    """Growing it may be cut between the table on the disk and the kernel; what the kernel knows is made up here."""
    run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", disk.device, text=f"label: gpt\n,{table}M\n")
    name = Path(disk.device).name
    known_to_kernel = tmp_path / "sys/devices" / name / f"{name}p1"
    known_to_kernel.mkdir(parents=True)
    (known_to_kernel / "partition").write_text("1\n")
    (known_to_kernel / "size").write_text(f"{kernel * 2048}\n")
    (tmp_path / "sys/class/block").mkdir(parents=True)
    (tmp_path / f"sys/class/block/{name}p1").symlink_to(known_to_kernel)
    undo = partition.step(lambda _: f"part={disk.device}p1\n", lambda _: "echo 0").undo
    assert isinstance(undo, Undo)
    was = {"disk": disk.device, "number": 1, "bytes": 50 * MIB, "unit": 512}
    mountpoint = next(str(each) for each in tmp_path.parents if each.is_mount())
    text = undo.verify.script(Known({"mountpoint": mountpoint}, {"partition": was}))
    check = replace(undo.verify, script=lambda _: text.replace("/sys/", f"{tmp_path}/sys/"))
    observed = ask(HOST, check, Known({}))
    assert observed.answer is answer, observed


def write_log(path: Path, mib: int) -> None:
    line = b"2026-01-01 00:00:00 DEBUG scheduler looked at the queue and found it as before\n"
    with path.open("wb") as file:
        for number in range(mib * MIB // len(line) + 1):
            file.write(b"%08d" % number + line[8:])


@pytest.mark.parametrize("fstype", ["ext4", "xfs"])
def test_a_log_that_is_being_written_on_a_full_disk_gives_its_blocks_back_and_loses_no_line(
    fstype: str, disk: LoopDisk, tmp_path: Path, store: Path, options: Options
) -> None:
    with mounted(disk.device, fstype, tmp_path / "at") as at:
        log = at / f"{HOSTILE}.log"
        write_log(log, 24)
        with log.open("ab", buffering=0) as writer:
            writer.write(b"first\n")
            fill(at)
            way = ways_by_name(HOST, str(at))[f"archive-log:{log}"]
            parameters = {**way.parameters, "store": str(store)}
            before, content = available(at), digest(log)
            done(HOST, way.runbook, parameters, options)
            assert way.gain_bytes is not None
            assert available(at) - before >= 0.8 * way.gain_bytes
            writer.write(b"last\n")
        length = way.parameters["length"]
        (copy,) = store.glob("*.gz")
        whole = gzip.decompress(copy.read_bytes()) + log.read_bytes()[length:]
        assert hashlib.sha256(whole.removesuffix(b"last\n")).hexdigest() == content
        os.truncate(at / "filler", 0)
        undone(HOST, way.runbook, parameters, options)
        assert hashlib.sha256(log.read_bytes().removesuffix(b"last\n")).hexdigest() == content
        assert not store.exists()


@pytest.fixture
def archived(disk: LoopDisk, tmp_path: Path, store: Path, options: Options) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A log whose old lines are archived, and the parameters of that work."""
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        log = at / "app.log"
        write_log(log, 5)
        parameters = {"mountpoint": str(at), "file": str(log), "length": 4 * MIB, "store": str(store)}
        done(HOST, "archive-log", parameters, options)
        yield log, parameters


@pytest.mark.parametrize("mib", [1, 6])
def test_what_was_written_into_an_emptied_log_is_not_overwritten_by_an_undo(
    archived: tuple[Path, dict[str, Any]], options: Options, store: Path, mib: int
) -> None:
    """logrotate's copytruncate keeps the inode; what comes then may be shorter or longer than what was archived."""
    log, parameters = archived
    os.truncate(log, 0)
    new = b"written since\n" * (mib * MIB // 14)
    with log.open("ab") as writer:
        writer.write(new)
    with pytest.raises(Stopped, match="emptied or rewritten since: the lines stay in"):
        undone(HOST, "archive-log", parameters, options)
    assert log.read_bytes() == new
    assert len(list(store.glob("*.gz"))) == 1


def test_an_undo_that_was_cut_in_the_middle_is_carried_on(
    archived: tuple[Path, dict[str, Any]], options: Options, store: Path
) -> None:
    log, parameters = archived
    (copy,) = store.glob("*.gz")
    lines = gzip.decompress(copy.read_bytes())
    with log.open("r+b") as file:
        file.write(lines[: MIB + 7])
    undone(HOST, "archive-log", parameters, options)
    assert log.read_bytes()[: 4 * MIB] == lines


def test_lines_that_were_given_back_are_not_archived_again_as_zeros(
    disk: LoopDisk, tmp_path: Path, store: Path, options: Options
) -> None:
    """The copy was moved away, or only a part of its name outlived a power cut: the last copy is not written over."""
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        log = at / "app.log"
        write_log(log, 5)
        given = {"mountpoint": str(at), "file": str(log), "length": 4 * MIB, "store": str(store)}
        aim = aim_at(HOST, "archive-log", given)
        run = open_run(aim, replace(options, approve=aim.plan().digest))
        assert isinstance(run, Run)
        for step in aim.runbook.steps:
            run.do(step)
        run.close()  # before it was told that it is done
        (copy,) = store.glob("*.gz")
        part = copy.rename(f"{copy}.part")
        held = part.read_bytes()
        again = open_run(aim, replace(options, approve=run.state.digest))
        assert isinstance(again, Run)
        with pytest.raises(Stopped, match=r"the lines are not in .* any more"):
            carry_out(again)
        assert part.read_bytes() == held
        assert list(store.iterdir()) == [part]


def test_logs_that_are_none_are_refused(disk: LoopDisk, tmp_path: Path, store: Path) -> None:
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        (at / "15/main/pg_wal/archive_status").mkdir(parents=True)
        (at / "15/main/PG_VERSION").write_text("15\n")
        (at / "15/main/log").mkdir()
        cases = {
            at / "15/main/log/server.log": "database directory",
            at / "15/main/pg_wal/000000010000000000000001": "database directory",
            at / "000000010000000000000001": "not that of a log",
            at / "binary.log": "holds zeros",
            at / "linked.log": "second name",
        }
        for path in cases:
            write_log(path, 5)
        with (at / "binary.log").open("r+b") as file:
            file.write(b"\0" * 10)
        os.link(at / "linked.log", at / "other")
        for path, reason in cases.items():
            plan = plan_of(HOST, "archive-log", {"mountpoint": str(at), "file": str(path), "length": 4 * MIB,
                                                 "store": str(store)})  # fmt: skip
            assert plan.steps[0].because.find(reason) >= 0, (path, plan.steps[0].because)
        assert "database" in ways_by_name(HOST, str(at))[f"archive-log:{at}/15/main/log/server.log"].refused
        here = {"mountpoint": str(at), "file": str(at / "other.log"), "length": MIB, "store": str(at / "aside")}
        write_log(at / "other.log", 2)
        assert "same filesystem" in plan_of(HOST, "archive-log", here).steps[0].because


def test_named_files_move_from_a_full_disk_and_come_back(
    disk: LoopDisk, tmp_path: Path, store: Path, options: Options
) -> None:
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        names = [at / HOSTILE, at / "*.tar", at / "-rf, ; true"]
        for number, path in enumerate(names):
            path.write_bytes(os.urandom((number + 2) * MIB))
            path.chmod(0o640)
        (at / "keep.tar").write_bytes(b"kept")
        fill(at)
        files = [str(path) for path in names]
        seen = survey.look(HOST, str(at), files)
        way = next(way for way in survey.ways(seen, 0, files) if way.name == "move-files")
        parameters = {**way.parameters, "store": str(store)}
        before = available(at), [digest(path) for path in names], [path.stat().st_mtime_ns for path in names]
        done(HOST, way.runbook, parameters, options)
        assert sum(size or 0 for size in seen.survey.files) >= 9 * MIB
        assert not any(path.exists() for path in names)
        assert (at / "keep.tar").read_bytes() == b"kept"
        undone(HOST, way.runbook, parameters, options)
        assert [digest(path) for path in names] == before[1]
        assert [path.stat().st_mtime_ns for path in names] == before[2]
        assert not store.exists()


def test_files_that_must_stay_are_refused(disk: LoopDisk, tmp_path: Path, store: Path) -> None:
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        wal = at / "wal elsewhere"
        (wal / "archive_status").mkdir(parents=True)
        (at / "directory").mkdir()
        (at / "15").mkdir()
        (at / "15/PG_VERSION").write_text("15")
        (at / "good").write_bytes(b"x" * MIB)
        (at / "link").symlink_to("good")
        for path in (wal / "000000010000000000000007", at / "15/base", at / "twice", at / "open"):
            path.write_bytes(b"x" * MIB)
        os.link(at / "twice", at / "again")
        cases = {
            "directory": "not a plain file", "link": "not a plain file", "*": "cannot tell", "twice": "second name",
            "wal elsewhere/000000010000000000000007": "database directory", "15/base": "database directory",
            "open": "is open in process",
        }  # fmt: skip
        with (at / "open").open():
            for name, reason in cases.items():
                given = {"mountpoint": str(at), "files": [str(at / name)], "store": str(store)}
                because = plan_of(HOST, "move-files", given).steps[0].because
                assert reason in because, (name, because)
        for wrong in ([], [f"{at}/"], ["good"], [str(at / "good")] * 2, [f"{at}/" + os.fsdecode(b"\xff")]):
            with pytest.raises(UsageError):
                plan_of(HOST, "move-files", {"mountpoint": str(at), "files": wrong, "store": str(store)})


def test_a_file_that_is_open_through_another_mount_stays(
    disk: LoopDisk, tmp_path: Path, store: Path, options: Options
) -> None:
    """Before it is copied, and once more before it goes: copying may take an hour."""
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        (at / "free").write_bytes(b"y" * MIB)
        (at / "used").write_bytes(b"x" * MIB)
        files = [str(at / "free"), str(at / "used")]
        given = {"mountpoint": str(at), "files": files, "store": str(store)}
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        run("mount", "--bind", str(at), str(elsewhere))
        try:
            with (elsewhere / "used").open("ab"):
                assert "used is open in process" in plan_of(HOST, "move-files", given).steps[0].because
            aim = aim_at(HOST, "move-files", given)
            plan = aim.plan()
            move = open_run(aim, replace(options, approve=plan.digest), plan)
            assert isinstance(move, Run)
            copy, remove = aim.runbook.steps
            move.do(copy)
            with (elsewhere / "used").open("ab", buffering=0) as writer:
                with pytest.raises(Stopped, match="used is open in process"):
                    move.do(remove)
                (command,) = plan.steps[1].commands
                said = HOST.run(Script(command.text, root=True))
                assert "used is in use: it stays" in said.stderr.decode()
                assert (at / "used").exists()
                writer.write(b"more")
            move.close()
        finally:
            unmount(elsewhere)


def test_a_file_that_is_written_while_it_is_compared_stays(disk: LoopDisk, tmp_path: Path, store: Path) -> None:
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        (at / "file").write_bytes(b"x" * MIB)
        store.mkdir()
        plan = plan_of(HOST, "move-files", {"mountpoint": str(at), "files": [str(at / "file")], "store": str(store)})
        copy, remove = (step.commands[0].text for step in plan.steps)
        assert HOST.run(Script(copy, root=True)).ok
        compare = f'cmp() {{ command cmp "$@" && printf y | dd of={at}/file conv=notrunc 2>/dev/null; }}\n'
        said = HOST.run(Script(compare + remove, root=True))
        assert "file is in use: it stays" in said.stderr.decode()
        assert (at / "file").read_bytes()[:2] == b"yx"


def test_a_read_only_filesystem_and_one_with_errors_are_not_grown(disk: LoopDisk, tmp_path: Path) -> None:
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        disk.enlarge(500)
        run("mount", "-o", "remount,ro", str(at))
        assert "read-only" in ways_by_name(HOST, str(at))["grow-filesystem"].refused
        plan = plan_of(HOST, "grow-filesystem", {"mountpoint": str(at)})
        assert "read-only" in plan.steps[1].because


def test_what_is_no_mount_point_is_told_with_what_it_lies_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is mounted at"):
        survey.look(HOST, str(tmp_path))
    with pytest.raises(UsageError, match="absolute path"):
        survey.look(HOST, "srv")


class Counted(LocalHost):
    """A host that counts what it was sent."""

    sent = 0

    def run(self, script: Script, **how: Any) -> Result:
        self.sent += 1
        return super().run(script, **how)


def test_the_survey_is_one_round_trip(disk: LoopDisk, tmp_path: Path) -> None:
    host = Counted()
    with mounted(disk.device, "ext4", tmp_path / HOSTILE) as at:
        seen = survey.look(host, str(at))
    assert host.sent == 1
    assert seen.usage.size_bytes > 200 * MIB
    assert seen.survey.device_bytes == 320 * MIB
    assert seen.deleted.value is not None


def test_the_survey_changes_nothing(disk: LoopDisk, tmp_path: Path) -> None:
    with mounted(disk.device, "ext4", tmp_path / "at") as at:
        (at / "file").write_bytes(b"x" * MIB)
        run("sync")
        run("mount", "-o", "remount,ro", str(at))
        before = hashlib.sha256(disk.file.read_bytes()).hexdigest()
        subprocess.run(["sync"], check=True)
        ways_by_name(HOST, str(at))
        assert hashlib.sha256(disk.file.read_bytes()).hexdigest() == before


def test_a_btrfs_does_not_give_a_part_of_a_log_back_and_is_not_asked_to(
    disk: LoopDisk, tmp_path: Path, store: Path
) -> None:
    with mounted(disk.device, "btrfs", tmp_path / "at") as at:
        write_log(at / "app.log", 8)
        way = ways_by_name(HOST, str(at))[f"archive-log:{at}/app.log"]
        assert "does not give a part of a file back" in way.refused
        given = {**way.parameters, "store": str(store)}
        assert "does not give" in plan_of(HOST, way.runbook, given).steps[0].because
