"""Mail over TLS against a real SMTP server with a certificate of this test's own: delivered where its authority is
trusted, and where it is not, or there is no TLS, nothing is said that others could read."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from runbooks_lib.config import Channel, Notify
from runbooks_lib.notification import mail
from runbooks_lib.notification.message import message
from runbooks_lib.notification.sending import Delivery, send
from tests.certificates import Issued, issue

TOLD = message("disk-report: `/srv/db` is full", "New: /srv/db", state="crossed", source="runbook report")
PASSWORD = "correct-horse-battery"


def through_tls(smtp: SMTP) -> bool:
    """Whether the connection is encrypted now, from its first byte or since STARTTLS."""
    assert smtp.transport is not None
    return smtp.transport.get_extra_info("ssl_object") is not None


class MailServer(Controller):
    """aiosmtpd on a free port: the commands it was given, whether each came through TLS, and the letters."""

    def __init__(self, issued: Issued, *, tls: str, offered: bool = True) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(issued.server)
        self.commands: list[tuple[str, bool]] = []
        self.letters: list[tuple[list[str], bytes, bool]] = []
        self.logins: list[tuple[bytes, bytes, bool]] = []
        super().__init__(
            self,
            hostname="127.0.0.1",
            port=0,
            ssl_context=context if tls == "tls" else None,
            tls_context=context if tls == "starttls" and offered else None,
            authenticator=self._authenticate,
            auth_require_tls=False,  # so that a password in the clear would be seen here, not refused before
        )

    def _authenticate(self, smtp: SMTP, _: Session, __: Envelope, ___: str, login: LoginPassword) -> AuthResult:
        self.logins.append((login.login, login.password, through_tls(smtp)))
        return AuthResult(success=login.password == PASSWORD.encode(), handled=False)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, smtp: SMTP, _: Session, envelope: Envelope, sender: str, options: list[str]
    ) -> str:
        self.commands.append((f"MAIL {sender}", through_tls(smtp)))
        envelope.mail_from = sender
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, smtp: SMTP, _: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.letters.append((list(envelope.rcpt_tos), envelope.content, through_tls(smtp)))
        return "250 kept"

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]  # the port was 0: any free one
        super()._trigger_server()


@contextlib.contextmanager
def serving(issued: Issued, *, tls: str, offered: bool = True) -> Iterator[MailServer]:
    server = MailServer(issued, tls=tls, offered=offered)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return issue(tmp_path)


@pytest.fixture
def trusted(issued: Issued, monkeypatch: pytest.MonkeyPatch) -> Issued:
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
    return issued


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)


def told(server: MailServer, *, tls: str, login: bool = True) -> Delivery:
    wanted = {"kind": "mail", "server": "127.0.0.1", "port": server.port, "tls": tls, "sender": "runbooks@a.example"}
    user = {"user": "runbooks", "password": "env:MAIL_PASSWORD"} if login else {}
    channel = Channel.model_validate({**wanted, **user, "to": ["oncall@a.example"]})
    (came,) = send(Notify(channels={"mail": channel}), TOLD)
    return came


def nothing_came(server: MailServer) -> bool:
    return not (server.commands or server.letters or server.logins)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
@pytest.mark.parametrize("login", [True, False], ids=["with a password", "without one"])
def test_a_letter_goes_through_tls_where_the_authority_is_trusted(trusted: Issued, tls: str, login: bool) -> None:
    with serving(trusted, tls=tls) as server:
        came = told(server, tls=tls, login=login)
    assert came.ok, came.error
    ((receivers, text, encrypted),) = server.letters
    assert receivers == ["oncall@a.example"]
    assert message_from_bytes(text, policy=default)["Subject"] == "disk-report: `/srv/db` is full"
    assert encrypted
    assert server.commands == [("MAIL runbooks@a.example", True)]
    assert server.logins == ([(b"runbooks", PASSWORD.encode(), True)] if login else [])


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_an_unknown_authority_is_refused_before_anything_is_sent(issued: Issued, tls: str) -> None:
    with serving(issued, tls=tls) as server:
        came = told(server, tls=tls)
    assert "certificate is not trusted" in came.error
    assert "nothing was sent" in came.error
    assert "SSL_CERT_FILE" in came.error
    assert PASSWORD not in came.error
    assert nothing_came(server)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_another_hosts_certificate_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    other = issue(tmp_path, address="192.0.2.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(other.authority))
    with serving(other, tls=tls) as server:
        came = told(server, tls=tls)
    assert "certificate is not trusted" in came.error
    assert "127.0.0.1" in came.error
    assert nothing_came(server)


def test_a_server_that_offers_no_starttls_gets_neither_the_password_nor_the_letter(trusted: Issued) -> None:
    """The answer may have been changed on the way to have it sent in the clear."""
    with serving(trusted, tls="starttls", offered=False) as server:
        came = told(server, tls="starttls")
    assert "offers no STARTTLS" in came.error
    assert "nothing was sent" in came.error
    assert nothing_came(server)


def test_tls_where_the_server_speaks_without_it_says_which_port_has_which(trusted: Issued) -> None:
    with serving(trusted, tls="starttls") as server:
        came = told(server, tls="tls")
    assert 'tls = "starttls"' in came.error
    assert nothing_came(server)


def test_starttls_where_the_server_waits_for_tls_says_which_port_has_which(
    trusted: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "_TIMEOUT_SECONDS", 0.5)
    with serving(trusted, tls="tls") as server:
        came = told(server, tls="starttls")
    assert 'tls = "tls"' in came.error
    assert nothing_came(server)


def test_a_wrong_password_is_told_in_the_servers_words(trusted: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "not-this-one")
    with serving(trusted, tls="starttls") as server:
        came = told(server, tls="starttls")
    assert "535" in came.error
    assert "not-this-one" not in came.error
    assert not server.letters
