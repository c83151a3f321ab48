"""The incident's notebooks as a person in JupyterLab goes through them, against a practice machine, in a real browser.

Five minutes; by itself, and with its pictures kept: make guided-test PICTURES=directory
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from runbooks_lib import jupyter
from runbooks_lib.runbook import executed, journal, runs
from runbooks_lib.training.lab.load import Load
from runbooks_lib.training.lab.machine import Machine
from tests.browser.lab_page import answer, browser_page, filled_in, finish, keep, keep_every, run_all, serving, type_in

pytestmark = [pytest.mark.lab, pytest.mark.vm, pytest.mark.timeout(1800)]

LOOK_SECONDS = 8.0  # a line comes every five
OLD, NEW = "/srv/db/postgresql/15/main", "/srv/new/pg/main"


@pytest.fixture
def full(machine: Machine) -> Iterator[Machine]:
    """A machine whose database's disk is nearly full, and another disk that is mounted."""
    machine.sh(
        "mkfs.ext4 -q /dev/disk/by-id/virtio-spare && mkdir -p /srv/new && mount /dev/disk/by-id/virtio-spare /srv/new "
        "&& install -d -o postgres -g postgres /srv/new/pg /srv/db/artifacts\nset -- $(stat -f -c '%a %S' /srv/db)\n"
        f"fallocate -l $(($1 * $2 - {30 * 2**20})) /srv/db/artifacts/nightly-0815.tar\n"
        "install -d -o oncall /var/log/guided; cd /var/log/guided; seq 200000 >app.log; chown oncall app.log\n"
        "touch -d '2 hours ago' app.log",
        deadline_seconds=180,
    )
    yield machine
    machine.reset()


@pytest.fixture
def lab(full: Machine, tmp_path: Path) -> Iterator[jupyter.Lab]:
    """JupyterLab with the incident's notebooks, their parameters filled in."""
    host = full.name
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    filled_in("triage-slow-service", notebooks, {"host": host})
    filled_in("relieve-disk-pressure", notebooks, {"host": host, "mountpoint": "/srv/db", "way": "extend-volume"})
    move = {"directory": OLD, "target": NEW, "backup": "pgbackrest, this morning 04:00", "throttle_mb": 2}
    filled_in("relocate-database", notebooks, {"host": host, **move, "most_io_pressure": 100})
    filled_in("clean-log-directory", notebooks, {"host": host, "directory": "/var/log/guided"})
    kept = {"kept": f"{OLD}.relocated", "backup": "pgbackrest, this afternoon", "without_reboot": True}
    filled_in("remove-relocated-data", notebooks, {"host": host, **kept})
    inventory = tmp_path / "runbooks.toml"
    inventory.write_text(
        f'outputs = "out"\nssh_config = "{full.ssh_config}"\n'
        f'[hosts.{host}.services.builds]\nteamcity = "http://127.0.0.1:{full.address("http")[1]}"\n'
        f'[hosts.{host}.partitions."/srv/db"]\ndatabase = true\n'
    )
    with serving(tmp_path, notebooks, inventory) as started:
        yield started


def test_triage_relieve_and_relocate_guided_by_their_questions(lab: jupyter.Lab, full: Machine, tmp_path: Path) -> None:
    with (
        browser_page() as page,
        Load([full.address("postgres")], clients=4, commits_per_second=40, timeout_seconds=60) as load,
    ):
        load.wait_acknowledged(20, seconds=120)
        run_all(page, lab, "triage-slow-service")
        finish(page)
        keep_every(page, "guided-triage", tmp_path, ".triage-findings", at="start")
        assert "is nearly full" in page.locator(".triage-findings").text_content()

        run_all(page, lab, "relieve-disk-pressure")
        page.get_by_text("(extend) to go on").last.wait_for()
        keep_every(page, "guided-relieve-question", tmp_path, "(extend) to go on")
        answer(page, "extend")
        answer(page, full.name)  # a filesystem is not made smaller again: no return
        finish(page)
        keep_every(page, "guided-relieve-done", tmp_path, "Before and after", at="start")

        run_all(page, lab, "relocate-database")
        page.get_by_text("(copy) to go on").last.wait_for()
        keep_every(page, "guided-relocate-question", tmp_path, "(copy) to go on")
        keep_every(page, "guided-relocate-plan", tmp_path, "[already so] look", at="start")
        page.get_by_text("The exact commands").last.click()
        keep(page, "guided-relocate-commands", tmp_path)
        page.get_by_text("The exact commands").last.click()
        answer(page, "copy")
        page.get_by_text("copy: running").first.wait_for()
        time.sleep(LOOK_SECONDS)
        keep_every(page, "guided-relocate-copying", tmp_path, "copy: running")
        for step in ("follow", "lasting"):
            answer(page, step)
        page.get_by_text(f"({full.name}) to go on").last.wait_for()
        keep_every(page, "guided-relocate-no-return", tmp_path, f"({full.name}) to go on")
        type_in(page, "switch")  # a name, and not the one that is asked for
        page.get_by_text("is none of these; nothing was run").wait_for()
        for _ in ("switch", "prove", "tidy"):
            answer(page, full.name)
        finish(page)
        keep_every(page, "guided-relocate-done", tmp_path, "Done. The evidence is in")
        load.wait_acknowledged(20, seconds=120)

        run_all(page, lab, "clean-log-directory")
        page.get_by_text("(rotate) to go on").last.wait_for()
        keep_every(page, "guided-logs-question", tmp_path, "(rotate) to go on")
        for step in ("rotate", "compress"):
            answer(page, step)
        finish(page)
        keep_every(page, "guided-logs-done", tmp_path, "Done. The evidence is in")

        run_all(page, lab, "remove-relocated-data")
        page.get_by_text(f"({full.name}) to go on").last.wait_for()
        keep_every(page, "guided-remove-no-return", tmp_path, f"({full.name}) to go on")
        answer(page, full.name)
        finish(page)
        keep_every(page, "guided-remove-done", tmp_path, "Done. The evidence is in")
    assert load.verify().ok
    assert full.sh(f"ls -d {OLD}.relocated 2>/dev/null", check=False, changes=False).strip() == ""
    assert full.sh("ls /var/log/guided", changes=False).split()[-1].endswith(".gz")
    (directory,) = [each for each in runs.directories(tmp_path / "out/runs") if "relocate-database" in each.name]
    decisions = [entry for entry in journal.read(directory / journal.NAME).entries if entry.kind == "decision"]
    assert [entry.data["typed"] for entry in decisions] == ["copy", "follow", "lasting", *[full.name] * 3]
    kept = nbformat.read(directory / executed.NAME, as_version=4)
    said = "".join(output.get("text", "") for cell in kept.cells for output in cell.get("outputs", []))
    assert "writes stood still for" in said
    assert full.sh(f"readlink -f {OLD}", changes=False).strip() == NEW
