"""Files that are deleted and still open: they give their space back when the owning service opens its files anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from runbooks_lib.facts.deleted_files import DeletedFile
from runbooks_lib.facts.fact import State
from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import on_mount, patient
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Command, Known, NoUndo, Runbook, Step

_LEAST_BYTES = 1024**2


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:  # noqa: ARG001 - what is held is what it is
    """A reload of each service that alone holds deleted files; why not, for the others."""
    if seen.deleted.value is None:
        if seen.deleted.state is not State.ABSENT:
            yield Way("reload-service", "Close deleted files", Safety.RENEWS, refused=seen.deleted.detail)
        return
    held: dict[str, list[DeletedFile]] = defaultdict(list)
    reasons: dict[str, str] = {}
    for file in seen.deleted.value.files:
        if file.device_number != seen.filesystem.device_number or file.allocated_bytes < _LEAST_BYTES:
            continue
        # A service's short child holds what the service holds, and has ended when one looks again.
        holders = [holder for holder in file.holders if holder.pid not in seen.survey.gone]
        if not holders:
            continue
        units = {seen.survey.units.get(holder.pid, ("", False)) for holder in holders}
        who = ", ".join(sorted({f"{holder.name} ({holder.pid})" for holder in holders}))
        (unit, can_reload), *others = sorted(units, reverse=True)
        held[unit or who].append(file)
        if any(holder.name in ("postgres", "postmaster", "mysqld", "mariadbd") for holder in holders):
            reasons[unit or who] = "a database closes the files of dropped tables itself, when idle sessions end"
        elif others:
            reasons[unit] = f"several services hold one file: {who}"
        elif not unit:
            reasons[who] = "it is no service: ask its owner to end it, or end it yourself"
        elif not can_reload:
            reasons[unit] = f"it cannot be reloaded; a restart would give the space back, and stops it: {who}"
    for unit, files in held.items():
        yield Way(
            f"reload-service:{unit}",
            f"Reload {unit}, which holds {len(files)} deleted file{'s' if len(files) > 1 else ''} open, the largest "
            f"once {files[0].path}",
            Safety.RENEWS,
            gain_bytes=sum(file.allocated_bytes for file in files),
            measured="the blocks of the deleted files that it holds open",
            seconds=5,
            undo="none: the files had been deleted before",
            runbook=RUNBOOK.name,
            parameters={"mountpoint": seen.mountpoint, "unit": unit},
            refused=reasons.get(unit, ""),
        )


# Bytes of deleted files on this filesystem that processes of the unit hold open, each file once; status 1 when no
# process of it is found. A process names its group in any version of cgroups, and may be in one below the unit's.
_HELD = """members() {
  for each in /proc/[0-9]*; do
    while IFS=: read -r _ _ path; do
      case $path in "$group" | "$group"/*) printf '%s\\n' "$each"; break ;; esac
    done <"$each/cgroup"
  done 2>/dev/null
}
holding() {
  group=$(systemctl show -p ControlGroup --value -- "$u") && [ -n "${group#/}" ] || return 1
  d=$(stat -c %d -- "$m") && processes=$(members) && [ -n "$processes" ] || return 1
  for process in $processes; do
    for fd in "$process"/fd/*; do
      said=$(stat -L -c '%d %h %i %b %F' -- "$fd" 2>/dev/null) || continue
      case $said in "$d 0 "*' regular file' | "$d 0 "*' regular empty file') printf '%s\\n' "$said" ;; esac
    done
  done | sort -u | awk '{ n += $4 } END { printf "%.0f\\n", n * 512 }'
}
"""


def _unit(known: Known) -> str:
    return on_mount(known) + f"u={word(known.parameters['unit'])}\n{_HELD}"


def _closed(known: Known) -> str:
    return _unit(known) + (
        'systemctl --quiet is-active -- "$u" || cannot_tell "$u is not active"\n'
        'n=$(holding) && [ -n "$n" ] || cannot_tell "what $u holds"\n'
        f'[ "$n" -ge {_LEAST_BYTES} ] || yes "$u holds $n bytes of deleted files"\n'
        'no "$u holds $n bytes of deleted files"\n'
    )


def _may_reload(known: Known) -> str:
    return _unit(known) + (
        '[ "$(systemctl show -p CanReload --value -- "$u")" = yes ] ||'
        ' no "$u cannot be reloaded; a restart would stop it"\n'
        'systemctl --quiet is-active -- "$u" && yes "$u is active and can be reloaded"\nno "$u is not active"\n'
    )


RELOAD = Step(
    name="reload",
    title="Reload the service, so that it opens its files anew",
    why="The files have no name any more; only the process that holds them can give their space back.",
    prechecks=(patient("it can be reloaded", _may_reload),),
    commands=lambda known: [
        Command(f"systemctl reload -- {word(known.parameters['unit'])}\n", str(known.parameters["unit"]), root=True)
    ],
    verify=patient("it holds no deleted file", _closed),
    undo=NoUndo("The files had been deleted before; the reload only closed them.", "nothing.", harmless=True),
    verify_seconds=30,
    deadline_seconds=90,
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    unit = str(parameters["unit"])
    if not unit.endswith(".service") or unit.startswith("-") or "/" in unit:
        return "unit must be the name of a service, such as app.service"
    return filesystem.refuses(parameters)


RUNBOOK = Runbook(
    name="reload-service",
    version="1",
    title="Let a service close files that are deleted",
    purpose="A service holds a deleted file open, mostly an old log, and its space is needed at once.",
    not_when="What stood in the deleted file is still wanted: copy /proc/PID/fd/N away first. Or the service's reload "
    "does more than opening its files anew, and its owner was not asked.",
    takes="Seconds.",
    undo_takes="Nothing has to be undone.",
    parameters=(
        filesystem.MOUNTPOINT,
        Parameter("unit", "str", str, "", "the service's unit, such as app.service"),
    ),
    steps=(RELOAD,),
    refuses=_refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]),),
)
