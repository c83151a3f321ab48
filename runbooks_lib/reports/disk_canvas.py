"""The scales of a partition's chart: which days and levels are shown, in which unit, and the ticks on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from runbooks_lib import words
from runbooks_lib.capacity import Outlook
from runbooks_lib.history import FilesystemHistory

# Okabe and Ito's palette (Color Universal Design, 2008), darkened where it carries text; every line also has a style
# and a label of its own. The ground is transparent: a dark page turns the picture with a CSS filter, paper keeps it.
INK, SOFT, FAINT = "#1b2733", "#556270", "#c3cbd3"
FUTURE, LIMIT = "#0072b2", "#b84500"
TEXT_POINTS = 9.0
_SECONDS_PER_DAY = 86400.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Canvas:
    """The picture's scales. Days are counted from `now` (the past is negative); amounts are in `unit`."""

    figure: Figure
    axes: Axes
    outlook: Outlook
    now: datetime
    horizon_days: int
    days: Floats  # of the past, ascending
    used: Floats
    usable: Floats  # size without the reserve, as it was on each day
    first: float
    last: float
    ceiling: float  # the highest of what is drawn, in bytes (or inodes)
    bottom: float
    top: float
    unit: str
    unit_size: float

    @property
    def hours_only(self) -> bool:
        return self.outlook.tier == "hours"

    @property
    def gap_days(self) -> float:
        """From how many days without data on it is a gap: half a day more than the usual distance of the samples."""
        if self.hours_only or len(self.days) < 2:
            return math.inf
        return float(np.median(np.diff(self.days))) + 0.5

    def level(self, value: float) -> float:
        """Bytes (or inodes) in the picture's unit."""
        return value / self.unit_size

    def text(self, x: float, y: float, text: str, **how: object) -> Text:
        """A label that stays readable where it lies over a line, and that never is mathematics (`$` in a name)."""
        options: dict[str, object] = {"fontsize": TEXT_POINTS, "color": INK, "parse_math": False, "zorder": 8, **how}
        label = self.axes.text(x, y, text, **options)  # type: ignore[arg-type]
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white", alpha=0.85)])
        return label


def make_canvas(
    figure: Figure, axes: Axes, history: FilesystemHistory, outlook: Outlook, now: datetime, horizon_days: int
) -> Canvas:
    """The scales for one partition: as far back as twice the horizon, levels from zero or from below the lowest use."""
    days, used, usable = _past(history, outlook, now)
    length = -float(days[0]) if len(days) else 0.0
    if outlook.tier == "hours":
        length = max(length, 0.5 / 24)
        first, last = -1.06 * length, length
    else:
        first, last = -max(2.0, min(length, 2.0 * horizon_days)), float(max(2, _reach(outlook, horizon_days)))
    seen = (days >= first) & np.isfinite(used)
    lowest = min(float(used[seen].min()) if seen.any() else 0.0, float(np.nan_to_num(outlook.threshold_level)))
    highest = max(
        float(np.nan_to_num(outlook.usable)),
        float(usable[(days >= first) & np.isfinite(usable)].max(initial=0.0)),
        float(used[seen].max(initial=0.0)),
        1.0,
    )
    # From zero, unless that would press the whole story against the ceiling; the scale says where it begins.
    bottom = 0.0 if lowest < 0.4 * highest else lowest - 0.2 * (highest - lowest)
    unit, size = words.unit_for(highest, outlook.resource)
    top = bottom + (highest - bottom) * (1.24 if reached(outlook) else 1.1)  # the dates stand above the full line
    return Canvas(
        figure, axes, outlook, now, horizon_days, days, used / size, usable / size,
        first, last, highest, bottom / size, top / size, unit, size,
    )  # fmt: skip


def _past(history: FilesystemHistory, outlook: Outlook, now: datetime) -> tuple[Floats, Floats, Floats]:
    """Days from now, used and usable. Daily values stand at noon, those of a young history at their time."""
    recent = history.recent
    if outlook.tier == "hours" and outlook.resource == "bytes" and len(recent.times):
        values = np.asarray(recent.values, dtype=np.float64)
        return _days_from(now, recent.times), values, np.full(len(values), float(outlook.usable))
    if outlook.resource != "bytes":
        used, usable = history.inodes_used_max, history.inodes_total
    else:
        used, usable = history.used_bytes_max, history.size_bytes - history.reserved_bytes
    noon = np.minimum(_days_from(now, history.days) + 0.5, 0.0)
    return noon, np.asarray(used, dtype=np.float64), np.asarray(usable, dtype=np.float64)


def _reach(outlook: Outlook, horizon_days: int) -> int:
    forecast = outlook.forecast
    return horizon_days if forecast is None or forecast.refusal else min(horizon_days, forecast.horizon_days)


def _days_from(now: datetime, times: npt.NDArray[np.datetime64]) -> Floats:
    seconds = times.astype("datetime64[s]").astype(np.int64).astype(np.float64)
    return np.asarray((seconds - now.timestamp()) / _SECONDS_PER_DAY, dtype=np.float64)


def future_days(canvas: Canvas) -> tuple[npt.NDArray[np.int64], Floats]:
    """The forecast's days (1 is the day after the last sample's) and where they stand, in days from now."""
    forecast = canvas.outlook.forecast
    if forecast is None or forecast.refusal is not None or forecast.last_day is None:
        return np.empty(0, dtype=np.int64), np.empty(0)
    days = np.arange(1, forecast.horizon_days + 1)
    # From whole days to whole days: the end of the last sample's day is now, unless nothing came today.
    behind = (canvas.now.date() - forecast.last_day.astype("datetime64[D]").astype(object)).days
    at = days.astype(np.float64) - behind
    shown = (at > 0) & (at <= canvas.last)
    return days[shown], at[shown]


def reached(outlook: Outlook) -> list[float]:
    """Days until 10, 50 and 90 % of the futures have passed the threshold: those of the three within the horizon."""
    spans = outlook.days_to_threshold
    if spans is None or outlook.tier == "hours" or outlook.state == "crossed":
        return []
    return [float(value) for value in spans if math.isfinite(value)]


def offset_days(canvas: Canvas, when: date) -> float:
    """Days from now to the first moment of a day; negative when it is past."""
    return (datetime.combine(when, time(), tzinfo=canvas.now.tzinfo) - canvas.now) / timedelta(days=1)


def draw_scales(canvas: Canvas) -> None:
    """Ticks, a quiet grid and the unit; no box around the picture."""
    axes = canvas.axes
    positions, labels = _hour_ticks(canvas) if canvas.hours_only else _day_ticks(canvas)
    axes.set_xticks(positions, labels)
    levels = _level_ticks(canvas.bottom, canvas.top)
    unit = canvas.unit or ("inodes" if canvas.outlook.resource == "inodes" else "B")
    axes.set_yticks(levels, [f"{level:g}" for level in levels])
    axes.tick_params(length=3, color=FAINT, labelcolor=SOFT, labelsize=TEXT_POINTS)
    axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    name = f"{unit} inodes" if canvas.outlook.resource == "inodes" and canvas.unit else unit
    axes.annotate(
        name, (0, 1), xycoords="axes fraction", xytext=(-3, 4), textcoords="offset points", ha="right",
        color=SOFT, fontsize=TEXT_POINTS,
    )  # fmt: skip


def _level_ticks(bottom: float, top: float) -> list[float]:
    """Four to seven round levels (1, 2, 2.5, 5 times a power of ten)."""
    rough = (top - bottom) / 5
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    count = int((top - bottom) / step) + 2
    start = math.ceil(bottom / step) * step
    return [round(start + index * step, 10) for index in range(count) if start + index * step <= top]


def _day_ticks(canvas: Canvas) -> tuple[list[float], list[str]]:
    """Firsts of a month where months are shown, else every few days; the year under the first tick of each year."""
    first, last = (canvas.now + timedelta(days=canvas.first)).date(), (canvas.now + timedelta(days=canvas.last)).date()
    length = (last - first).days
    dates: list[date]
    if length > 75:
        every = next((step for step in (1, 2, 3, 6, 12) if length / 30.4 / step <= 9), 24)
        dates = [
            date(year, month, 1)
            for year in range(first.year, last.year + 1)
            for month in range(1, 13, every)
            if first <= date(year, month, 1) <= last
        ]
    else:
        every = next((step for step in (1, 2, 5, 7, 14) if length / step <= 9), 14)
        dates = [
            first + timedelta(days=offset)
            for offset in range(length + 1)
            if (last - first).days and offset % every == 0
        ]
    labels, year = [], None
    for when in dates:
        text = words.short_day(when).split()[1] if length > 75 else words.short_day(when)
        labels.append(text if when.year == year else f"{text}\n{when.year}")
        year = when.year
    return [offset_days(canvas, when) for when in dates], labels


def _hour_ticks(canvas: Canvas) -> tuple[list[float], list[str]]:
    hours = (canvas.last - canvas.first) * 24
    every = next((step for step in (0.25, 0.5, 1, 2, 3, 6, 12, 24) if hours / step <= 9), 48.0)
    midnight = canvas.now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
    positions, labels, shown = [], [], None
    for index in range(int(9 * 24 / every)):
        when = midnight + timedelta(hours=index * every)
        x = (when - canvas.now) / timedelta(days=1)
        if canvas.first <= x <= canvas.last:
            text = f"{when:%H:%M}"
            positions.append(x)
            labels.append(text if when.date() == shown else f"{text}\n{words.short_day(when.date())}")
            shown = when.date()
    return positions, labels
