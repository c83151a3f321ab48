"""The systemd journal itself: how much it holds and may hold, how far back it reaches, who writes most; and how the
boot before this one ended. Sources: journald.conf(5), journalctl(1), systemd-journald.service(8)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from runbooks_lib.facts.fact import Damaged, number

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "E": 1024**6}
_DEFAULT_SHARE, _DEFAULT_MOST = 0.10, 4 * 1024**3  # journald.conf(5): 10 % of the file system, at most 4 GiB
# short-unix, or short-iso where the journal is older than that: journalctl(1).
_ROW = re.compile(r"([0-9]{1,12}\.[0-9]{1,9}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}[+-][0-9:]{4,5}) \S+ (.*)\Z")
# The last words of a boot that was ended on purpose: journald's own (whose name the kernel cuts to 15 letters), and of
# systemd before them; where /var is a file system of its own, that it is given back. A service says "Shutting down."
# too, and a user's systemd (another pid) reaches that target.
_STOPPED = re.compile(
    r"systemd-journald?\[[0-9]+\]: Journal stopped"
    r"|systemd\[1\]: (?:Reached target .*(?:shutdown|reboot|poweroff|halt)|Shutting down\."
    r"|Stopp(?:ed|ing) .*Flush Journal to Persistent Storage)",
    re.IGNORECASE,
)


def seconds_of(stamp: str) -> float | None:
    """Seconds since 1970 UTC of journalctl's `1700000000.123456` or `2023-11-14T22:13:20+0000`; None when it is
    neither."""
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", stamp):
        return float(stamp)
    try:
        return datetime.fromisoformat(stamp).timestamp() if "T" in stamp else None
    except ValueError:
        return None


def row_of(line: str) -> tuple[float, str] | None:
    """One row of journalctl as its time (seconds since 1970 UTC) and what follows the host's name; None when it is no
    row."""
    match = _ROW.match(line)
    seconds = seconds_of(match[1]) if match else None
    return None if match is None or seconds is None else (seconds, match[2])


@dataclass(frozen=True, slots=True)
class JournalWriter:
    """Who wrote `lines` of the last 2,000 lines, `size` bytes together. The name is the writer's own."""

    name: str
    size: int
    lines: int


@dataclass(frozen=True, slots=True)
class JournalUse:
    """Bytes on disk and the limit they are kept below; `reach_seconds` from its oldest entry to now, None without
    one."""

    place: str
    used_bytes: int
    limit_bytes: int
    reach_seconds: float | None
    writers: tuple[JournalWriter, ...]

    @property
    def used_ratio(self) -> float:
        """Used / limit. journald removes whole files, so a full one stands somewhat below 1."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0


def parse_use(text: str) -> JournalUse:
    """The journal-use section. Raises Damaged when a line is unknown or the size is missing."""
    said: dict[str, str] = {}
    writers = []
    for line in text.split("\n"):
        word, _, rest = line.partition(" ")
        if word == "writer":
            written, lines, name = [*rest.split(" ", 2), "", ""][:3]
            writers.append(JournalWriter(name, number(written), number(lines)))
        elif word in ("place", "kib", "size_kib", "oldest", "now", "SystemMaxUse", "RuntimeMaxUse"):
            said[word] = rest  # the last one counts, as for journald itself
        elif line:
            raise Damaged("a line about the journal is unknown")
    if "kib" not in said or "place" not in said:
        raise Damaged("the journal's size is not told")
    used = number(said["kib"]) * 1024
    size = number(said.get("size_kib", "0")) * 1024
    asked = said.get("RuntimeMaxUse" if said["place"].startswith("/run") else "SystemMaxUse", "")
    limit = min(int(size * _DEFAULT_SHARE), _DEFAULT_MOST) if size else _DEFAULT_MOST
    if match := re.fullmatch(r"([0-9]{1,15})([KMGTE]?)", asked):
        limit = int(match[1]) * _UNITS[match[2]]
    oldest, now = (seconds_of(said.get(word, "")) for word in ("oldest", "now"))
    reach = None if oldest is None or now is None else now - oldest
    return JournalUse(said["place"], used, limit, reach, tuple(writers))


@dataclass(frozen=True, slots=True)
class LastBoot:
    """How the boot before this one ended, as far as its journal tells. `clean` is None without a journal of it;
    `last_seconds` (since 1970 UTC, host's clock) and `last_words` are its last entry. `recovered`: what the kernel
    said of file systems that had not been unmounted."""

    clean: bool | None
    last_seconds: float | None
    last_words: str
    recovered: tuple[str, ...]


def parse_boots(text: str, recovery: str) -> LastBoot:
    """The sections boots and recovery. Raises Damaged when a line is none of journalctl's."""
    lines = [line for line in text.split("\n") if line]
    status = lines.pop() if lines else ""
    if not re.fullmatch(r"status [0-9]{1,3}", status):
        raise Damaged("the last boot's words do not end with a status")
    recovered = tuple(line for line in recovery.split("\n") if line)
    rows = [row for line in lines if (row := row_of(line))]
    if not rows:  # journalctl ends with 1 when there was no such boot, or its journal is gone
        return LastBoot(None, None, "", recovered)
    clean = any(_STOPPED.match(words) for _, words in rows)
    return LastBoot(clean, *rows[-1], recovered)
