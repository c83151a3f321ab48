"""The first five minutes: this machine read over real SSH, an example past beside it, and the report of both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runbooks_lib import config
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.history import SqliteHistory, collecting
from runbooks_lib.reports.run import ReportRun, run_report
from runbooks_lib.training import example_past
from runbooks_lib.training.practice_host import PracticeHost
from runbooks_lib.writer import make_directory

LIVE_HOST = "this-machine"
_INVENTORY = """\
# Written by `runbook demo`; it is written anew each time. Your own inventory comes from `runbook init`.
outputs = "."
ssh_config = "{ssh_config}"

[defaults]
threshold_ratio = 0.90
lead_time_days = 14

[hosts.{live}]
groups = ["live"]
note = "measured: this machine, read over SSH just now"

[hosts.{example}]
groups = ["example"]
example = true
"""


@dataclass(frozen=True)
class Demo:
    """What the demo made: the report's run, and the partitions that were really read."""

    run: ReportRun
    partitions_read: int
    page: Path

    @property
    def sentence(self) -> str:
        """One line: where the page is and what it says."""
        return f"{self.page.as_uri()}  {self.run.headline}"


def run(directory: Path) -> Demo:
    """Make the demo under `directory` (created; used again by the next call). Raises RunbookError when a part fails."""
    make_directory(directory)
    now = datetime.now(UTC)
    with PracticeHost(directory / "practice-host", names=(LIVE_HOST,)) as practice:
        inventory = directory / config.CONFIG_NAME
        inventory.write_text(
            _INVENTORY.format(ssh_config=practice.ssh_config, live=LIVE_HOST, example=example_past.DEFAULT_INSTANCE),
            encoding="utf-8",
        )
        loaded = config.load(inventory)
        _write_example(loaded, now)
        rows = collecting.collect(loaded, loaded.select(host=LIVE_HOST))
    if not rows[0].ok:
        raise RunbookError(
            f"this machine could not be read over SSH: {rows[0].message}",
            where="demo",
            true_now="no report was made",
            next="try `runbook init` and `runbook collect` with a Linux host of your own",
        )
    result = run_report("disk-report", {}, config=loaded)
    return Demo(run=result, partitions_read=rows[0].partitions, page=result.page)


def _write_example(loaded: config.Config, now: datetime) -> None:
    """The example past up to now. One of another day is thrown away with the demo's own history, which holds nothing of
    worth: two examples that are shifted against each other would contradict themselves."""
    path = loaded.history.path
    assert path is not None  # noqa: S101 (the inventory above names no server)
    try:
        with SqliteHistory(path) as history:
            example_past.write(history, now=now)
    except UsageError:
        for part in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            part.unlink(missing_ok=True)
        with SqliteHistory(path) as history:
            example_past.write(history, now=now)
