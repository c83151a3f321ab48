"""The day on which work must begin."""

from __future__ import annotations

from datetime import date

import pytest

from runbooks_lib.capacity.workdays import begin_by, lead_time
from runbooks_lib.config import Calendar, PartitionSettings

MONDAY = date(2026, 12, 28)


@pytest.mark.parametrize(
    ("days", "working", "expected"),
    [
        (14, None, date(2026, 12, 14)),
        (15, None, date(2026, 12, 11)),  # 13 December is a Sunday
        (0, None, MONDAY),
        (14, 10, date(2026, 12, 14)),  # two weeks of five days
        (14, 0, MONDAY),
        (14, 1, date(2026, 12, 25)),
    ],
)
def test_work_begins_the_lead_time_before_the_deadline_on_a_working_day(
    days: int, working: int | None, expected: date
) -> None:
    assert begin_by(MONDAY, PartitionSettings("/", lead_time_days=days, lead_time_working_days=working)) == expected


def test_nobody_works_on_a_holiday_or_at_the_weekend_of_ones_own_country() -> None:
    closed = Calendar(holidays=(date(2026, 12, 24), date(2026, 12, 25)))
    assert begin_by(MONDAY, PartitionSettings("/", lead_time_working_days=1, calendar=closed)) == date(2026, 12, 23)
    sunday_to_thursday = Calendar(working_week=("Sun", "Mon", "Tue", "Wed", "Thu"))
    settings = PartitionSettings("/", lead_time_working_days=1, calendar=sunday_to_thursday)
    assert begin_by(MONDAY, settings) == date(2026, 12, 27)


def test_a_deadline_on_a_sunday_is_met_on_the_working_day_before() -> None:
    assert begin_by(date(2026, 12, 27), PartitionSettings("/", lead_time_working_days=0)) == date(2026, 12, 25)


def test_the_lead_time_in_words() -> None:
    assert lead_time(PartitionSettings("/")) == "14 days"
    assert lead_time(PartitionSettings("/", lead_time_working_days=1)) == "1 working day"
