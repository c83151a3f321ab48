"""systemd's journal cut to a size: its oldest archived files go (journalctl(1), --vacuum-size)."""

from __future__ import annotations

from collections.abc import Iterator

from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import on_mount, patient
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.step import Command, Known, NoUndo, Runbook, Step

KEEP_MIB = 16
MIB = 1024**2
_ARCHIVED = """sum=0 count=0
for each in /var/log/journal/*/*; do
  case ${each##*/} in *@*.journal | *.journal~) ;; *) continue ;; esac
  [ "$(stat -c %d -- "$each")" = "$(stat -c %d -- "$m")" ] || continue
  blocks=$(stat -c %b -- "$each") && sum=$((sum + blocks * 512)) count=$((count + 1))
done
"""


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:  # noqa: ARG001 - what is archived is what can go
    """The archived files above what is kept."""
    archived = sum(file.allocated_bytes for file in seen.survey.journal if file.archived)
    gain = archived - KEEP_MIB * MIB
    if gain < MIB:
        return
    yield Way(
        "vacuum-journal",
        f"Cut the journal's archived files to {KEEP_MIB} MiB",
        Safety.LOSES,
        gain_bytes=gain,
        measured="the archived files' blocks in /var/log/journal",
        seconds=5,
        undo="none: the oldest entries are gone",
        runbook=RUNBOOK.name,
        parameters={"mountpoint": seen.mountpoint, "keep_mib": KEEP_MIB},
        refused="" if "journalctl" in seen.survey.tools else "journalctl is not installed on the host",
    )


def _small(known: Known) -> str:
    keep = int(known.parameters["keep_mib"]) * MIB
    return (
        on_mount(known)
        + _ARCHIVED
        + f'[ $sum -le {keep} ] && yes "$count archived files hold $sum bytes"\n'
        + 'no "$count archived files hold $sum bytes"\n'
    )


def _there(known: Known) -> str:
    return (
        on_mount(known)
        + """[ -d /var/log/journal ] || no "this host keeps no journal on disk"
command -v journalctl >/dev/null || no "journalctl is not installed"
yes "the journal is kept in $(readlink -f /var/log/journal)"
"""
    )


def _vacuum(known: Known) -> list[Command]:
    # No --rotate: a new active file would want space on the full disk.
    text = f"journalctl --vacuum-size={int(known.parameters['keep_mib'])}M </dev/null\n"
    return [Command(text, "the oldest archived files of the journal", root=True)]


VACUUM = Step(
    name="vacuum",
    title="Remove the journal's oldest archived files",
    why="What is archived is not written to any more, and the newest entries stay.",
    prechecks=(patient("there is a journal", _there),),
    commands=_vacuum,
    verify=patient("the archived files are small", _small),
    undo=NoUndo(
        "The oldest log entries are gone.",
        "ask the log server, if there is one; next time set SystemMaxUse= in journald.conf before the disk is full.",
    ),
    deadline_seconds=120,
)

RUNBOOK = Runbook(
    name="vacuum-journal",
    version="1",
    title="Cut systemd's journal to a size",
    purpose="The journal's archived files take space that is needed at once.",
    not_when="The log entries of the last days are evidence that somebody will ask for, and no log server has them.",
    takes="Seconds.",
    undo_takes="It is not undone: the entries are gone.",
    parameters=(
        filesystem.MOUNTPOINT,
        Parameter(
            "keep_mib",
            "int",
            int,
            KEEP_MIB,
            "what archived files may still hold, 1 to 100000 MiB",
            lowest=1,
            highest=100000,
        ),
    ),
    steps=(VACUUM,),
    refuses=filesystem.refuses,
    touches=lambda parameters: (str(parameters["mountpoint"]),),
)
