"""The day on which work must begin: a deadline less the lead time, and never a day on which nobody works."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from runbooks_lib.config import PartitionSettings


def begin_by(deadline: date, settings: PartitionSettings) -> date:
    """The last working day that leaves the partition's lead time before `deadline`: so many days of the calendar
    before it, or so many working days where `lead_time_working_days` is given; moved back to a working day.
    """
    calendar, working = settings.calendar, settings.lead_time_working_days
    counted = 0 if working is not None else settings.lead_time_days
    day = np.busday_offset(
        np.datetime64(deadline - timedelta(days=counted), "D"),
        -(working or 0),
        roll="backward",
        weekmask=" ".join(calendar.working_week),
        holidays=np.array(calendar.holidays, dtype="datetime64[D]"),
    )
    return day.astype(date)  # type: ignore[no-any-return]


def lead_time(settings: PartitionSettings) -> str:
    """The lead time in words: `14 days`, `10 working days`, `1 day`."""
    working = settings.lead_time_working_days
    count, kind = (settings.lead_time_days, "") if working is None else (working, "working ")
    return f"{count} {kind}day{'' if count == 1 else 's'}"
