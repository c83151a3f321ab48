"""What is written down about a machine: one JSON file in its directory, replaced whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib.training.lab.processes import ProcessId

FILE = "machine.json"


@dataclass(frozen=True)
class Record:
    """A machine as it was started. `owner` is the process that must live for the machine to live (a test, a drill, an
    `up` that is under way); None for one that was asked to stay. `link` is (name, end), the end 0 or 1.
    `passwords` are those of the database's roles, made for this machine alone; the file is its owner's alone."""

    name: str
    role: str
    filesystem: str
    image_key: str
    role_key: str
    acceleration: str
    memory_mb: int
    ports: dict[str, int]
    link: tuple[str, int] | None
    created: str  # ISO 8601, UTC
    owner: ProcessId | None = None
    process: ProcessId | None = None
    ready: bool = False
    boot_seconds: float = 0.0
    save_seconds: float = 0.0
    saved: bool = False
    faults: tuple[str, ...] = ()  # injected and not removed; whether they are there, the machine says
    passwords: dict[str, str] = field(default_factory=dict, repr=False)
    database_mb: int = 0  # what was put into the database beside the build server's own

    @property
    def link_address(self) -> str | None:
        """The machine's address on its link."""
        return f"10.77.0.{self.link[1] + 1}" if self.link else None

    @property
    def age_seconds(self) -> float:
        """Seconds since it was made."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.created)).total_seconds()

    @property
    def running(self) -> bool:
        """True while its qemu runs."""
        return self.process is not None and self.process.alive

    @property
    def left_over(self) -> bool:
        """True when the process that it was held by is gone."""
        return self.owner is not None and not self.owner.alive


def write_record(directory: Path, record: Record) -> None:
    """Write it so that a reader sees the old or the new one, never half of one."""
    fresh = directory / f".{FILE}.{os.getpid()}"
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
    fresh.replace(directory / FILE)


def read_record(directory: Path) -> Record | None:
    """The record in a machine's directory; None when there is none or it cannot be understood."""
    try:
        data: dict[str, Any] = json.loads((directory / FILE).read_text(encoding="utf-8"))
        for name in ("owner", "process"):
            data[name] = ProcessId(**data[name]) if data[name] else None
        data["link"] = tuple(data["link"]) if data["link"] else None
        data["faults"] = tuple(data["faults"])
        # What a newer version of the lab writes is passed over: who cannot read a record must not end its machine.
        known = {one.name for one in fields(Record)}
        return Record(**{name: value for name, value in data.items() if name in known})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def change_record(directory: Path, **changes: Any) -> Record:
    """The record with some fields changed, written."""
    record = read_record(directory)
    if record is None:
        raise FileNotFoundError(directory / FILE)
    record = replace(record, **changes)
    write_record(directory, record)
    return record
