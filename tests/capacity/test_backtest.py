"""The backtest scores as the literature does, knows nothing of the future, and says what it cannot judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runbooks_lib.capacity import Curve, Forecast, backtest, forecast
from runbooks_lib.capacity.baselines import drift, mixed_windows, no_growth, predict_linear, theil_sen
from runbooks_lib.capacity.daily import Floats, Times
from runbooks_lib.capacity.rolling import OURS
from runbooks_lib.capacity.scoring import brier_skill, crps
from runbooks_lib.errors import UsageError

ROOT = Path(__file__).parents[2]


def curve(name: str, values: Floats, *, source: str = "", usable: float | None = None) -> Curve:
    times = np.datetime64("2022-01-01", "s") + np.arange(len(values)) * np.timedelta64(86_400, "s")
    return Curve(name, source or name, times, values, usable)


def bursty(seed: int, days: int = 900) -> Floats:
    random = np.random.default_rng(seed)
    return np.asarray(1e6 + np.cumsum(random.pareto(2.0, days) * (random.random(days) < 0.4) * 1e3))


def test_crps_of_a_normal_sample_is_what_the_formula_says() -> None:
    # Gneiting & Raftery 2007, equation 5: CRPS of N(0, 1) at 0 is (sqrt(2) - 1) / sqrt(pi).
    sample = np.random.default_rng(0).standard_normal(20_000)
    assert crps(sample, 0.0) == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi), rel=0.02)
    assert crps(np.array([3.0]), 5.0) == 2.0


def test_brier_skill_is_one_for_a_seer_and_zero_for_the_base_rate() -> None:
    came = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    assert brier_skill(came, came) == 1.0
    assert brier_skill(np.full(5, 0.4), came) == pytest.approx(0.0)
    assert np.isnan(brier_skill(np.zeros(3), np.zeros(3)))


def test_no_growth_scores_one_against_itself_and_a_line_is_seen_by_a_line() -> None:
    line = [curve("line", 1e6 + 1e3 * np.arange(900.0))]
    methods = {"no growth": no_growth, "Theil-Sen": theil_sen, "predict_linear": predict_linear(30)}
    told = backtest(line, methods=methods, origins=5)
    assert [row.relative_error for row in told.scores("no growth")] == [1.0, 1.0, 1.0]
    assert all(row.relative_error < 0.01 for row in told.scores("Theil-Sen"))
    assert told.arrival("predict_linear").median_error_days <= 1
    assert told.arrival("no growth").twice_too_late == 1.0


def test_no_method_sees_the_future() -> None:
    seen: list[tuple[np.datetime64, int]] = []

    def spy(times: Times, used: Floats, horizon_days: int) -> Forecast:
        seen.append((times[-1], len(times)))
        assert used[-1] == values[len(values) - 1 - int((last - times[-1]) / np.timedelta64(1, "D"))]
        return no_growth(times, used, horizon_days)

    values = bursty(1)
    tested = curve("one", values)
    last = tested.times[-1]
    backtest([tested], methods={"spy": spy}, origins=6)
    assert len(seen) == 6
    assert all(count == 366 for _, count in seen)
    assert max(time for time, _ in seen) <= last - np.timedelta64(90, "D")


def test_ours_is_better_than_the_usual_ones_on_bursts() -> None:
    told = backtest(
        [curve(f"c{seed}", bursty(seed)) for seed in range(6)],
        methods={
            OURS: lambda times, used, days: forecast(times, used, horizon_days=days),
            "drift": drift,
            "predict_linear": predict_linear(7),
            "mixed": mixed_windows(),
        },
        origins=8,
    )
    for other in ("drift", "predict_linear"):
        assert told.ratio(OURS, other, 30)[0] < 1, other
    cover = [row.cover80 for row in told.scores(OURS)]
    assert all(0.6 < value <= 1 for value in cover)
    counts = [row[4] for row in told.calibration(OURS, 30)]
    assert sum(counts) == 6 * 8 * 5


def test_what_is_not_known_yet_counts_neither_way() -> None:
    short = curve("short", bursty(3, 470))
    told = backtest([short], methods={"no growth": no_growth}, origins=10)
    seven, thirty, ninety = told.scores("no growth")
    assert seven.count > thirty.count > ninety.count > 0
    tiny = curve("tiny", bursty(3, 60))
    assert backtest([short, tiny], methods={"no growth": no_growth}).left_out == ("tiny",)
    with pytest.raises(UsageError, match="no series can be tested"):
        backtest([tiny])


def test_two_curves_of_one_source_are_one_witness() -> None:
    curves = [curve(f"c{i}", bursty(i), source="host") for i in range(4)]
    told = backtest(curves, methods={"drift": drift, "no growth": no_growth}, origins=4)
    middle, low, high = told.ratio("drift", "no growth", 30)
    assert low == pytest.approx(middle) == pytest.approx(high)
    assert told.sources == 1


def test_the_real_size_gives_thresholds_of_its_own() -> None:
    values = bursty(1)
    without = backtest([curve("c", values)], methods={"drift": drift}, origins=4)
    sized = backtest([curve("c", values, usable=float(values[-1]) * 2)], methods={"drift": drift}, origins=4)
    count = sum(row[4] for row in without.calibration("drift", 30))
    assert sum(row[4] for row in sized.calibration("drift", 30)) > count


def test_predict_linear_needs_two_samples_in_its_window() -> None:
    told = backtest([curve("c", bursty(1))], methods={"6 h": predict_linear(0.25), "drift": drift}, origins=3)
    assert told.refused == {"6 h": 3, "drift": 0}
    assert np.isnan(told.scores("6 h")[0].cover80)


def test_the_benchmark_explains_itself_without_data_and_runs_with_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.forecast"]
    bare = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert bare.returncode == 2
    assert "timestamp,used_bytes" in bare.stderr
    lines = [
        f"{np.datetime64('2022-01-01') + np.timedelta64(int(day), 'D')},{value:.0f}"
        for day, value in enumerate(bursty(0, 500))
    ]
    (tmp_path / "repo_tree.csv").write_text("timestamp,used_bytes\n" + "\n".join(lines) + "\n")
    ran = subprocess.run(
        [*command, "--data", str(tmp_path), "--origins", "2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    assert "| ours |" in ran.stdout
    assert "Process, import and one forecast" in ran.stdout
    (tmp_path / "bad_tree.csv").write_text("when,what\n1,2\n")
    bad = subprocess.run(
        [*command, "--data", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert bad.returncode == 2
    assert "bad_tree.csv: it cannot be read" in bad.stderr
