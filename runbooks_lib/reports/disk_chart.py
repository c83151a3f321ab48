"""One partition as a picture: its past, the fan of its future, the lines it must not pass, the dates that follow."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from runbooks_lib import words
from runbooks_lib.capacity import Outlook
from runbooks_lib.history import FilesystemHistory
from runbooks_lib.history.model import EXAMPLE
from runbooks_lib.history.notes import Annotation
from runbooks_lib.reports.disk_canvas import (
    FAINT,
    FUTURE,
    INK,
    LIMIT,
    SOFT,
    TEXT_POINTS,
    Canvas,
    draw_scales,
    future_days,
    make_canvas,
    offset_days,
    reached,
)

_BANDS = ((0.025, 0.975, 0.13), (0.10, 0.90, 0.20), (0.25, 0.75, 0.28))  # low, high, opacity: they lie on each other
_WIDTH_INCHES, _HEIGHT_INCHES, _DOTS_PER_INCH = 7.0, 3.5, 200
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.09, 0.86, 0.2, 0.885
_NAME_POINTS = 10.5


@dataclass(frozen=True)
class Chart:
    """A PNG (transparent ground, 1400 pixels wide for 700 CSS pixels) and the sentence that says what it shows."""

    png: bytes
    alt: str
    width: int = round(_WIDTH_INCHES * 100)


def draw(
    history: FilesystemHistory,
    outlook: Outlook,
    *,
    now: datetime,
    horizon_days: int = 90,
    annotations: Sequence[Annotation] = (),
) -> Chart:
    """The chart of one partition with its alternative text.

    Drawn are: the daily highest use; usable size and threshold as they were and are; from `now` on the median with the
    bands of 50, 80 and 95 %, cut off at the usable size (a disk holds no more); the dates by which 10, 50 and 90 % of
    the futures have passed the threshold; the day to begin. Stretches without data are hatched. Where the past is only
    hours long: the slowest and the fastest rate seen, as a wedge, and no band.
    """
    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), dpi=_DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((_LEFT, _BOTTOM, _RIGHT - _LEFT, _TOP - _BOTTOM))
    with warnings.catch_warnings():
        # A mount point may hold any character; one without a glyph is drawn as a box, which is right and no news.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas = make_canvas(figure, axes, history, outlook, now, horizon_days)
        _paint(canvas)
        _annotations(canvas, annotations)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, transparent=True)
    return Chart(buffer.getvalue(), alternative_text(history, outlook, now=now))


# -- painting, from the back to the front ------------------------------------------------------------------------------


def _paint(canvas: Canvas) -> None:
    canvas.axes.set_xlim(canvas.first, canvas.last)
    canvas.axes.set_ylim(canvas.bottom, canvas.top)
    _gaps(canvas)
    if canvas.hours_only:
        _wedge(canvas)
    else:
        _fan(canvas)
    _runaway(canvas)
    _history(canvas)
    _limits(canvas)
    if not canvas.hours_only:
        _resizes(canvas)
        _threshold_dates(canvas)
    _today_and_beginning(canvas)
    draw_scales(canvas)
    _heading(canvas)


def _gaps(canvas: Canvas) -> None:
    """Hatched, since a line drawn across days that nobody measured would be a claim."""
    if canvas.hours_only:
        return
    for before, after in itertools.pairwise(canvas.days[np.isfinite(canvas.used)]):
        if after - before < canvas.gap_days or after < canvas.first:
            continue
        left, right = max(float(before), canvas.first), float(after)
        canvas.axes.axvspan(left, right, facecolor="none", edgecolor=FAINT, hatch="////", linewidth=0)
        width = (right - left) / (canvas.last - canvas.first)
        if width >= 0.02:
            y = canvas.bottom + 0.05 * (canvas.top - canvas.bottom)
            rotation = 0 if width > 0.1 else 90
            canvas.text((left + right) / 2, y, "no data", ha="center", va="bottom", color=SOFT, rotation=rotation)


def _fan(canvas: Canvas) -> None:
    forecast = canvas.outlook.forecast
    days, at = future_days(canvas)
    if forecast is None or not len(days):
        return
    # Not the last value drawn: where clean-ups are a habit, the crests are forecast, since those must fit.
    start = canvas.level(forecast.last_value)
    ceiling = max(canvas.level(canvas.outlook.usable), start)
    quantiles = [0.50, *(q for low, high, _ in _BANDS for q in (low, high))]
    futures = np.clip(np.asarray(forecast.quantile(quantiles, days)) / canvas.unit_size, 0.0, ceiling)
    path = {q: np.concatenate([[start], future]) for q, future in zip(quantiles, futures, strict=True)}
    x = np.concatenate([[0.0], at])
    for low, high, opacity in _BANDS:
        canvas.axes.fill_between(x, path[low], path[high], color=FUTURE, alpha=opacity, linewidth=0, zorder=2)
    for edge in (0.10, 0.90):
        canvas.axes.plot(x, path[edge], color=FUTURE, linewidth=0.7, alpha=0.8, zorder=2.5)
    canvas.axes.plot(x, path[0.50], color=FUTURE, linewidth=2.0, linestyle=(0, (4, 1.6)), zorder=3)


def _runaway(canvas: Canvas) -> None:
    """Something fills it within a day: the fan knows only days and hardly shows it, so that the rate is drawn too."""
    running = next((event for event in canvas.outlook.events if event.kind == "runaway"), None)
    if running is None or canvas.outlook.state == "crossed":
        return
    now, full = canvas.level(canvas.outlook.used), canvas.level(canvas.outlook.usable)
    days = (full - now) * canvas.unit_size / (running.after * 24)
    canvas.axes.plot([0.0, days], [now, full], color=LIMIT, linewidth=2.4, zorder=5)
    text = " if it goes on at this rate"
    canvas.text(days, now + 0.35 * (full - now), text, color=LIMIT, va="center", fontweight="bold")


def _wedge(canvas: Canvas) -> None:
    """What would come if the slowest, the mean or the fastest rate seen went on: no chance is said."""
    rates = canvas.outlook.rates
    if rates is None or not np.isfinite(canvas.used).any():
        return
    start = float(canvas.used[np.isfinite(canvas.used)][-1])
    ceiling = max(canvas.level(canvas.outlook.usable), start)
    # Many points, since a rate that reaches the ceiling bends there.
    x = np.linspace(0.0, canvas.last, 60)
    slow, whole, fast = (np.clip(start + x * rate / canvas.unit_size, 0.0, ceiling) for rate in rates)
    canvas.axes.fill_between(x, slow, fast, color=FUTURE, alpha=0.18, linewidth=0, zorder=2)
    for line, style in ((slow, ":"), (whole, (0, (4, 1.6))), (fast, "-")):
        canvas.axes.plot(x, line, color=FUTURE, linewidth=1.6, linestyle=style, zorder=3)


def _history(canvas: Canvas) -> None:
    known = np.isfinite(canvas.used)
    days, used = canvas.days[known], canvas.used[known]
    breaks = np.nonzero(np.diff(days) >= canvas.gap_days)[0] + 1
    for stretch_days, stretch in zip(np.split(days, breaks), np.split(used, breaks), strict=True):
        marker = "o" if len(stretch) == 1 else ""
        canvas.axes.plot(stretch_days, stretch, color=INK, linewidth=1.5, marker=marker, markersize=3, zorder=4)


def _limits(canvas: Canvas) -> None:
    """Usable size and threshold, as steps where the size changed, each named once at the right edge."""
    ratio = canvas.outlook.threshold_ratio
    known = np.isfinite(canvas.usable)
    x = np.concatenate([canvas.days[known], [max(0.0, canvas.last)]])
    usable = np.concatenate([canvas.usable[known], [canvas.level(canvas.outlook.usable)]])
    threshold = canvas.level(canvas.outlook.threshold_level)
    canvas.axes.plot(x, usable, color=INK, linewidth=1.6, drawstyle="steps-post", zorder=3.5)
    steps = np.concatenate([usable[:-1] * ratio, [threshold]])
    canvas.axes.plot(x, steps, color=LIMIT, linewidth=1.5, linestyle=(0, (6, 2)), drawstyle="steps-post", zorder=3.5)
    full = canvas.level(canvas.outlook.usable)
    apart = 0.15 * (canvas.top - canvas.bottom)
    middle = (full + threshold) / 2
    spread = max(0.0, apart - (full - threshold)) / 2
    edge = canvas.last + 0.012 * (canvas.last - canvas.first)
    for y, name, value, color in (
        (max(full + spread, middle), "full", canvas.outlook.usable, INK),
        (min(threshold - spread, middle), words.percent(ratio), canvas.outlook.threshold_level, LIMIT),
    ):
        text = f"{name}\n{_short_amount(canvas, value)}"
        canvas.text(edge, y, text, color=color, va="center", fontweight="bold", linespacing=1.05)


def _short_amount(canvas: Canvas, value: float) -> str:
    """`475 GiB`, `8.1 M`: the scale says already that inodes are counted."""
    return words.amount(value, canvas.outlook.resource).removesuffix(" inodes")


def _resizes(canvas: Canvas) -> None:
    known = np.isfinite(canvas.usable)
    days, usable = canvas.days[known], canvas.usable[known]
    sources = [offset_days(canvas, event.day) for event in canvas.outlook.events if event.kind == "source"]
    for index in np.nonzero(np.abs(np.diff(usable)) > 0.005 * np.abs(usable[1:]))[0]:
        x = float(days[index + 1])
        if x <= canvas.first:
            continue
        change = float(usable[index + 1] - usable[index]) * canvas.unit_size
        label = f"resized {'+' if change > 0 else '−'}{_short_amount(canvas, abs(change))}"
        if any(day <= x < day + 1 for day in sources):
            label = "other source before"
        # Beside the upper end of the step, where the line is not: left of a rise, right of a fall. At the left edge,
        # where a rise leaves no room, below the line.
        y = max(float(usable[index]), float(usable[index + 1]))
        near_edge = change > 0 and x - canvas.first < 0.3 * (canvas.last - canvas.first)
        left = change > 0 and not near_edge
        y -= 0.06 * (canvas.top - canvas.bottom) if near_edge else 0.0
        canvas.text(x, y, f"{label} " if left else f" {label}", ha="right" if left else "left", va="center")


def _annotations(canvas: Canvas, annotations: Sequence[Annotation]) -> None:
    """A number on the line for each day that a person noted, white where that day is taken out of the forecast; the
    texts stand with their numbers below the chart, where there is room for them."""
    known = np.isfinite(canvas.used)
    if canvas.hours_only or not known.any():
        return
    height, width = canvas.top - canvas.bottom, canvas.last - canvas.first
    placed: list[float] = []
    for number, one in enumerate(annotations, start=1):
        x = (one.start - canvas.now).total_seconds() / 86_400
        if not canvas.first <= x <= 0:
            continue
        y = float(np.interp(x, canvas.days[known], canvas.used[known]))
        away = 17 + 16 * (sum(abs(x - other) < 0.03 * width for other in placed) % 3)
        placed.append(x)
        below = y > canvas.bottom + 0.55 * height  # above are the limits and their labels
        out = one.kind == "exclude"
        canvas.axes.annotate(
            str(number), (x, y), xytext=(0, -away if below else away), textcoords="offset points", ha="center",
            va="center", fontsize=TEXT_POINTS, color=INK if out else "white", zorder=9,
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": "white" if out else INK, "edgecolor": INK},
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.9, "shrinkB": 0},
        )  # fmt: skip


def _threshold_dates(canvas: Canvas) -> None:
    """The dates by which 10, 50 and 90 % of the futures have passed the threshold: dots on its line, dates above."""
    passed = [value for value in reached(canvas.outlook) if value <= canvas.last]
    if not passed:
        return
    y, height = canvas.level(canvas.outlook.threshold_level), canvas.top - canvas.bottom
    end = passed[-1] if len(passed) == 3 else canvas.last
    canvas.axes.plot([passed[0], end], [y, y], color=LIMIT, linewidth=3.2, solid_capstyle="butt", zorder=5)
    for x, marker in zip(passed, "oDo", strict=False):
        canvas.axes.plot([x], [y], marker, color=LIMIT, markersize=6, markeredgecolor="white", zorder=6)
    label_y = canvas.top - 0.105 * height
    labels = _date_labels(canvas, passed)
    label_x = _apart([x for x, _ in labels], 0.1 * (canvas.last - canvas.first), canvas.last)
    for (x, text), at in zip(labels, label_x, strict=True):
        canvas.axes.plot([x, x, at], [y, label_y - 0.045 * height, label_y - 0.01 * height], color=LIMIT, linewidth=0.7)
        canvas.text(at, label_y, text, color=LIMIT, ha="center", va="bottom", linespacing=1.1)


def _date_labels(canvas: Canvas, passed: Sequence[float]) -> list[tuple[float, str]]:
    """Place and text of each date, one where several fall on the same day: `12 Dec`, `10-90 %`."""
    by_day: dict[str, list[tuple[float, str]]] = {}
    for x, percent in zip(passed, ("10", "50", "90"), strict=False):
        day = words.short_day((canvas.now + timedelta(days=x)).date())
        by_day.setdefault(day, []).append((x, percent))
    return [
        (same[0][0], f"{day}\n{same[0][1]} %" if len(same) == 1 else f"{day}\n{same[0][1]}–{same[-1][1]} %")
        for day, same in by_day.items()
    ]


def _apart(positions: Sequence[float], distance: float, right: float) -> list[float]:
    """The positions moved as little as it takes to stand `distance` apart, none past `right`."""
    moved = list(positions)
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + distance)
    limit = right - distance / 2
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - distance
    return moved


def _today_and_beginning(canvas: Canvas) -> None:
    axes, height = canvas.axes, canvas.top - canvas.bottom
    roof = canvas.bottom + (canvas.level(canvas.ceiling) - canvas.bottom) * 1.03  # the strip above belongs to the dates
    axes.plot([0, 0], [canvas.bottom, roof], color=SOFT, linewidth=0.9, zorder=1.5)
    begin = canvas.outlook.start_by
    y = _free_height(canvas)
    pad = 0.008 * (canvas.last - canvas.first)
    if canvas.hours_only:
        canvas.text(-pad, y, f"now {canvas.now:%H:%M} UTC", ha="right", color=SOFT)
        return
    at = None if begin is None or canvas.outlook.state == "crossed" else offset_days(canvas, begin)
    behind = at is not None and at < 1
    canvas.text(pad if behind else -pad, y, "today", ha="left" if behind else "right", color=SOFT)
    if begin is None or at is None:
        return
    begin_text = f"begin by {words.short_day(begin)}"
    if at <= canvas.first or at >= canvas.last:
        side = max(canvas.first, min(at, canvas.last))
        text = f"{begin_text} →" if at > 0 else f"← {begin_text}"
        canvas.text(side, y + 0.085 * height, text, ha="right" if at > 0 else "left", color=LIMIT, fontweight="bold")
        return
    axes.plot([at, at], [canvas.bottom, roof], color=LIMIT, linewidth=1.6, linestyle=(0, (1, 1.4)), zorder=3.2)
    y += 0.085 * height  # above "today", which may be near
    left = behind or (canvas.last - at) < 0.24 * (canvas.last - canvas.first)
    canvas.text(
        at - pad if left else at + pad, y, begin_text, ha="right" if left else "left", color=LIMIT, fontweight="bold"
    )


def _free_height(canvas: Canvas) -> float:
    """A height near the foot at which two lines of text beside today meet no other line."""
    height = canvas.top - canvas.bottom
    levels = [canvas.level(canvas.outlook.usable), canvas.level(canvas.outlook.threshold_level), *canvas.used[-1:]]
    for share in (0.045, 0.2, 0.3, 0.4, 0.5):
        y = canvas.bottom + share * height
        if not any(-0.05 * height < level - y < 0.19 * height for level in levels):
            return float(y)
    return float(canvas.bottom + 0.045 * height)


# -- scales and words --------------------------------------------------------------------------------------------------


def _heading(canvas: Canvas) -> None:
    outlook, figure = canvas.outlook, canvas.figure
    name = f"{words.plain(outlook.mountpoint, 48)} on {words.plain(outlook.instance, 28)}"
    figure.text(0.012, 0.945, name, fontsize=_NAME_POINTS, fontweight="bold", color=INK, parse_math=False)
    if EXAMPLE in outlook.origins:
        figure.text(
            0.99, 0.945, "EXAMPLE DATA, not measured", fontsize=TEXT_POINTS, fontweight="bold", color=LIMIT, ha="right",
            parse_math=False, bbox={"boxstyle": "round,pad=0.3", "facecolor": "none", "edgecolor": LIMIT},
        )  # fmt: skip
    handles: list[Line2D | Patch] = [Line2D([], [], color=INK, linewidth=1.5, label="highest use a day")]
    if canvas.hours_only:
        handles[0].set_label("used")
    if canvas.hours_only and outlook.rates is not None:
        handles += [
            Line2D([], [], color=FUTURE, linewidth=1.6, linestyle=":", label="if slowest rate goes on"),
            Line2D([], [], color=FUTURE, linewidth=1.6, linestyle=(0, (4, 1.6)), label="mean"),
            Line2D([], [], color=FUTURE, linewidth=1.6, label="fastest"),
        ]
    elif len(future_days(canvas)[0]):
        handles += [
            Line2D([], [], color=FUTURE, linewidth=2, linestyle=(0, (4, 1.6)), label="middle forecast"),
            Patch(facecolor=FUTURE, alpha=0.5, label="50 %"),
            Patch(facecolor=FUTURE, alpha=0.3, label="80 %"),
            Patch(facecolor=FUTURE, alpha=0.13, label="95 % of futures"),
        ]
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.0, 0.0), ncols=len(handles), frameon=False,
        fontsize=TEXT_POINTS, labelcolor=SOFT, handlelength=1.8, handletextpad=0.5, columnspacing=1.3,
    )  # fmt: skip


def alternative_text(history: FilesystemHistory, outlook: Outlook, *, now: datetime) -> str:
    """What the picture says, for those who do not see it: where it stands, how it came there, what is expected."""
    today, resource = now.date(), outlook.resource

    def amount(value: float) -> str:
        return words.amount(value, resource)

    name = f"{words.plain(outlook.mountpoint)} on {words.plain(outlook.instance)}"
    example = " (example data, not measured)" if EXAMPLE in outlook.origins else ""
    parts = [f"Chart of {resource} used on {name}{example}."]
    used = history.used_bytes_max if resource == "bytes" else history.inodes_used_max
    known = np.nonzero(np.isfinite(used))[0]
    if len(known) > 1:
        since = words.day(history.days[known[0]].astype(object), today=today)
        before, after = amount(float(used[known[0]])), amount(float(used[known[-1]]))
        parts.append(f"From {since} to today it went from {before} to {after} of {amount(outlook.usable)} usable.")
    elif len(known):
        parts.append(f"It stands at {amount(float(used[known[0]]))} of {amount(outlook.usable)} usable.")
    spans, dates = outlook.days_to_threshold, outlook.dates
    level = f"{words.percent(outlook.threshold_ratio)} ({amount(outlook.threshold_level)})"
    if outlook.state == "crossed":
        parts.append(f"It is past its threshold of {level}.")
    elif outlook.tier == "hours" and outlook.rates is not None:
        slow, _, fast = (amount(rate) for rate in outlook.rates)
        parts.append(f"A wedge shows the rates seen so far going on, from {slow} to {fast} a day; no chance is said.")
    elif spans is None or dates is None or outlook.forecast is None:
        parts.append("No forecast is drawn.")
    elif dates[0] is None:
        parts.append(f"The fan of the forecast stays below the threshold of {level}.")
    else:
        chances = [
            f"{percent} of the futures by {words.day(when, today=today)}"
            for percent, when in zip(("10 %", "50 %", "90 %"), dates, strict=True)
            if when is not None
        ]
        parts.append(f"The fan of the forecast passes the threshold of {level}: {', '.join(chances)}.")
        if outlook.start_by is not None:
            parts.append(f"A dotted line marks the day to begin by: {words.day(outlook.start_by, today=today)}.")
    return " ".join(parts)
