"""Possible futures of one series: what is added to its last value, day by day."""

from __future__ import annotations

import numpy as np

from runbooks_lib.capacity.daily import Floats

WINDOWS = (14, 30, 60, 90, 180, 365)
PATHS = 402
BLOCK_DAYS = 14


def futures(values: Floats, horizon_days: int, seed: int) -> Floats:
    """Paths of growth after the last value: shape (paths, horizon_days), in the unit of `values`."""
    steps = np.diff(values)
    random = np.random.default_rng(seed)
    each = PATHS // len(WINDOWS)
    parts = []
    blocks = -(-horizon_days // BLOCK_DAYS)
    for window in WINDOWS:
        own = steps[-window:]
        length = min(BLOCK_DAYS, len(own))
        starts = random.integers(
            0, len(own) - length + 1, size=(each, -(-horizon_days // length) if length < BLOCK_DAYS else blocks)
        )
        drawn = own[(starts[:, :, None] + np.arange(length)).reshape(each, -1)[:, :horizon_days]]
        parts.append(np.cumsum(drawn, axis=1))
    paths = np.concatenate(parts)
    middle = np.median(paths, axis=0)
    return np.asarray(middle + 1.5 * (paths - middle), dtype=np.float64)
