"""How reports and findings say bytes, dates, chances and names: alike in the page, the chart and the terminal."""

from __future__ import annotations

import math
import shlex
import unicodedata
from datetime import date, datetime, timedelta

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
BYTE_UNITS: tuple[tuple[str, float], ...] = (
    ("B", 1.0), ("KiB", 2.0**10), ("MiB", 2.0**20), ("GiB", 2.0**30), ("TiB", 2.0**40), ("PiB", 2.0**50),
)  # fmt: skip
FILE_UNITS: tuple[tuple[str, float], ...] = (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
_NAME_LIMIT = 60


def unit_for(amount: float, resource: str) -> tuple[str, float]:
    """The unit (name, size) in which `amount` of 'bytes' or 'inodes' is read most easily."""
    units = FILE_UNITS if resource == "inodes" else BYTE_UNITS
    fitting = [unit for unit in units if abs(amount) >= unit[1]]
    return fitting[-1] if fitting else units[0]


def amount(value: float, resource: str = "bytes") -> str:
    """Three significant digits and a unit: `1.95 TiB`, `512 GiB`, `3.2 M inodes`; `not known` for nan."""
    if not math.isfinite(value):
        return "not known"
    name, size = unit_for(value, resource)
    scaled = value / size
    digits = 0 if abs(scaled) >= 100 or name in {"B", ""} else 1 if abs(scaled) >= 10 else 2
    number = f"{scaled:.{digits}f}"
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    unit = f"{name} inodes".strip() if resource == "inodes" else name
    return f"{number} {unit}"


def percent(ratio: float) -> str:
    """`87 %`; near the edges a digit more, so that 99.6 % does not read as full."""
    if not math.isfinite(ratio):
        return "not known"
    value = ratio * 100
    if 99 < value < 100:
        return f"{math.floor(value * 10) / 10:.1f} %"
    return f"{value:.0f} %"


def chance(probability: float | None) -> str:
    """A chance in whole percents, never 0 or 100: a forecast is not that sure. `–` where none can be said."""
    if probability is None or not math.isfinite(probability):
        return "–"
    if probability < 0.01:
        return "< 1 %"
    if probability > 0.99:
        return "> 99 %"
    return f"{probability * 100:.0f} %"


def day(when: date, *, today: date) -> str:
    """`9 December`, with the year when it is not this year's or next to it: `9 January 2027`."""
    text = f"{when.day} {_MONTHS[when.month - 1]}"
    return text if when.year == today.year else f"{text} {when.year}"


def short_day(when: date, *, today: date | None = None) -> str:
    """`9 Dec`, for charts and tables; with `today` given, the year when it is another: `9 Jan 2027`."""
    text = f"{when.day} {_MONTHS[when.month - 1][:3]}"
    return text if today is None or when.year == today.year else f"{text} {when.year}"


def moment(when: datetime) -> str:
    """`23 November 2026 21:30 UTC`."""
    return f"{when.day} {_MONTHS[when.month - 1]} {when.year} {when:%H:%M} UTC"


def span(length: timedelta) -> str:
    """`40 minutes`, `5 hours`, `3 days`: one number, rounded down."""
    seconds = max(0.0, length.total_seconds())
    for name, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size * (2 if name == "day" else 1):
            number = int(seconds // size)
            return f"{number} {name}" + ("" if number == 1 else "s")
    return "less than a minute"


def count(number: int, noun: str) -> str:
    """`1 partition`, `3 partitions`, `no partitions`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number or 'no'} {noun}s"


def listing(names: list[str], limit: int = 12) -> str:
    """`a, b and c`; past `limit` names, how many more there are."""
    if len(names) > limit:
        return ", ".join(names[:limit]) + f" and {len(names) - limit} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plain(name: str, limit: int = _NAME_LIMIT) -> str:
    r"""A remote name as one harmless line: control, bidirectional and invisible characters as `\n`, `\x1b`, `\u202e`.

    A mount point may hold any byte but NUL; a name that turns the direction of the text or hides its end must not make
    a reader take one partition for another. Longer than `limit`: the middle is left out, since both ends tell apart.
    """
    shown = "".join(_visible(character) for character in name)
    if len(shown) <= limit:
        return shown
    tail = (limit - 1) // 2
    return f"{shown[: limit - 1 - tail]}…{shown[-tail:]}"


def argument(name: str) -> str:
    """A remote name as one word of a command that a person may paste into a shell. A name that is not plain is one that
    the shell does not find, never a second command."""
    return shlex.quote(plain(name, limit=4096))


def sentence(text: str) -> str:
    """A sentence that quotes remote names, as one line in which nothing is invisible."""
    return plain(text, limit=2000)


def message(text: str, *, where: str = "") -> str:
    """An error message of several lines as one sentence, without the place (`where`) that it begins with."""
    line = sentence(" ".join(text.split())).removeprefix(f"{where}: ").rstrip(".")
    return line if line.endswith(("?", "!")) else f"{line}."


def place(mountpoint: str, instance: str) -> str:
    """ "`/srv/db` on tc-db-01"."""
    return f"`{plain(mountpoint)}` on {plain(instance)}"


def _visible(character: str) -> str:
    if character == " " or not unicodedata.category(character).startswith(("C", "Z")):
        return character
    code = ord(character)
    if character in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
