"""What disks really do, and the sentence that each of it yields."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest

from runbooks_lib.capacity import FLOORS, Outlook, outlook
from runbooks_lib.config import PartitionSettings
from runbooks_lib.history import FilesystemHistory
from tests.capacity.partitions import GIB, NOW, TODAY, every_five_minutes, past, samples, smooth

DAY = np.arange(365)


def seen(history: FilesystemHistory, **settings: object) -> Outlook:
    wanted = PartitionSettings(history.mountpoint, **settings)  # type: ignore[arg-type]
    return outlook(history, wanted, now=NOW)


def kinds(told: Outlook) -> list[str]:
    return [event.kind for event in told.events]


# -- growth ------------------------------------------------------------------------------------------------------------


def test_steady_growth_gets_a_range_of_dates_and_a_day_to_begin() -> None:
    told = seen(past(smooth(end=80 * GIB)))
    assert told.state == "watch"
    assert told.dates is not None
    first, middle, last = told.dates
    assert first is not None
    assert middle is not None
    assert last is not None
    # 10 GiB at 80/365 GiB a day are 46 days.
    assert first < date(2027, 1, 8) < last
    assert told.start_by is not None
    assert (first - told.start_by).days in {14, 15, 16}, "a fortnight, and never at a weekend"
    assert told.start_by.weekday() < 5
    assert told.sentence == (
        f"`/srv/db` on tc-db-01 will pass 90 % between {first.day} and {last.day} January 2027 (80 %);"
        f" begin by {told.start_by.day} December."
    )


def test_the_day_to_begin_may_be_today_or_past() -> None:
    told = seen(past(smooth(end=80 * GIB)))
    assert told.dates is not None
    assert told.dates[0] is not None
    days = (told.dates[0] - TODAY).days
    today = seen(past(smooth(end=80 * GIB)), lead_time_days=days)
    assert today.state == "act"
    assert today.sentence.endswith("begin today.")
    late = seen(past(smooth(end=80 * GIB)), lead_time_days=days + 3)
    assert late.sentence.endswith("begin now, 20 November was the day to begin.")


def test_steady_acceleration_goes_on() -> None:
    grown = np.cumsum((1 + DAY / 100) * np.random.default_rng(0).gamma(9, 1 / 9, 365))
    told = seen(past(grown / grown[-1] * 60 * GIB))
    assert told.forecast is not None
    pace = (1 + 365 / 100) / np.sum(1 + DAY / 100) * 60 * GIB
    middle = told.forecast.quantile(0.5, 90)
    assert middle > 60 * GIB + 90 * pace, "a constant pace is not enough"
    assert middle == pytest.approx(60 * GIB + 90 * pace + 90 * 45 / 100 * pace / 4.65, rel=0.05)


def test_far_from_the_threshold_there_is_nothing_to_do() -> None:
    told = seen(past(smooth(end=30 * GIB)))
    assert told.state == "ok"
    assert told.start_by is None
    assert told.sentence == "`/srv/db` on tc-db-01 is not expected to pass 90 % within 90 days (30 % used now)."


def test_past_the_threshold_it_says_how_much_is_left_and_until_when() -> None:
    told = seen(past(smooth(end=93 * GIB)))
    assert told.state == "crossed"
    assert told.sentence.startswith(
        "`/srv/db` on tc-db-01 is over its threshold: 93 % used (90 % allowed), 7 GiB left; it could be full by "
    )


def test_a_full_disk_stays_crossed_although_its_rate_is_zero() -> None:
    told = seen(past(np.minimum(smooth(end=140 * GIB), 100 * GIB)))
    assert told.state == "crossed"
    assert told.sentence == "`/srv/db` on tc-db-01 is full: no free space is left."
    assert told.probability_full == {7: 1.0, 30: 1.0, 90: 1.0}


def test_a_constant_partition_has_no_trend_and_its_chances_are_the_floors() -> None:
    told = seen(past(np.full(365, 50 * GIB)))
    assert told.state == "ok"
    assert told.probability_full == dict(FLOORS)
    assert told.sentence == "`/srv/db` on tc-db-01 has not changed in 365 days: 50 % used, no trend."


def test_the_reserve_is_not_usable() -> None:
    told = seen(past(smooth(end=80 * GIB), reserved=5 * GIB))
    assert told.usable == 95 * GIB
    assert told.threshold_level == pytest.approx(85.5 * GIB)
    free = seen(past(smooth(end=80 * GIB)))
    assert told.days_to_threshold is not None
    assert free.days_to_threshold is not None
    assert told.days_to_threshold < free.days_to_threshold


# -- clean-ups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycle_days", [2, 7, 30, 60])
def test_a_pure_sawtooth_is_no_trend(cycle_days: int) -> None:
    for phase in (0, cycle_days // 2, cycle_days - 1):
        told = seen(past(20 * GIB + (DAY + phase) % cycle_days * 60 / cycle_days * GIB))
        assert told.state == "ok", (cycle_days, phase, told.sentence)
        assert told.probability_full == dict(FLOORS)
        assert "clean-ups" in kinds(told)


def test_a_daily_log_sawtooth_is_no_trend_at_any_hour() -> None:
    # 12 GiB a day on 100 GiB: a straight line over six hours calls this full three quarters of the time.
    for hour in range(0, 24, 3):
        times = every_five_minutes(14 * 24) + np.timedelta64(hour - 12, "h")
        second = times.astype(np.int64) % 86_400
        told = seen(past(np.full(365, 72 * GIB), recent=samples(times, (60 + 12 * second / 86_400) * GIB)))
        assert told.state == "ok", (hour, told.sentence)


def test_growth_under_a_sawtooth_is_seen_in_its_crests() -> None:
    told = seen(past((20 + DAY % 30 + 0.1 * DAY) * GIB))
    assert told.state in {"watch", "act"}
    assert told.dates is not None
    assert told.dates[0] is not None
    assert told.dates[0] > date(2026, 12, 10), "the crest is at 85 GiB and rises by 3 GiB a month"
    assert "cleaned up about every 30 days" in told.sentence


# -- events ------------------------------------------------------------------------------------------------------------


def test_a_resize_moves_the_threshold_and_is_no_growth() -> None:
    told = seen(past((80 + 0.02 * DAY) * GIB, size=np.where(DAY > 360, 200 * GIB, 100 * GIB)))
    assert told.state == "ok"
    assert told.threshold_level == 180 * GIB
    assert told.sentence.endswith("It grew on 20 November from 100 GiB to 200 GiB; the new size counts.")
    shrunk = seen(past((70 + 0.01 * DAY) * GIB, size=np.where(DAY > 360, 80 * GIB, 100 * GIB)))
    assert shrunk.state == "crossed"
    assert "It shrank on 20 November" in shrunk.sentence


def test_sizes_that_were_imported_and_then_measured_are_no_resize() -> None:
    counted = np.where(DAY > 360, 100, 107) * GIB  # a disk's GB before, what df shows since
    used = (40 + 0.02 * DAY) * GIB - np.where(DAY > 360, 5 * GIB, 0)
    told = seen(replace(past(used, size=counted), source_changed=np.array(["2026-11-20"], dtype="datetime64[D]")))
    assert "resize" not in kinds(told)
    assert "source" in kinds(told)
    assert "step" not in kinds(told)
    assert "shrank" not in told.sentence
    assert "resize" in kinds(seen(past(used, size=counted)))


def test_a_one_off_step_is_flagged_and_both_answers_are_given() -> None:
    used = np.where(DAY > 351, 45, 0) * GIB + smooth(end=40 * GIB)
    told = seen(past(used))
    assert "step" in kinds(told)
    assert told.without_step is not None
    assert "On 11 November it rose by 45" in told.sentence
    excluded = outlook(past(used), PartitionSettings("/srv/db"), now=NOW, excluded_days={date(2026, 11, 11)})
    assert excluded.days_to_threshold == told.without_step
    assert "step" not in kinds(excluded)
    assert "one-off" not in excluded.sentence


def test_a_step_alone_is_no_trend() -> None:
    told = seen(past(np.where(DAY > 200, 70, 40) * GIB))
    assert told.state == "ok"
    assert "step" in kinds(told)


def test_a_mount_point_made_anew_is_an_event_and_no_negative_growth() -> None:
    used = np.concatenate([np.linspace(40, 80, 300), np.linspace(1, 31, 65)]) * GIB
    told = seen(past(used))
    assert kinds(told) == ["reset"]
    assert told.forecast is not None
    assert told.forecast.quantile(0.5, 30) > used[-1]
    assert "It was emptied or made anew on 20 September" in told.sentence


def test_data_moved_away_leaves_no_falling_forecast() -> None:
    used = np.concatenate([smooth(360, end=85 * GIB), np.full(5, 0.2 * GIB)])
    told = seen(past(used))
    assert told.state == "ok"
    assert told.forecast is not None
    assert told.forecast.quantile(0.01, 90) >= 0


def test_missing_days_are_interpolated_and_named() -> None:
    missing = np.random.default_rng(1).random(365) < 0.3
    missing[-1] = False
    missing[100:110] = True
    whole, holed = seen(past(smooth(end=80 * GIB))), seen(past(smooth(end=80 * GIB), missing=missing))
    assert "gap" in kinds(holed)
    assert "of the days have no data and were interpolated" in holed.confidence
    assert whole.days_to_threshold is not None
    assert holed.days_to_threshold is not None
    assert holed.days_to_threshold[1] == pytest.approx(whole.days_to_threshold[1], rel=0.15)


def test_mostly_missing_is_refused_with_the_reason() -> None:
    told = seen(past(smooth(end=80 * GIB), missing=(DAY > 30) & (DAY < 340)))
    assert told.state == "cannot tell"
    assert told.refusal is not None
    assert "% of the days since the first sample have no data" in told.sentence


# -- inodes ------------------------------------------------------------------------------------------------------------


def test_inodes_are_told_when_they_end_first() -> None:
    told = seen(past(smooth(end=30 * GIB), inodes_used=smooth(end=800_000), inodes_total=1_000_000))
    assert told.resource == "inodes"
    assert told.state == "watch"
    assert "will pass 90 % of its inodes between" in told.sentence
    full = seen(past(smooth(end=30 * GIB), inodes_used=np.full(365, 1e6), inodes_total=1e6))
    assert full.sentence == "`/srv/db` on tc-db-01 is full: no inodes are left."


def test_a_file_system_without_a_number_of_inodes_is_judged_by_bytes() -> None:
    told = seen(past(smooth(end=80 * GIB), inodes_used=0, inodes_total=0))
    assert told.resource == "bytes"
    assert told.state == "watch"


# -- too young, too little ---------------------------------------------------------------------------------------------


def young(values: np.ndarray, hours: float) -> Outlook:  # type: ignore[type-arg]
    times = every_five_minutes(hours)
    return seen(past([float(values[-1])], recent=samples(times, values)))


def test_hours_of_history_give_rates_and_no_chance() -> None:
    told = young(40 * GIB + np.arange(61) * 0.05 * GIB, 5)
    assert told.tier == "hours"
    assert told.probability_full is None
    assert told.forecast is None
    assert told.rates is not None
    assert told.rates.whole == pytest.approx(14.4 * GIB, rel=1e-6)
    assert told.state == "cannot tell"
    assert "too young to forecast" in told.sentence
    assert "at the present rate it passes 90 % about 26 November" in told.sentence


def test_flat_now_is_said() -> None:
    told = young(40 * GIB + np.minimum(np.arange(61), 20) * 0.05 * GIB, 5)
    assert told.flat_now
    assert "flat now after growing by up to" in told.sentence
    assert "not growing so far" in young(np.full(61, 40 * GIB), 5).sentence


def test_a_young_disk_that_fills_within_hours_is_raised() -> None:
    told = young(70 * GIB + np.arange(61) * 0.3 * GIB, 5)
    assert told.state == "act"
    assert "passes 90 % in about 33 minutes" in told.sentence


def test_a_runaway_log_on_an_old_disk_is_raised() -> None:
    times = every_five_minutes(14 * 24)
    used = np.full(len(times), 50 * GIB)
    used[-13:] += np.arange(13) * 0.6 * GIB
    told = seen(past(np.concatenate([np.full(364, 50 * GIB), [57.2 * GIB]]), recent=samples(times, used)))
    assert told.state == "act"
    assert "filling by 7.2 GiB an hour for an hour: at this rate it is full in 6 hours" in told.sentence
    assert told.sentence.endswith("Find what writes there now."), "and nothing of a step of today"
    assert told.probability_full is None
    old = seen(
        past(
            np.concatenate([np.full(364, 50 * GIB), [57.2 * GIB]]),
            last_day=NOW.date() - timedelta(days=6),
            recent=samples(times - np.timedelta64(6, "D"), used),
        )
    )
    assert "was filling by 7.2 GiB an hour for an hour when it was last measured: at that rate it is full by now" in (
        old.sentence
    )
    # When the disk is full the rate is zero, and the level speaks.
    full = samples(times, np.minimum(used + 50 * GIB, 100 * GIB))
    assert seen(past(np.full(365, 100 * GIB), recent=full)).state == "crossed"


def test_weeks_of_history_speak_with_low_confidence_and_not_far_ahead() -> None:
    told = seen(past(60 * GIB + smooth(40, end=15 * GIB)))
    assert told.tier == "days"
    assert told.confidence.startswith("Low confidence: only 40 days")
    assert told.probability_full is not None
    assert np.isfinite(told.probability_full[7])
    assert np.isnan(told.probability_full[30])
    assert np.isnan(told.probability_full[90])
    assert "if it goes on as in its few days so far" in told.sentence


def test_no_samples_and_old_samples_are_refused() -> None:
    assert "there is no usable sample" in seen(past([])).sentence
    assert "no usable sample" in seen(past(np.full(365, np.nan))).sentence
    old = seen(past(smooth(end=99 * GIB), last_day=date(2026, 9, 15)))
    assert old.state == "cannot tell"
    assert "its last sample is 69 days old" in old.sentence


def test_a_host_not_reached_for_a_week_is_forecast_from_then_on() -> None:
    fresh, stale = seen(past(smooth(end=80 * GIB))), seen(past(smooth(end=80 * GIB), last_day=date(2026, 11, 16)))
    assert stale.sentence.endswith("Its last sample is 7 days old.")
    assert fresh.days_to_threshold is not None
    assert stale.days_to_threshold is not None
    assert stale.days_to_threshold[1] == pytest.approx(fresh.days_to_threshold[1] - 7, abs=1)


# -- not alarmed by habit ----------------------------------------------------------------------------------------------


def test_memory_images_and_tiny_volumes_are_judged_by_their_level_only() -> None:
    growing = smooth(end=0.75 * GIB)
    memory = seen(past(growing, size=GIB, fstype="tmpfs", mountpoint="/run"), listed=False)
    tiny = seen(past(growing, size=0.9 * GIB, mountpoint="/boot/efi"), listed=False)
    image = seen(past(np.full(365, GIB), size=GIB, fstype="squashfs", mountpoint="/snap/core"), listed=False)
    assert [memory.state, tiny.state, image.state] == ["ok", "ok", "ok"]
    assert memory.sentence.endswith("No forecast: it lives in memory and is empty after a boot.")
    full = seen(past(np.full(365, 0.95 * GIB), size=GIB, fstype="tmpfs", mountpoint="/run"), listed=False)
    assert full.state == "crossed"
    listed = seen(past(growing, size=0.9 * GIB, mountpoint="/boot/efi"))
    assert listed.forecast is not None, "who lists a tiny volume wants it forecast"


# -- hostile input -----------------------------------------------------------------------------------------------------


def test_names_are_made_printable() -> None:
    told = seen(past(smooth(end=80 * GIB), mountpoint="/a`b\n\x1b[31m\u202e" + "x" * 500))
    assert told.sentence.isprintable()
    assert told.sentence.count("`") == 2
    assert len(told.sentence) < 300


def test_odd_numbers_never_raise() -> None:
    base = past(smooth(end=80 * GIB))
    for odd in (np.nan, 0.0, -1.0, np.inf):
        for field in ("used_bytes_max", "size_bytes", "reserved_bytes", "inodes_used_max", "inodes_total"):
            values = getattr(base, field).copy()
            values[::3] = odd
            told = outlook(replace(base, **{field: values}), PartitionSettings("/srv/db"), now=NOW)
            assert told.sentence
            values[:] = odd
            told = outlook(replace(base, **{field: values}), PartitionSettings("/srv/db"), now=NOW)
            assert told.sentence
