"""What an approval is for: one number over everything that would happen, and to whom."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(value: Any) -> str:
    """JSON in one form only: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 over the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


def run_key(runbook: str, version: str, parameters: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """What makes two runs the same work: runbook, version, parameters, host."""
    return digest({"runbook": runbook, "version": version, "parameters": dict(parameters), "identity": dict(identity)})
