"""A host that answers from a file: made by wrapping a real host, played back in tests and on another day."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runbooks_lib.errors import RunbookError, UsageError
from runbooks_lib.hosts.host import (
    DEFAULT_DEADLINE_SECONDS,
    DEFAULT_OUTPUT_LIMIT_BYTES,
    Host,
    RecordingMissing,
    Result,
    Script,
)

_FORMAT = "runbooks recording 1"


class RecordedHost:
    """Plays the recording in `path`; with `record`, runs on that host and writes what it said to `path` as well.

    An answer belongs to a script's sha256 and its input. The file is JSON, mode 0600 (a host's answers may hold
    anything); the input itself is not in it, only its sha256. Only results are recorded, no failures.
    """

    def __init__(self, path: Path | str, *, record: Host | None = None) -> None:
        """Raises UsageError when there is nothing to play, or when the file is no recording."""
        self._path = Path(path)
        self._record = record
        self._lock = threading.Lock()
        self._name = record.name if record else ""
        self._answers: dict[str, Any] = {}
        if self._path.exists():
            self._name, self._answers = _read(self._path)
            if record is not None:
                self._name = record.name
        elif record is None:
            raise UsageError("there is no such recording", where=str(self._path), next="record one from a real host")

    def __repr__(self) -> str:
        return f"RecordedHost({str(self._path)!r})"

    @property
    def name(self) -> str:
        return self._name

    def run(
        self,
        script: Script,
        *,
        input: bytes = b"",
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        output_limit_bytes: int = DEFAULT_OUTPUT_LIMIT_BYTES,
    ) -> Result:
        """The recorded answer, or the host's own, then written down. Raises RecordingMissing, or as the host."""
        key = _key(script, input)
        if self._record is not None:
            result = self._record.run(
                script, input=input, deadline_seconds=deadline_seconds, output_limit_bytes=output_limit_bytes
            )
            with self._lock:
                self._answers[key] = {"script": script.name, **_to_json(result)}
                _write(self._path, self._name, self._answers)
            return result
        answer = self._answers.get(key)
        if answer is None:
            same = any(each.startswith(script.sha256) for each in self._answers)
            raise RecordingMissing(
                self._name,
                f"the recording has no answer to {script.name} (sha256 {script.sha256[:12]}…)"
                + (" with this input" if same else ""),
                true_now=f"{self._path} holds {len(self._answers)} answers; no host was asked",
                next="record again: the script or its input has changed since",
            )
        return _from_json(self._name, script, answer, self._path)

    def close(self) -> None:
        """Close the host that is recorded, if any."""
        if self._record is not None:
            self._record.close()


def _key(script: Script, input: bytes) -> str:
    return f"{script.sha256}/{hashlib.sha256(input).hexdigest()}"


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT or not isinstance(document["answers"], dict):
            raise ValueError("it says another format")
        return str(document["host"]), document["answers"]
    except OSError as error:
        raise UsageError(f"the recording cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"this is no recording of a host: {error}", where=str(path), next="record it again") from error


def _write(path: Path, name: str, answers: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    document = {"format": _FORMAT, "host": name, "answers": dict(sorted(answers.items()))}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunbookError(
            f"the recording could not be written: {error.strerror}",
            where=str(path),
            true_now="the recording is as it was; the host has answered",
        ) from error


def _to_json(result: Result) -> dict[str, Any]:
    return {
        "stdout": _bytes_to_json(result.stdout),
        "stderr": _bytes_to_json(result.stderr),
        "exit_status": result.exit_status,
        "signal": result.signal,
        "started": result.started.isoformat(),
        "duration_seconds": round(result.duration_seconds, 6),
        "connected_seconds": round(result.connected_seconds, 6),
    }


def _bytes_to_json(data: bytes) -> str | dict[str, str]:
    """Text where it is text, so that a recording can be read and compared; base64 otherwise."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _from_json(name: str, script: Script, answer: Mapping[str, Any], path: Path) -> Result:
    def data(key: str) -> bytes:
        value = answer[key]
        return value.encode() if isinstance(value, str) else base64.b64decode(value["base64"], validate=True)

    try:
        return Result(
            host=name,
            script_sha256=script.sha256,
            stdout=data("stdout"),
            stderr=data("stderr"),
            exit_status=answer["exit_status"],
            signal=answer["signal"],
            started=datetime.fromisoformat(answer["started"]).astimezone(UTC),
            duration_seconds=float(answer["duration_seconds"]),
            connected_seconds=float(answer["connected_seconds"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the answer to {script.name} is damaged: {error!r}", where=str(path)) from error
