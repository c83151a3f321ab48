"""How much to add, what an amount buys, and whether what was said came true."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from runbooks_lib.capacity import (
    CannotTellError,
    Plan,
    Said,
    forecast,
    needed_bytes,
    plan_for,
    purchases,
    score_due,
)
from runbooks_lib.config import PartitionSettings, PlanSettings
from runbooks_lib.errors import UsageError
from tests.capacity.partitions import GIB, NOW, past, smooth


def grown(horizon_days: int = 365):  # type: ignore[no-untyped-def]
    values = 60 * GIB + np.cumsum(np.random.default_rng(0).gamma(2, 0.05 * GIB, 365))
    times = np.datetime64("2026-01-01") + np.arange(365)
    return forecast(times, values, horizon_days=horizon_days)


def test_the_needed_amount_keeps_the_risk_and_not_a_byte_more() -> None:
    told = grown()
    for risk in (0.01, 0.05, 0.2):
        added = needed_bytes(told, 100 * GIB, within_days=365, risk=risk)
        assert added > 0
        assert told.probability_reached(100 * GIB + added, 365) <= risk
        assert told.probability_reached((100 * GIB + added) * 0.999, 365) >= risk - 1 / len(told.paths)


def test_enough_room_needs_nothing() -> None:
    assert needed_bytes(grown(), 10_000 * GIB, within_days=365) == 0.0


def test_more_space_buys_more_days_and_costs_more() -> None:
    nothing, ten, fifty, hundred = purchases(grown(), 110 * GIB, within_days=365, price_per_gib=0.1)
    assert nothing.days_gained == 0
    assert nothing.days_10 <= ten.days_10 <= fifty.days_10 <= hundred.days_10
    assert nothing.probability_passed >= ten.probability_passed >= fifty.probability_passed
    assert [row.price for row in (nothing, ten, fifty, hundred)] == pytest.approx([0.0, 1.0, 5.0, 10.0])


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(UsageError, match="risk"):
        needed_bytes(grown(), GIB, within_days=365, risk=5)
    with pytest.raises(UsageError, match="outside this forecast"):
        needed_bytes(grown(90), GIB, within_days=365)
    with pytest.raises(CannotTellError):
        needed_bytes(forecast([], []), GIB, within_days=30)


# -- the paragraph that a manager signs --------------------------------------------------------------------------------

YEAR = PlanSettings(price_per_gib=0.1, currency="EUR")


def planned(used: object, wanted: PlanSettings = YEAR, until: date | None = None, **how: object) -> Plan:
    settings = PartitionSettings("/srv/db", lead_time_working_days=10)
    return plan_for(past(used, **how), settings, wanted, now=NOW, until=until)  # type: ignore[arg-type]


def test_a_plan_says_what_to_add_by_when_what_it_buys_and_costs() -> None:
    made = planned(smooth(end=80 * GIB))
    assert made.needed_bytes is not None
    added = made.needed_bytes / GIB
    assert added == int(added)
    assert 60 < added < 110, "a year at 80 GiB a year from 80 % of 100 GiB"
    assert made.price == pytest.approx(0.1 * added)
    assert made.begin_by is not None
    assert made.begin_by.weekday() < 5
    nothing, needed, *amounts = made.choices
    assert nothing.probability_passed > 0.9
    assert needed.probability_passed <= 0.05
    assert made.sentence == (
        f"Add {added:.0f} GiB to `/srv/db` on tc-db-01, begin by {made.begin_by.day} December (10 working days are"
        f" needed): then the chance that it is full by 23 November 2027 is at most 5 %; with nothing added it is"
        f" over 99 %. It costs {0.1 * added:.2f} EUR. 10 GiB (1.00 EUR) buy {amounts[0].days_gained:.0f} days and 50"
        f" GiB (5.00 EUR) buy {amounts[1].days_gained:.0f} days; 100 GiB (10.00 EUR) last until then."
    )


def test_a_plan_until_a_nearer_day_and_for_a_higher_risk_needs_less() -> None:
    used = smooth(end=80 * GIB)
    year, half = planned(used), planned(used, until=date(2027, 5, 23))
    bold = planned(used, PlanSettings(risk=0.3))
    assert year.needed_bytes is not None
    assert half.needed_bytes is not None
    assert bold.needed_bytes is not None
    assert half.needed_bytes < year.needed_bytes
    assert bold.needed_bytes < year.needed_bytes
    assert bold.price is None
    assert "costs" not in bold.sentence
    with pytest.raises(UsageError, match="ends before it begins"):
        planned(used, until=NOW.date())


def test_ext4_keeps_its_reserve_of_what_is_added() -> None:
    plain = planned(smooth(end=80 * GIB), fstype="xfs", size=100 * GIB, reserved=5 * GIB)
    kept = planned(smooth(end=80 * GIB), fstype="ext4", size=100 * GIB, reserved=5 * GIB)
    assert plain.needed_bytes is not None
    assert kept.needed_bytes is not None
    assert kept.needed_bytes == pytest.approx(plain.needed_bytes / 0.95, abs=GIB)
    assert kept.choices[1].probability_passed <= 0.05
    assert kept.choices[2].days_50 <= plain.choices[2].days_50


def test_where_there_is_room_nothing_need_be_added() -> None:
    assert planned(np.full(365, 50 * GIB)).sentence == (
        "Nothing need be added to `/srv/db` on tc-db-01 until 23 November 2027: the chance that it is full by then is"
        " under 1 % (5 % is accepted)."
    )


@pytest.mark.parametrize(
    ("used", "how", "reason"),
    [
        (np.full(365, np.nan), {}, "there is no usable sample"),
        (60 * GIB + smooth(60, end=15 * GIB), {}, "its past of 60 days carries a plan for 30 days, not for 365"),
        (np.full(365, GIB), {"inodes_used": smooth(end=850_000), "inodes_total": 1e6}, "its inodes run out first"),
        (np.full(365, GIB), {"fstype": "squashfs"}, "a read-only image is always full"),
    ],
)
def test_a_plan_that_cannot_be_made_gives_the_reason(used: object, how: dict[str, object], reason: str) -> None:
    made = planned(used, **how)
    assert made.needed_bytes is None
    assert made.choices == ()
    assert made.sentence.startswith(f"No plan for `/srv/db` on tc-db-01: {reason}")


MADE = date(2026, 10, 1)


def said(probability: float, *, due_days: int = 7, low: float = 10, high: float = 20, level: float = 30) -> Said:
    due = MADE + timedelta(days=due_days)
    return Said("tc-db-01", "/srv/db", "bytes", MADE, due, low, 15, high, level, probability)


def test_statements_are_scored_when_they_are_due() -> None:
    truths = {7: (35.0, 18.0), 8: (25.0, 25.0), 9: None}

    def observed(instance: str, mountpoint: str, resource: str, first: date, last: date) -> tuple[float, float] | None:
        assert (instance, mountpoint, resource, first) == ("tc-db-01", "/srv/db", "bytes", MADE + timedelta(days=1))
        return truths[(last - MADE).days]

    statements = [said(0.3), said(0.3, due_days=8), said(0.9, due_days=9), said(0.5, due_days=90)]
    running = score_due(statements, observed, today=MADE + timedelta(days=30))
    assert (running.bands, running.cover80) == (2, 0.5)
    assert running.chances == 2
    assert running.brier == pytest.approx((0.7**2 + 0.3**2) / 2)
    assert running.brier_base == pytest.approx(0.25)
    assert (running.waiting, running.unknown) == (1, 1)
    soon = score_due(statements, observed, today=MADE + timedelta(days=20))
    assert (soon.waiting, soon.unknown) == (2, 0), "what was not measured may still come"
    assert "Of 2 times we said 20-40 %, 1 came true." in running.sentences()


def test_nothing_due_says_nothing() -> None:
    running = score_due([said(0.3)], lambda *_: (0.0, 0.0), today=MADE)
    assert running.waiting == 1
    assert np.isnan(running.cover80)
    assert running.sentences() == []
