"""The whole triage on this machine, on services that are really there, and on a host that cannot be reached."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from runbooks_lib import config as inventory
from runbooks_lib.cli import cli
from runbooks_lib.config import Config, ServiceSettings
from runbooks_lib.diagnosis import telling
from runbooks_lib.diagnosis.diagnosis import Diagnosis
from runbooks_lib.diagnosis.triage import triage
from runbooks_lib.errors import UsageError
from runbooks_lib.facts import services_asking
from runbooks_lib.facts.fact import State
from runbooks_lib.hosts.host import HostUnreachable, Result, Script
from runbooks_lib.reports import triage_page
from runbooks_lib.terminal import as_json


class TeamCity(http.server.BaseHTTPRequestHandler):
    """Answers in TeamCity's shape: 12 builds wait, the oldest for ten minutes; one agent of three is connected."""

    status = 200
    seen: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        type(self).seen.append(self.headers.get("Authorization"))
        now = datetime.now(UTC)
        old = (now - timedelta(minutes=10)).strftime("%Y%m%dT%H%M%S%z")
        pages: dict[str, object] = {
            "/app/rest/buildQueue": {"count": 12, "build": [{"id": 1, "queuedDate": old}]},
            "/app/rest/agents": {"count": 3, "agent": [{"name": "a", "connected": n == 0} for n in range(3)]},
            "/app/rest/server": {"version": "2026.1", "currentTime": now.strftime("%Y%m%dT%H%M%S%z")},
        }
        body = json.dumps(pages.get(self.path.partition("?")[0], {})).encode()
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "/app/rest/server")
        else:
            self.send_response(type(self).status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    TeamCity.status, TeamCity.seen = 200, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), TeamCity) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def written(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "runbooks.toml"
    file.write_text(text)
    return inventory.load(file)


@pytest.fixture
def here(tmp_path: Path, address: str) -> Diagnosis:
    text = f'[hosts.here]\nlocal = true\n[hosts.here.services.builds]\nteamcity = "{address}"\n'
    return triage(written(tmp_path, text), "here")


def test_this_machine_is_looked_at_with_everything_it_lets_one_see(here: Diagnosis) -> None:
    assert here.scene.snapshot is not None
    assert here.scene.rates is not None
    assert here.scene.deeper.waiting.known
    assert {each.measure.name for each in here.scene.deviations} >= {"cpu", "memory", "load"}


def test_a_queue_that_waits_and_agents_that_are_gone_are_found(here: Diagnosis) -> None:
    found = {finding.rule: finding for finding in here.findings}
    assert "12 builds" in found["queue-waits"].cause
    assert found["queue-waits"].symptom
    assert found["agents-missing"].evidence[0].text == "3 authorized, 1 connected, 3 enabled"


def test_without_a_past_it_says_that_there_is_no_baseline(here: Diagnosis) -> None:
    assert "No baseline" in telling.baseline_words(here)
    assert all(not each.direction for each in here.scene.deviations)


def test_text_and_data_tell_the_same_in_the_same_order(here: Diagnosis) -> None:
    data = json.loads(as_json(telling.as_data(here)))
    assert [row["rule"] for row in data["findings"]] == [finding.rule for finding in here.findings]
    text = telling.text(here)
    for finding in here.findings:
        assert finding.cause in text
    for gap in here.untold:
        assert gap.asks in text


def test_what_is_known_is_told_early_while_an_answer_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_early = threading.Event()
    known: list[Diagnosis] = []

    def early(told: Diagnosis) -> None:
        known.append(told)
        told_early.set()

    def late(_: object) -> tuple[()]:
        assert told_early.wait(60)
        return ()

    monkeypatch.setattr(services_asking, "ask", late)
    monkeypatch.setattr("runbooks_lib.diagnosis.triage.EARLY_SECONDS", 0.0)
    config = written(tmp_path, "[hosts.here]\nlocal = true\n")
    told = triage(config, "here", early=early)
    assert len(known) == 1
    assert "the services" in known[0].scene.pending
    assert known[0].scene.rates is not None
    assert "no answer yet about" in telling.text(known[0])
    assert "the services" in triage_page.findings(known[0]).html
    assert told.scene.pending == ()
    assert "so far" not in telling.text(told)


def test_nothing_is_told_early_when_all_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runbooks_lib.diagnosis.triage.EARLY_SECONDS", 60.0)
    known: list[Diagnosis] = []
    triage(written(tmp_path, "[hosts.here]\nlocal = true\n"), "here", early=known.append)
    assert known == []


def test_a_host_that_cannot_be_reached_is_a_finding_and_nothing_else_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "ssh_config").write_text("Host gone\n  HostName 127.0.0.1\n  Port 1\n  User nobody\n")
    told = triage(written(tmp_path, 'ssh_config = "ssh_config"\n[hosts.gone]\n'), "gone")
    assert [finding.rule for finding in told.findings] == ["unreachable"]
    assert told.red
    assert told.untold == ()


def test_nothing_more_is_waited_for_when_a_host_was_not_reached(tmp_path: Path) -> None:
    told_all, waited = threading.Event(), threading.Event()

    class Dying:
        name = "here"

        def run(self, script: Script, **_: object) -> Result:
            if script.name != "facts: quick" and told_all.wait(30):
                waited.set()
            raise HostUnreachable(self.name, "no answer")

        def close(self) -> None:
            pass

    config = written(tmp_path, "[hosts.here]\nlocal = true\n")
    told = triage(config, "here", opened=Dying())
    assert not told_all.is_set()
    told_all.set()
    assert waited.wait(30), "the other questions were still being asked"
    assert [finding.rule for finding in told.findings] == ["unreachable"]
    assert told.scene.pending == ()


def test_the_command_ends_with_3_when_something_is_red_and_its_json_says_what(tmp_path: Path) -> None:
    (tmp_path / "ssh_config").write_text("Host gone\n  HostName 127.0.0.1\n  Port 1\n  User nobody\n")
    written(tmp_path, 'ssh_config = "ssh_config"\n[hosts.gone]\n')
    told = CliRunner().invoke(cli, ["triage", "gone", "--json", "--config", str(tmp_path / "runbooks.toml")])
    assert told.exit_code == 3
    data = json.loads(told.stdout)
    assert data["red"] is True
    assert data["findings"][0]["rule"] == "unreachable"
    assert 0 < data["findings"][0]["confidence"] < 1


def test_a_service_that_answers_errors_or_nothing_is_red(address: str) -> None:
    TeamCity.status = 503
    (answer,) = services_asking.ask([ServiceSettings("builds", teamcity=address)])
    assert answer.queue.state is State.UNREADABLE
    assert "HTTP 503" in answer.queue.detail
    (silent,) = services_asking.ask([ServiceSettings("gone", health="http://127.0.0.1:1/")])
    assert "no answer" in silent.health.detail


def test_an_answer_that_drips_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's own timeout starts anew with every byte, the header's too."""
    late = threading.Event()

    def drip(handler: TeamCity) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        with contextlib.suppress(OSError):
            for _ in range(400):
                handler.wfile.write(b"X: y\r\n")
                if late.wait(0.05):
                    break
            handler.wfile.write(b"Content-Length: 0\r\n\r\n")

    monkeypatch.setattr(TeamCity, "do_GET", drip)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), TeamCity) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reply = services_asking.get(f"http://127.0.0.1:{server.server_port}/", timeout=0.5)
        late.set()
        server.shutdown()
    assert (reply.state, reply.detail) == (State.TIMED_OUT, "no whole answer within 0.5 s")


@pytest.mark.parametrize("address", ["https://ci:84430/", "http://ci:http/", "https://[ci/"])
def test_an_address_that_cannot_be_is_the_state_of_its_fact(address: str) -> None:
    (answer,) = services_asking.ask([ServiceSettings("ci", teamcity=address, health=address)])
    assert (answer.health.state, answer.queue.state) == (State.UNREADABLE, State.UNREADABLE)


def test_a_login_that_is_refused_is_told_as_not_allowed(address: str) -> None:
    TeamCity.status = 401
    (answer,) = services_asking.ask([ServiceSettings("builds", teamcity=address)])
    assert answer.queue.state is State.NOT_ALLOWED


def test_the_token_goes_to_the_service_and_a_redirect_is_not_followed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIAGE_TOKEN", "canary-token")
    services_asking.ask([ServiceSettings("builds", teamcity=address, token="env:TRIAGE_TOKEN")])
    assert set(TeamCity.seen) == {"Bearer canary-token"}
    reply = services_asking.get(f"{address}/elsewhere")
    assert reply.value is not None
    assert reply.value.status == 302


def test_a_token_without_encryption_to_another_machine_is_a_mistake(tmp_path: Path) -> None:
    text = '[hosts.a.services.tc]\nteamcity = "http://tc.example.com"\ntoken = "env:T"\n'
    with pytest.raises(UsageError, match="unencrypted"):
        written(tmp_path, text)


def test_a_service_without_anything_to_ask_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="something to ask"):
        written(tmp_path, "[hosts.a.services.tc]\n")
