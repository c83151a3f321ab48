"""The timers in a real systemd: they run, catch up with what was missed, and a killed report is told.

The units are exactly those that `runbook schedule --install` writes; only the Python that they call is a stub, which
notes its arguments: the machine has no library.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runbooks_lib import config
from runbooks_lib.reports import schedule
from runbooks_lib.training.lab.machine import Machine

pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1200)]

# Notes what it was called with; a report hangs, so that it can be killed.
STUB = """#!/bin/sh
shift 2
echo "$*" >>/root/called
case $1 in report) sleep 600;; esac
"""


def waited_for(machine: Machine, line: str, seconds: float = 120) -> str:
    """What was called, once a line of that pattern is among it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        called = machine.sh("cat /root/called 2>/dev/null || true")
        if re.search(line, called, flags=re.M):
            return called
        time.sleep(2)
    journal = machine.sh("journalctl -b -u 'runbook-*' --no-pager | tail -n 30")
    raise AssertionError(f"{line} was never called: {called}\n{journal}")


def test_timers_run_and_catch_up_and_a_killed_report_is_told(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    file = tmp_path / "odd 100% path" / "runbooks.toml"
    file.parent.mkdir()
    file.write_text("[hosts.a]\n")
    loaded = config.load(file)
    # Due long ago today or yesterday: only a missed run that is caught up can start it now.
    planned = schedule.plan(loaded, now=datetime.now(UTC), kind="systemd", at="00:00", every_minutes=1)
    stub = sys.executable
    write = [
        f"mkdir -p {shlex.quote(str(Path(stub).parent))} {shlex.quote(str(file.parent))}; rm -f /root/called",
        f"printf %s {shlex.quote(STUB)} >{shlex.quote(stub)}; chmod 755 {shlex.quote(stub)}",
        *(f"printf %s {shlex.quote(text)} >{shlex.quote(str(path))}" for path, text in planned.files.items()),
    ]
    (report,) = (path.stem for path in planned.files if path.name.endswith("disk-report.timer"))
    # The delay spreads many machines out; here it would only be waited for.
    for timer in (path.name for path in planned.files if path.suffix == ".timer"):
        write.append(
            f"mkdir -p /etc/systemd/system/{timer}.d;"
            f" printf '[Timer]\\nRandomizedDelaySec=0\\n' >/etc/systemd/system/{timer}.d/now.conf"
        )
    # systemd.timer(5): the stamp's time is when the timer ran last. The machine was off for two days.
    write.append(
        f"mkdir -p /var/lib/systemd/timers; touch -d '2 days ago' /var/lib/systemd/timers/stamp-{report}.timer"
    )
    try:
        machine.sh("\n".join([*write, *map(shlex.join, planned.commands)]), deadline_seconds=300)
        called = waited_for(machine, "^report disk-report")
        assert f"--config {file}" in called
        machine.sh(f"systemctl kill -s KILL {report}.service", deadline_seconds=120)
        told = waited_for(machine, "^notify unit-failed")
        assert f"--report disk-report --config {file} {report}.service" in told
        waited_for(machine, f"^collect --quiet --config {re.escape(str(file))}$")
    finally:
        gone = [path.name for path in planned.files]
        machine.sh(
            "\n".join(
                [
                    *map(shlex.join, planned.undo),
                    f"cd /etc/systemd/system && rm -rf {' '.join(map(shlex.quote, gone))} runbook-*.timer.d",
                    f"rm -f {shlex.quote(stub)} /var/lib/systemd/timers/stamp-runbook-*; systemctl daemon-reload;"
                    " systemctl reset-failed 'runbook-*' 2>/dev/null || true",
                ]
            ),
            deadline_seconds=300,
        )
