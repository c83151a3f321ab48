"""A replication slot that nobody uses keeps WAL for ever (PostgreSQL manual, "Replication Slots"): it is dropped, and
PostgreSQL removes the WAL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from runbooks_lib.capacity.sentences import amount
from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem, server
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import patient
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Check, Command, Known, NoUndo, Runbook, Step

_NAME = re.compile(r"[a-z0-9_]{1,63}\Z")
_LEAST_BYTES = 32 * 1024**2


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:  # noqa: ARG001 - what a slot keeps is what it is
    """Each inactive slot that keeps WAL on this mount point."""
    for details, settings in server.servers_on(seen):
        for slot in details.slots or ():
            kept = min(slot.retained_bytes or 0, details.wal_bytes or 0)
            if slot.active or kept < _LEAST_BYTES:
                continue
            other, who = server.kept_otherwise(details, settings, but=slot.name)
            gain = kept - other
            yield Way(
                f"drop-slot:{slot.name}",
                f"Drop the inactive {slot.kind} replication slot {slot.name}, for which {amount(kept)} of WAL are kept",
                Safety.LOSES,
                gain_bytes=max(gain, 0),
                measured=f"pg_replication_slots, pg_ls_waldir; {amount(other)} stay for {who}",
                seconds=20,
                undo="none: the standby or subscriber that used it must be made anew",
                runbook=RUNBOOK.name,
                parameters={
                    "mountpoint": seen.mountpoint,
                    "data_directory": details.data_directory,
                    "slot": slot.name,
                },
                refused="" if gain > 0 else f"it would free nothing: {who} keeps {amount(other)} as well",
            )


def _name(known: Known) -> str:
    return f"slot={word(known.parameters['slot'])}\n"


def _slot(known: Known) -> str:
    return server.on_server(known) + _name(known)


_LOOK = 'echo "select active, temporary from pg_replication_slots where slot_name = :\'slot\'" | sql -v slot="$slot"'


def _gone(known: Known) -> str:
    return _slot(known) + (
        f'said=$({_LOOK}) || cannot_tell "which slots there are"\n'
        '[ -n "$said" ] || yes "there is no slot $slot"\nno "the slot $slot is there"\n'
    )


def _unused(known: Known) -> str:
    """Looked at for as long as a standby needs to come back (wal_retrieve_retry_interval is 5 s)."""
    return _slot(known) + (
        "for try in 1 2 3 4 5 6; do\n"
        f'  said=$({_LOOK}) || cannot_tell "whether it is used"\n'
        '  case $said in "f|f") ;; "") no "there is no slot $slot";; *) no "it is active or temporary: $said";; esac\n'
        '  sleep 1\ndone\nyes "nobody used $slot in six looks, a second apart"\n'
    )


_DROP = """echo "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = :'slot'
    and not active" | sql -v slot="$slot" >/dev/null
"""


def _drop(known: Known) -> list[Command]:
    return [
        Command(
            server.to_server(known) + _name(known) + _DROP,
            f"the replication slot {known.parameters['slot']}",
            root=True,
        )
    ]


DROP = Step(
    name="drop",
    title="Drop the replication slot",
    why="Nobody uses it, and as long as it is there every byte of WAL since its last use is kept.",
    prechecks=(Check("nobody uses it", _unused, root=True, deadline_seconds=60),),
    commands=_drop,
    verify=patient("the slot is gone", _gone),
    undo=NoUndo(
        "A slot of the same name can be made again, and the WAL that it kept cannot be brought back.",
        "make the standby anew (pg_basebackup), or the subscription with a new copy of its tables.",
    ),
    point_of_no_return=True,
    deadline_seconds=60,
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    if not _NAME.match(str(parameters["slot"])):
        return "slot must be a slot's name: small letters, digits and _"
    return server.refuses(parameters)


RUNBOOK = Runbook(
    name="drop-slot",
    version="2",
    title="Drop an inactive replication slot, and let PostgreSQL remove its WAL",
    purpose="WAL fills a partition because a slot keeps it that nobody uses.",
    not_when="The standby or subscriber comes back within the hours that are left: then make room another way, for it "
    "must be made anew after this.",
    takes="Seconds, and a checkpoint.",
    undo_takes="It is not undone: the standby is made anew.",
    parameters=(
        filesystem.MOUNTPOINT,
        server.DATA_DIRECTORY,
        Parameter("slot", "str", str, "", "the replication slot's name"),
    ),
    steps=(DROP, server.release("drop")),
    refuses=_refuses,
    touches=server.touches,
)
