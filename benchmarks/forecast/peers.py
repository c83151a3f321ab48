"""Prophet and statsforecast behind the same interface; imported only inside the benchmark's own environment.

Their daily quantiles become paths that keep their rank: path i is the quantile curve i. So a level counts as reached
with the probability that the marginal gives; independent daily noise drawn into paths would let the maximum run away.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np

from runbooks_lib.capacity.baselines import Method
from runbooks_lib.capacity.daily import Floats, Times
from runbooks_lib.capacity.growth import Forecast, daily_values, tier_of

PACKAGES = ("prophet==1.5.0", "statsforecast==2.1.1")
_QUANTILES = np.linspace(0.005, 0.995, 100)


def run_inside(folder: Path, arguments: list[str]) -> int:
    """Run this benchmark with the peers in a virtual environment of its own in `folder`, made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"Making {folder} with {', '.join(PACKAGES)} (about 600 MB) …", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [str(python), "-m", "benchmarks.forecast", *arguments], check=False, env=environment
    ).returncode


def methods() -> dict[str, Method]:
    """Prophet as it comes and moved to the last value, AutoETS without season, AutoTheta."""
    logging.getLogger("prophet").setLevel(logging.ERROR)
    logging.getLogger("cmdstanpy").setLevel(logging.CRITICAL)
    fits = _ProphetFits()
    return {
        "Prophet": lambda times, used, days: fits.forecast(times, used, days, anchored=False),
        "Prophet anchored": lambda times, used, days: fits.forecast(times, used, days, anchored=True),
        "AutoETS": _statsforecast("AutoETS"),
        "AutoTheta": _statsforecast("AutoTheta"),
    }


class _ProphetFits:
    """The last fit is kept: both variants are asked about the same past, one after the other."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._samples: Floats = np.empty((0, 0))

    def forecast(self, times: Times, used: Floats, days: int, *, anchored: bool) -> Forecast:
        key = (times[0], times[-1], len(times), float(used.sum()), days)
        if key != self._key:
            self._samples, self._key = _prophet_quantiles(times, used, days), key
        paths = self._samples[:, 1:]
        if anchored:
            paths = paths + float(used[-1]) - float(np.median(self._samples[:, 0]))
        return _told(times, used, days, paths)


def _prophet_quantiles(times: Times, used: Floats, days: int) -> Floats:
    import pandas as pd
    from prophet import Prophet

    daily = daily_values(times, used)
    dates = daily.last_day - np.arange(len(daily.values))[::-1]
    model = Prophet(uncertainty_samples=300)
    model.fit(pd.DataFrame({"ds": pd.to_datetime(dates), "y": daily.values}))
    future = pd.DataFrame({"ds": pd.to_datetime(daily.last_day + np.arange(days + 1))})
    samples = np.asarray(model.predictive_samples(future)["yhat"])
    return np.quantile(samples, _QUANTILES, axis=1)


def _statsforecast(name: str) -> Method:
    def method(times: Times, used: Floats, days: int) -> Forecast:
        from statsforecast import models

        made = models.AutoETS(season_length=1, model="ZZN") if name == "AutoETS" else models.AutoTheta(season_length=1)
        levels = [float(level) for level in range(4, 100, 4)]
        values = daily_values(times, used).values
        told: dict[str, Any] = made.forecast(y=values, h=days, level=levels)
        curves = [
            told[f"lo-{level:g}"] if f"lo-{level:g}" in told else told[f"lo-{level}"] for level in reversed(levels)
        ]
        curves.append(told["mean"])
        curves += [told[f"hi-{level:g}"] if f"hi-{level:g}" in told else told[f"hi-{level}"] for level in levels]
        return _told(times, used, days, np.sort(np.array(curves, dtype=np.float64), axis=0))

    return method


def _told(times: Times, used: Floats, days: int, paths: Floats) -> Forecast:
    daily = daily_values(times, used)
    return Forecast(
        tier=tier_of(daily),
        horizon_days=days,
        last_day=daily.last_day,
        last_value=float(daily.values[-1]),
        history_days=len(daily.values),
        missing_ratio=daily.missing_ratio,
        paths=paths,
        refusal=None if np.isfinite(paths).all() else "it gave no number",
    )
