"""Operator killed, connection cut, the host's shell killed, in the middle of a way: whoever resumes ends in the same
state as an undisturbed run, undo in the first one, and no case is a false done."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbooks_lib.training.practice_host import PracticeHost
from tests.procedures.storage.crashes import Work, check
from tests.procedures.storage.disks import MIB, loop_disk, mounted
from tests.procedures.storage.postgres import cluster

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for loop devices"),
]


@pytest.fixture
def practice(quick_path: Path) -> Iterator[PracticeHost]:
    with PracticeHost(quick_path / "practice") as server:
        yield server


def test_a_slot_is_dropped_once_and_its_wal_goes_whatever_dies(practice: PracticeHost, quick_path: Path) -> None:
    with cluster(600) as server:

        def begin() -> None:
            if server.sql("select count(*) from pg_replication_slots") == "0":
                server.sql("select pg_create_physical_replication_slot('gone', true)")
            server.write_wal(5)

        def picture() -> object:
            old = (
                "select count(*) > 3 from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'"
                " and substr(name, 9) < (select substr(redo_wal_file, 9) from pg_control_checkpoint())"
            )
            return server.sql("select count(*) from pg_replication_slots", old, "select count(*) from kept")

        server.sql("create table kept as select generate_series(1, 100)")
        work = Work(
            "drop-slot",
            practice.ssh_config,
            practice.names[0],
            {"mountpoint": str(server.mountpoint), "data_directory": str(server.data), "slot": "gone"},
            begin,
            picture,
            quick_path,
            lambda: int((quick_path / "place/count").read_text()),
        )
        tried, of = check(work, cases=4, undo=False)
    print(f"drop-slot: {tried} of {of} places, none wrong")


def test_a_log_is_whole_in_one_of_two_places_whatever_dies(practice: PracticeHost, quick_path: Path) -> None:
    lines = b"".join(b"%015d\n" % number for number in range(MIB // 4))  # 4 MiB
    with (
        loop_disk(quick_path, "db", 64) as disk,
        mounted(disk.device, "ext4", quick_path / "at") as at,
        loop_disk(quick_path, "other", 64) as other,
        mounted(other.device, "ext4", quick_path / "other") as aside,
    ):
        log, store = at / "app's.log", aside / "put aside"

        def begin() -> None:
            if not log.exists():
                log.write_bytes(lines)
                os.sync()

        def picture() -> object:
            copies = {path.name: gzip.decompress(path.read_bytes()) for path in store.glob("*")}
            held = log.read_bytes()
            whole = held == lines or (held == bytes(len(lines)) and list(copies.values()) == [lines])
            return whole, held == lines, sorted(copies), store.exists()

        begin()
        work = Work(
            "archive-log",
            practice.ssh_config,
            practice.names[0],
            {"mountpoint": str(at), "file": str(log), "length": len(lines), "store": str(store)},
            begin,
            picture,
            quick_path,
            lambda: int((quick_path / "place/count").read_text()),
        )
        tried, of = check(work, cases=6, undo=True)
    print(f"archive-log: {tried} of {of} places, none wrong")
