"""Work is announced, called off and cleared with real servers: a webhook, and Debian's Alertmanager."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from runbooks_lib.cli import cli
from runbooks_lib.config import Alertmanager, Notify
from runbooks_lib.errors import UsageError
from runbooks_lib.notification.alertmanager import Silences
from runbooks_lib.procedures import all_clear, announce, announcing
from runbooks_lib.runbook.session import Session
from tests.notification.servers import Received, alertmanager, get, post, webhook
from tests.runbook.operators import Scripted

pytestmark = pytest.mark.lab


@dataclass
class World:
    """An inventory whose channel and Alertmanager are real, and an alert of its host."""

    file: Path
    chat: Received
    url: str

    def session(self, book: object = announce.RUNBOOK, *answers: str, present: bool = True, **given: object) -> Session:
        told = {"about": "db-01", "occasion": "CHG-1", **given}
        return announcing.session(
            book,  # type: ignore[arg-type]
            config=str(self.file),
            operator=Scripted(answers, present=present),
            **told,
        )

    @property
    def silences(self) -> Silences:
        return Silences.of(Notify(alertmanager=Alertmanager(url=self.url)))

    @property
    def subjects(self) -> list[str]:
        return [body["subject"] for _, _, body in self.chat.items]

    def is_quiet(self) -> bool:
        return all(alert["status"]["silencedBy"] for alert in get(f"{self.url}/api/v2/alerts"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o1777)
    monkeypatch.setenv("RUNBOOKS_HOST_DIRECTORY", str(place))
    with alertmanager(tmp_path) as url, webhook() as chat:
        post(f"{url}/api/v2/alerts", [{"labels": {"alertname": "DiskFull", "instance": "db-01:9100"}}])
        file = tmp_path / "runbooks.toml"
        file.write_text(
            f'[hosts.db-01]\n[notify.channels.chat]\nkind = "webhook"\nurl = "{chat.address}"\n'
            f'[notify.alertmanager]\nurl = "{url}"\n'
        )
        yield World(file, chat, url)


def test_a_plan_shows_the_message_and_sends_and_silences_nothing(world: World) -> None:
    work = world.session(present=False, text="The disk of the build database is exchanged.")
    work.plan()
    work.step("silence")
    work.step("tell")
    work.finish()
    said = work._options.operator.text  # type: ignore[attr-defined]
    assert "PLAN ONLY" in said
    assert "The disk of the build database is exchanged." in said
    assert world.subjects == []
    assert world.silences.active() == []


def test_announced_once_however_often_and_cleared_with_the_downtime(world: World) -> None:
    work = world.session(announce.RUNBOOK, "silence", "tell", minutes=45)
    work.plan()
    work.step("silence")
    assert world.is_quiet()
    assert world.subjects == []  # nobody is told before the alerts are quiet
    work.step("tell")
    work.finish()
    assert world.subjects == ["CHG-1: work on db-01 begins"]
    assert "For about 45 minutes" in world.chat.items[0][2]["body"]

    again = world.session(announce.RUNBOOK, minutes=45)
    again.step("silence")
    again.step("tell")
    assert len(world.silences.active()) == 1
    assert len(world.subjects) == 1

    over = world.session(all_clear.RUNBOOK, "end-silence", "tell", downtime_seconds=0.43)
    over.step("end-silence")
    over.step("tell")
    over.finish()
    assert not world.is_quiet()
    assert world.subjects[1] == "CHG-1: work on db-01 is over"
    assert "Measured downtime: 0.4 seconds." in world.chat.items[1][2]["body"]


def test_what_is_undone_is_heard_again_and_called_off(world: World) -> None:
    work = world.session(announce.RUNBOOK, "silence", "tell", "tell", "silence")
    work.step("silence")
    work.step("tell")
    work.undo()
    assert not world.is_quiet()
    assert world.subjects == ["CHG-1: work on db-01 begins", "CHG-1: work on db-01 is called off"]


def test_what_was_called_off_can_be_announced_again_under_the_same_occasion(world: World) -> None:
    for _ in range(2):
        work = world.session(announce.RUNBOOK, "silence", "tell", "tell", "silence")
        work.step("silence")
        work.step("tell")
        work.undo()
    assert world.subjects == ["CHG-1: work on db-01 begins", "CHG-1: work on db-01 is called off"] * 2
    assert not world.is_quiet()


def test_another_host_and_a_longer_window_of_the_same_occasion_are_silenced_and_told(world: World) -> None:
    world.file.write_text(world.file.read_text().replace("[hosts.db-01]", "[hosts.db-01]\n[hosts.db-02]"))
    for given in ({"minutes": 30}, {"minutes": 60}, {"minutes": 30, "about": "db-02"}, {"minutes": 60}):
        work = world.session(announce.RUNBOOK, "silence", "tell", **given)
        work.step("silence")
        work.step("tell")
        work.finish()
    assert world.subjects == [f"CHG-1: work on {host} begins" for host in ("db-01", "db-01", "db-02")]
    said = CliRunner().invoke(cli, ["notify", "sent", "CHG-1", "--config", str(world.file)]).output
    assert [line.split(" (")[0] for line in said.splitlines()] == [
        f"CHG-1, {host}, begins" for host in ("db-01", "db-01", "db-02")
    ]
    assert said.count("): told") == 3
    assert len(world.silences.active("CHG-1", instance="db-01", minutes=60)) == 1
    assert len(world.silences.active("CHG-1", instance="db-02")) == 1

    over = world.session(all_clear.RUNBOOK, "end-silence", "tell")
    over.step("end-silence")
    over.step("tell")
    over.finish()
    assert world.silences.active("CHG-1", instance="db-01") == []
    assert len(world.silences.active("CHG-1")) == 1  # the other host's goes on


def test_a_channel_that_fails_stops_the_step_and_a_second_try_tells_only_those_that_do_not_know(world: World) -> None:
    with webhook() as other:
        world.file.write_text(
            world.file.read_text() + f'[notify.channels.other]\nkind = "webhook"\nurl = "{other.address}"\n'
        )
        other.status = 500
        work = world.session(announce.RUNBOOK, "silence", "tell", "tell")
        work.step("silence")
        with pytest.raises(Exception, match="HTTP 500"):
            work.step("tell")
        other.status = 200
        work.step("tell")
        work.finish()
        assert len(other.items) == 2
    assert len(world.subjects) == 1


def test_without_an_alertmanager_and_channels_there_is_nothing_to_do_and_it_says_so(world: World) -> None:
    world.file.write_text("[hosts.db-01]\n")
    work = world.session(announce.RUNBOOK)
    work.step("silence")
    work.step("tell")
    work.finish()
    said = work._options.operator.text  # type: ignore[attr-defined]
    assert "names no Alertmanager" in said
    assert "the inventory has no channel" in said


def test_work_without_a_name_or_on_an_unknown_host_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="occasion must name the work"):
        world.session(occasion=" ")
    with pytest.raises(UsageError, match="no such host: db-02"):
        world.session(about="db-02")
