"""The contract of `forecast`: quantiles, probabilities, dates, refusals; and what must hold for any series."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbooks_lib.capacity import CannotTellError, Forecast, forecast
from runbooks_lib.errors import UsageError

Array = npt.NDArray[np.float64]
quick = settings(max_examples=40, deadline=None)


def days(count: int) -> npt.NDArray[np.datetime64]:
    return np.datetime64("2026-01-01", "s") + np.arange(count) * np.timedelta64(86_400, "s")


def told(values: npt.ArrayLike, **how: int) -> Forecast:
    values = np.asarray(values, dtype=np.float64)
    return forecast(days(len(values)), values, **how)


@st.composite
def series(draw: st.DrawFn) -> Array:
    """Any daily growth: quiet, bursty, shrinking, stepping, on any scale."""
    count = draw(st.integers(10, 400))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    steps = random.standard_t(draw(st.sampled_from([1.2, 2.0, 30.0])), count) + draw(st.floats(-1, 1))
    steps *= random.random(count) < draw(st.floats(0.02, 1))
    scale = 10.0 ** draw(st.integers(0, 15))
    return np.maximum(0.0, scale * (draw(st.floats(0, 1000)) + np.cumsum(steps)))


@quick
@given(series())
def test_quantiles_never_cross(values: Array) -> None:
    bands = told(values).quantile([0.0, 0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975, 1.0], np.arange(1, 91))
    assert np.isfinite(bands).all()
    assert (np.diff(bands, axis=0) >= 0).all()
    assert (bands >= 0).all()


@quick
@given(series(), st.floats(0, 2))
def test_chances_grow_with_time_and_fall_with_the_level(values: Array, above: float) -> None:
    answer = told(values)
    level = values[-1] + above * (np.ptp(values) + 1)
    chances = [answer.probability_reached(level, within) for within in (1, 7, 30, 90)]
    assert chances == sorted(chances)
    assert answer.probability_reached(level * 1.1 + 1, 90) <= chances[-1]
    low, middle, high = answer.days_to(level)
    assert low <= middle <= high
    if np.isfinite(low) and low >= 1:
        assert answer.probability_reached(level, int(low)) >= 0.1


@quick
@given(series())
def test_the_same_seed_gives_the_same_answer(values: Array) -> None:
    assert np.array_equal(told(values, seed=3).paths, told(values, seed=3).paths)


@quick
@given(series(), st.integers(-20, 20))
def test_the_unit_does_not_matter(values: Array, power: int) -> None:
    once, scaled = told(values), told(values * 2.0**power)
    assert np.allclose(scaled.paths, once.paths * 2.0**power, rtol=1e-9)
    level = values[-1] * 1.05 + 1
    assert scaled.probability_reached(level * 2.0**power, 90) == once.probability_reached(level, 90)


@quick
@given(st.integers(7, 360), st.integers(1, 40), st.floats(0, 1e15))
def test_more_data_of_a_constant_series_never_raises_the_alarm(count: int, more: int, value: float) -> None:
    level = value + 1
    before, after = told(np.full(count, value)), told(np.full(count + more, value))
    for within in (7, 30, 90):
        assert after.probability_reached(level, within) <= before.probability_reached(level, within)
    assert after.days_to(level) >= before.days_to(level)


@quick
@given(st.integers(20, 300), st.integers(1, 60))
def test_standing_still_does_not_raise_the_chance(count: int, still: int) -> None:
    grown = np.cumsum(np.random.default_rng(count).gamma(1, 1, count))
    level = grown[-1] * 1.2
    now = told(grown).probability_reached(level, 90)
    later = told(np.concatenate([grown, np.full(still, grown[-1])])).probability_reached(level, 90)
    assert later <= now + 0.1


@pytest.mark.parametrize("spacing_seconds", [300, 3600, 6 * 3600, 86_400, 86_400 * 1.003])
def test_any_spacing_tells_the_same_story(spacing_seconds: float) -> None:
    count = int(200 * 86_400 / spacing_seconds)
    seconds = (np.arange(count) * spacing_seconds).astype(np.int64)
    times = np.datetime64("2026-01-01", "s") + seconds.astype("timedelta64[s]")
    answer = forecast(times, 1e9 + seconds / 86_400 * 1e6)
    growth = answer.quantile(0.5, 30) - answer.last_value
    assert growth == pytest.approx(30e6, rel=0.05)


def test_weekly_samples_are_read_as_weekly() -> None:
    times = np.datetime64("2025-01-01", "s") + np.arange(60) * np.timedelta64(7 * 86_400, "s")
    answer = forecast(times, np.arange(60) * 7e6)
    assert answer.refusal is None
    assert answer.quantile(0.5, 70) - answer.last_value == pytest.approx(70e6, rel=0.1)


def test_order_repeats_and_holes_do_not_matter() -> None:
    random = np.random.default_rng(0)
    values = 1e9 + np.cumsum(random.gamma(1, 1e6, 300))
    order = random.permutation(300)
    shuffled = forecast(np.tile(days(300)[order], 2), np.tile(values[order], 2))
    assert np.allclose(shuffled.paths, told(values).paths)
    holed = values.copy()
    holed[random.random(300) < 0.3] = np.nan
    holed[-1] = values[-1]
    whole = told(values).quantile(0.5, 30) - values[-1]
    assert told(holed).quantile(0.5, 30) - values[-1] == pytest.approx(whole, rel=0.35)


@pytest.mark.parametrize("values", [np.full(365, np.nan), np.full(365, -1.0), np.full(365, np.inf), []])
def test_nothing_usable_is_refused_with_a_reason(values: Array) -> None:
    answer = told(values)
    assert answer.refusal == "there is no usable sample"
    for ask in (
        lambda: answer.quantile(0.5, 1),
        lambda: answer.probability_reached(1.0, 1),
        lambda: answer.days_to(1.0),
    ):
        with pytest.raises(CannotTellError, match="there is no usable sample"):
            ask()


def test_hours_are_refused_and_a_week_is_not() -> None:
    hours = np.datetime64("2026-01-01", "s") + np.arange(24) * np.timedelta64(300, "s")
    assert "24 samples over 2 hours" in str(forecast(hours, np.arange(24.0)).refusal)
    assert forecast(hours[:1], [1.0]).refusal == "there is one sample; growth needs two"
    assert told(np.arange(8.0)).refusal is None


def test_questions_outside_the_forecast_are_usage_errors() -> None:
    answer = told(np.arange(100.0), horizon_days=30)
    for ask in (
        lambda: answer.quantile(0.5, 31),
        lambda: answer.quantile(0.5, 0),
        lambda: answer.quantile(1.5, 1),
        lambda: answer.probability_reached(1e9, 31),
        lambda: forecast(np.arange(5), np.arange(5.0)),
        lambda: forecast(days(5), np.arange(4.0)),
        lambda: told(np.arange(9.0), horizon_days=0),
    ):
        with pytest.raises(UsageError):
            ask()


def test_shapes_follow_the_questions() -> None:
    answer = told(np.arange(100.0))
    assert isinstance(answer.quantile(0.5, 1), float)
    assert np.shape(answer.quantile([0.1, 0.9], 7)) == (2,)
    assert np.shape(answer.quantile(0.5, [7, 30, 90])) == (3,)
    assert np.shape(answer.quantile([0.1, 0.9], [7, 30, 90])) == (2, 3)
    assert answer.probability_reached(50.0, 1) == 1.0
    assert answer.days_to(50.0) == (0.0, 0.0, 0.0)
    assert answer.days_to(1e12) == (np.inf, np.inf, np.inf)


def test_a_monotone_series_is_not_forecast_to_shrink() -> None:
    grown = np.cumsum(np.random.default_rng(0).pareto(1.5, 365))
    assert (told(grown).paths >= grown[-1]).all()


def test_steady_growth_has_a_narrow_band() -> None:
    answer = told(1000 + np.arange(365.0))
    low, high = answer.quantile([0.1, 0.9], 90) - answer.last_value
    assert 70 < low < 90 < high < 120


def test_one_import_does_not_become_a_habit() -> None:
    grown = 1000 + np.arange(365.0)
    imported = grown + np.where(np.arange(365) > 300, 500.0, 0.0)
    growth = told(imported).quantile(0.5, 90) - imported[-1]
    assert growth == pytest.approx(90, rel=0.25), "a drift over a window that holds the import says 250 and more"


def test_import_and_one_forecast_need_only_numpy() -> None:
    # pandas, pydantic or matplotlib would each cost more than the forecast itself.
    script = (
        "import sys, numpy as np\n"
        "from runbooks_lib.capacity import forecast\n"
        "forecast(np.datetime64('2026-01-01') + np.arange(99), np.arange(99.0)).quantile(0.9, 30)\n"
        "print([name for name in ('pandas', 'pydantic', 'matplotlib', 'scipy', 'sqlite3') if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "[]\n"


@quick
@given(series(), st.integers(1, 120), st.integers(1, 400))
def test_a_longer_horizon_does_not_change_what_is_said_of_the_days_before(values: Array, near: int, more: int) -> None:
    assert np.array_equal(told(values, horizon_days=near).paths, told(values, horizon_days=near + more).paths[:, :near])


def test_a_restless_level_does_not_wander_off() -> None:
    restless = 1000 + np.random.default_rng(0).normal(0, 20, 365)
    low, high = told(restless).quantile([0.1, 0.9], 90)
    assert 850 < low < 1000 < high < 1150, "adding up its daily changes would say 650 and 1350"


def test_a_busy_week_does_not_become_a_habit() -> None:
    growth = np.full(365, 10.0)
    growth[-14:-7] = 50  # each day within what is usual for a day; the week is not
    values = 1e4 + np.cumsum(growth)
    middle, high = told(values).quantile([0.5, 0.8], 90) - values[-1]
    assert 900 < middle < 1200
    assert high < 1700, "the last two weeks' pace would say 2700"


def test_two_quiet_weeks_say_little_where_most_days_are_quiet() -> None:
    growth = np.where(np.arange(365) % 12 == 4, 120.0, 0.0)
    growth[-14:] = 0
    values = 1e4 + np.cumsum(growth)
    assert told(values).probability_reached(values[-1] + 1, 60) > 0.85


def test_where_every_day_grows_the_last_weeks_count_more() -> None:
    growth = np.full(365, 10.0)
    growth[-60:] = 14
    values = 1e4 + np.cumsum(growth)
    assert told(values).quantile(0.5, 30) - values[-1] > 30 * 11.5, "the year's pace is 10.7 a day"


def test_a_restless_level_stays_where_it_is_for_a_year() -> None:
    chances = []
    for seed in range(12):
        restless = 80 + np.random.default_rng(seed).normal(0, 1.5, 365)
        chances.append(told(restless, horizon_days=365).probability_reached(100, 365))
    assert np.mean(chances) < 0.06
