"""Marks by which a test finds its own processes."""

from __future__ import annotations

import secrets


def mark() -> str:
    """`RB_MARK=…` for a process's environment."""
    return f"RB_MARK={secrets.token_hex(12)}"
