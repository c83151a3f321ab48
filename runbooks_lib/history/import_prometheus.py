"""A past out of a Prometheus-compatible server: its node_exporter series, a week at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from runbooks_lib.errors import UsageError
from runbooks_lib.history import names
from runbooks_lib.history.buckets import union
from runbooks_lib.history.model import DAY_SECONDS, SIZE_BYTES, Floats, HistoryError, Ints, to_seconds
from runbooks_lib.history.prometheus import without_port
from runbooks_lib.history.prometheus_api import PrometheusApi, quoted, quoted_pattern
from runbooks_lib.history.sqlite import SqliteHistory

# What the reports and the diagnosis read; a pattern (RE2) over metric names.
DEFAULT_METRICS = (
    "node_filesystem_(size_bytes|free_bytes|avail_bytes|files|files_free|readonly)"
    "|node_memory_(MemTotal|MemFree|MemAvailable|Buffers|Cached|SwapTotal|SwapFree)_bytes"
    "|node_load(1|5|15)|node_cpu_seconds_total|node_boot_time_seconds|node_procs_(running|blocked)"
    "|node_pressure_(cpu|memory|io)_(waiting|stalled)_seconds_total"
    "|node_disk_(read_bytes|written_bytes|io_time_seconds|io_time_weighted_seconds)_total"
    "|node_network_(receive|transmit)_(bytes|packets|errs|drop)_total"
)
_CHUNK_DAYS = 7  # whole days, so that each hour and day is complete within one chunk
_MINIMUM_STEP = 15


@dataclass(frozen=True)
class ServerImport:
    """What came from a server: samples per host, and the hosts for which it had nothing."""

    samples: Mapping[str, int]
    empty: tuple[str, ...]
    warnings: tuple[str, ...]


def instances_of(
    api: PrometheusApi, *, start: datetime, end: datetime, instance_label: str = "instance"
) -> dict[str, tuple[str, ...]]:
    """The hosts whose file systems the server knows: by name without the port, the values of the label."""
    found = api.series(SIZE_BYTES, start=to_seconds(start), end=to_seconds(end) + 1)
    targets: dict[str, set[str]] = {}
    for labels in found:
        if labels.get(instance_label):
            targets.setdefault(without_port(labels[instance_label]), set()).add(labels[instance_label])
    return {name: tuple(sorted(values)) for name, values in sorted(targets.items())}


def import_prometheus(
    history: SqliteHistory,
    api: PrometheusApi,
    *,
    start: datetime,
    end: datetime,
    instances: Mapping[str, str] | Iterable[str] | None = None,
    instance_label: str = "instance",
    drop_labels: Iterable[str] = ("job",),
    metrics: str = DEFAULT_METRICS,
    step_seconds: int = 300,
    now: datetime | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> ServerImport:
    """Copy the metrics of the named hosts between two times, one value every `step_seconds`; again is harmless.

    `instances`: names of hosts, or a mapping from the server's name (without port, or exactly) to the inventory's;
    default all. `drop_labels` are left out, `job` and the labels that a server adds to everything it knows (cluster,
    replica). Each host's week is kept whole or not at all, so that an import that was broken off is finished by doing
    it again. `on_progress(host, ratio)` hears how far each host is. Raises UsageError, HistoryError.
    """
    first, last = to_seconds(start), to_seconds(end)
    if first >= last:
        raise UsageError("the import's end is not after its start")
    if step_seconds < _MINIMUM_STEP or DAY_SECONDS % step_seconds:
        raise UsageError(f"a step of {step_seconds} s", next="seconds that divide a day, at least 15: 60, 300, 3600")
    known = instances_of(api, start=start, end=end, instance_label=instance_label)
    chosen = _chosen(instances, known, api.url)
    dropped = {*drop_labels, instance_label, "__name__"}
    origin = f"imported from Prometheus at {re.sub(r'^https?://', '', api.url)}"
    samples: dict[str, int] = {}
    for instance, targets in chosen.items():
        samples[instance] = 0
        pattern = "|".join(quoted_pattern(target) for target in targets)
        selector = f"{{__name__=~{quoted(metrics)},{instance_label}=~{quoted(pattern)}}}"
        for chunk_start in range(first - first % (_CHUNK_DAYS * DAY_SECONDS), last + 1, _CHUNK_DAYS * DAY_SECONDS):
            chunk_end = min(last, chunk_start + _CHUNK_DAYS * DAY_SECONDS - 1)
            arrays = _chunk(api, selector, max(first, chunk_start), chunk_end, step_seconds, dropped)
            if arrays:
                samples[instance] += history.import_arrays({instance: arrays}, origin=origin, now=now).samples
            if on_progress is not None:
                on_progress(instance, min(1.0, (chunk_end + 1 - first) / (last + 1 - first)))
    empty = tuple(instance for instance, count in samples.items() if not count)
    return ServerImport(samples, empty, tuple(api.warnings))


_NO_TIMES, _NO_VALUES = np.empty(0, dtype=np.int64), np.empty(0)


def _chunk(
    api: PrometheusApi, selector: str, start: int, end: int, step: int, dropped: set[str]
) -> dict[str, tuple[Ints, Floats]]:
    # A value stands at the beginning of the step in which it was the last one, at a whole multiple of the step: so it
    # lies in its own hour and day, and importing an overlapping time again meets the same times.
    first = start - start % step + step
    arrays: dict[str, tuple[Ints, Floats]] = {}
    question = f"last_over_time({selector}[{step}s] offset 1s)"
    for vector in api.query_range(question, start=first, end=end - end % step + step, step=step):
        name = vector.labels.get("__name__")
        if not name:
            raise HistoryError("the server's series have no names", where=api.url)
        labels = {label: value for label, value in vector.labels.items() if label not in dropped}
        # Two targets on one host (or two replicas) say the same, or one follows the other: its port or job has changed.
        known = arrays.get(key := names.key(name, labels), (_NO_TIMES, _NO_VALUES))
        arrays[key] = union(*known, np.rint(vector.times).astype(np.int64) - step, vector.values)
    return arrays


def _chosen(
    wanted: Mapping[str, str] | Iterable[str] | None, known: Mapping[str, tuple[str, ...]], url: str
) -> dict[str, tuple[str, ...]]:
    """The inventory's names and the label's values that stand for each."""
    if wanted is None:
        if not known:
            raise HistoryError(
                "the server has no file systems of any host in that time",
                where=url,
                next=f"does it scrape node_exporter, and is there {SIZE_BYTES}?",
            )
        return dict(known)
    mapping = dict(wanted) if isinstance(wanted, Mapping) else {name: name for name in wanted}
    exact = {target: (target,) for targets in known.values() for target in targets}
    chosen: dict[str, tuple[str, ...]] = {}
    missing = []
    for theirs, ours in mapping.items():
        targets = known.get(theirs) or exact.get(theirs)
        if targets is None:
            missing.append(theirs)
        else:
            chosen[ours] = (*chosen.get(ours, ()), *targets)
    if missing:
        raise UsageError(
            f"the server does not know {', '.join(sorted(missing))}",
            where=url,
            true_now="nothing was imported",
            next=f"it knows {', '.join(list(known)[:20]) or 'no host in that time'}; map names with THEIRS=OURS",
        )
    return chosen
