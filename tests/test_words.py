"""How the capacity report says numbers, dates and names."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbooks_lib import words

GIB = 2.0**30


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (475 * GIB, "475 GiB"),
        (15.5 * GIB, "15.5 GiB"),
        (1.95 * 1024 * GIB, "1.95 TiB"),
        (-3 * GIB, "-3 GiB"),
        (float("nan"), "not known"),
        (float("inf"), "not known"),
    ],
)
def test_bytes_are_said_with_three_digits_and_a_binary_unit(value: float, said: str) -> None:
    assert words.amount(value) == said


def test_inodes_are_counted_in_thousands_not_in_bytes() -> None:
    assert words.amount(3_200_000, "inodes") == "3.2 M inodes"
    assert words.amount(17, "inodes") == "17 inodes"


def test_nearly_full_is_never_said_to_be_full() -> None:
    assert words.percent(0.9996) == "99.9 %"
    assert words.percent(1.0) == "100 %"
    assert words.percent(0.874) == "87 %"
    assert words.percent(float("nan")) == "not known"


def test_a_chance_is_never_said_to_be_none_or_certain() -> None:
    assert words.chance(0.0) == "< 1 %"
    assert words.chance(1.0) == "> 99 %"
    assert words.chance(0.05) == "5 %"
    assert words.chance(None) == "–"
    assert words.chance(float("nan")) == "–"


def test_a_date_names_its_year_only_when_it_is_another() -> None:
    today = date(2026, 11, 23)
    assert words.day(date(2026, 12, 9), today=today) == "9 December"
    assert words.day(date(2027, 1, 9), today=today) == "9 January 2027"
    assert words.short_day(date(2027, 1, 9)) == "9 Jan"


def test_times_are_said_in_utc() -> None:
    assert words.moment(datetime(2026, 11, 23, 9, 5, tzinfo=UTC)) == "23 November 2026 09:05 UTC"


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (timedelta(seconds=5), "less than a minute"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(hours=30), "30 hours"),
        (timedelta(days=3, hours=2), "3 days"),
        (timedelta(days=-3), "less than a minute"),
    ],
)
def test_an_age_is_one_number(length: timedelta, said: str) -> None:
    assert words.span(length) == said


def test_a_long_list_says_how_many_more() -> None:
    assert words.listing([]) == ""
    assert words.listing(["a"]) == "a"
    assert words.listing(["a", "b", "c"]) == "a, b and c"
    assert words.listing(list("abcd"), limit=2) == "a, b and 2 more"


def test_a_name_that_turns_the_text_or_hides_its_end_is_made_visible() -> None:
    assert words.plain("/srv/\u202egnp.exe") == "/srv/\\u202egnp.exe"
    assert words.plain("/a\nb\x1b[31m") == "/a\\nb\\x1b[31m"
    assert words.plain("/zero\u200bwidth\ud800") == "/zero\\u200bwidth\\ud800"
    assert words.plain("/mnt/Größe 日本") == "/mnt/Größe 日本"


def test_a_long_name_keeps_both_ends() -> None:
    shown = words.plain("/begin" + "x" * 300 + "end", limit=20)
    assert shown.startswith("/begin")
    assert shown.endswith("end")
    assert len(shown) == 20


@given(st.text())
def test_any_name_becomes_one_printable_line(name: str) -> None:
    shown = words.plain(name)
    assert len(shown) <= 60
    assert shown.isprintable()


def test_an_error_message_of_several_lines_becomes_one() -> None:
    text = "tc-db-01: no route\n  now:  nothing\n  next: look."
    assert words.message(text, where="tc-db-01") == "no route now: nothing next: look."
    assert words.message("is it on?") == "is it on?"
