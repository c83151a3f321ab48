"""What must not be taken for growth, and what the score must not be fooled by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from runbooks_lib.capacity import FLOORS, Curve, Forecast, backtest, outlook, plan_for
from runbooks_lib.capacity.baselines import no_growth
from runbooks_lib.capacity.growth import daily_values
from runbooks_lib.capacity.rolling import OURS, our_forecast
from runbooks_lib.config import PartitionSettings, PlanSettings
from runbooks_lib.history import FilesystemHistory
from tests.capacity.partitions import GIB, NOW, past

DAY = np.arange(365)
RESTLESS = np.random.default_rng(0).normal(0, 1.5, 365)
HOLES = np.random.default_rng(1).random(365) < 0.3
CONTROLS: dict[str, FilesystemHistory] = {
    "constant": past(np.full(365, 50 * GIB)),
    "a pure sawtooth": past((20 + DAY % 30 * 2) * GIB),
    "one step": past(np.where(DAY > 200, 70, 40) * GIB),
    "a resize": past(np.full(365, 50 * GIB), size=np.where(DAY > 200, 100 * GIB, 60 * GIB)),
    "constant, a third of the days missing": past(np.full(365, 50 * GIB), missing=HOLES & (DAY < 364)),
    "a level that is only restless": past((80 + RESTLESS) * GIB),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_no_trend_is_seen_where_there_is_none(control: str) -> None:
    told = outlook(CONTROLS[control], PartitionSettings("/srv/db"), now=NOW)
    assert told.state == "ok", told.sentence
    assert told.start_by is None
    assert told.probability_full == dict(FLOORS)
    assert "no trend" in told.sentence or "is not expected to pass 90 % within 90 days" in told.sentence


@pytest.mark.parametrize("control", sorted(CONTROLS.keys() - {"one step"}))
def test_nothing_is_bought_where_nothing_grows(control: str) -> None:
    assert plan_for(CONTROLS[control], PartitionSettings("/srv/db"), PlanSettings(), now=NOW).needed_bytes == 0


def test_no_number_at_all_is_refused() -> None:
    told = outlook(past(np.full(365, np.nan)), PartitionSettings("/srv/db"), now=NOW)
    assert told.state == "cannot tell"
    assert told.refusal == "there is no usable sample of it"


def textbook_line(times: npt.NDArray[np.datetime64], used: npt.NDArray[np.float64], horizon_days: int) -> Forecast:
    """The least-squares line of the last 30 days with the band of its coefficients' errors, as a textbook has it."""
    values = daily_values(times, used).values[-30:]
    day = np.arange(len(values)) - (len(values) - 1) / 2
    slope = (day * values).sum() / (day**2).sum()
    error = np.sqrt(((values - values.mean() - slope * day) ** 2).sum() / (len(day) - 2))
    ahead = (len(values) - 1) / 2 + np.arange(1, horizon_days + 1)
    random = np.random.default_rng(0).standard_normal((200, 2)) * error
    lines = values.mean() + slope * ahead + random[:, :1] / np.sqrt(len(day))
    told = no_growth(times, used, horizon_days)
    return Forecast(
        told.tier, horizon_days, told.last_day, told.last_value, told.history_days, told.missing_ratio,
        lines + random[:, 1:] * ahead / np.sqrt((day**2).sum()),
    )  # fmt: skip


def test_the_score_finds_out_bands_that_are_too_narrow() -> None:
    random = np.random.default_rng(0)
    times = np.datetime64("2022-01-01", "s") + np.arange(900) * np.timedelta64(86_400, "s")
    curves = [
        Curve(f"c{n}", f"s{n}", times, 1e9 * (100 + np.cumsum(random.pareto(2.0, 900) * (random.random(900) < 0.4))))
        for n in range(6)
    ]
    told = backtest(curves, methods={OURS: our_forecast, "textbook": textbook_line}, origins=8)
    for ours, textbook in zip(told.scores(OURS), told.scores("textbook"), strict=True):
        assert textbook.cover80 < 0.6 < ours.cover80
        assert ours.relative_crps < textbook.relative_crps
