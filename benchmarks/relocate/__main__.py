"""Run the benchmark and print its table: `python -m benchmarks.relocate [--megabytes 500 2000 8000] [--runs 5]`.

A real PostgreSQL on this machine, as root, between two ext4 filesystems; clients are the practice machines' oracle.
Runs by the runbook and cold copies alternate, so that a neighbour's load meets both.
"""

from __future__ import annotations

import argparse
import math
import statistics

from benchmarks.relocate.here import Here, here
from benchmarks.relocate.moving import Moved, by_runbook, cold_copy, forget, observed
from runbooks_lib.hosts.local import LocalHost
from runbooks_lib.runbook.places import Places


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relocate", description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold", type=int, default=2, help="how many of the runs also time a cold copy; default 2")
    parser.add_argument("--commits", type=float, default=50, help="commits a second; 0 is as fast as it goes")
    parser.add_argument("--images", help="a directory for the two file systems; /dev/shm is memory")
    parser.add_argument("--apart", action="store_true", help="tables and WAL on a third file system, by runbook alone")
    given = parser.parse_args()
    print("| data, MB | runs | gap, s: median (least to most) | cold copy, s | ratio | whole move, s | lost |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for megabytes in given.megabytes:
        with here(megabytes, images=given.images, apart=given.apart) as cluster:
            moved, cold = _size(cluster, given.runs, 0 if given.apart else given.cold, given.commits)
            gaps = sorted(each.gap for each in moved)
            median, copied = statistics.median(gaps), statistics.median([each.gap for each in cold] or [math.nan])
            print(
                f"| {cluster.size_bytes() / 1e6:.0f} | {len(moved)} | {median:.2f} ({gaps[0]:.2f} to {gaps[-1]:.2f}) "
                f"| {copied:.1f} | {copied / median:.0f} | {statistics.median(each.whole for each in moved):.0f} "
                f"| {sum(each.lost for each in moved)} |",
                flush=True,
            )


def _size(cluster: Here, runs: int, cold: int, commits: float) -> tuple[list[Moved], list[Moved]]:
    moved: list[Moved] = []
    copied: list[Moved] = []
    (cluster.root / "place").mkdir()
    (cluster.root / "place").chmod(0o1777)
    places = Places((str(cluster.root / "place"),))
    for number in range(runs):
        with observed(cluster.address, moved, commits_per_second=commits, password="unused"):  # noqa: S106
            parameters = {"directory": str(cluster.directory), "target": str(cluster.free(f"run-{number}"))}
            by_runbook(LocalHost(), cluster.root / "runs", places, parameters)
        forget(cluster)
        if number < cold:
            with observed(cluster.address, copied, commits_per_second=commits, password="unused"):  # noqa: S106
                cold_copy(cluster, cluster.free(f"cold-{number}"))
            forget(cluster)
    return moved, copied


if __name__ == "__main__":
    main()
