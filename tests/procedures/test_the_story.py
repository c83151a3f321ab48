"""The founding story on one machine: a build server crawls while everything idles; its database moves to another disk.

Every step is taken as a person without a screen takes it: the `runbook` command with digests that were shown before.
Ten minutes on an emulated machine, since the disk is slow and each step asks it; by itself: make story-test
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib.facts.samples import Sample
from runbooks_lib.history import SqliteHistory
from runbooks_lib.training.lab import faults
from runbooks_lib.training.lab.faults.sql import psql
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine
from tests.notification.servers import Received, alertmanager, get, post, webhook

pytestmark = [
    pytest.mark.lab,
    pytest.mark.vm,
    pytest.mark.timeout(3600),  # it takes ten minutes; a busy host may make five times as much of them
]

ROOT = Path(__file__).parents[2]
OLD, NEW = "/srv/db/postgresql/15/main", "/srv/new/pg/main"
MIB = 2**20
LEFT_BYTES = 30 * MIB  # so little that triage calls it red, and enough for a segment of WAL
OCCASION = "CHG-1"
BACKUP = "a test's, of today"
BUILDS = 600
WAIT_SECONDS = 10.0  # until the slow disk is to be seen in the host's counters
QUEUED_SECONDS = 120  # that the builds have waited by then: 60 s are unusual to triage
LOOKS = 3
# Of the disk, once those who share it have been asked to hold back: twice what the fault leaves, and still far less
# than a disk that turns. The move takes minutes less.
OPERATIONS_PER_SECOND = 24


@dataclass
class Desk:
    """An operator's desk: an inventory with the machine, its service, a channel, an Alertmanager, and its past."""

    machine: Machine
    place: Path
    chat: Received
    alerts: str
    began: float = field(default_factory=time.monotonic)

    @property
    def host(self) -> str:
        return self.machine.name

    def now(self, what: str) -> None:
        """Says what the story has come to, and when: with `pytest -s`, and where it fails."""
        print(f"+{time.monotonic() - self.began:4.0f} s  {what}", flush=True)

    def runbook(self, *words: str, status: int = 0) -> str:
        """What the command prints, as somebody types it who stands in the project's directory."""
        told = subprocess.run(
            [sys.executable, "-m", "runbooks_lib", *words],
            cwd=ROOT,
            env={**os.environ, "RUNBOOKS_CONFIG": str(self.place / "runbooks.toml")},
            capture_output=True,
            text=True,
            timeout=1000,
            check=False,
        )
        assert told.returncode == status, f"{shlex.join(words)}: {told.returncode}\n{told.stdout}\n{told.stderr}"
        return told.stdout

    def triage(self, *, status: int) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.runbook("triage", self.host, "--json", status=status))
        return told

    def approved(self, *words: str) -> str:
        """A runbook, run by the digest of the plan that was shown."""
        return self.runbook("run", *words, "--approve", digest_in(self.runbook("plan", *words)))

    def notebook(self, name: str, status: int = 0, **given: object) -> str:
        """A notebook run headless; the text of all that its cells said."""
        words = [word for key, value in given.items() for word in ("-p", f"{key}={value}")]
        return self.said_in(self.runbook("report", f"notebooks/incident/{name}.ipynb", *words, status=status))

    def said_in(self, told: str) -> str:
        """What the cells of a report said; `told` is what its command has printed."""
        page = Path(told.splitlines()[-1].removeprefix("file://"))
        cells = json.loads((page.parent / "report.ipynb").read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        return "".join("".join(output.get("text", "")) for output in outputs)

    @property
    def subjects(self) -> list[str]:
        return [body["subject"] for _, _, body in self.chat.items]

    def is_quiet(self) -> bool:
        """Whether nobody is woken by the alert that Prometheus sends again and again, or it would be forgotten."""
        post(f"{self.alerts}/api/v2/alerts", [{"labels": {"alertname": "Slow", "instance": f"{self.host}:9100"}}])
        return all(alert["status"]["silencedBy"] for alert in get(f"{self.alerts}/api/v2/alerts"))


def digest_in(text: str) -> str:
    return re.findall(r"^Digest: ([0-9a-f]{64})$", text, re.MULTILINE)[-1]


def busy_past(host: str, now: datetime) -> Iterator[Sample]:
    """Four made-up weeks of a build server with much to do, as its own sar archives would tell them."""
    for number in range(4 * 7 * 24 * 6):
        time = now - timedelta(weeks=4) + timedelta(minutes=10) * number
        if time > now - timedelta(minutes=30):
            return
        seconds = 600.0 * number + 30.0 * (number % 2)
        for name, value, labels in (
            ("node_cpu_seconds_total", 0.4 * seconds, {"cpu": "0", "mode": "idle"}),
            ("node_cpu_seconds_total", 1.6 * seconds, {"cpu": "0", "mode": "user"}),
            ("node_memory_MemTotal_bytes", 1e9, {}),
            ("node_memory_MemAvailable_bytes", 1.0e8 + 1e6 * (number % 5), {}),
            ("node_network_receive_bytes_total", 4e6 * seconds, {"device": "eth0"}),
            ("node_network_transmit_bytes_total", 9e6 * seconds, {"device": "eth0"}),
        ):
            yield Sample(name, value, time, labels | {"instance": host})


@pytest.fixture
def desk(machine: Machine, tmp_path: Path) -> Iterator[Desk]:
    """The desk, and the machine with a new disk that somebody has put in and mounted; all of it is undone."""
    machine.sh(
        "mkfs.ext4 -q /dev/disk/by-id/virtio-spare && mkdir -p /srv/new && mount /dev/disk/by-id/virtio-spare /srv/new "
        "&& install -d -o postgres -g postgres /srv/new/pg",
        deadline_seconds=180,
    )
    with ExitStack() as stack:
        stack.callback(machine.reset)
        alerts, chat = stack.enter_context(alertmanager(tmp_path)), stack.enter_context(webhook())
        with SqliteHistory(tmp_path / "history.sqlite") as history:
            now = datetime.now(UTC)
            history.import_samples(busy_past(machine.name, now), origin="example", now=now)
        (tmp_path / "runbooks.toml").write_text(
            f'outputs = "out"\nssh_config = "{machine.ssh_config}"\n[history]\npath = "history.sqlite"\n'
            f'[hosts.{machine.name}.services.builds]\nteamcity = "http://127.0.0.1:{machine.address("http")[1]}"\n'
            f'[hosts.{machine.name}.partitions."/srv/db"]\ndatabase = true\n'
            f'[notify.channels.chat]\nkind = "webhook"\nurl = "{chat.address}"\n'
            f'[notify.alertmanager]\nurl = "{alerts}"\n'
        )
        yield Desk(machine, tmp_path, chat, alerts)


def order_builds(machine: Machine, count: int) -> None:
    """A morning's builds, ordered at once and a while ago: more than the server gives out while its disk is slow."""
    ago = f"clock_timestamp() - interval '{QUEUED_SECONDS} s'"
    psql(
        machine,
        f"insert into builds (build_type, queued_at) select 'Core_Compile', {ago} from generate_series(1, {count})",  # noqa: S608
    )


def available(machine: Machine) -> int:
    return int(machine.sh("df --block-size=1 --output=avail /srv/db | tail -n 1", changes=False))


def answer(machine: Machine, text: str) -> str:
    return machine.sh(text, deadline_seconds=180, check=False, changes=False).strip()


def test_from_a_service_that_crawls_to_a_database_on_another_disk(desk: Desk) -> None:
    machine, host = desk.machine, desk.host
    machine.sh(
        "install -d -o buildserver -g buildserver /srv/db/artifacts\nset -- $(stat -f -c '%a %S' /srv/db)\n"
        f"runuser -u buildserver -- fallocate -l $(($1 * $2 - {LEFT_BYTES})) /srv/db/artifacts/nightly-0815.tar"
    )
    with Load([machine.address("postgres")], clients=4, commits_per_second=40, timeout_seconds=60) as load:
        load.wait_acknowledged(20, seconds=120)
        order_builds(machine, BUILDS)
        faults.inject(machine, "slow-disk")
        time.sleep(WAIT_SECONDS)

        desk.now("users say it is slow")
        # Users say it is slow. An emulated machine on a busy host may answer a question too late: one looks again.
        for _ in range(LOOKS):
            told = desk.triage(status=3)
            found = {each["rule"]: each for each in told["findings"]}
            if (
                found.keys() >= {"disk-slow", "blocked-resource"}
                and "directory" in found["disk-slow"]["mend"]["parameters"]
                and "is not known" not in told["findings"][0]["cause"]
            ):
                break
        causes = [each for each in told["findings"] if not each["because"]]
        full = told["findings"][0]
        assert full["subject"] == "/srv/db", told["headline"]
        assert "/srv/db/artifacts" in full["cause"]
        assert "disk-slow" in found, told
        assert found["disk-slow"] in causes
        blocked = found["blocked-resource"]["cause"]
        assert all(word in blocked for word in ("memory in use", "network received", "network sent", "far below"))
        assert full["mend"]["parameters"] == {"host": host, "mountpoint": "/srv/db"}
        assert found["disk-slow"]["mend"]["parameters"] == {"host": host, "directory": OLD}

        desk.now("triage has named the cause")
        machine.throttle(operations_per_second=OPERATIONS_PER_SECOND)

        # Everybody is told, and nobody is woken.
        work = {
            "host": host,
            "occasion": OCCASION,
            "text": "The builds' database moves. Builds wait for a moment.",
            "minutes": 240,
        }
        planned = desk.notebook("announce-work", **work)
        assert desk.subjects == []
        desk.notebook("announce-work", **work, approve=digest_in(planned.partition("all-clear")[0]))
        assert desk.subjects == [f"{OCCASION}: work on {host} begins"]
        assert desk.is_quiet()

        desk.now("everybody was told")
        # A few hundred MB more at once, by the notebook that triage has named.
        mends = shlex.split(full["mend"]["command"])[1:]
        chosen = [*mends, "-p", "way=extend-volume"]
        before = available(machine)
        desk.runbook(*chosen, "-p", f"approve={digest_in(desk.said_in(desk.runbook(*chosen)))}")
        assert available(machine) - before > 64 * MIB

        desk.now("there is more room")
        # The database moves to the new disk.
        where = {"host": host, "directory": OLD, "target": NEW, "backup": BACKUP, "most_io_pressure": 100}
        planned = desk.notebook("relocate-database", **where)
        assert answer(machine, f"readlink -f {OLD}") == OLD
        desk.now("the move is planned")
        moved = desk.notebook("relocate-database", **where, approve=digest_in(planned))
        load.wait_acknowledged(30, seconds=180)
    assert load.verify().ok
    gap = load.longest_gap().seconds
    pause = re.search(r"writes stood still for (\d+) ms", moved)
    assert pause, moved
    assert 0 < int(pause[1]) / 1000 < 2 * gap  # one is told by the host's clock, the other is what clients saw
    assert answer(machine, f"readlink -f {OLD}") == NEW
    print(f"pause of the switch {int(pause[1]) / 1000:.2f} s, longest gap of the whole story {gap:.2f} s")

    desk.now("the database has moved")
    # It was the cause: nothing is red any more.
    after = desk.triage(status=0)
    assert not [each for each in after["findings"] if each["rule"] == "disk-slow"]

    desk.now("nothing is red")
    # Everybody hears that it is over, and for how long they waited.
    waited = round(gap, 2)
    over = {**work, "downtime_seconds": f"{waited:.2f}"}
    planned = desk.notebook("announce-work", **over)
    desk.notebook("announce-work", **over, approve_end=digest_in(planned))
    assert desk.subjects[-1] == f"{OCCASION}: work on {host} is over"
    assert f"Measured downtime: {waited:.1f} seconds" in desk.chat.items[-1][2]["body"]
    assert not desk.is_quiet()

    desk.now("everybody has heard that it is over")
    # It comes back after a reboot, and only then the old data goes.
    machine.power_cut()
    machine.wait_ready()
    desk.now("it came back after a power cut")
    assert answer(machine, f"readlink -f {OLD}") == NEW
    assert load.verify().ok
    kept = ["remove-relocated", "--host", host, "-p", f"kept={OLD}.relocated", "-p", f"backup={BACKUP}"]
    assert answer(machine, f"ls {OLD}.relocated/PG_VERSION.relocated") != ""
    desk.approved(*kept)
    assert answer(machine, f"ls -d {OLD}.relocated 2>/dev/null") == ""

    desk.now("the old data is gone")
    with Load([machine.address("postgres")]) as load:
        load.wait_acknowledged(20, seconds=120)
    assert load.verify().ok
