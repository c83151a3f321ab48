"""A history as OpenMetrics text, for moving to a Prometheus-compatible server.

`promtool tsdb create-blocks-from openmetrics FILE DIR` makes blocks of it
(prometheus.io/docs/prometheus/latest/storage, "Backfilling from OpenMetrics format").
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TextIO

from runbooks_lib.history.model import Series
from runbooks_lib.history.sqlite import SqliteHistory

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def export(
    history: SqliteHistory,
    file: TextIO,
    *,
    instance: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    job: str = "node",
) -> tuple[int, tuple[str, ...]]:
    """Write every series, as finely as it is kept, and return the number of samples and the names that were left out
    because Prometheus 2 cannot hold them. Text that is not Unicode (a file name) has its odd bytes replaced.

    Where only an hour's or a day's last value is kept, that is what is written: daily maxima of the older past are not
    part of it, keep the file for them.
    """
    written = 0
    left_out: list[str] = []
    labels = {} if instance is None else {"instance": instance}
    for name in history.metrics():
        if not _NAME.fullmatch(name):
            left_out.append(name)
            continue
        series = history.series(name, labels, start=start, end=end)
        if not series:
            continue
        file.write(f"# TYPE {name} unknown\n")
        for one in series:
            head = f"{name}{{{_labels(one, job)}}}"
            lines = zip(one.values.tolist(), one.times.astype("int64").tolist(), strict=True)
            file.writelines(f"{head} {value!r} {second}\n" for value, second in lines)
            written += len(one.times)
    file.write("# EOF\n")
    return written, tuple(left_out)


def _labels(series: Series, job: str) -> str:
    known = {"job": job, **{name: value for name, value in series.labels.items() if _LABEL.fullmatch(name)}}
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(known.items()) if value)


def _escaped(text: str) -> str:
    clean = text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "?")
    return clean.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
