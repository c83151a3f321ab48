"""Metric names and labels as keys of the history, in any Unicode; and the series that are derived while writing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, MutableMapping

from runbooks_lib.errors import UsageError
from runbooks_lib.facts.samples import Sample
from runbooks_lib.history.model import FILES, FILES_FREE, FREE_BYTES, SIZE_BYTES, USED_BYTES, USED_FILES

INSTANCE = "instance"

_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_REMEMBERED = 50_000

# (whole, part that is free, what is used): the difference within one snapshot is right on the day of a resize too.
_DIFFERENCES = ((SIZE_BYTES, FREE_BYTES, USED_BYTES), (FILES, FILES_FREE, USED_FILES))

_known: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}


def key(name: str, labels: Mapping[str, str]) -> str:
    """Name and labels (without `instance`) as one text; equal for equal series. Raises UsageError for an unfit name."""
    identity = (name, tuple(labels.items()))
    found = _known.get(identity)
    if found is None:
        check_name(name, "a metric name")
        rest = {label: value for label, value in labels.items() if label != INSTANCE}
        found = f"{name}\n{labels_text(rest)}"
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[identity] = found
    return found


def split(text: str) -> tuple[str, str]:
    """Metric name and labels' JSON of a key."""
    name, _, labels = text.partition("\n")
    return name, labels


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as JSON, keys sorted, in ASCII: a file name that is not UTF-8 (a lone surrogate in Python) stays
    itself."""
    for label, value in labels.items():
        if not isinstance(label, str) or not isinstance(value, str):
            raise UsageError(f"a label that is not text: {label!r}={value!r}")
    return json.dumps(labels, sort_keys=True, separators=(",", ":"))


def labels_of(text: str) -> dict[str, str]:
    """The labels of `labels_text`."""
    parsed: dict[str, str] = json.loads(text)
    return parsed


def check_name(text: str, what: str) -> str:
    """The text itself. Raises UsageError when it is empty or holds what no name may hold (control characters,
    surrogates)."""
    if not isinstance(text, str) or not text or _UNFIT.search(text):
        raise UsageError(f"{what} is text without control characters, not {text!r}")
    return text


def values_by_key(samples: Iterable[Sample]) -> dict[str, float]:
    """The samples of one snapshot by key, the derived ones among them. Of a repeated series the last value counts: the
    last of several mounts on one mount point is the one that is seen."""
    values = {key(sample.name, sample.labels): float(sample.value) for sample in samples}
    add_differences(values)
    return values


def add_differences(values: MutableMapping[str, float]) -> None:
    """Adds used = whole - free wherever both are among the values and used is not."""
    for whole, free, used in _DIFFERENCES:
        start = f"{whole}\n"
        for text in [text for text in values if text.startswith(start)]:
            labels = text[len(start) :]
            part = values.get(f"{free}\n{labels}")
            if part is not None:
                values.setdefault(f"{used}\n{labels}", values[text] - part)


def differences() -> tuple[tuple[str, str, str], ...]:
    """The metric names (whole, free, used) of the derived series."""
    return _DIFFERENCES
