"""Now beside normal, as pictures: one small chart a measure, its last day, the band of each hour, and this moment."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from runbooks_lib.diagnosis.baseline import Baseline, Past
from runbooks_lib.diagnosis.deviation import Deviation, shown
from runbooks_lib.history.model import to_seconds
from runbooks_lib.reports.disk_canvas import FAINT, FUTURE, INK, LIMIT, SOFT, TEXT_POINTS

_COLUMNS, _WIDTH_INCHES, _ROW_INCHES, _DOTS_PER_INCH = 2, 7.0, 1.45, 200
_HOURS = 24.0


@dataclass(frozen=True)
class Chart:
    """A PNG (transparent ground) and the sentences that say what it shows."""

    png: bytes
    alt: str
    width: int = round(_WIDTH_INCHES * 100)


def draw(rows: Sequence[Deviation], baseline: Baseline, *, now: datetime) -> Chart:
    """All measures as small charts in two columns, each with its band; where there is none, it says so."""
    lines = max(1, math.ceil(len(rows) / _COLUMNS))
    figure = Figure(figsize=(_WIDTH_INCHES, _ROW_INCHES * lines), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, _COLUMNS, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place < len(rows):
            _one(axes, rows[place], baseline.pasts.get(rows[place].measure.name), to_seconds(now))
        else:
            axes.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, transparent=True)
    return Chart(buffer.getvalue(), "Now beside normal. " + ". ".join(each.sentence for each in rows) + ".")


def _one(axes: Axes, row: Deviation, past: Past | None, at: int) -> None:
    value = row.lately if row.lately is not None else row.now
    top = value or 0.0
    if past is not None and len(past.times):
        hours = (past.times - at) / 3600.0
        axes.fill_between(hours, past.day_low, past.day_high, color=FUTURE, alpha=0.22, linewidth=0, step="mid")
        axes.plot(hours, past.values, color=INK, linewidth=1.0)
        top = max(top, float(np.nanmax(past.values)))
        if np.isfinite(past.day_high).any():
            top = max(top, float(np.nanmax(past.day_high)))
    if row.band is not None:
        axes.fill_between([-1.0, 0.0], row.band.low, row.band.high, color=FUTURE, alpha=0.35, linewidth=0)
        top = max(top, row.band.high)
    colour = LIMIT if row.direction else INK
    if value is not None:
        axes.plot([0.0], [value], marker="D", markersize=5, color=colour, clip_on=False, zorder=5)
    note = f"far {row.direction} normal" if row.direction else "" if row.band else "no baseline"
    now = "" if value is None else shown(value, row.measure)
    axes.set_title(row.measure.words, loc="left", fontsize=TEXT_POINTS, color=INK, parse_math=False)
    axes.set_title(f"{now}{', ' if now and note else ''}{note}", loc="right", fontsize=TEXT_POINTS, color=colour,
                   parse_math=False)  # fmt: skip
    axes.set_xlim(-_HOURS, 0.6)
    least = 0.05 if row.measure.unit == "ratio" else row.measure.least / 10
    axes.set_ylim(0, max(top * 1.12, least))
    axes.set_xticks([-24, -18, -12, -6, 0], ["24 h ago", "18", "12", "6", "now"])
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda amount, _: shown(amount, row.measure)))
    axes.tick_params(labelsize=7, colors=SOFT, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
