"""One measured number, under node_exporter's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Sample:
    """Metric name, labels, time (UTC) and value.

    Names, units and labels are node_exporter's, e.g. `node_filesystem_avail_bytes{device, fstype, mountpoint}`; the
    host is the label `instance`, as in Prometheus, and is added by the history, not here."""

    name: str
    value: float
    time: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
