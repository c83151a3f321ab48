"""The HTTP API of a Prometheus-compatible server: questions with a deadline, answers checked, errors in words.

Only what Prometheus, VictoriaMetrics, Thanos and Mimir all answer: /api/v1/query, query_range and series
(prometheus.io/docs/prometheus/latest/querying/api).
"""

from __future__ import annotations

import http.client
import json
import math
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runbooks_lib.history.model import Floats, HistoryError
from runbooks_lib.web import Server, ServerError

DEFAULT_TIMEOUT_SECONDS = 60.0
# The servers refuse more points than this for one series ("exceeded maximum resolution of 11,000 points").
MAX_POINTS = 11_000
_MAX_ANSWER_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Vector:
    """One series of an answer: its labels (`__name__` among them when the server gave it), times in seconds, values."""

    labels: Mapping[str, str]
    times: Floats
    values: Floats


class PrometheusApi:
    """Questions to one server. `user` with `password`, or `token`, are sent only over TLS or to this machine itself;
    both are references (`env:NAME`, `file:path`). Certificates are always checked. Redirects are not followed: they
    would carry the secret elsewhere.

    Every question raises HistoryError, which says what the server or the network answered.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self._server = Server(
            url,
            user=user,
            password=password,
            token=token,
            timeout_seconds=timeout_seconds,
            most_bytes=_MAX_ANSWER_BYTES,
        )
        self.url = self._server.url
        self.warnings: list[str] = []  # what the server added to its answers, such as that they are not complete

    def query(self, expression: str, *, time: float) -> list[Vector]:
        """The expression's value for each series at one time."""
        answer = self._ask("query", {"query": expression, "time": f"{time:.3f}"})
        return _vectors(answer, self.url, "value")

    def query_range(self, expression: str, *, start: float, end: float, step: int) -> list[Vector]:
        """The expression's values from start to end, every `step` seconds; in several questions where there are more
        points than a server gives at once."""
        span = step * (MAX_POINTS - 1)
        merged: dict[tuple[tuple[str, str], ...], list[Vector]] = {}
        while start <= end:
            until = min(end, start + span)
            answer = self._ask(
                "query_range",
                {"query": expression, "start": f"{start:.3f}", "end": f"{until:.3f}", "step": str(step)},
            )
            for vector in _vectors(answer, self.url, "values"):
                merged.setdefault(tuple(sorted(vector.labels.items())), []).append(vector)
            start += span + step
        return [
            Vector(
                parts[0].labels,
                np.concatenate([part.times for part in parts]),
                np.concatenate([part.values for part in parts]),
            )
            for parts in merged.values()
        ]

    def series(self, matcher: str, *, start: float, end: float) -> list[dict[str, str]]:
        """The labels of every series that matches and had a value between start and end."""
        answer = self._ask("series", {"match[]": matcher, "start": f"{start:.3f}", "end": f"{end:.3f}"})
        if not isinstance(answer, list) or not all(isinstance(labels, dict) for labels in answer):
            raise _odd(self.url, "a list of series was expected")
        return answer

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _ask(self, what: str, parameters: Mapping[str, str]) -> Any:
        try:
            body = urllib.parse.urlencode(parameters).encode()
        except UnicodeEncodeError as error:
            raise HistoryError("the question holds a name that is not Unicode", where=self.url) from error
        address = f"{self.url}/api/v1/{what}"
        try:
            status, text = self._server.exchange("POST", address, body)
            if status == http.client.METHOD_NOT_ALLOWED:
                # A proxy that lets nothing but reading through.
                status, text = self._server.exchange("GET", f"{address}?{body.decode()}")
        except ServerError as error:
            raise HistoryError(error.what, where=error.where, next=error.next) from error
        return self._checked(status, text)

    def _checked(self, status: int, text: bytes) -> Any:
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise HistoryError(
                f"the server refused the login (HTTP {status})",
                where=self.url,
                next="check user and password, or token, under [history]",
            )
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and answer.get("status") == "error":
            raise HistoryError(f"the server says: {str(answer.get('error'))[:500]} (HTTP {status})", where=self.url)
        if status != http.client.OK:
            raise HistoryError(
                f"the server answered HTTP {status}",
                where=self.url,
                next="does /api/v1/query answer under this address? VictoriaMetrics clusters and Mimir need a path",
            )
        if not isinstance(answer, dict) or answer.get("status") != "success" or "data" not in answer:
            raise _odd(self.url, "an answer of the Prometheus API was expected")
        self.warnings += [str(warning) for warning in answer.get("warnings") or [] if warning not in self.warnings]
        return answer["data"]


def quoted(text: str) -> str:
    """The text as a PromQL string."""
    escaped = "".join(_ESCAPES.get(character, character) for character in text)
    return f'"{escaped}"'


def quoted_pattern(text: str) -> str:
    """A regular expression (RE2) that matches exactly the text; to be quoted like any other text."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x00": "\\x00"}


def _vectors(answer: Any, url: str, member: str) -> list[Vector]:
    try:
        found = []
        for one in answer["result"]:
            points = one[member] if member == "values" else [one[member]]
            times = np.array([point[0] for point in points], dtype=np.float64)
            values = np.array([point[1] for point in points], dtype=np.float64)
            found.append(Vector(one["metric"], times, values))
        return found
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _odd(url, f"series were expected ({type(error).__name__}: {error})") from error


def _odd(url: str, expected: str) -> HistoryError:
    return HistoryError(f"the server's answer is not understood: {expected}", where=url)


def steps(span_seconds: float, *, least: int) -> int:
    """A step (whole minutes, not below `least` seconds) with which the span fits into one answer."""
    return max(least, math.ceil(span_seconds / (MAX_POINTS - 1) / 60) * 60)
