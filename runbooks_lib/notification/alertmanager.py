"""Silences in Alertmanager, by its API v2 (prometheus.io/docs/alerting/latest/alerts_api): begun, looked at, ended."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from runbooks_lib.config import Notify
from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.web import Server

_TIMEOUT_SECONDS = 15.0
_ID = re.compile(r"[0-9A-Za-z-]{1,100}")


@dataclass(frozen=True)
class Silence:
    """One silence. `state` is active, pending or expired; `matchers` as people write them, `instance=~"db-01.*"`."""

    id: str
    state: str
    starts: datetime
    ends: datetime
    matchers: str
    comment: str
    author: str


class Silences:
    """The silences of one Alertmanager. Every method raises RunbookError with what the server said."""

    def __init__(self, server: Server, instance_label: str) -> None:
        self._server, self._label = server, instance_label

    @classmethod
    def of(cls, settings: Notify) -> Silences:
        """Those of the inventory's Alertmanager. Raises UsageError when it names none."""
        chosen = settings.alertmanager
        if chosen is None:
            raise UsageError(
                "the inventory names no Alertmanager",
                true_now="nothing was silenced",
                next="add [notify.alertmanager] with its url",
            )
        server = Server(
            chosen.url,
            user=chosen.user,
            password=chosen.password,
            token=chosen.token,
            timeout_seconds=_TIMEOUT_SECONDS,
        )
        return cls(server, chosen.instance_label)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._server.url

    def begin(
        self, instance: str, *, start: datetime, end: datetime, comment: str, author: str, occasion: str = ""
    ) -> str:
        """Silence every alert of one host from `start` to `end`, whatever port its exporter has; returns the id.
        `active` finds it by its `occasion`, which stands in square brackets at the comment's end."""
        asked = {
            "matchers": [
                {"name": self._label, "value": f"{_pattern(instance)}(:[0-9]+)?", "isRegex": True, "isEqual": True}
            ],
            "startsAt": _time(start),
            "endsAt": _time(end),
            "createdBy": author,
            "comment": f"{comment} [{occasion}]" if occasion else comment,
        }
        answer = self._ask("POST", "silences", asked)
        if not isinstance(answer, dict) or "silenceID" not in answer:
            raise _odd(self.url)
        return str(answer["silenceID"])

    def find(self, number: str) -> Silence | None:
        """One silence, expired ones too while the server remembers them; None when it does not."""
        raw = self._ask("GET", f"silence/{_checked(number)}", absent_is_none=True)
        return None if raw is None else _silence(raw, self.url)

    def active(self, occasion: str | None = None, *, instance: str | None = None, minutes: float = 0) -> list[Silence]:
        """Those in force or to come, the one that ends first at the top; with `occasion` only its own, with `instance`
        those that `begin` made for that host, and only those that were made for so many minutes or more."""
        answer = self._ask("GET", "silences")
        if not isinstance(answer, list):
            raise _odd(self.url)
        found = [_silence(raw, self.url) for raw in answer]
        host = None if instance is None else f'{self._label}=~"{_pattern(instance)}(:[0-9]+)?"'
        mine = (
            each
            for each in found
            if (occasion is None or each.comment.endswith(f"[{occasion}]"))
            and host in (None, each.matchers)
            and (each.ends - each.starts).total_seconds() > 60 * minutes - 1
        )
        return sorted((each for each in mine if each.state != "expired"), key=lambda each: each.ends)

    def end(self, number: str) -> None:
        """End one now; one that has ended, or that the server has forgotten, is fine."""
        found = self.find(number)
        if found is not None and found.state != "expired":
            self._ask("DELETE", f"silence/{_checked(number)}")

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, absent_is_none: bool = False
    ) -> Any:
        status, text = self._server.exchange(
            method,
            f"{self.url}/api/v2/{path}",
            None if body is None else json.dumps(body).encode(),
            {} if body is None else {"Content-Type": "application/json"},
        )
        if status == 404 and absent_is_none:
            return None
        if not 200 <= status < 300:
            said = text[:300].decode("utf-8", "replace").strip()
            raise RunbookError(f"Alertmanager answered HTTP {status}: {said or 'nothing'}", where=self.url)
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            raise _odd(self.url) from None


def _pattern(text: str) -> str:
    """A regular expression (RE2, anchored by Alertmanager) that matches exactly the text."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def _checked(number: str) -> str:
    if not _ID.fullmatch(number):
        raise UsageError(f"{number!r} is no silence's id", next="runbook notify silence --list")
    return quote(number)


# By whether the value is a regular expression, and whether it has to match (absent, in old versions: it has).
_OPERATORS = {(False, True): "=", (True, True): "=~", (False, False): "!=", (True, False): "!~"}


def _silence(raw: Any, url: str) -> Silence:
    try:
        matchers = ", ".join(
            f'{each["name"]}{_OPERATORS[bool(each["isRegex"]), bool(each.get("isEqual", True))]}"{each["value"]}"'
            for each in raw["matchers"]
        )
        return Silence(
            str(raw["id"]),
            str(raw["status"]["state"]),
            datetime.fromisoformat(raw["startsAt"]),
            datetime.fromisoformat(raw["endsAt"]),
            matchers,
            str(raw["comment"]),
            str(raw["createdBy"]),
        )
    except (KeyError, TypeError, ValueError):
        raise _odd(url) from None


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _odd(url: str) -> RunbookError:
    return RunbookError("the server's answer is not understood: is it an Alertmanager (API v2)?", where=url)
