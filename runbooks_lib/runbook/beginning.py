"""The beginning of a run: approval, journal, the host's lock, and the plan once more under the lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from runbooks_lib.errors import RunbookError
from runbooks_lib.runbook import lock as locks
from runbooks_lib.runbook import runs, words
from runbooks_lib.runbook.journal import Journal, nobody_holds
from runbooks_lib.runbook.operator import who
from runbooks_lib.runbook.plan import Plan, differences
from runbooks_lib.runbook.run import Options, Refused, Run, Target


def begin(target: Target, options: Options, plan: Plan) -> Run:
    """Begin a new run of this plan: approval, journal, lock, and the plan once more under the lock.

    Raises Refused (nothing was run) when the approval is for another plan, when a step is blocked, or when the host
    changed meanwhile; HostBusy when another run has the host.
    """
    if plan.blocked:
        raise Refused(
            f"`{plan.blocked[0].name}` is blocked: {plan.blocked[0].because}",
            where=target.host.name,
            true_now="nothing was run",
            next="mend that, then look at the plan again",
        )
    if options.approve is not None and options.approve != plan.digest:
        raise Refused(
            "the approval is for another plan than the one that the host's state gives now",
            where=target.host.name,
            true_now=_other_plan(options, plan),
            next="read the plan, and approve its digest if it is what you want",
        )
    journal = Journal.create(options.runs / runs.new_name(target.runbook.name, target.host.name))
    asked = False
    try:
        operator = who(target.host)
        journal.append(
            "begin",
            key=target.key,
            runbook=target.runbook.name,
            version=target.runbook.version,
            title=target.runbook.title,
            says=target.runbook.says,
            titles={step.name: step.title for step in target.runbook.steps},
            parameters=target.parameters,
            identity=target.identity.as_data(),
            host=target.host.name,
            who=operator,
            digest=plan.digest,
            promised=plan.promised(),
            again=options.again or "",
        )
        how = {"digest": options.approve} if options.approve else {"digest": plan.digest, "guided": True}
        journal.append("approval", by=operator["user"], **how)
        asked = True
        lock = take_lock(target, options, journal)
    except BaseException as error:
        if asked and not isinstance(error, locks.HostBusy):
            with suppress(RunbookError):
                _give_back(target, options, journal.path.parent.name)
        with suppress(RunbookError):
            journal.append("finished", outcome="not begun")
        journal.close()
        raise
    run = Run(target, options, journal, lock)
    try:
        now = target.plan()
        if now.digest != plan.digest:
            found = differences(plan.promised(), now.promised())
            raise Refused(
                "the host has changed since the plan was made",
                where=target.host.name,
                true_now="nothing was run; what differs:\n" + "\n".join(f"    {line}" for line in found),
                next="look at the new plan",
            )
        if options.on_begin is not None:
            options.on_begin(run)
    except BaseException:
        with suppress(RunbookError):
            run.finish("not begun")
        run.let_go()
        raise
    return run


def _give_back(target: Target, options: Options, run: str) -> None:
    """The lock may have been taken although no answer came: the connection was cut, or Ctrl-C was faster."""
    found = locks.look(target.host, options.places)
    if found is not None and found.run == run and not found.free:
        locks.release(target.host, locks.Lock(found.token, options.places))


def _other_plan(options: Options, plan: Plan) -> str:
    """What differs from the plan that was approved, if it was made here; else the plan as it is now."""
    then = runs.kept_plan(options.runs, options.approve or "")
    if then is None:
        return f"nothing was run; approved was {options.approve}, the plan now is:\n{words.plan_text(plan)}"
    found = "\n".join(f"  {line}" for line in differences(then, plan.promised()))
    return f"nothing was run; what differs from the approved plan:\n{found}\nthe digest now: {plan.digest}"


@contextmanager
def _dead(options: Options, name: str) -> Iterator[bool]:
    """Whether the run of this name is one of this machine that left nothing half done and that no process holds: it
    ended without an answer to its giving the host back. Nobody carries on with it as long as the block runs."""
    directory = next((each for each in runs.directories(options.runs) if each.name == name), None)
    if directory is None:
        yield False
        return
    with nobody_holds(directory) as free:
        try:
            dead = free and not runs.state_of(directory).half_done
        except RunbookError:
            dead = False
        yield dead


def take_lock(target: Target, options: Options, journal: Journal) -> locks.Lock:
    """The host's lock for a journal's run, recorded. One that a dead run of this machine has left is taken again.

    Raises HostBusy, HostError, RunbookError.
    """
    operator = who(target.host)
    acquire = partial(
        locks.acquire,
        target.host,
        options.places,
        who=f"{operator['user']}@{operator['machine']}",
        run=journal.path.parent.name,
        runbook=target.runbook.name,
        take_over=options.take_over,
    )
    try:
        lock = acquire()
    except locks.HostBusy as busy:
        with _dead(options, busy.holder.run) as dead:
            if not dead:
                raise
            lock = acquire(dead=busy.holder.token)
    journal.append("locked", taken_over=lock.taken_over.words if lock.taken_over else "")
    return lock
