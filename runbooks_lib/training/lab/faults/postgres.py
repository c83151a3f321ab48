"""Faults inside PostgreSQL: everybody waits for somebody."""

from __future__ import annotations

from runbooks_lib.training.lab.faults.fault import Fault, Observation, held, hold, let_go, until
from runbooks_lib.training.lab.faults.sql import psql
from runbooks_lib.training.lab.machine import Machine

WAITERS = 6
_PSQL = "exec psql --quiet --no-psqlrc buildserver"


def _locks_in(machine: Machine) -> None:
    # The one in front is a schema change that somebody began and left open, as they really come about.
    holder = "begin; lock table builds in access exclusive mode; select pg_sleep(3600)"  # it does not idle: it "works"
    waiter = "update builds set agent = agent where id = 0"
    machine.sh(hold("lock-holder", f'{_PSQL} -c "{holder}"', user="postgres"))
    until(machine, _lock_held, "the lock is not held", 30)
    machine.sh("".join(hold(f"lock-waiter-{n}", f'{_PSQL} -c "{waiter}"', user="postgres") for n in range(WAITERS)))
    until(machine, _locks_seen, "nobody waits", 60)


def _lock_held(machine: Machine) -> Observation:
    said = psql(
        machine,
        "select count(*) from pg_locks where relation = 'builds'::regclass"
        " and mode = 'AccessExclusiveLock' and granted",
    ).strip()
    return Observation(said == "1", f"pg_locks: {said} exclusive lock")


def _locks_seen(machine: Machine) -> Observation:
    said = psql(machine, "select count(*) from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0").strip()
    return Observation(int(said) >= WAITERS, f"pg_blocking_pids: {said} sessions wait for another")


def _locks_out(machine: Machine) -> None:
    machine.sh(
        'runuser -u postgres -- psql --quiet --no-psqlrc --output /dev/null -c "select pg_terminate_backend(pid) from'
        " pg_stat_activity where query like '%lock table builds%' and pid <> pg_backend_pid()\"\n"
        + "".join(let_go(f"lock-waiter-{n}") for n in range(WAITERS))
        + let_go("lock-holder")
    )


def _idle_in(machine: Machine) -> None:
    session = '(echo "begin; update builds set agent = agent where id = 0; select txid_current();"; sleep infinity)'
    machine.sh(hold("idle-transaction", f"{session} | {_PSQL.removeprefix('exec ')} > /dev/null", user="postgres"))
    until(machine, _idle_seen, "the transaction is not there", 30)


def _idle_seen(machine: Machine) -> Observation:
    said = psql(
        machine,
        "select count(*) || ' ' || coalesce(max(extract(epoch from now() - xact_start))::int, 0)"
        " from pg_stat_activity where state = 'idle in transaction' and application_name = 'psql'",
    ).split()
    running = machine.sh(held("idle-transaction"), changes=False).strip()
    return Observation(
        int(said[0]) > 0 and running == "active", f"pg_stat_activity: {said[0]} idle in a transaction for {said[1]} s"
    )


def _idle_out(machine: Machine) -> None:
    machine.sh(let_go("idle-transaction"))


FAULTS = (
    Fault("lock-pile-up", "a forgotten schema change holds a lock and everybody waits", _locks_in, _locks_seen,
          _locks_out),
    Fault("idle-transaction", "a session went to lunch inside a transaction", _idle_in, _idle_seen, _idle_out),
)  # fmt: skip
