"""A message as e-mail, by SMTP (RFC 5321) with TLS unless the inventory says otherwise."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from runbooks_lib.config import Channel
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.notification.message import Message
from runbooks_lib.secrets import resolve
from runbooks_lib.web import is_this_machine

_TIMEOUT_SECONDS = 15.0
_PORTS = {"starttls": 587, "tls": 465, "none": 25}


def send(channel: Channel, message: Message) -> None:
    """Hand it to the mail server for every receiver. Raises RunbookError with what the server said, UsageError where a
    password would go over the network unencrypted."""
    server, port = channel.server or "", channel.port or _PORTS[channel.tls]
    where = f"{server}:{port}"
    if channel.password is not None and channel.tls == "none" and not is_this_machine(server):
        raise UsageError("a password would go over the network unencrypted", where=where, next='use tls = "starttls"')
    context = ssl.create_default_context()
    try:
        with (
            smtplib.SMTP_SSL(server, port, timeout=_TIMEOUT_SECONDS, context=context)
            if channel.tls == "tls"
            else smtplib.SMTP(server, port, timeout=_TIMEOUT_SECONDS)
        ) as connection:
            if channel.tls == "starttls":
                connection.ehlo_or_helo_if_needed()
                if not connection.has_extn("starttls"):  # not said, or taken out of the answer on the way
                    raise RunbookError("the mail server offers no STARTTLS: nothing was sent", where=where)
                connection.starttls(context=context)
            if channel.user is not None and channel.password is not None:
                connection.login(channel.user, resolve(channel.password))
            refused = connection.send_message(_letter(channel, message))
    except ssl.SSLCertVerificationError as error:
        raise RunbookError(
            f"the mail server's certificate is not trusted, nothing was sent: {error.verify_message}",
            where=where,
            next="add the CA to this system, or name its file in the variable SSL_CERT_FILE",
        ) from error
    except (OSError, smtplib.SMTPException) as error:
        raise RunbookError(
            f"the mail server did not take it: {_words(error)}", where=where, next=_hint(channel, error)
        ) from error
    if refused:
        raise RunbookError(f"the mail server refused {', '.join(refused)}; the others got it", where=where)


def _letter(channel: Channel, message: Message) -> EmailMessage:
    letter = EmailMessage()
    letter["Subject"] = message.subject
    letter["From"] = channel.sender
    letter["To"] = ", ".join(channel.to)
    letter["Date"] = formatdate(localtime=True)
    letter["Message-ID"] = make_msgid(domain=(channel.sender or "").rpartition("@")[2])
    letter["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    letter.set_content(message.body + "\n")
    return letter


def _hint(channel: Channel, error: Exception) -> str:
    """What to look at when the two do not speak the same: TLS from the first byte, or after STARTTLS."""
    if channel.tls == "tls" and isinstance(error, ssl.SSLError):
        return f'is this the port for tls = "starttls"? TLS from the first byte has {_PORTS["tls"]}'
    if channel.tls == "starttls" and "timed out" in str(error):  # smtplib makes a disconnection of it
        return f'is this the port for tls = "tls"? STARTTLS has {_PORTS["starttls"]}'
    return ""


def _words(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "; ".join(
            f"{who}: {code} {text.decode('utf-8', 'replace')}" for who, (code, text) in error.recipients.items()
        )
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error
        return f"{error.smtp_code} {text.decode('utf-8', 'replace') if isinstance(text, bytes) else text}"
    return str(error) or type(error).__name__
