"""Threads in uninterruptible sleep (state D) and what they wait for: /proc/PID/task/TID/{stat,wchan}
(proc_pid_wchan(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_SAMPLE = re.compile(r"sample ([0-9]{1,12}\.[0-9]{1,4})\Z")
_TASK = re.compile(r"task /proc/([0-9]{1,10})/task/([0-9]{1,10}) (\S{1,100})\Z")
# Beginnings of the kernel functions in which threads sleep, and what that wait is for. The first that fits counts.
_PLACES = (
    (r"rpc_|nfs|nfs4_|__rpc", "a network file system's server"),
    (r"request_wait_answer|fuse_", "a user-space (FUSE) file system"),
    (r"jbd2_|wait_transaction_locked|start_this_handle|ext4_.*journal|xlog_|xfs_log", "a file system's journal"),
    (r"balance_dirty_pages|wb_wait|rq_qos_wait|wbt_", "written data to reach the disk: more is dirty than it takes"),
    (r"blk_mq_get_tag|get_request|blk_", "room in a disk's queue"),
    (r"io_schedule|folio_wait|wait_on_page|wait_on_buffer|bit_wait_io|submit_bio_wait|iomap_|dio_|wait_on_bit_io"
     r"|__lock_page|out_of_line_wait|do_get_write_access|xfs_buf|md_|raid|dm_|scsi_|filemap_", "a disk"),
    (r"shrink_|throttle_direct_reclaim|try_to_free|do_swap|swap_|congestion_wait|mem_cgroup", "memory"),
    (r"rwsem_|down_|__down|mutex_|__mutex|lock_", "a lock inside the kernel"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A thread that was seen in state D in `seen` of the samples. `place` is the kernel function of the last time,
    empty where it may not be read; `unit` is its control group's path. `name` is chosen by the process itself."""

    pid: int
    thread: int
    name: str
    unit: str
    place: str
    seen: int

    @property
    def waits_for(self) -> str:
        """What the kernel function says of the wait, in words; empty when it is not known."""
        found = (words for pattern, words in _PLACES if re.match(pattern, self.place))
        return next(found, "") if self.place else ""


@dataclass(frozen=True, slots=True)
class Sleepers:
    """The threads that were in state D, those seen most often first, of `samples` looks over `window_seconds`."""

    threads: tuple[Sleeper, ...]
    samples: int
    window_seconds: float

    @property
    def lasting(self) -> tuple[Sleeper, ...]:
        """Those that slept in at least four of five looks: they are held, not merely reading."""
        return tuple(each for each in self.threads if each.seen >= max(2, 0.8 * self.samples))


def parse(text: str) -> Sleepers:
    """The waiting section: samples, each with three lines a thread. Raises Damaged."""
    lines = [line for line in text.split("\n") if line]
    times: list[float] = []
    found: dict[tuple[int, int], Sleeper] = {}
    position = 0
    while position < len(lines):
        if sample := _SAMPLE.match(lines[position]):
            times.append(float(sample[1]))
            position += 1
            continue
        task = _TASK.match(lines[position])
        rest = lines[position + 1 : position + 3]
        if not times or task is None or len(rest) < 2 or not (rest[0][:5], rest[1][:5]) == ("unit ", "name "):
            raise Damaged("a waiting thread is not its task, unit and name")
        position += 3
        key = int(task[1]), int(task[2])
        before = found.get(key)
        place = "" if task[3] in ("?", "0") else task[3]
        found[key] = Sleeper(
            *key,
            rest[1][5:],
            rest[0][5:],
            place or (before.place if before else ""),
            (before.seen if before else 0) + 1,
        )
    if not times:
        raise Damaged("the waiting threads have no sample")
    rows = sorted(found.values(), key=lambda row: (-row.seen, row.pid, row.thread))
    return Sleepers(tuple(rows), len(times), times[-1] - times[0])
