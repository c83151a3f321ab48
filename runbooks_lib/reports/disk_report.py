"""The capacity report: which partitions need a person, when work must begin, and what cannot be said.

`prepare` reads the history and computes; the methods of `DiskReport` are the notebook's cells.
"""

from __future__ import annotations

import base64
import math
import os
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from runbooks_lib import config as inventory
from runbooks_lib import words
from runbooks_lib.config import Config, HistorySettings
from runbooks_lib.errors import RunbookError
from runbooks_lib.history import open_history
from runbooks_lib.reports import disk_page, disk_plan, disk_scoring, processes, result
from runbooks_lib.reports.disk_page import Piece, Row, Unsaid
from runbooks_lib.reports.disk_partitions import Partition, read_host, worst_first
from runbooks_lib.reports.disk_rows import row
from runbooks_lib.reports.disk_scoring import Tally

STALE_HOURS = 26.0  # a daily collection and two hours of grace
_CHARTS = 40  # a page of more pictures is neither read nor mailed; the table has every partition
_STATES = (
    ("crossed", "over the threshold"),
    ("act", "to begin with now"),
    ("watch", "to watch"),
    ("cannot tell", "about which nothing can be said yet"),
    ("ok", "well"),
)


@dataclass(frozen=True)
class DiskReport:
    """A prepared capacity report; each method is one cell of the notebook.

    `partitions` are ordered worst first. `unsaid` holds what was not reached and what cannot be said. `left_out` names
    what was not looked at on purpose (file systems in memory, second mounts of the same device).
    """

    now: datetime
    horizon_days: int
    hosts: tuple[str, ...]
    partitions: tuple[Partition, ...]
    unsaid: tuple[Unsaid, ...]
    left_out: tuple[str, ...]
    tally: Tally | None = None  # None: this history keeps no forecasts
    settings: HistorySettings | None = None
    groups: tuple[str, ...] = ()  # a sentence for each volume group: who can still be given space

    @property
    def needed(self) -> tuple[Partition, ...]:
        """The partitions that need a person, worst first."""
        return tuple(partition for partition in self.partitions if partition.needs_a_person)

    @property
    def missing(self) -> tuple[Unsaid, ...]:
        """Partitions that the inventory lists and the hosts, which were read, do not have."""
        return tuple(item for item in self.unsaid if item.missing)

    @property
    def headline(self) -> str:
        """One line for the list of reports and for a message: the worst partition, or that nobody is needed; and how
        many hosts were not reached or have no fresh numbers."""
        if self.needed:
            more = len(self.needed) - 1
            line = words.sentence(self.needed[0].outlook.sentence).rstrip(".") + (f" (and {more} more)" if more else "")
        else:
            line = self._calm().rstrip(".")
        if self.missing:
            names = words.listing([item.subject for item in self.missing], limit=3)
            line += f"; {words.count(len(self.missing), 'listed partition')} missing: {names}"
        doubtful = len(self._doubtful_hosts())
        return line + (f"; {words.count(doubtful, 'host')} not reached or not fresh" if doubtful else "")

    def sentences(self) -> Piece:
        """One sentence per partition that needs a person, or that nobody is needed; then what was looked at."""
        return disk_page.sentences(
            [self._row(partition) for partition in self.needed],
            calm=self._calm(),
            looked_at=self._looked_at(),
            warnings=self._warnings(),
        )

    def table(self) -> Piece:
        """Every partition in one row, worst first."""
        return disk_page.table([self._row(partition) for partition in self.partitions])

    def charts(self, limit: int = _CHARTS) -> None:
        """Shows one part per partition: its sentence, its chart with alternative text, its dates and chances.

        Left to the table are partitions that the inventory does not list and that are well (where it lists any of their
        host), and what lies past `limit`; one line says which.
        """
        # Imported here: matplotlib costs half a second, which a report without charts need not pay.
        from runbooks_lib.reports.disk_chart import draw

        charted = self._charted()[:limit]
        for partition in charted:
            row = self._row(partition)
            _show(disk_page.opening(row))
            chart = draw(
                partition.history,
                partition.outlook,
                now=self.now,
                horizon_days=self.horizon_days,
                annotations=partition.annotations,
            )
            _show(
                {"image/png": base64.b64encode(chart.png).decode("ascii"), "text/plain": chart.alt},
                raw=True,
                # `needs_background` is JupyterLab's: a light ground behind the transparent picture in its dark theme.
                metadata={"image/png": {"alt": chart.alt, "width": chart.width}, "needs_background": "light"},
            )
            _show(disk_page.closing(row))
        rest = [partition for partition in self.partitions if partition not in charted]
        if rest:
            names = words.listing([partition.name for partition in rest])
            _show(disk_page.paragraph(f"In the table, without a chart of their own: {names}."))

    def needs(self) -> Piece:
        """How much to add to which partition, by when to begin, what it buys and costs; the bill of all."""
        plans = [entry.plan for entry in self.partitions if entry.plan]
        told = disk_plan.told(plans, self.groups, today=self.now.date())
        return disk_page.needs(told.paragraphs, told.lines)

    def not_said(self) -> Piece:
        """What was not reached and what cannot be said, with what to do about it."""
        return disk_page.unsaid(self.unsaid, left_out=self.left_out)

    def score(self) -> Piece:
        """How the forecasts of this installation that have come due turned out."""
        return disk_page.paragraph(disk_scoring.sentence(self.tally, today=self.now.date()))

    def publish(self) -> None:
        """Tells the list of reports the headline, whether someone is needed, and how full the fullest partition is.

        Someone is needed (exit code 3) when a threshold is crossed or work must begin, when a listed partition is
        missing, and when a host was not reached. Under the runner, keeps forecasts and scores beside the history.

        Raises RunbookError when nothing could be said about any partition, so that such a run never counts as well.
        """
        if not self.partitions:
            raise RunbookError(
                f"nothing can be said about {words.listing(list(self.hosts), limit=5)}",
                true_now="the report has no partition; its last part says why",
                next="`runbook hosts check` says which host can be reached",
            )
        if self.tally is not None and self.settings is not None and processes.RUN_VARIABLE in os.environ:
            kept = disk_scoring.keep(self.settings, self.partitions, self.tally, now=self.now)
            if kept:
                _show(disk_page.paragraph(kept))
        ratios = [partition.used_ratio for partition in self.partitions if math.isfinite(partition.used_ratio)]
        result.publish(
            self.headline.replace("`", ""),
            threshold_crossed=bool(self.needed or self.missing or self._doubtful_hosts()),
            number=round(100 * max(ratios), 1) if ratios else None,
            number_name="% used of the fullest partition",
            needed=[
                *(partition.name.replace("`", "") for partition in self.needed),
                *(f"{item.subject} is missing".replace("`", "") for item in self.missing),
                *(f"{host} was not reached, or its numbers are old" for host in self._doubtful_hosts()),
            ],
        )

    # -- words ---------------------------------------------------------------------------------------------------------

    def _charted(self) -> list[Partition]:
        listing_hosts = {entry.outlook.instance for entry in self.partitions if entry.settings.listed}
        return [
            partition
            for partition in self.partitions
            if partition.settings.listed
            or partition.outlook.state != "ok"
            or partition.outlook.instance not in listing_hosts
        ]

    def _calm(self) -> str:
        if not self.partitions:
            return "Nothing can be said: the history has no partition of the selected hosts."
        unknown = sum(partition.outlook.state == "cannot tell" for partition in self.partitions)
        if unknown == len(self.partitions):
            return f"Nothing can be said yet about any of {self._extent()}."
        but = f"; about {unknown} of them nothing can be said yet" if unknown else ""
        soonest = min((entry for entry in self.partitions if entry.outlook.start_by), key=_start_by, default=None)
        then = (
            f". Next: {soonest.name}, begin by {words.day(_start_by(soonest), today=self.now.date())}"
            if soonest
            else ""
        )
        return f"Nobody is needed today for {self._extent()}{but}{then}."

    def _looked_at(self) -> str:
        counts = [(sum(entry.outlook.state == state for entry in self.partitions), text) for state, text in _STATES]
        states = words.listing([f"{number} {text}" for number, text in counts if number])
        looked = f"Looked at {self._extent()}"
        return f"{looked}{f': {states}' if states else ''}. As of {words.moment(self.now)}."

    def _warnings(self) -> list[str]:
        warnings = []
        examples = sum(partition.example for partition in self.partitions)
        if examples:
            some = f"{examples} of {len(self.partitions)} partitions: example data, not measured."
            warnings.append("All of this is example data, not measured." if examples == len(self.partitions) else some)
        if self.missing:
            names = words.listing([item.subject for item in self.missing])
            warnings.append(f"Listed in the inventory and not there: {names}; the last part says more.")
        doubtful = self._doubtful_hosts()
        if doubtful:
            warnings.append(f"Not reached or not fresh: {words.listing(list(doubtful))}; the last part says why.")
        return warnings

    def _doubtful_hosts(self) -> tuple[str, ...]:
        subjects = {item.subject for item in self.unsaid}
        return tuple(host for host in self.hosts if host in subjects)

    def _extent(self) -> str:
        return f"{words.count(len(self.partitions), 'partition')} on {words.count(len(self._seen_hosts()), 'host')}"

    def _seen_hosts(self) -> frozenset[str]:
        return frozenset(partition.outlook.instance for partition in self.partitions)

    def _row(self, partition: Partition) -> Row:
        return row(partition, self.now.date(), self.horizon_days)


def _show(thing: object, **how: Any) -> None:
    from IPython.display import display

    display(thing, **how)  # type: ignore[no-untyped-call]


def _start_by(partition: Partition) -> date:
    return partition.outlook.start_by or date.max


# -- preparing ---------------------------------------------------------------------------------------------------------


def prepare(
    config: Config | str | Path | None = None,
    *,
    host: str | None = None,
    group: str | None = None,
    horizon_days: int = 90,
    until: str = "",
    now: datetime | None = None,
    stale_hours: float = STALE_HOURS,
) -> DiskReport:
    """Read the history of one host, a group or all hosts, and say what will happen to their partitions.

    `config` is a checked Config, a file, or None for the file that `runbooks_lib.config.find` finds. `host` and `group`
    may be empty strings, which select everything. A partition is every file system of a block device or network server;
    those that the inventory lists are looked at whatever they are. `until` is the day or year that what is added shall
    last to; empty for the inventory's `[plan] days`. Numbers older than `stale_hours` are told as such.
    Raises UsageError for a mistake in the inventory or an unknown host or group, RunbookError when the inventory has no
    host or the history has never heard of any of the selected ones.
    """
    if not isinstance(config, Config):
        config = inventory.load(config or None)
    now = datetime.now(UTC) if now is None else now.astimezone(UTC)
    entries = config.select(host or None, group or None)
    if not entries:
        raise RunbookError(
            "the inventory has no host",
            where=str(config.file),
            next="add a [hosts.NAME] section, or run `runbook init`",
        )
    end = disk_plan.until_of(until)
    history = open_history(config.history)
    try:
        stale = timedelta(hours=stale_hours)
        found = [
            read_host(history, entry, now=now, horizon_days=horizon_days, stale=stale, wanted=config.plan, until=end)
            for entry in entries
        ]
        tally = disk_scoring.tally(history, now=now)
    finally:
        history.close()
    if not any(reading.known for reading in found):
        raise RunbookError(
            f"the history has nothing about {words.listing([entry.name for entry in entries], limit=5)}",
            where=str(config.history.path or config.history.url),
            true_now="no report was made",
            next="run `runbook collect`, or bring a past with `runbook history import`",
        )
    return DiskReport(
        now=now,
        horizon_days=horizon_days,
        hosts=tuple(entry.name for entry in entries),
        partitions=tuple(sorted((entry for reading in found for entry in reading.partitions), key=worst_first)),
        # Whole hosts first: who was not reached may be the one that is full.
        unsaid=tuple(
            sorted((item for reading in found for item in reading.unsaid), key=lambda item: "`" in item.subject)
        ),
        left_out=tuple(name for reading in found for name in reading.left_out),
        tally=tally,
        settings=config.history,
        groups=tuple(sentence for reading in found for sentence in reading.groups),
    )


def known_so_far(config: Config | str | Path | None = None) -> Piece:
    """What the inventory and the history hold, in one or two sentences; where there is none yet, what to do first.

    Never raises for an inventory or a history that is missing or mistaken: it tells.
    """
    try:
        if not isinstance(config, Config):
            config = inventory.load(config or None)
        path = config.history.path
        hosts = words.count(len(config.hosts), "host")
        if path is not None and not path.exists():
            return disk_page.paragraph(f"`{config.file}` names {hosts}; there is no history yet: `runbook collect`.")
        history = open_history(config.history)
        try:
            seen = {name: history.filesystems(name) for name in config.hosts}
        finally:
            history.close()
    except RunbookError as error:
        return disk_page.paragraph(words.sentence(" ".join(str(error).split())))
    partitions = words.count(sum(len(found) for found in seen.values()), "partition")
    known = words.count(sum(bool(found) for found in seen.values()), "host")
    return disk_page.paragraph(f"`{config.file}` names {hosts}; the history knows {partitions} of {known}.")
