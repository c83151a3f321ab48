"""A message goes out when a line is crossed and when that is over, to every channel, until it was delivered."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runbooks_lib import config
from runbooks_lib.config import Config
from runbooks_lib.reports import index, telling
from runbooks_lib.reports.record import Record
from tests.notification.servers import Received, webhook

NOW = datetime(2026, 11, 23, 5, 30, tzinfo=UTC)
OK = Record("disk-report", "20261123T053000Z-000001", "ok", NOW, headline="Nobody is needed today")
CROSSED = replace(OK, state="threshold", headline="/srv/db on db-1 is over 90 %", needed=("/srv/db on db-1",))
WORSE = replace(CROSSED, needed=("/srv/db on db-1", "/var on web-1"))
FAILED = replace(OK, state="failed", message="KeyError: 'x'")


def inventory(directory: Path, *addresses: str, more: str = "") -> Config:
    channels = "".join(
        f'[notify.channels.chat-{number}]\nkind = "webhook"\nurl = "{address}"\n'
        for number, address in enumerate(addresses, 1)
    )
    path = directory / "runbooks.toml"
    path.write_text(f"{more}\n{channels}")
    return config.load(path)


def subjects(received: Received) -> list[str]:
    return [body["subject"] for _, _, body in received.items]


def test_only_changes_are_told(tmp_path: Path) -> None:
    with webhook() as received:
        loaded = inventory(tmp_path, received.address)
        for record in (OK, OK, CROSSED, CROSSED, CROSSED, OK, OK):
            telling.tell(loaded, record)
    assert subjects(received) == [
        "disk-report: /srv/db on db-1 is over 90 %",
        "disk-report: ok again. Nobody is needed today",
    ]
    first, last = (body for _, _, body in received.items)
    assert first["state"] == "crossed"
    assert first["body"] == "New: /srv/db on db-1"
    assert first["link"] == (tmp_path / "outputs/disk-report" / OK.run / "report.html").as_uri()
    assert last["body"] == "No longer: /srv/db on db-1"


def test_what_comes_to_a_crossed_line_is_told_and_what_goes_is_not(tmp_path: Path) -> None:
    with webhook() as received:
        loaded = inventory(tmp_path, received.address, more='[notify]\npages = "https://pages.example/r/"')
        for record in (CROSSED, WORSE, CROSSED, WORSE):
            telling.tell(loaded, record)
    assert [body["body"] for _, _, body in received.items] == [
        "New: /srv/db on db-1",
        "New: /var on web-1\nStill: /srv/db on db-1",
        "New: /var on web-1\nStill: /srv/db on db-1",
    ]
    assert received.items[0][2]["link"] == f"https://pages.example/r/disk-report/{OK.run}/report.html"


def test_a_failure_is_told_once_and_so_is_its_end(tmp_path: Path) -> None:
    with webhook() as received:
        loaded = inventory(tmp_path, received.address)
        for record in (OK, FAILED, replace(FAILED, state="timed out"), replace(FAILED, state="interrupted"), OK):
            telling.tell(loaded, record)
    assert subjects(received) == ["disk-report failed: KeyError: 'x'", "disk-report: ok again. Nobody is needed today"]


def test_a_message_that_did_not_arrive_is_sent_by_the_next_run_and_stands_in_the_index(tmp_path: Path) -> None:
    with webhook() as well, webhook() as ill:
        ill.status = 503
        loaded = inventory(tmp_path, well.address, ill.address)
        came = telling.tell(loaded, CROSSED)
        assert [each.ok for each in came] == [True, False]
        page = index.update(loaded.outputs, titles={"disk-report": "Disk report"}).read_text()
        assert "message not delivered to chat-2 since" in page
        assert "HTTP 503" in page
        ill.status = 200
        (again,) = telling.tell(loaded, CROSSED)
        assert (again.channel, again.ok) == ("chat-2", True)
        assert "not delivered" not in index.update(loaded.outputs, titles={"disk-report": "Disk report"}).read_text()
        assert telling.tell(loaded, CROSSED) == []
    assert len(well.items) == 1


def test_over_before_anybody_was_told_needs_no_message(tmp_path: Path) -> None:
    with webhook() as received:
        received.status = 503
        loaded = inventory(tmp_path, received.address)
        telling.tell(loaded, CROSSED)
        received.status = 200
        assert telling.tell(loaded, OK) == []


def test_a_new_channel_is_told_what_is_so_now_and_other_parameters_are_another_report(tmp_path: Path) -> None:
    with webhook() as first, webhook() as second:
        telling.tell(inventory(tmp_path, first.address), CROSSED)
        loaded = inventory(tmp_path, first.address, second.address)
        assert [each.channel for each in telling.tell(loaded, CROSSED)] == ["chat-2"]
        telling.tell(loaded, replace(CROSSED, parameters={"group": "web"}))
    assert subjects(second)[1].startswith("disk-report (group=web): ")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"disk-report": {"chat-1": {"kind": "?"}}}', "null"])
def test_a_damaged_memory_tells_once_too_often_and_never_too_seldom(tmp_path: Path, damage: str) -> None:
    with webhook() as received:
        loaded = inventory(tmp_path, received.address)
        telling.tell(loaded, CROSSED)
        (tmp_path / "outputs" / telling.TOLD).write_text(damage)
        telling.tell(loaded, CROSSED)
        telling.tell(loaded, CROSSED)
    assert len(received.items) == 2


def test_what_is_kept_is_private_and_readable(tmp_path: Path) -> None:
    with webhook() as received:
        telling.tell(inventory(tmp_path, received.address), CROSSED)
    path = tmp_path / "outputs" / telling.TOLD
    assert path.stat().st_mode & 0o777 == 0o600
    kept: dict[str, Any] = json.loads(path.read_text())
    assert kept["disk-report"]["chat-1"]["kind"] == "crossed"
