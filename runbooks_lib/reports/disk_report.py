"""The capacity report: which partitions need a person, when work must begin, and what cannot be said.

`prepare` reads the history and computes; the methods of `DiskReport` are the notebook's cells.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from runbooks_lib import config as inventory
from runbooks_lib.capacity import Outlook, outlook
from runbooks_lib.config import Config, HostEntry, PartitionSettings
from runbooks_lib.errors import ExitCode, RunbookError
from runbooks_lib.history import FilesystemHistory, History, open_history
from runbooks_lib.reports import disk_page, disk_words
from runbooks_lib.reports.disk_page import Piece, Row, Unsaid

STALE_HOURS = 26.0  # a daily collection and two hours of grace
_CHARTS = 40  # a page of more pictures is neither read nor mailed; the table has every partition
_RANK = {"crossed": 0, "act": 1, "watch": 2, "cannot tell": 3, "ok": 4}
_NEEDS_A_PERSON = frozenset({"crossed", "act"})
_EXAMPLE = "example"

# What a partition is not: file systems in memory, of the kernel, and read-only images that are full by nature.
_NOT_PARTITIONS = frozenset(
    {"tmpfs", "devtmpfs", "ramfs", "squashfs", "iso9660", "udf", "erofs", "cramfs", "efivarfs", "autofs", "fuse.lxcfs"}
)


@dataclass(frozen=True)
class Partition:
    """One partition of the report: its past, what is expected of it, how the inventory wants it watched."""

    history: FilesystemHistory
    outlook: Outlook
    settings: PartitionSettings

    @property
    def needs_a_person(self) -> bool:
        """True when its threshold is crossed or work on it must begin."""
        return self.outlook.state in _NEEDS_A_PERSON

    @property
    def example(self) -> bool:
        """True when any of its numbers were made up by `runbook demo` or a test."""
        return _EXAMPLE in self.outlook.origins


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

    @property
    def needed(self) -> tuple[Partition, ...]:
        """The partitions that need a person, worst first."""
        return tuple(partition for partition in self.partitions if partition.needs_a_person)

    @property
    def headline(self) -> str:
        """One sentence for the list of reports and for a message: the worst partition, or that nobody is needed."""
        if self.needed:
            more = len(self.needed) - 1
            return _clean(self.needed[0].outlook.sentence) + (f" (and {more} more)" if more else "")
        return self._calm()

    @property
    def exit_code(self) -> ExitCode:
        """3 when a threshold is crossed or work must begin, else 0."""
        return ExitCode.THRESHOLD if self.needed else ExitCode.OK

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
        from IPython.display import display

        from runbooks_lib.reports.disk_chart import draw

        charted = self._charted()[:limit]
        for partition in charted:
            row = self._row(partition)
            display(disk_page.opening(row))
            chart = draw(partition.history, partition.outlook, now=self.now, horizon_days=self.horizon_days)
            display(
                {"image/png": base64.b64encode(chart.png).decode("ascii"), "text/plain": chart.alt},
                raw=True,
                # `needs_background` is JupyterLab's: a light ground behind the transparent picture in its dark theme.
                metadata={"image/png": {"alt": chart.alt, "width": chart.width}, "needs_background": "light"},
            )
            display(disk_page.closing(row))
        rest = [partition for partition in self.partitions if partition not in charted]
        if rest:
            names = disk_words.listing([_name(partition.outlook) for partition in rest])
            display(disk_page.paragraph(f"In the table, without a chart of their own: {names}."))

    def not_said(self) -> Piece:
        """What was not reached and what cannot be said, with what to do about it."""
        return disk_page.unsaid(self.unsaid, left_out=self.left_out)

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
            return f"Nobody is known to be needed, but about none of {_partitions(unknown)} can anything be said yet."
        but = f"; about {unknown} of them nothing can be said yet" if unknown else ""
        return f"Nobody is needed for {_partitions(len(self.partitions))} on {_hosts(len(self._seen_hosts()))}{but}."

    def _looked_at(self) -> str:
        counts = [
            (sum(partition.outlook.state == state for partition in self.partitions), words)
            for state, words in (
                ("crossed", "over the threshold"),
                ("act", "to begin with now"),
                ("watch", "to watch"),
                ("cannot tell", "about which nothing can be said yet"),
                ("ok", "well"),
            )
        ]
        states = disk_words.listing([f"{number} {words}" for number, words in counts if number])
        looked = f"Looked at {_partitions(len(self.partitions))} on {_hosts(len(self._seen_hosts()))}"
        return f"{looked}{f': {states}' if states else ''}. As of {disk_words.moment(self.now)}."

    def _warnings(self) -> list[str]:
        warnings = []
        examples = [_name(partition.outlook) for partition in self.partitions if partition.example]
        if examples:
            warnings.append(f"Example data, not measured: {disk_words.listing(examples)}.")
        missing = [host for host in self.hosts if host not in self._seen_hosts()]
        if missing:
            warnings.append(f"Nothing is known of {disk_words.listing(missing)}; see the last part.")
        stale = [item.subject for item in self.unsaid if item.subject in self._seen_hosts()]
        if stale:
            warnings.append(f"Not fresh: {disk_words.listing(list(dict.fromkeys(stale)))}; see the last part.")
        return warnings

    def _seen_hosts(self) -> frozenset[str]:
        return frozenset(partition.outlook.instance for partition in self.partitions)

    def _row(self, partition: Partition) -> Row:
        return _row(partition, self.now.date(), self.horizon_days)


# -- preparing ---------------------------------------------------------------------------------------------------------


def prepare(
    config: Config | str | Path | None = None,
    *,
    host: str | None = None,
    group: str | None = None,
    horizon_days: int = 90,
    now: datetime | None = None,
    stale_hours: float = STALE_HOURS,
) -> DiskReport:
    """Read the history of one host, a group or all hosts, and say what will happen to their partitions.

    `config` is a checked Config, a file, or None for the file that `runbooks_lib.config.find` finds. `host` and `group`
    may be empty strings, which select everything. A partition is every file system of a block device or network server;
    those that the inventory lists are looked at whatever they are. Numbers older than `stale_hours` are told as such.
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
    history = open_history(config.history)
    try:
        found = [_read_host(history, entry, now, horizon_days, timedelta(hours=stale_hours)) for entry in entries]
    finally:
        history.close()
    if not any(partitions or known for partitions, _, _, known in found):
        names = disk_words.listing([entry.name for entry in entries], limit=5)
        raise RunbookError(
            f"the history has nothing about {names}",
            where=str(config.history.path or config.history.url),
            true_now="no report was made",
            next="run `runbook collect`, or bring a past with `runbook history import`",
        )
    partitions = [partition for per_host, _, _, _ in found for partition in per_host]
    return DiskReport(
        now=now,
        horizon_days=horizon_days,
        hosts=tuple(entry.name for entry in entries),
        partitions=tuple(sorted(partitions, key=_worst_first)),
        unsaid=tuple(item for _, unsaid, _, _ in found for item in unsaid),
        left_out=tuple(name for _, _, left_out, _ in found for name in left_out),
    )


_Found = tuple[list[Partition], list[Unsaid], list[str], bool]


def _read_host(history: History, entry: HostEntry, now: datetime, horizon_days: int, stale: timedelta) -> _Found:
    """Partitions, what is unsaid, what was left out, and whether the history has ever heard of this host."""
    collection = history.last_collection(entry.name)
    pasts = [
        past
        for instance, mountpoint in history.filesystems(entry.name)
        if (past := history.filesystem(instance, mountpoint)) is not None and past.samples
    ]
    pasts, left_out = _partitions_of(pasts, entry)
    newest = max((past.last_time for past in pasts), default=None)
    unsaid = _unsaid_host(entry, collection, pasts, newest, now, stale)
    partitions = []
    for past in pasts:
        name = f"`{disk_words.plain(past.mountpoint)}` on {entry.name}"
        if newest is not None and newest - past.last_time > stale:
            age = disk_words.span(now - past.last_time)
            unsaid.append(
                Unsaid(
                    name,
                    f"not seen for {age}, while the host was.",
                    "Unmounted or renamed? If it is gone for good, take it out of the inventory."
                    if past.mountpoint in entry.partitions
                    else "Unmounted or renamed?",
                )
            )
            continue
        settings = entry.partition(past.mountpoint)
        expected = outlook(past, settings, now=now, horizon_days=horizon_days)
        partitions.append(Partition(past, expected, settings))
        if expected.refusal is not None and expected.tier != "hours":
            unsaid.append(Unsaid(name, f"no forecast: {_clean(expected.refusal)}"))
    seen = {past.mountpoint for past in pasts}
    unsaid += [
        Unsaid(
            f"`{disk_words.plain(mountpoint)}` on {entry.name}",
            "listed in the inventory, but the history has never seen it.",
            "Is it mounted there, and spelled as `df` spells it?",
        )
        for mountpoint in entry.partitions
        if mountpoint not in seen and (pasts or collection is not None)
    ]
    return partitions, unsaid, left_out, bool(pasts) or collection is not None


def _partitions_of(pasts: list[FilesystemHistory], entry: HostEntry) -> tuple[list[FilesystemHistory], list[str]]:
    """What counts as a partition, each device once; and the names of what was left out, with the reason."""
    kept: list[FilesystemHistory] = []
    left_out: list[str] = []
    devices: dict[str, str] = {}
    order = sorted(pasts, key=lambda past: (past.mountpoint not in entry.partitions, len(past.mountpoint)))
    for past in order:
        name = f"`{disk_words.plain(past.mountpoint)}` on {entry.name}"
        listed = past.mountpoint in entry.partitions
        layered = past.fstype == "overlay" and past.mountpoint != "/"
        if not listed and (past.fstype in _NOT_PARTITIONS or layered):
            left_out.append(f"{name} ({disk_words.plain(past.fstype)})")
            continue
        # One file system mounted twice (bind mounts, a container's /etc/hosts) fills once. Only a block device tells:
        # `overlay` or `none` is the name of many.
        twin = devices.get(past.device) if past.device.startswith("/dev/") else None
        if twin is not None and not listed:
            left_out.append(f"{name} (the same device as {twin})")
            continue
        devices.setdefault(past.device, f"`{disk_words.plain(past.mountpoint)}`")
        kept.append(past)
    return kept, left_out


def _unsaid_host(
    entry: HostEntry,
    collection: Any,
    pasts: list[FilesystemHistory],
    newest: datetime | None,
    now: datetime,
    stale: timedelta,
) -> list[Unsaid]:
    """Whether this host was reached, and how fresh its numbers are."""
    rest = "" if newest is None else f"What stands here rests on numbers of {disk_words.moment(newest)}."
    if collection is not None and collection.state != "ok":
        when = disk_words.moment(collection.time)
        return [
            Unsaid(
                entry.name,
                f"not reached on {when}: {_message(collection.message)}.",
                rest or "Nothing is known of its disks.",
            )
        ]
    if newest is None:
        if collection is None:
            return [
                Unsaid(entry.name, "never collected, nothing is known of its disks.", "`runbook collect` reads it.")
            ]
        return [
            Unsaid(entry.name, "reached, but it named no partition.", f"`runbook hosts check {entry.name}` says more.")
        ]
    if all(_EXAMPLE in past.origins for past in pasts):
        return []
    if newest - now > timedelta(hours=1):
        ahead = disk_words.span(newest - now)
        return [
            Unsaid(entry.name, f"its newest numbers lie {ahead} in the future.", "Compare the clocks of both machines.")
        ]
    if now - newest > stale:
        age = disk_words.span(now - newest)
        return [Unsaid(entry.name, f"its newest numbers are {age} old.", "Is the timer of `runbook schedule` running?")]
    return []


def _worst_first(partition: Partition) -> tuple[Any, ...]:
    expected = partition.outlook
    ratio = expected.used / expected.usable if expected.usable else 0.0
    return (
        _RANK[expected.state],
        not partition.settings.listed,
        expected.start_by or date.max,
        -(ratio if math.isfinite(ratio) else 0.0),
        expected.instance,
        expected.mountpoint,
    )


# -- one partition in words --------------------------------------------------------------------------------------------


def _row(partition: Partition, today: date, horizon_days: int) -> Row:
    expected = partition.outlook
    marks = (
        ("example data", partition.example),
        ("database", expected.database),
        ("inodes", expected.resource == "inodes"),
    )
    chances = expected.probability_full or {}
    ratio = expected.used / expected.usable if expected.usable else math.nan
    return Row(
        state=expected.state,
        mountpoint=disk_words.plain(expected.mountpoint),
        instance=disk_words.plain(expected.instance),
        mark=", ".join(name for name, applies in marks if applies),
        used=f"{disk_words.percent(ratio)} of {disk_words.amount(expected.usable, expected.resource)}",
        threshold=disk_words.percent(expected.threshold_ratio),
        between=_between(expected, today, horizon_days),
        full_30_days=disk_words.chance(chances.get(30)),
        begin_by=_begin_by(expected, today),
        sentence=_clean(expected.sentence),
        dates=_dates(expected, today, horizon_days),
        chances=tuple((f"within {days} days", disk_words.chance(chances[days])) for days in sorted(chances)),
        notes=tuple(_notes(partition)),
    )


def _between(expected: Outlook, today: date, horizon_days: int) -> str:
    if expected.state == "crossed":
        return "already past it"
    if expected.dates is None:
        return "cannot be said"
    first, _, last = expected.dates
    if first is None:
        return f"not within {horizon_days} days"
    if last is None:
        return f"{disk_words.day(first, today=today)} at the earliest"
    if first == last:
        return disk_words.day(first, today=today)
    return f"{disk_words.day(first, today=today)} to {disk_words.day(last, today=today)}"


def _begin_by(expected: Outlook, today: date) -> str:
    if expected.state == "crossed":
        return "at once"
    if expected.start_by is None:
        return "–"
    when = disk_words.day(expected.start_by, today=today)
    return f"at once (was {when})" if expected.start_by < today else when


def _dates(expected: Outlook, today: date, horizon_days: int) -> tuple[tuple[str, str], ...]:
    if expected.dates is None or expected.state == "crossed":
        return ()
    later = f"after {horizon_days} days"
    return tuple(
        (f"{percent} by", later if when is None else disk_words.day(when, today=today))
        for percent, when in zip(("10 %", "50 %", "90 %"), expected.dates, strict=True)
    )


def _notes(partition: Partition) -> Iterable[str]:
    """What the reader must know to judge the numbers: how long the past is, whence it came, what was odd in it."""
    past, expected = partition.history, partition.outlook
    days = past.days
    if len(days):
        length = int((days[-1] - days[0]) / np.timedelta64(1, "D")) + 1
        missing = length - len(days)
        known = f"{disk_words.count(length, 'day')} of history"
        known += f", {disk_words.count(missing, 'day')} of them without data" if missing else ""
    else:
        known = "No day of history"
    device = f"{disk_words.plain(past.device)}, {disk_words.plain(past.fstype)}"
    origins = disk_words.listing([disk_words.plain(origin) for origin in expected.origins]) or "unknown"
    yield f"{known} ({origins}); {device}."
    if expected.confidence:
        yield _clean(expected.confidence)


def _name(expected: Outlook) -> str:
    return f"`{disk_words.plain(expected.mountpoint)}` on {disk_words.plain(expected.instance)}"


def _clean(text: str) -> str:
    """A sentence that quotes remote names, as one line in which nothing is invisible."""
    return disk_words.plain(text, limit=2000)


def _message(text: str) -> str:
    """An error message of several lines as one, without its last full stop."""
    return _clean(" ".join(text.split())).rstrip(".")


def _partitions(number: int) -> str:
    return disk_words.count(number, "partition")


def _hosts(number: int) -> str:
    return disk_words.count(number, "host")
