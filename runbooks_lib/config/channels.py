"""The tables `[notify…]` of `runbooks.toml`: who is told, and where alerts are silenced."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from runbooks_lib.config.values import Name, SecretReference, Section, WebAddress


class Channel(Section):
    """`[notify.channels.NAME]`: where a message goes: a webhook, a mail server, or anything that apprise knows."""

    kind: Literal["webhook", "mail", "apprise"]
    url: str | None = None  # an address, or a reference to one: many webhooks' addresses are secrets themselves
    token: SecretReference | None = None
    body: Literal["full", "text"] = "full"
    server: Name | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password: SecretReference | None = None
    sender: str | None = None
    to: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        mine = {
            "webhook": {"url", "token", "body"},
            "mail": {"server", "port", "tls", "user", "password", "sender", "to"},
            "apprise": {"url"},
        }[self.kind]
        foreign = sorted(self.model_fields_set - mine - {"kind"})
        if foreign:
            raise ValueError(f"only {', '.join(sorted(mine))} beside kind = {self.kind!r}, not {', '.join(foreign)}")
        if self.kind == "webhook" and not re.match(r"https?://|env:|file:", self.url or ""):
            raise ValueError('url = "https://…", or a reference to it: "env:NAME", "file:/path"')
        if self.kind == "apprise" and not re.match(r"env:|file:", self.url or ""):
            raise ValueError('url as a reference, "env:NAME" or "file:/path": such addresses hold passwords')
        if self.kind == "mail":
            addresses = [self.sender or "", *self.to]
            if not self.server or not self.to or any(not re.fullmatch(r"[^@\s]+@[^@\s]+", each) for each in addresses):
                raise ValueError('server = "mail.example.org", sender = "a@example.org" and to = ["b@example.org"]')
            if (self.user is None) != (self.password is None):
                raise ValueError("user and password together, or neither")
        return self


class Alertmanager(Section):
    """`[notify.alertmanager]`: where alerts of a host are silenced while work on it is under way."""

    url: WebAddress
    user: str | None = None
    password: SecretReference | None = None
    token: SecretReference | None = None
    instance_label: Name = "instance"


class Notify(Section):
    """`[notify]`: who is told. `pages`: the address under which others open what lies under `outputs`."""

    pages: WebAddress | None = None
    channels: dict[Name, Channel] = Field(default_factory=dict)
    alertmanager: Alertmanager | None = None

    @property
    def references(self) -> tuple[str, ...]:
        """Every secret's reference in it."""
        logins = [each for each in (self.alertmanager,) if each is not None]
        found = [each.url for each in self.channels.values() if each.url and not each.url.startswith("http")]
        found += [each for one in self.channels.values() for each in (one.token, one.password) if each]
        return (*found, *(each for one in logins for each in (one.token, one.password) if each))
