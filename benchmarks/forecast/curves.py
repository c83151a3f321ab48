"""Curves to score forecasts on: a folder of CSV files, or generated ones of known temper."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np

from runbooks_lib.capacity import Curve
from runbooks_lib.errors import UsageError

FOLDER_HELP = """\
--data DIR names a folder of curves, one file each: NAME.csv or NAME.csv.gz with the header `timestamp,used_bytes`,
one row a day (UTC) or denser. What stands before the last underscore of NAME is the source: curves of one source (two
partitions of one host, two measures of one repository) count as one witness. A year and 90 days is the least length.
The figures in docs/forecasting.md come from the daily byte counts of public git repositories; any real growth curves
do. Without such a folder, --generated runs the same on made-up curves, which shows that it works and proves nothing.
"""


def read_folder(folder: Path) -> list[Curve]:
    """All curves of a folder. Raises UsageError when there is none or one cannot be read."""
    files = sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])
    if not files:
        raise UsageError("there is no .csv or .csv.gz file", where=str(folder), next=FOLDER_HELP)
    return [_read(file) for file in files]


def _read(file: Path) -> Curve:
    name = file.name.removesuffix(".gz").removesuffix(".csv")
    with gzip.open(file, "rt", newline="") if file.suffix == ".gz" else file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    try:
        times = np.array(
            [row["timestamp"].removesuffix("Z").replace("+00:00", "") for row in rows], dtype="datetime64[s]"
        )
        used = np.array([float(row["used_bytes"]) for row in rows])
    except (KeyError, ValueError, AttributeError) as error:
        raise UsageError(f"it cannot be read: {error!r}", where=str(file), next=FOLDER_HELP) from error
    return Curve(name=name, source=name.rsplit("_", 1)[0], times=times, used=used)


def generated(days: int = 1200) -> list[Curve]:
    """Seeded curves: smooth, accelerating, bursty, with weekly and with monthly clean-ups, three of each."""
    times = np.datetime64("2022-01-01", "s") + np.arange(days) * np.timedelta64(86_400, "s")
    curves = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        day = np.arange(days)
        growth = {
            "smooth": random.gamma(4, 0.25, days),
            "accelerating": random.gamma(4, 0.25, days) * np.exp(day / 500),
            "bursty": random.pareto(1.8, days) * (random.random(days) < 0.3),
            "weekly-clean-ups": 0.2 + np.where(day % 7 == 6, -30.0, 5.0) + random.normal(0, 0.5, days),
            "monthly-clean-ups": 0.2 + np.where(day % 30 == 29, -58.0, 2.0) + random.normal(0, 0.5, days),
        }
        for temper, steps in growth.items():
            used = 1e9 * (200 + np.cumsum(steps))
            curves.append(Curve(f"{temper}_{seed}", f"{temper}-{seed}", times, np.maximum(used, 1e6)))
    return curves
