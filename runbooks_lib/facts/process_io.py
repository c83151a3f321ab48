"""Top processes by disk I/O: /proc/PID/io read twice (proc_pid_io(5)), which only root may read of others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runbooks_lib.facts.fact import Damaged

_ROW = re.compile(r"([0-9]{1,10}) ([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,20}) ([0-9]{1,20})\Z")
_UPTIME = re.compile(r"uptime ([0-9]{1,12}\.[0-9]{1,4}) ([0-9]{1,12}\.[0-9]{1,4})\Z")


@dataclass(frozen=True, slots=True)
class ProcessIo:
    """Bytes per second that a process made the disks read and write in the window (writes count when they are
    dirtied in the
    page cache), and the totals since it began."""

    pid: int
    name: str
    read_bytes_per_second: float
    written_bytes_per_second: float
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessesIo:
    """The twenty busiest, busiest first. `complete` is False when only the user's own processes could be read."""

    rows: tuple[ProcessIo, ...]
    window_seconds: float
    complete: bool


def parse(text: str, names: Mapping[str, str], complete: bool) -> ProcessesIo:
    """Rows `pid read-delta written-delta read written` after a row `uptime U1 U2`; `names` is pid to comm. Raises
    Damaged."""
    lines = [line for line in text.split("\n") if line]
    heading = _UPTIME.match(lines[0]) if lines else None
    window = float(heading[2]) - float(heading[1]) if heading else 0.0
    if window <= 0:
        raise Damaged("the window between the two readings is not known")
    rows = []
    for line in lines[1:]:
        match = _ROW.match(line)
        if match is None:
            raise Damaged("a process's I/O is not five numbers")
        pid, read, written, read_total, written_total = match.groups()
        name = names.get(pid, "").strip("\n")
        rows.append(
            ProcessIo(int(pid), name, int(read) / window, int(written) / window, int(read_total), int(written_total))
        )
    rows.sort(key=lambda row: -(row.read_bytes_per_second + row.written_bytes_per_second))
    return ProcessesIo(tuple(rows), window, complete)
