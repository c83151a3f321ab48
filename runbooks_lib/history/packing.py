"""Many samples, or many buckets, of one series in one small blob, bit for bit.

A blob is a head of six bytes (kind, scale, count) and a zlib stream (with its checksum) of columns. Each column holds
64-bit numbers as differences from the one before, byte planes apart, so that the planes that do not change cost
nothing. Values that are whole numbers after a multiplication (counters in 0.01 s, bytes) are kept as integers; others
as the exclusive-or of their bits with the value before, as in Gorilla (Pelkonen et al., VLDB 2015).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runbooks_lib.history.model import Floats, Ints

_HEAD = struct.Struct("<BBI")
_SAMPLES, _BUCKETS = 1, 2
_BITS = 255  # in place of an index into _SCALES: bits with exclusive-or
_SCALES = (1.0, 100.0, 1000.0, 1e6, 10.0)
_EXACT = 2.0**53  # whole numbers up to here are doubles without loss
_LEVEL = 6

_Unsigned = npt.NDArray[np.uint64]


class Unreadable(Exception):
    """A blob that is not what was written."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """Buckets of one width: `start` and `last_time` in seconds, min, max, last and count of the samples in each."""

    start: Ints
    last_time: Ints
    count: Ints
    minimum: Floats
    maximum: Floats
    last: Floats

    def __len__(self) -> int:
        return len(self.start)

    def take(self, chosen: npt.NDArray[np.bool_] | slice) -> Buckets:
        """Only the chosen ones."""
        return Buckets(
            self.start[chosen],
            self.last_time[chosen],
            self.count[chosen],
            self.minimum[chosen],
            self.maximum[chosen],
            self.last[chosen],
        )


_NO_INTS = np.empty(0, dtype=np.int64)
_NO_FLOATS = np.empty(0, dtype=np.float64)
NO_BUCKETS = Buckets(_NO_INTS, _NO_INTS, _NO_INTS, _NO_FLOATS, _NO_FLOATS, _NO_FLOATS)


def concatenate(parts: Sequence[Buckets]) -> Buckets:
    """The buckets one after the other."""
    if not parts:
        return NO_BUCKETS
    if len(parts) == 1:
        return parts[0]
    return Buckets(
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.last_time for part in parts]),
        np.concatenate([part.count for part in parts]),
        np.concatenate([part.minimum for part in parts]),
        np.concatenate([part.maximum for part in parts]),
        np.concatenate([part.last for part in parts]),
    )


def pack_samples(base: int, times: Ints, values: Floats) -> bytes:
    """Times (seconds, ascending, not before `base`) and values as one blob."""
    scale, scaled = _scale(values)
    columns = [_regular(times - base), _differences(scaled) if scale != _BITS else _changes(_bits(values))]
    return _HEAD.pack(_SAMPLES, scale, len(times)) + _compress(columns)


def unpack_samples(base: int, blob: bytes) -> tuple[Ints, Floats]:
    """The times and values of `pack_samples`. Raises Unreadable."""
    scale, columns = _open(blob, _SAMPLES, 2)
    times = _from_regular(columns[0]) + base
    values = _from_bits(_from_changes(columns[1])) if scale == _BITS else _unscale(scale, _from_differences(columns[1]))
    return times, values


def pack_buckets(base: int, width: int, buckets: Buckets) -> bytes:
    """Buckets of `width` seconds, ascending, whose first start is not before `base`, as one blob."""
    columns = [
        _regular((buckets.start - base) // width),
        _differences(buckets.last_time - buckets.start),
        _differences(buckets.count),
    ]
    scale, scaled = _scale(np.concatenate([buckets.last, buckets.maximum, buckets.minimum]))
    if scale == _BITS:
        last = _bits(buckets.last)
        columns += [_changes(last), _bits(buckets.maximum) ^ last, _bits(buckets.minimum) ^ last]
    else:
        whole_last, whole_maximum, whole_minimum = scaled.reshape(3, -1)
        columns += [_differences(whole_last), _zigzag(whole_maximum - whole_last), _zigzag(whole_minimum - whole_last)]
    return _HEAD.pack(_BUCKETS, scale, len(buckets)) + _compress(columns)


def unpack_buckets(base: int, width: int, blob: bytes) -> Buckets:
    """The buckets of `pack_buckets`. Raises Unreadable."""
    scale, columns = _open(blob, _BUCKETS, 6)
    start = _from_regular(columns[0]) * width + base
    last_time = _from_differences(columns[1]) + start
    count = _from_differences(columns[2])
    if scale == _BITS:
        bits = _from_changes(columns[3])
        return Buckets(
            start, last_time, count, _from_bits(columns[5] ^ bits), _from_bits(columns[4] ^ bits), _from_bits(bits)
        )
    whole = _from_differences(columns[3])
    return Buckets(
        start,
        last_time,
        count,
        _unscale(scale, whole + _unzigzag(columns[5])),
        _unscale(scale, whole + _unzigzag(columns[4])),
        _unscale(scale, whole),
    )


# -- values as whole numbers -------------------------------------------------------------------------------------------


def _scale(values: Floats) -> tuple[int, Ints]:
    """The first scale at which every value is a whole number and comes back bit for bit, else _BITS."""
    bits = _bits(values)
    with np.errstate(invalid="ignore", over="ignore"):
        for index, scale in enumerate(_SCALES):
            rounded = np.rint(values * scale)
            # Also false for nan and infinities.
            if not np.all(np.abs(rounded) < _EXACT):
                continue
            whole = rounded.astype(np.int64)
            if np.array_equal(_bits(_unscale(index, whole)), bits):
                return index, whole
    return _BITS, _NO_INTS


def _unscale(scale: int, whole: Ints) -> Floats:
    if scale >= len(_SCALES):
        raise Unreadable(f"an unknown scale, {scale}")
    floats = whole.astype(np.float64)
    return floats if scale == 0 else floats / _SCALES[scale]


def _bits(values: Floats) -> _Unsigned:
    return np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)


def _from_bits(bits: _Unsigned) -> Floats:
    return np.ascontiguousarray(bits).view(np.float64)


# -- columns -----------------------------------------------------------------------------------------------------------


def _zigzag(numbers: Ints) -> _Unsigned:
    return ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)


def _unzigzag(numbers: _Unsigned) -> Ints:
    return (numbers >> np.uint64(1)).view(np.int64) ^ -(numbers & np.uint64(1)).view(np.int64)


def _differences(numbers: Ints) -> _Unsigned:
    return _zigzag(np.diff(numbers, prepend=0))


def _from_differences(column: _Unsigned) -> Ints:
    return np.cumsum(_unzigzag(column), dtype=np.int64)


def _regular(numbers: Ints) -> _Unsigned:
    """Differences of differences: nothing but zeros for what comes at even distances."""
    return _zigzag(np.diff(np.diff(numbers, prepend=0), prepend=0))


def _from_regular(column: _Unsigned) -> Ints:
    return np.cumsum(np.cumsum(_unzigzag(column), dtype=np.int64), dtype=np.int64)


def _changes(bits: _Unsigned) -> _Unsigned:
    changed = bits.copy()
    changed[1:] ^= bits[:-1]
    return changed


def _from_changes(column: _Unsigned) -> _Unsigned:
    return np.bitwise_xor.accumulate(column)


def _compress(columns: Sequence[_Unsigned]) -> bytes:
    stacked = np.ascontiguousarray(np.stack(columns).astype("<u8"))
    planes = stacked.view(np.uint8).reshape(len(columns), -1, 8).transpose(0, 2, 1)
    return zlib.compress(planes.tobytes(), _LEVEL)


def check_blob(blob: bytes) -> None:
    """Raises Unreadable when the checksum of a blob's stream is not right."""
    try:
        zlib.decompress(blob[_HEAD.size :])
    except zlib.error as error:
        raise Unreadable(str(error)) from error


def _open(blob: bytes, kind: int, columns: int) -> tuple[int, _Unsigned]:
    try:
        found, scale, count = _HEAD.unpack_from(blob)
        if found != kind:
            raise Unreadable(f"a blob of kind {found} in place of {kind}")
        planes = zlib.decompress(blob[_HEAD.size :], bufsize=columns * 8 * count + 1)
    except (struct.error, zlib.error) as error:
        raise Unreadable(str(error)) from error
    if len(planes) != columns * 8 * count:
        raise Unreadable(f"{len(planes)} bytes in place of {columns * 8 * count}")
    spread = np.frombuffer(planes, dtype=np.uint8).reshape(columns, 8, count).transpose(0, 2, 1)
    return scale, np.ascontiguousarray(spread).view("<u8").reshape(columns, count).astype(np.uint64, copy=False)
