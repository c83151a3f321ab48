"""Taking an import back: all that it alone brought, and nothing that anybody else did."""

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest

from runbooks_lib.errors import UsageError
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory
from runbooks_lib.history.forgetting import Part, forget, origins

DAY = timedelta(days=1)
Disk = Callable[..., list[Sample]]


def test_an_import_is_taken_back_whole_and_what_was_collected_stays(
    history: SqliteHistory, noon: datetime, disk: Disk
) -> None:
    wrong = [sample for day in range(1, 500) for sample in disk(noon - day * DAY, 10e9, device="")]
    history.store_snapshot("db-01", noon, disk(noon, 20e9))
    history.compact(noon + 2 * DAY)
    before = history.filesystem("db-01", "/srv/db", end=noon, days=1000)
    history.import_samples(wrong, origin="imported from wrong.csv", instance="db-01", now=noon)
    would = forget(history, "imported from wrong.csv", dry=True)
    assert would.parts == (Part("db-01", "/srv/db", 499, 0),)
    imported = history.filesystem("db-01", "/srv/db", end=noon, days=1000)
    assert imported is not None
    assert len(imported.days) == 500
    assert forget(history, "imported from wrong.csv", dry=False) == would
    after = history.filesystem("db-01", "/srv/db", end=noon, days=1000)
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after.days, before.days)
    np.testing.assert_array_equal(after.used_bytes_max, before.used_bytes_max)
    assert after.origins == ("collected",)
    assert origins(history) == ["collected"]
    assert history.check() == []


def test_days_that_others_brought_too_stay(history: SqliteHistory, noon: datetime, disk: Disk) -> None:
    first = [sample for day in range(20, 60) for sample in disk(noon - day * DAY, 10e9)]
    second = [sample for day in range(50, 90) for sample in disk(noon - day * DAY, 30e9)]
    history.import_samples(first, origin="imported from a.csv", instance="db-01", now=noon)
    history.import_samples(second, origin="imported from b.csv", instance="db-01", now=noon)
    gone = forget(history, "imported from b.csv", dry=False)
    assert gone.parts == (Part("db-01", "/srv/db", 30, 10),)
    left = history.filesystem("db-01", "/srv/db", end=noon)
    assert left is not None
    assert len(left.days) == 40
    # Ten days may hold either's numbers, and the history goes on saying so.
    assert set(left.origins) == {"imported from a.csv", "imported from b.csv"}


def test_what_is_no_import_is_refused(history: SqliteHistory, noon: datetime, disk: Disk) -> None:
    history.store_snapshot("db-01", noon, disk(noon, 20e9))
    with pytest.raises(UsageError, match="not an import"):
        forget(history, "collected", dry=False)
    with pytest.raises(UsageError, match=r"nothing 'usage\.csv'"):
        forget(history, "usage.csv", dry=False)


def test_after_an_import_without_devices_the_measured_day_is_another_source(
    history: SqliteHistory, noon: datetime, disk: Disk
) -> None:
    past = [sample for day in range(1, 30) for sample in disk(noon - day * DAY, 10e9, size=107e9, device="")]
    history.import_samples(past, origin="imported from x.csv", instance="db-01", now=noon)
    history.store_snapshot("db-01", noon, disk(noon, 20e9, device="/dev/sdb1"))
    found = history.filesystem("db-01", "/srv/db", end=noon)
    assert found is not None
    assert found.source_changed.tolist() == [noon.date()]
    # A disk that was exchanged is no other source: both were measured.
    later = noon + DAY
    history.store_snapshot("db-01", later, disk(later, 20e9, size=200e9, device="/dev/sdc1"))
    found = history.filesystem("db-01", "/srv/db", end=later)
    assert found is not None
    assert found.source_changed.tolist() == [noon.date()]
