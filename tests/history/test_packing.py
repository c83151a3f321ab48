"""Blobs come back bit for bit, and damaged ones are seen."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbooks_lib.history.buckets import absorb, ascending, gather
from runbooks_lib.history.packing import (
    NO_BUCKETS,
    Buckets,
    Unreadable,
    pack_buckets,
    pack_samples,
    unpack_buckets,
    unpack_samples,
)

BASE = 1_700_006_400  # a UTC midnight
HOUR = 3600
FIELDS = ("start", "last_time", "count", "minimum", "maximum", "last")

any_float = st.floats(width=64) | st.integers(-(2**60), 2**60).map(float) | st.integers(0, 10**9).map(lambda n: n / 100)
samples = st.lists(st.tuples(st.integers(0, 86_399), any_float), min_size=1, max_size=80)


def as_arrays(pairs: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return ascending(
        np.array([BASE + second for second, _ in pairs], dtype=np.int64), np.array([value for _, value in pairs])
    )


def assert_equal(left: Buckets, right: Buckets) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@given(samples)
@settings(max_examples=200, deadline=None)
def test_samples_come_back_bit_for_bit(pairs: list[tuple[int, float]]) -> None:
    times, values = as_arrays(pairs)
    back_times, back_values = unpack_samples(BASE, pack_samples(BASE, times, values))
    np.testing.assert_array_equal(back_times, times)
    np.testing.assert_array_equal(back_values.view(np.uint64), values.view(np.uint64))


@given(samples)
@settings(max_examples=200, deadline=None)
def test_buckets_come_back_bit_for_bit(pairs: list[tuple[int, float]]) -> None:
    buckets = gather(*as_arrays(pairs), HOUR)
    back = unpack_buckets(BASE, HOUR, pack_buckets(BASE, HOUR, buckets))
    for name in FIELDS:
        assert getattr(back, name).tobytes() == getattr(buckets, name).tobytes()


@given(samples, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_pieces_in_any_order_and_twice_give_the_same_least_highest_and_last(pairs: list, random: object) -> None:
    times, values = as_arrays(pairs)
    whole = gather(times, values, HOUR)
    order = list(range(len(times)))
    random.shuffle(order)  # type: ignore[attr-defined]
    grown = NO_BUCKETS
    for index in [*order, *order]:
        grown = absorb(grown, times[index : index + 1], values[index : index + 1], HOUR)
    for name in ("start", "last_time", "last"):
        np.testing.assert_array_equal(getattr(grown, name), getattr(whole, name))
    np.testing.assert_array_equal(grown.minimum, whole.minimum)
    np.testing.assert_array_equal(grown.maximum, whole.maximum)
    assert np.all(grown.count <= whole.count)
    assert np.all(grown.count >= 1)


@given(samples, st.integers(0, 80))
@settings(max_examples=100, deadline=None)
def test_pieces_in_order_of_time_are_counted_exactly_and_again_not_at_all(pairs: list, cut: int) -> None:
    times, values = as_arrays(pairs)
    whole = gather(times, values, HOUR)
    grown = absorb(gather(times[:cut], values[:cut], HOUR), times[cut:], values[cut:], HOUR)
    assert_equal(grown, whole)
    assert_equal(absorb(grown, times, values, HOUR), whole)
    assert_equal(absorb(grown, times[:cut], values[:cut], HOUR), whole)


def test_what_is_not_a_number_is_in_no_bucket() -> None:
    times = np.array([BASE, BASE + 1, BASE + HOUR])
    buckets = gather(times, np.array([1.0, np.nan, np.nan]), HOUR)
    assert buckets.count.tolist() == [1]
    assert buckets.last.tolist() == [1.0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: blob[:-1],
        lambda blob: blob[:3],
        lambda blob: blob[:0],
        lambda blob: bytes([blob[0], blob[1] ^ 4]) + blob[2:6] + zlib.compress(b"x" * 64),
        lambda blob: blob[:2] + bytes([blob[2] + 1]) + blob[3:],
        lambda blob: blob[:12] + bytes([blob[12] ^ 0xFF]) + blob[13:],
        lambda blob: b"\x02" + blob[1:],
    ],
)
def test_a_damaged_blob_is_refused(damage: object) -> None:
    times = np.arange(BASE, BASE + 6000, 60)
    blob = pack_samples(BASE, times, np.sqrt(times))
    with pytest.raises(Unreadable):
        unpack_samples(BASE, damage(blob))  # type: ignore[operator]


def test_an_idle_series_costs_next_to_nothing() -> None:
    times = np.arange(BASE, BASE + 86_400, 300)
    assert len(pack_samples(BASE, times, np.full(288, 498e9))) < 70
