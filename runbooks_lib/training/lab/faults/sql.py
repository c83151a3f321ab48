"""Statements in the practice machine's database, through its own psql."""

from __future__ import annotations

from runbooks_lib.training.lab.machine import Machine


def psql(machine: Machine, *statements: str, database: str = "buildserver", deadline_seconds: float = 60.0) -> str:
    """Run statements one after another as the database's administrator; returns their rows, tab-separated."""
    arguments = " ".join("-c '" + statement.replace("'", "'\\''") + "'" for statement in statements)
    return machine.sh(
        "cd / && runuser -u postgres -- psql --quiet --no-psqlrc --tuples-only --no-align --field-separator '\t'"
        f" --set ON_ERROR_STOP=1 {database} {arguments}",
        deadline_seconds=deadline_seconds,
    )
