"""Messages arrive at real servers, say what failed where they do not, and carry no secret."""

import base64
from email import message_from_string
from email.policy import default
from pathlib import Path

import pytest

from runbooks_lib import secrets
from runbooks_lib.config import Channel, Notify
from runbooks_lib.errors import UsageError
from runbooks_lib.notification.message import Message, message
from runbooks_lib.notification.sending import send
from tests.notification.servers import mail_server, webhook

TOLD = message(
    "disk-report: `/srv/db` is full", "New: /srv/db", state="crossed", source="runbook report", link="file:///x"
)


def channels(**each: Channel) -> Notify:
    return Notify(channels=each)


def to(address: str, **options: object) -> Channel:
    return Channel.model_validate({"kind": "webhook", "url": address, **options})


def by_mail(port: str, **options: object) -> Channel:
    wanted = {"kind": "mail", "server": "127.0.0.1", "port": int(port), "tls": "none", "sender": "runbooks@a.example"}
    return Channel.model_validate({**wanted, "to": ["oncall@a.example", "lead@a.example"], **options})


def test_a_webhook_gets_the_whole_message_as_json() -> None:
    with webhook() as received:
        (came,) = send(channels(chat=to(f"{received.address}/hook")), TOLD)
    assert came.ok
    ((path, headers, body),) = received.items
    assert path == "/hook"
    assert headers["Content-Type"].startswith("application/json")
    assert body["state"] == "crossed"
    assert body["link"] == "file:///x"
    assert body["text"].startswith("disk-report: `/srv/db` is full\nNew: /srv/db\n\nfile:///x")


def test_a_strict_chat_server_gets_the_text_alone() -> None:
    with webhook() as received:
        send(channels(chat=to(received.address, body="text")), TOLD)
    assert received.items[0][2].keys() == {"text"}


def test_an_address_and_a_token_may_be_secrets_and_stand_in_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as received:
        monkeypatch.setenv("CHAT_URL", f"{received.address}/T0-very-secret-path")
        (tmp_path / "token").write_text("bearer-of-news")
        (tmp_path / "token").chmod(0o600)
        settings = channels(chat=to("env:CHAT_URL", token=f"file:{tmp_path / 'token'}"))
        assert send(settings, TOLD)[0].ok
        assert received.items[0][1]["Authorization"] == "Bearer bearer-of-news"
        received.status = 403
        (came,) = send(settings, TOLD)
    assert "env:CHAT_URL: the server answered HTTP 403: no such channel" in came.error
    (gone,) = send(settings, TOLD)
    assert "not reached" in gone.error
    assert "very-secret" not in came.error + gone.error


def test_a_redirect_is_not_followed() -> None:
    with webhook() as received, webhook() as elsewhere:
        received.status, received.location = 307, elsewhere.address
        (came,) = send(channels(chat=to(received.address)), TOLD)
    assert "HTTP 307" in came.error
    assert not elsewhere.items


def test_a_mail_arrives_at_everybody_with_its_text() -> None:
    odd = message("disk-report: Umlaute äöü\nBcc: all@evil.example", "a\n.\nb", state="failed", source="runbook report")
    with mail_server() as received:
        (came,) = send(channels(mail=by_mail(received.address)), odd)
    assert came.ok, came.error
    ((_, receivers, text),) = received.items
    assert receivers == ["oncall@a.example", "lead@a.example"]
    letter = message_from_string(text.replace("\n..\n", "\n.\n"), policy=default)
    assert letter["Subject"] == "disk-report: Umlaute äöü Bcc: all@evil.example"
    assert letter["Bcc"] is None
    assert letter["Auto-Submitted"] == "auto-generated"
    assert "a\n.\nb" in letter.get_content()


def test_what_a_mail_server_refuses_is_told() -> None:
    with mail_server() as received:
        received.refuse = True
        (came,) = send(channels(mail=by_mail(received.address)), TOLD)
    assert "550 no such user here" in came.error
    with mail_server() as received:
        (plain,) = send(channels(mail=by_mail(received.address, tls="starttls")), TOLD)
    assert "STARTTLS" in plain.error
    assert not received.items


def test_a_mail_password_never_travels_unencrypted() -> None:
    wanted = by_mail("25", server="mail.a.example", user="me", password="env:NOBODY")
    (came,) = send(channels(mail=wanted), TOLD)
    assert "unencrypted" in came.error


def test_the_library_serves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as received:
        monkeypatch.setenv("PAGER", f"json://127.0.0.1:{received.address.rpartition(':')[2]}/page")
        settings = channels(pager=Channel(kind="apprise", url="env:PAGER"))
        (came,) = send(settings, TOLD)
        assert came.ok, came.error
        ((_, _, body),) = received.items
        assert body["title"] == TOLD.subject
        assert body["type"] == "warning"
        received.status = 500
        (failed,) = send(settings, TOLD)
        assert "apprise could not deliver it" in failed.error
    monkeypatch.setenv("PAGER", "gopher://nobody/knows")
    assert "does not know such an address" in send(settings, TOLD)[0].error


def test_one_channel_that_fails_keeps_no_other_from_being_told() -> None:
    with webhook() as received:
        came = send(channels(dead=to("http://127.0.0.1:9"), chat=to(received.address)), TOLD)
    assert [(each.channel, each.ok) for each in came] == [("dead", False), ("chat", True)]
    with pytest.raises(UsageError, match="no such channel: pager"):
        send(channels(chat=to(received.address)), TOLD, only=["pager"])


def test_secrets_and_terminal_tricks_are_in_no_message() -> None:
    secrets.register("canary-of-the-mine")
    told = message("canary-of-the-mine", "a\x1b[2Jb\u202e canary-of-the-mine", state="ok", source="x")
    assert isinstance(told, Message)
    assert "canary" not in str(told.as_json())
    assert "\x1b" not in told.text
    assert "\u202e" not in told.text
    assert base64.b64encode(b"canary-of-the-mine").decode() not in str(told.as_json())
