"""Silences in Debian's Alertmanager: they silence a host's alerts, and no other's, and are taken back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbooks_lib.config import Alertmanager, Notify
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.notification.alertmanager import Silences
from tests.notification.servers import alertmanager, get, post, webhook

pytestmark = pytest.mark.lab


def test_a_silence_covers_one_host_and_ends_when_told(tmp_path: Path) -> None:
    with alertmanager(tmp_path) as url:
        hosts = ("db.1", "db.1:9100", "db-1:9100", "db.10:9100")
        post(f"{url}/api/v2/alerts", [{"labels": {"alertname": "DiskFull", "instance": host}} for host in hosts])
        silences = Silences.of(Notify(alertmanager=Alertmanager(url=url)))
        now = datetime.now(UTC)
        made = silences.begin("db.1", start=now, end=now + timedelta(minutes=30), comment="disk", author="me")
        found = silences.find(made)
        assert found is not None
        assert found.state == "active"
        assert found.comment == "disk"
        assert abs((found.ends - now).total_seconds() - 1800) < 1
        quiet = {one["labels"]["instance"] for one in get(f"{url}/api/v2/alerts") if one["status"]["silencedBy"]}
        assert quiet == {"db.1", "db.1:9100"}
        assert [each.id for each in silences.active()] == [made]
        silences.end(made)
        silences.end(made)  # again is harmless
        ended = silences.find(made)
        assert ended is not None
        assert ended.state == "expired"
        assert silences.active() == []
        assert silences.find("00000000-0000-0000-0000-000000000000") is None


def test_what_is_no_alertmanager_and_what_it_refuses_is_told(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with webhook() as other:
        silences = Silences.of(Notify(alertmanager=Alertmanager(url=other.address)))
        with pytest.raises(RunbookError, match="not understood"):
            silences.begin("a", start=now, end=now, comment="c", author="me")
    with alertmanager(tmp_path) as url:
        silences = Silences.of(Notify(alertmanager=Alertmanager(url=url)))
        with pytest.raises(RunbookError, match="HTTP 400"):
            silences.begin("a", start=now, end=now - timedelta(hours=1), comment="c", author="me")
    with pytest.raises(RunbookError, match="not reached"):
        silences.active()
    with pytest.raises(UsageError, match="names no Alertmanager"):
        Silences.of(Notify())
    with pytest.raises(UsageError, match="no silence's id"):
        silences.end("../alerts")
