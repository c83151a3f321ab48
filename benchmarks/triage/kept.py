"""What a host and its services said, kept as JSON and played again: the rules can be asked anew without the host.

An answer belongs to a script's name and what was asked of it. The nonce of the new question takes the place of the old
one in the text, so that the same parsers read it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib.config import Config, HostEntry
from runbooks_lib.diagnosis import triage
from runbooks_lib.diagnosis.baseline import Baseline
from runbooks_lib.diagnosis.scene import Scene
from runbooks_lib.facts.fact import Fact, State
from runbooks_lib.facts.services import Agents, BuildQueue, ServiceAnswer, TeamCityServer
from runbooks_lib.hosts.host import Host, HostError, HostUnreachable, Result, Script

_KINDS = {"queue": BuildQueue, "agents": Agents, "server": TeamCityServer}
_TIMES = {"oldest", "started", "now"}


class Recorder:
    """A host that keeps what it said: `answers` by what was asked. An error is kept by its words."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.answers: dict[str, dict[str, Any]] = {}

    @property
    def name(self) -> str:
        return self.host.name

    def run(self, script: Script, *, input: bytes = b"", **how: Any) -> Result:
        try:
            result = self.host.run(script, input=input, **how)
        except HostError as error:
            self.answers[_key(script, input)] = {"error": error.what, "kind": error.kind}
            raise
        self.answers[_key(script, input)] = {
            "nonce": _nonce(input),
            "stdout": result.stdout.decode("utf-8", "backslashreplace").split("\n"),
            "started": result.started.isoformat(),
            "seconds": round(result.duration_seconds, 3),
        }
        return result

    def close(self) -> None:
        self.host.close()


class Player:
    """A host that says what was kept."""

    def __init__(self, name: str, answers: dict[str, dict[str, Any]]) -> None:
        self.name, self.answers = name, answers

    def run(self, script: Script, *, input: bytes = b"", **_: Any) -> Result:
        kept = self.answers.get(_key(script, input))
        if kept is None or "error" in kept:
            raise HostUnreachable(self.name, kept["error"] if kept else f"nothing was kept of {_key(script, input)}")
        text = "\n".join(kept["stdout"]).replace(kept["nonce"], _nonce(input))
        started = datetime.fromisoformat(kept["started"])
        return Result(self.name, script.sha256, text.encode(), b"", 0, None, started, kept["seconds"])

    def close(self) -> None:
        pass


def _nonce(input: bytes) -> str:
    return input.split(b"\n", 1)[0].decode()


def _key(script: Script, input: bytes) -> str:
    asked = [line for line in input.decode().split("\n")[1:] if line.startswith(("ask ", "mount /"))]
    return " ".join([script.name, *asked])


def as_json(name: str, faults: tuple[str, ...], scene: Scene, recorder: Recorder) -> str:
    """One case: its name, its faults, and everything that was said."""
    services = [
        {
            "name": each.name,
            "address": "http://127.0.0.1",
            **{kind: _fact_to_json(getattr(each, kind)) for kind in _KINDS},
        }
        for each in scene.services
    ]
    document = {
        "case": name,
        "faults": faults,
        "now": scene.now.isoformat(),
        "seconds": round(scene.seconds, 1),
        "services": services,
        "answers": recorder.answers,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def from_json(
    text: str, config: Config, entry: HostEntry, baseline: Baseline | None = None
) -> tuple[str, tuple[str, ...], Scene]:
    """The case's name, faults and scene; without a past unless `baseline` is given."""
    document = json.loads(text)
    scene = triage.read_scene(
        config, replace(entry, services=()), opened=Player(entry.name, document["answers"]),
        now=datetime.fromisoformat(document["now"]),
    )  # fmt: skip
    services = tuple(
        ServiceAnswer(row["name"], row["address"], **{kind: _fact_from_json(kind, row[kind]) for kind in _KINDS})
        for row in document["services"]
    )
    scene = replace(scene, services=services, seconds=document["seconds"], baseline=baseline or scene.baseline)
    return document["case"], tuple(document["faults"]), scene


def load(path: Path, config: Config) -> tuple[str, tuple[str, ...], Scene]:
    """`from_json` of a file, with the only host of the inventory."""
    (entry,) = config.select()
    return from_json(path.read_text(), config, entry)


def _fact_to_json(fact: Fact[Any]) -> dict[str, Any]:
    if fact.value is None:
        return {"state": fact.state, "detail": fact.detail}
    fields = fact.value.__slots__
    values = {name: getattr(fact.value, name) for name in fields}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def _fact_from_json(kind: str, row: dict[str, Any]) -> Fact[Any]:
    if "state" in row:
        return Fact(State(row["state"]), None, row["detail"])
    values = {
        name: datetime.fromisoformat(value).astimezone(UTC) if name in _TIMES and value else value
        for name, value in row.items()
    }
    return Fact(State.AVAILABLE, _KINDS[kind](**values))
