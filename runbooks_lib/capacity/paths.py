"""Possible futures of one series, made of its own past: what is added to the last value, day by day.

The method in one paragraph. Each future strings together stretches of four days drawn at random from the series' own
daily changes and adds them to the last value. About seven of ten futures draw from the recent past: from the last 14,
30, 60, 90, 180 or 365 days, mostly the short ones where nearly every day brings something and mostly the long ones
where most days bring nothing. The others draw from a stretch of one to three months anywhere in the year, since another
season may come back. In most of the recent ones a single day's rise counts at most six times an average active day and
a single week's at most 2.2 times an average active week: an import, or a busy week, is not a habit. Last, the growth of
each future is multiplied by a factor of its own around 1, because next quarter's pace is not this year's: the factor
varies as much as the pace of this series varied from month to month, within limits, more when the past is short, and
slowly more the further ahead. Where the monthly growth itself rose or fell steadily, beyond what chance explains, older
days are first scaled to today's pace and the futures go on bending.

Every constant was set on the development curves, judged by whole sources: docs/forecasting.md has the table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runbooks_lib.capacity.daily import Floats
from runbooks_lib.capacity.events import STEP_SHARE

Places = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]

FUTURES = 500
_SEASONS = 135  # so many of them are of another season
_RECENT_DAYS = np.array([14, 30, 60, 90, 180, 365])
# A recent window of d days gets a share in proportion to d to the power 2 (idle - 0.75): where three of four days are
# idle all windows count alike. No series is taken for busier than every other day idle: few scored were.
_RECENT_POWER, _RECENT_EVEN_IDLE, _LEAST_IDLE = 2.0, 0.75, 0.5
_IDLE = 0.1  # a day that changed by less than this share of the average day is idle
_SEASON_DAYS = np.array([30, 60, 90])
_BLOCK_DAYS = 4
_WEEK_DAYS, _FEWEST_WEEKS = 7, 4
_ONE_OFF = 6.0  # a day's rise beyond so many average active days is taken for a one-off, ...
_ONE_OFF_WEEK = 2.2  # ... a week's beyond so many average active weeks, ...
_ONE_OFF_KEPT = 0.30  # ... but in this share of the recent futures it may come again
_HABIT_DAYS = 60  # a fall as large as comes once in so many days is a habit (a monthly clean-up), however large
_SPREAD_LEAST, _SPREAD_MOST = 0.10, 0.52  # standard deviation of the log of the factor, 30 days ahead
_SPREAD_UP = 1.25  # surprises upwards are larger
_SPREAD_AHEAD_POWER = 0.05  # it grows with the days ahead to this power, ...
_SPREAD_FAR_POWER, _FAR_DAYS = 0.30, 90  # ... and beyond a quarter to this one as well
_LOGISTIC_TO_NORMAL = 0.588  # 1 / 1.702, the constant by which the two cumulative curves lie closest
_SHORT_PAST_POWER = 0.07
_YEAR = 365
_PARTS = 12
_PACE_SQUARED_T = 16.0  # the trend of the monthly growth counts from |t| = 4 on
_EMPTIED_TO = 0.10
_RESTLESS = 1 / 3
_LASTING_DAYS = (120, 60)  # whole months, for monthly clean-ups; the longest of which the past holds two


def futures(values: Floats, horizon_days: int, seed: int) -> Floats:
    """Growth after the last of the daily `values`: shape (FUTURES, horizon_days), in their unit.

    Needs at least two values. The same input and seed give the same answer; twice the values give twice the answer.
    """
    random = np.random.default_rng(seed)
    bend = _bend(_changes(values))
    changes = _at_present_pace(_changes(values), bend)
    usual = _without_one_offs(changes)
    season = np.less(np.arange(FUTURES), _SEASONS)
    as_it_was = season | (_even(random, FUTURES) < _ONE_OFF_KEPT)
    factors = _bell(_even(random, FUTURES)) * _spread(usual)
    factors *= (_YEAR / min(_YEAR, len(changes))) ** _SHORT_PAST_POWER
    factors = np.where(factors > 0, _SPREAD_UP * factors, factors)
    picked = _picked_days(len(changes), horizon_days, season, _shares(changes), random)
    steps = np.concatenate([usual, changes]).take(picked + len(changes) * as_it_was[:, None])
    lasting, mean = _lasting(usual), usual.mean()
    steps = mean + lasting * (steps - mean)
    ahead = np.arange(1, horizon_days + 1)
    if bend:
        steps *= np.clip(1 + bend * ahead, 0.4, 2.5)
    wider = (ahead / 30.0) ** _SPREAD_AHEAD_POWER * np.maximum(1.0, ahead / _FAR_DAYS) ** _SPREAD_FAR_POWER
    steps *= np.exp(factors[:, None] * wider)
    return np.asarray(np.cumsum(steps, axis=1), dtype=np.float64)


def _changes(values: Floats) -> Floats:
    """Changes from day to day. A partition found nearly empty was made anew or moved away: that is no negative growth,
    unless it is a habit.
    """
    changes = np.diff(values)
    emptied = (values[1:] <= _EMPTIED_TO * values[:-1]) & (changes < 0) & (values[1:] >= 0)
    if 0 < emptied.sum() < max(3, len(changes) // _HABIT_DAYS):
        changes[emptied] = 0.0
    return changes


def _shares(changes: Floats) -> Floats:
    """How much each recent window counts: the short ones most where something happens nearly every day, the long ones
    where it seldom does, since two weeks with one event say little.
    """
    sizes = np.abs(changes)
    idle = float((sizes <= _IDLE * sizes.mean()).mean())
    power = _RECENT_POWER * (max(idle, _LEAST_IDLE) - _RECENT_EVEN_IDLE)
    return np.asarray(_RECENT_DAYS**power, dtype=np.float64)


def _picked_days(
    count: int, horizon_days: int, season: Chosen, recent_shares: Floats, random: np.random.Generator
) -> Places:
    """Which of `count` days' changes each future is made of: (FUTURES, horizon_days)."""
    block = max(1, min(_BLOCK_DAYS, count // 4))
    known = int((count > _RECENT_DAYS).sum()) + 1  # windows that the past fills, and the whole of it
    shares = np.cumsum(recent_shares[:known])
    edges = np.round(shares / shares[-1] * FUTURES).astype(np.int64)
    recent = np.repeat(np.minimum(_RECENT_DAYS[:known], count), np.diff(edges, prepend=0))[random.permutation(FUTURES)]
    seasons = _SEASON_DAYS[np.arange(FUTURES) % len(_SEASON_DAYS)]
    window = np.clip(np.where(season, seasons, recent), block, count)
    ends = np.where(season, np.floor(_even(random, FUTURES) * (count - window + 1)), 0)
    # Block after block and drawn last: a longer horizon must not change what is said of the days before.
    places = _even(random, -(-horizon_days // block), FUTURES).T * (window - block + 1)[:, None]
    starts = (count - ends - window).astype(np.int64)[:, None] + places.astype(np.int64)
    return np.asarray((starts[:, :, None] + np.arange(block)).reshape(FUTURES, -1)[:, :horizon_days], dtype=np.int64)


def _even(random: np.random.Generator, *shape: int) -> Floats:
    """Numbers between 0 and 1, each row spread evenly and in random order: chance alone would move a
    band's cover by two points.
    """
    drawn = random.random((*shape[:-1], 2, shape[-1]))
    return np.asarray((drawn[..., 0, :].argsort(axis=-1) + drawn[..., 1, :]) / shape[-1], dtype=np.float64)


def _bell(even: Floats) -> Floats:
    """Numbers between 0 and 1 as deviates of the logistic distribution, scaled to the middle of the normal one."""
    return np.asarray(np.log(even / (1 - even)) * _LOGISTIC_TO_NORMAL, dtype=np.float64)


def _without_one_offs(changes: Floats) -> Floats:
    """The changes with single outliers cut: days beyond six average active days, then weeks beyond 2.2 average active
    weeks (all days of such a week in proportion).
    """
    habit = max(2, -(-len(changes) // _HABIT_DAYS))
    usual = _cut(changes, _ONE_OFF, habit)
    weeks = usual[len(usual) % _WEEK_DAYS :].reshape(-1, _WEEK_DAYS)  # the last one ends with the last day
    if len(weeks) < _FEWEST_WEEKS:
        return usual
    totals = weeks.sum(axis=1)
    share = np.divide(_cut(totals, _ONE_OFF_WEEK, habit), totals, out=np.ones_like(totals), where=totals != 0)
    return np.concatenate([usual[: len(usual) % _WEEK_DAYS], (weeks * share[:, None]).ravel()])


def _cut(changes: Floats, times: float, habit: int) -> Floats:
    """Rises cut at so many `times` the average active change, falls there or, where as many as `habit` fall deeper, at
    the depth that so many reach.
    """
    sizes = np.sort(np.abs(changes[changes != 0]))
    if len(sizes) and sizes[-1] > STEP_SHARE * sizes.sum():
        sizes = sizes[:-1]  # a step is no measure of what is usual
    limit = times * sizes.mean() if len(sizes) else 0.0
    for _ in range(2):  # the outliers themselves must not raise the average much
        limit = times * np.minimum(sizes, limit).mean() if len(sizes) else 0.0
    falls = np.sort(-changes[changes < 0])[::-1]
    deepest = max(limit, falls[habit - 1]) if len(falls) >= habit else limit
    return np.clip(changes, -deepest, limit)


def _spread(changes: Floats) -> float:
    """How much the growth of a twelfth of the past varies around its mean (coefficient of variation), within limits."""
    length = len(changes) // _PARTS
    if length < 1:
        return _SPREAD_MOST
    parts = changes[len(changes) - _PARTS * length :].reshape(_PARTS, length).sum(axis=1)
    mean = abs(float(parts.mean()))
    if mean == 0:
        return _SPREAD_MOST
    return min(max(float(parts.std(ddof=1)) / mean, _SPREAD_LEAST), _SPREAD_MOST)


def _lasting(changes: Floats) -> float:
    """How much of the ups and downs adds up, 0..1: 1 for growth, little for a level that is only restless.

    The root of the variance ratio (Cochrane 1988): that of the changes over four months (two where the past is short)
    against that of the stretches in them. Asked only where falls are a third of all movement or more: a year says
    little about four months.
    """
    movement = float(np.abs(changes).sum())
    long = next((days for days in _LASTING_DAYS if len(changes) >= 2 * days), 0)
    if not long or -float(changes[changes < 0].sum()) < _RESTLESS * movement:
        return 1.0
    level = np.concatenate([[0.0], np.cumsum(changes)])
    once = float(np.var(level[_BLOCK_DAYS:] - level[:-_BLOCK_DAYS]))
    whole = float(np.var(level[long:] - level[:-long]))
    return min(1.0, float(np.sqrt(whole * _BLOCK_DAYS / (long * once)))) if once > 0 else 1.0


def _bend(changes: Floats) -> float:
    """How much today's pace changes a day, as a share of it; 0 unless the twelfths of the past show a trend that is
    large against its own uncertainty (shrunk as James and Stein did: 1 - 16 / t²).
    """
    length = len(changes) // _PARTS
    if length < _WEEK_DAYS:
        return 0.0
    parts = changes[len(changes) - _PARTS * length :].reshape(_PARTS, length).sum(axis=1)
    place = np.arange(_PARTS) - (_PARTS - 1) / 2
    squares = float((place**2).sum())
    slope, mean = float((place * parts).sum()) / squares, float(parts.mean())
    error = float(np.sqrt(((parts - mean - slope * place) ** 2).sum() / (_PARTS - 2) / squares))
    today = mean + slope * _PARTS / 2
    if slope == 0 or today * np.sign(mean) <= 0.2 * abs(mean):
        return 0.0
    share = 1.0 if error == 0 else max(0.0, 1 - _PACE_SQUARED_T * (error / slope) ** 2)
    return share * slope / length / today


def _at_present_pace(changes: Floats, bend: float) -> Floats:
    """Older changes scaled to what they would be at today's pace."""
    if not bend:
        return changes
    age = np.arange(len(changes) - 1, -1, -1)
    return np.asarray(changes / np.clip(1 - bend * age, 0.3, 3.0), dtype=np.float64)
