"""The history on a Prometheus-compatible server, read through its HTTP API."""

from __future__ import annotations

import math
import re
import time as clock
from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np

from runbooks_lib.history import partitions
from runbooks_lib.history.model import (
    AVAIL_BYTES,
    DAY_SECONDS,
    FILES,
    FILES_FREE,
    FREE_BYTES,
    SIZE_BYTES,
    Collection,
    FilesystemHistory,
    Floats,
    Ints,
    Series,
    from_seconds,
    to_seconds,
    to_times,
)
from runbooks_lib.history.prometheus_api import (
    DEFAULT_TIMEOUT_SECONDS,
    PrometheusApi,
    Vector,
    quoted,
    quoted_pattern,
    steps,
)

_STEP_SECONDS = 300
_SEEN_DAYS = 14  # a partition without a value for so long is not listed any more
_LONGEST_DAYS = 400
_MILLISECOND = 0.001
_KIND = "runbook_kind"
_RENAMED = {"job", "__name__", _KIND}
_HIGHEST = {"used", "inodes_used", "count", "last"}  # kinds of a day: of two values the higher one holds


class PrometheusHistory:
    """Reads what a server has scraped from node_exporter.

    A host is the value of `instance_label`; a port at its end is left out, so that `db-01:9100` is the inventory's
    `db-01`. Numbers are read every five minutes, so that a peak between two steps may be missed. Every method raises
    HistoryError.
    """

    def __init__(
        self,
        url: str,
        *,
        instance_label: str = "instance",
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self.api = PrometheusApi(url, user=user, password=password, token=token, timeout_seconds=timeout_seconds)
        self._label = instance_label
        self._origins = (f"Prometheus at {re.sub(r'^https?://', '', self.api.url)}",)

    def series(
        self,
        name: str,
        labels: Mapping[str, str] = {},
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[Series]:
        """Every series of that metric whose labels include the given ones: its last value at even steps of at least
        five minutes. Without `start` the last 400 days."""
        until = _until(end)
        begin = until - _LONGEST_DAYS * DAY_SECONDS if start is None else to_seconds(start)
        step = steps(until - begin, least=_STEP_SECONDS)
        selector = self._selector(name, labels)
        # Whole multiples of the step, so that the same question has the same answer a minute later.
        first = -(-begin // step) * step
        vectors = self.api.query_range(f"last_over_time({selector}[{step}s])", start=first, end=until, step=step)
        alike: dict[tuple[tuple[str, str], ...], list[Vector]] = {}
        for vector in vectors:
            ours = {**self._rest(vector.labels), "instance": self._instance(vector.labels)}
            alike.setdefault(tuple(sorted(ours.items())), []).append(vector)
        return [
            Series(name, dict(ours), to_times(_seconds(one)), one.values, self._origins)
            for ours, one in sorted((ours, _one_of(parts)) for ours, parts in alike.items())
        ]

    def filesystems(self, instance: str | None = None) -> list[tuple[str, str]]:
        """Sorted (instance, mount point) of every partition that had a value in the last 14 days."""
        now = clock.time()
        labels = {} if instance is None else {"instance": instance}
        found = self.api.series(self._selector(SIZE_BYTES, labels), start=now - _SEEN_DAYS * DAY_SECONDS, end=now)
        return sorted({(self._instance(one), one["mountpoint"]) for one in found if "mountpoint" in one})

    def filesystem(
        self, instance: str, mountpoint: str, *, end: datetime | None = None, days: int = 400
    ) -> FilesystemHistory | None:
        """One partition's past over the last `days` days before `end`, in two questions; None when there is none."""
        until = _until(end)
        labels = {"instance": instance, "mountpoint": mountpoint}
        days_found = self._daily(labels, until, days)
        size, free = self._selector(SIZE_BYTES, labels), self._selector(FREE_BYTES, labels)
        begin = until - partitions.RECENT_DAYS * DAY_SECONDS
        first = -(-begin // _STEP_SECONDS) * _STEP_SECONDS
        recent = self.api.query_range(f"{size} - {free}", start=first, end=until, step=_STEP_SECONDS)
        devices: dict[tuple[str, str], dict[str, list[Vector]]] = {}
        for vector in [*days_found, *recent]:
            device = vector.labels.get("device", ""), vector.labels.get("fstype", "")
            devices.setdefault(device, {}).setdefault(vector.labels.get(_KIND, "recent"), []).append(vector)
        pasts = [
            _device_past(*device, {kind: _one_of(parts, kind) for kind, parts in by_kind.items()}, until)
            for device, by_kind in devices.items()
        ]
        return partitions.assemble(instance, mountpoint, pasts, self._origins)

    def instances(self) -> list[str]:
        """Sorted names of the hosts whose file systems had a value in the last 14 days."""
        return sorted({instance for instance, _ in self.filesystems()})

    def last_collection(self, instance: str) -> Collection | None:
        """When the server last had a number of that host's file systems; `unreachable` when it cannot scrape it now."""
        now = clock.time()
        seen = self._selector(SIZE_BYTES, {"instance": instance})
        up = self._selector("up", {"instance": instance})
        found = self.api.query(
            f"{_marked(f'timestamp({seen})', 'seen')} or {_marked(up, 'up')}"
            f" or {_marked(f'max_over_time(({seen} * 0 + time())[{_SEEN_DAYS}d:{_STEP_SECONDS}s])', 'before')}",
            time=now,
        )
        last: dict[str, float] = {}
        for vector in found:
            target, kind = vector.labels.get(self._label, ""), vector.labels.get(_KIND)
            if kind in ("seen", "before"):
                when = float(vector.values[-1]) - (_STEP_SECONDS if kind == "before" else 0)
                last[target] = max(last.get(target, 0.0), when)
        down = [
            vector.labels.get(self._label, "")
            for vector in found
            if vector.labels.get(_KIND) == "up" and vector.values[-1] == 0
        ]
        # Another exporter on the same host may be down without being asked about here.
        refused = [target for target in down if target in last or not last]
        if refused:
            message = f"the server at {self.api.url} cannot scrape {refused[0]}"
            return Collection(from_seconds(int(now)), "unreachable", message)
        return Collection(from_seconds(int(max(last.values()))), "ok") if last else None

    def close(self) -> None:
        """Nothing is kept open between two questions."""

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _daily(self, labels: Mapping[str, str], until: int, days: int) -> list[Vector]:
        """Each day's values, marked by kind, at the midnight that ends the day."""
        today = until - until % DAY_SECONDS
        is_now = until > clock.time() - _STEP_SECONDS
        whole = self.api.query_range(
            self._days_of(labels, DAY_SECONDS),
            start=today - (days - 2) * DAY_SECONDS,
            # A day that is not over is asked for up to its end too, which has no values yet.
            end=today + DAY_SECONDS * is_now,
            step=DAY_SECONDS,
        )
        if is_now or until - today < _STEP_SECONDS:
            return whole
        # `end` lies within a day of the past: of that one only what came before.
        return _joined(whole, self.api.query(self._days_of(labels, until - today), time=until))

    def _days_of(self, labels: Mapping[str, str], window: int) -> str:
        """One question for all kinds, so that a partition costs one round trip.

        A step shows the last value before it, as much as five minutes old. A second earlier (`offset`) and without the
        step at the window's beginning, the steps see exactly what lies within the window.
        """
        size, free, avail = (self._selector(name, labels) for name in (SIZE_BYTES, FREE_BYTES, AVAIL_BYTES))
        files, files_free = self._selector(FILES, labels), self._selector(FILES_FREE, labels)
        fine, all_of_it = f"[{window - 1}s:{_STEP_SECONDS}s]", f"[{window}s] offset 1s"
        # The difference first and the maximum afterwards: right on the day of a resize, too.
        kinds = {
            "used": f"max_over_time(({size} offset 1s - {free} offset 1s){fine})",
            "size": f"last_over_time({size}{all_of_it})",
            "reserved": f"last_over_time({free}{all_of_it}) - last_over_time({avail}{all_of_it})",
            "inodes_used": f"max_over_time(({files} offset 1s - {files_free} offset 1s){fine})",
            "inodes": f"last_over_time({files}{all_of_it})",
            "count": f"count_over_time(({size} offset 1s - {free} offset 1s){fine})",
            # The last step with a value: timestamp() would take 25 times as long.
            "last": f"max_over_time(({size} offset 1s * 0 + time()){fine})",
        }
        return " or ".join(_marked(expression, kind) for kind, expression in kinds.items())

    def _selector(self, name: str, labels: Mapping[str, str]) -> str:
        matchers = [f"{label}={quoted(value)}" for label, value in labels.items() if label != "instance"]
        if "instance" in labels:
            pattern = r"\[?" + quoted_pattern(labels["instance"]) + r"\]?(:[0-9]+)?"
            matchers.append(f"{self._label}=~{quoted(pattern)}")
        return f"{name}{{{','.join(matchers)}}}"

    def _instance(self, labels: Mapping[str, str]) -> str:
        return without_port(labels.get(self._label, ""))

    def _rest(self, labels: Mapping[str, str]) -> dict[str, str]:
        return {label: value for label, value in labels.items() if label != self._label and label not in _RENAMED}


def without_port(target: str) -> str:
    """The host of a scrape target: `db-01:9100` is `db-01`, `[::1]:9100` is `::1`."""
    return re.sub(r"^\[(.*)\]$", r"\1", re.sub(r"(?<![:]):[0-9]+$", "", target))


def _marked(expression: str, kind: str) -> str:
    return f'label_replace({expression}, "{_KIND}", "{kind}", "", "")'


def _joined(whole: list[Vector], part: list[Vector]) -> list[Vector]:
    by_labels = {tuple(sorted(_unnamed(vector).items())): vector for vector in whole}
    for vector in part:
        key = tuple(sorted(_unnamed(vector).items()))
        before = by_labels.get(key)
        by_labels[key] = (
            vector
            if before is None
            else Vector(vector.labels, np.append(before.times, vector.times), np.append(before.values, vector.values))
        )
    return list(by_labels.values())


def _one_of(parts: Sequence[Vector], kind: str = "") -> Vector:
    """One host's number under several sets of labels as one: its target's port or job has changed, or two exporters say
    the same. At one time the target holds that lasts longer; of a day's highest value and of its last time, the later.
    """
    if len(parts) == 1:
        return parts[0]
    ordered = sorted(parts, key=lambda vector: float(vector.times[-1]) if len(vector.times) else -math.inf)
    times, values = np.concatenate([one.times for one in ordered]), np.concatenate([one.values for one in ordered])
    once, places = np.unique(times, return_inverse=True)
    merged = np.full(len(once), np.nan)
    if kind in _HIGHEST:
        np.fmax.at(merged, places, values)
    else:
        merged[places] = values
    return Vector(ordered[-1].labels, once, merged)


def _unnamed(vector: Vector) -> dict[str, str]:
    return {label: value for label, value in vector.labels.items() if label != "__name__"}


def _seconds(vector: Vector) -> Ints:
    return np.floor(vector.times + _MILLISECOND / 2).astype(np.int64)


def _device_past(device: str, fstype: str, by_kind: Mapping[str, Vector], until: int) -> partitions.DevicePast:
    def days(kind: str) -> tuple[Ints, Floats]:
        vector = by_kind.get(kind)
        if vector is None:
            return np.empty(0, dtype=np.int64), np.empty(0)
        return (vector.times.astype(np.int64) - 1) // DAY_SECONDS * DAY_SECONDS, vector.values

    start = np.union1d(days("used")[0], days("inodes_used")[0])

    def column(kind: str) -> Floats:
        return partitions.on_days(start, *days(kind))

    last = column("last")
    recent = by_kind.get("recent")
    return partitions.DevicePast(
        device,
        fstype,
        start,
        # The value lies within the step before; it is never said to be younger than it is.
        np.minimum(np.where(np.isnan(last), start, np.nan_to_num(last) - _STEP_SECONDS), until).astype(np.int64),
        np.nan_to_num(column("count")).astype(np.int64),
        column("used"),
        column("size"),
        column("reserved"),
        column("inodes_used"),
        column("inodes"),
        np.empty(0, dtype=np.int64) if recent is None else _seconds(recent),
        np.empty(0) if recent is None else recent.values,
    )


def _until(end: datetime | None) -> int:
    return int(clock.time()) if end is None else to_seconds(end)
