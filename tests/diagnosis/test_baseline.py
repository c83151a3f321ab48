"""What is normal at this hour, from a real history file, in both directions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from runbooks_lib.diagnosis import baseline
from runbooks_lib.diagnosis.baseline import Baseline
from runbooks_lib.diagnosis.deviation import Deviation, _direction
from runbooks_lib.diagnosis.measures import MEASURES
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory
from runbooks_lib.history.model import Series, to_times

NOW = datetime(2026, 11, 27, 10, 0, tzinfo=UTC)  # a Friday
HOST = "builds-01"
CPU = next(measure for measure in MEASURES if measure.name == "cpu")


def history_of(path: Path, days: int, busy: float = 0.5, weekend: float = 0.05) -> SqliteHistory:
    """A host with one CPU that is `busy` on weekdays, `weekend` else, and 40 to 60 kB/s received, every five
    minutes."""
    end = int(NOW.timestamp())
    times = np.arange(end - days * 86_400, end - 299, 300)
    noise = np.random.default_rng(1).uniform(0.9, 1.1, len(times))
    weekday = ((times // 86_400 + 3) % 7) < 5
    used = np.where(weekday, busy, weekend) * noise * 300
    series = [
        Series(
            "node_cpu_seconds_total", {"instance": HOST, "cpu": "all", "mode": mode}, to_times(times), np.cumsum(part)
        )
        for mode, part in (("user", used), ("idle", 300 - used))
    ]
    series.append(
        Series(
            "node_network_receive_bytes_total", {"instance": HOST, "device": "eth0"}, to_times(times),
            np.cumsum(50_000 * noise * 300),
        )
    )  # fmt: skip
    history = SqliteHistory(path)
    history.import_series(series, origin="imported from a test", now=NOW)
    return history


def read(tmp_path: Path, days: int, **how: float) -> Baseline:
    history = history_of(tmp_path / "history.sqlite", days, **how)
    try:
        return baseline.read(history, HOST, now=NOW)
    finally:
        history.close()


def test_normal_is_this_hour_of_the_week_when_three_weeks_speak(tmp_path: Path) -> None:
    band = read(tmp_path, 40).band("cpu")
    assert band is not None
    assert band.of == "this hour of the week, over 5 weeks"
    assert band.median == pytest.approx(0.5, abs=0.03)
    assert 0.3 < band.low < 0.5 < band.high < 0.7


def test_before_that_it_is_this_hour_of_the_day(tmp_path: Path) -> None:
    band = read(tmp_path, 6).band("cpu")
    assert band is not None
    assert band.of.startswith("this hour of the day, over ")


def test_two_days_are_no_baseline_and_it_says_so(tmp_path: Path) -> None:
    found = read(tmp_path, 2)
    assert found.band("cpu") is None
    assert "three days" in found.why_none


def test_a_host_that_was_never_heard_of_has_no_baseline(tmp_path: Path) -> None:
    history = history_of(tmp_path / "history.sqlite", 10)
    found = baseline.read(history, "another", now=NOW)
    history.close()
    assert found.pasts == {}
    assert "runbook collect" in found.why_none


def test_the_trouble_of_the_last_two_hours_is_no_baseline() -> None:
    times = np.arange(0, 21 * 86_400, 600) + int((NOW - timedelta(days=21)).timestamp())
    values = np.where(times > NOW.timestamp() - 2 * 3600, 0.0, 0.5)
    band = baseline.band_of(times, values, int(NOW.timestamp()), CPU)
    assert band is not None
    assert band.median == 0.5


def test_one_wild_week_in_five_does_not_move_it() -> None:
    times = np.arange(0, 35 * 86_400, 600) + int((NOW - timedelta(days=35)).timestamp())
    values = np.where(times < NOW.timestamp() - 28 * 86_400, 1.0, 0.3)
    band = baseline.band_of(times, values, int(NOW.timestamp()), CPU)
    assert band is not None
    assert band.median == 0.3
    assert band.high < 0.5


def test_what_passed_since_the_last_collection_is_compared_as_well(tmp_path: Path) -> None:
    history = history_of(tmp_path / "history.sqlite", 40)
    last = {one.labels["mode"]: float(one.values[-1])
            for one in history.series("node_cpu_seconds_total", {"instance": HOST})}  # fmt: skip
    samples = [
        Sample("node_cpu_seconds_total", last["user"] + 6, NOW, {"cpu": "all", "mode": "user"}),
        Sample("node_cpu_seconds_total", last["idle"] + 294, NOW, {"cpu": "all", "mode": "idle"}),
    ]
    found = baseline.read(history, HOST, now=NOW, samples=samples)
    history.close()
    assert found.pasts["cpu"].lately == pytest.approx(0.02, abs=0.005)


@pytest.mark.parametrize(
    ("now", "lately", "expected"),
    [
        (0.02, 0.03, "below"),
        (0.02, 0.5, ""),
        (0.5, None, ""),
        (0.99, 0.98, "above"),
        (0.55, 0.99, ""),
        (0.02, None, "below"),
    ],
)
def test_far_below_counts_as_far_above_and_both_windows_must_agree(
    tmp_path: Path, now: float, lately: float | None, expected: str
) -> None:
    band = read(tmp_path, 40).band("cpu")
    assert _direction(CPU, now, lately, band) == expected


def test_a_host_that_always_idles_is_never_below_normal(tmp_path: Path) -> None:
    band = read(tmp_path, 40, busy=0.02, weekend=0.02).band("cpu")
    assert _direction(CPU, 0.0, 0.0, band) == ""


def test_a_deviation_says_now_and_normal_in_one_sentence(tmp_path: Path) -> None:
    band = read(tmp_path, 40).band("cpu")
    sentence = Deviation(CPU, 0.02, 0.03, band, "below").sentence
    assert sentence.startswith("CPU in use: 3 %; normal at this hour of the week is ")
    assert Deviation(CPU, 0.02, None, None).sentence == "CPU in use: 2 % (no baseline)"
