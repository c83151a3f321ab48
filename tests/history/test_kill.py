"""A writer that is killed at any moment loses nothing that it had acknowledged."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory

START = datetime(2025, 3, 10, tzinfo=UTC)
SERIES = 120
MINUTES = 37  # so that a writer finishes days, and compacts, every few dozen snapshots
RECORD = struct.Struct("<q")


def snapshot(step: int) -> tuple[datetime, list[Sample]]:
    when = START + timedelta(minutes=MINUTES * step)
    return when, [Sample(f"node_x{number}", float(step * SERIES + number), when) for number in range(SERIES)]


def write_until_killed(path: Path, first: int, acknowledge: int) -> None:
    """Stores snapshots and compacts without pause; says each stored step on the pipe *after* storing returned."""
    history = SqliteHistory(path)
    for step in range(first, first + 100_000):
        when, samples = snapshot(step)
        history.store_snapshot("db-01", when, samples)
        os.write(acknowledge, RECORD.pack(step))
        if step % 5 == 0:
            history.compact(when)


def kill_one(path: Path, first: int, after_seconds: float) -> int:
    """The last acknowledged step of a writer process that was killed so long after its first acknowledgement."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            write_until_killed(path, first, writing)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert select.select([reading], [], [], 30)[0], "the writer never stored anything"
        time.sleep(after_seconds)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer ended before it was killed"
        acknowledged = b""
        while piece := os.read(reading, 1 << 16):
            acknowledged += piece
    finally:
        os.close(reading)
    steps = [step for (step,) in RECORD.iter_unpack(acknowledged)]
    assert steps == list(range(first, first + len(steps)))
    return steps[-1]


def kill_many(path: Path, kills: int) -> None:
    dice = random.Random(20250310)
    first = 0
    for _ in range(kills):
        last = kill_one(path, first, dice.uniform(0, 0.03))
        with SqliteHistory(path) as history:
            assert history.check() == []
            newest = history.last_collection("db-01")
            assert newest is not None
            found = round((newest.time - START) / timedelta(minutes=MINUTES))
            # What was being stored when the kill came may be there, whole; its acknowledgement was lost.
            assert last <= found <= last + 1
        first = found + 1
    with SqliteHistory(path, raw_days=10_000) as history:
        end = START + timedelta(minutes=MINUTES * first)
        for number in (0, SERIES // 2, SERIES - 1):
            (series,) = history.series(f"node_x{number}", end=end)
            # Raw samples are dropped after a fortnight; after that each hour holds one or two steps.
            known = {int(value) // SERIES for value in series.values}
            fine = range(max(0, first - 13 * 24 * 60 // MINUTES), first)
            assert known.issuperset(fine)
            hours = {int((START + timedelta(minutes=MINUTES * step)).timestamp()) // 3600 for step in range(first)}
            kept = {int(second) // 3600 for second in series.times.astype("int64")}
            assert kept == hours


def test_a_hundred_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    kill_many(tmp_path / "h.sqlite", 100)


def test_a_kill_while_the_file_is_made_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    dice = random.Random(7)
    for number in range(20):
        path = tmp_path / str(number) / "h.sqlite"
        child = os.fork()
        if child == 0:
            try:
                SqliteHistory(path).prepare()
            finally:
                os._exit(0)
        time.sleep(dice.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with SqliteHistory(path) as history:
            history.prepare()
            assert history.check() == []
            assert history.instances() == []
