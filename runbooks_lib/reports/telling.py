"""Telling people when something crosses a line, and when it is over: at each change, not at each run.

`outputs/told.json` keeps what each channel was last told of each report. A message that was not delivered is therefore
sent by the next run, and a channel that is new is told what is so now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

from runbooks_lib import writer
from runbooks_lib.config import Config
from runbooks_lib.notification.message import Message, State, message
from runbooks_lib.notification.sending import Delivery, send
from runbooks_lib.reports.expected import expectations
from runbooks_lib.reports.record import PAGE, Record

TOLD = "told.json"
_WAITING_SECONDS = 120.0  # for another run that is telling: its channels have their own deadlines
Kind = Literal["ok", "crossed", "failed"]
_KINDS: Mapping[str, Kind] = {"ok": "ok", "threshold": "crossed", "failed": "failed", "timed out": "failed"}


@dataclass(frozen=True)
class Told:
    """What a channel was last told of one report: its kind, and what needed a person then. `error` is why the latest
    message was not delivered, since `error_since`; empty when it was."""

    kind: Kind = "ok"
    needed: tuple[str, ...] = ()
    error: str = ""
    error_since: str = ""


def is_scheduled(config: Config, record: Record) -> bool:
    """Whether a run was of a report that `runbook schedule` expects, with the parameters that it gives."""
    expected = expectations(config.outputs).get(record.report)
    return expected is not None and expected.asked == record.asked


def tell(config: Config, record: Record) -> list[Delivery]:
    """Send what has changed to every channel that does not know it yet; the deliveries, none when nothing has.

    Changed is: ok, crossed and failed into each other; and, while a line is crossed, something that needs a person and
    did not before. A report with other parameters is another one. A run that a person interrupted says nothing.
    Raises RunbookError when what was told cannot be kept.
    """
    kind = _KINDS.get(record.state)
    if kind is None or not config.notify.channels:
        return []
    name = f"{record.report} {record.asked}".strip()
    came: list[Delivery] = []
    # Of two runs that end together, the second must know what the first has told.
    with writer.alone(config.outputs / f".{TOLD}.lock", seconds=_WAITING_SECONDS):
        everything = _read(config.outputs)
        mine = everything.setdefault(name, {})
        by_news: dict[Told, list[str]] = {}
        for channel in config.notify.channels:
            before = mine.get(channel, Told())
            news = kind != before.kind or (kind == "crossed" and set(record.needed) - set(before.needed))
            if news:
                by_news.setdefault(Told(before.kind, before.needed), []).append(channel)
            else:
                mine[channel] = Told(kind, record.needed)
        for before, channels in by_news.items():
            told = _message(config, record, kind, before)
            for delivery in send(config.notify, told, only=channels):
                since = mine.get(delivery.channel, Told()).error_since or datetime.now(UTC).isoformat("T", "minutes")
                mine[delivery.channel] = (
                    Told(kind, record.needed)
                    if delivery.ok
                    else Told(before.kind, before.needed, delivery.error, since)
                )
                came.append(delivery)
        for gone in mine.keys() - config.notify.channels.keys():
            del mine[gone]
        _write(config.outputs, everything)
    return came


def undelivered(outputs: Path, report: str, asked: str) -> str:
    """For the index: which channels do not know what a report says now, and why; empty when all do."""
    mine = _read(outputs).get(f"{report} {asked}".strip(), {})
    missed = [f"{name} since {told.error_since} ({told.error})" for name, told in mine.items() if told.error]
    return f"message not delivered to {'; '.join(missed)}" if missed else ""


def _message(config: Config, record: Record, kind: Kind, before: Told) -> Message:
    what = f"{record.report} ({record.asked})" if record.asked else record.report
    state: State = kind
    if kind == "failed":
        subject, lines = f"{what} failed: {record.message}", ["It says nothing about any host until it runs again."]
    elif kind == "ok":
        subject = f"{what}: ok again. {record.headline}"
        lines = [f"No longer: {name}" for name in before.needed]
    else:
        subject = f"{what}: {record.headline}"
        new = [name for name in record.needed if name not in before.needed]
        lines = [f"{'New' if name in new else 'Still'}: {name}" for name in (*new, *_without(record.needed, new))]
    place = f"{quote(record.report)}/{record.run}/{PAGE}"
    pages = config.notify.pages
    link = f"{pages.rstrip('/')}/{place}" if pages else (config.outputs / place).as_uri()
    return message(subject, "\n".join(lines), state=state, source=f"runbook report {record.report}", link=link)


def _without(names: tuple[str, ...], those: list[str]) -> list[str]:
    return [name for name in names if name not in those]


def _read(outputs: Path) -> dict[str, dict[str, Told]]:
    """What was told, by report and channel. A file that cannot be read tells nothing: everybody is told anew."""
    try:
        raw = json.loads((outputs / TOLD).read_text(encoding="utf-8"))
        return {name: {channel: _told(each) for channel, each in mine.items()} for name, mine in raw.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _told(raw: Mapping[str, Any]) -> Told:
    if raw["kind"] not in ("ok", "crossed", "failed"):
        raise ValueError("unknown kind")
    needed = tuple(map(str, raw["needed"]))
    return Told(cast(Kind, raw["kind"]), needed, str(raw["error"]), str(raw["error_since"]))


def _write(outputs: Path, everything: Mapping[str, Mapping[str, Told]]) -> None:
    writer.write_json(
        outputs / TOLD,
        {name: {channel: vars(told) for channel, told in mine.items()} for name, mine in everything.items()},
    )
