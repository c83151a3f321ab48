"""An archiver that fails keeps every segment (PostgreSQL manual, "Continuous Archiving"): the command is mended, then
PostgreSQL archives and removes the WAL itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runbooks_lib.capacity.sentences import amount
from runbooks_lib.parameters import Parameter
from runbooks_lib.procedures.storage import filesystem, server
from runbooks_lib.procedures.storage.seen import Seen
from runbooks_lib.procedures.storage.shell import PATIENT_SECONDS, patient
from runbooks_lib.procedures.storage.way import Safety, Way
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.step import Command, Known, Read, Runbook, Step, Undo


def ways(seen: Seen, want_bytes: int) -> Iterator[Way]:  # noqa: ARG001 - what waits is what waits
    """Each failing archiver whose WAL lies on this mount point."""
    for details, settings in server.servers_on(seen):
        archiver = details.archiver
        if archiver is None or not archiver.failing:
            continue
        kept = min((archiver.waiting or 0) * int(settings["segment"]), details.wal_bytes or 0)
        other, who = server.kept_otherwise(details, settings, but="the archiver")
        altered = settings["altered"] is not None and settings["written"] not in (None, settings["altered"])
        refused = (
            f"its command is the one of the configuration and fails at {archiver.last_failed_wal}: mend what it calls "
            f"({settings['command']}), or give one that works: runbook run {RUNBOOK.name} -p archive_command=…"
        )
        yield Way(
            f"mend-archiver:{details.data_directory}",
            f"Let archiving work again with the configured command ({settings['written']}); ALTER SYSTEM had set one "
            "that fails",
            Safety.KEEPS,
            gain_bytes=max(kept - other, 0),
            measured=f"{archiver.waiting} segments wait to be archived; {amount(other)} stay for {who}",
            seconds=30,
            undo="the command of before is set again; what was archived meanwhile stays archived",
            runbook=RUNBOOK.name,
            parameters={
                "mountpoint": seen.mountpoint,
                "data_directory": details.data_directory,
                "archive_command": "",
            },
            refused="" if altered else refused,
        )


def _settings(answer: bytes) -> dict[str, str | None]:
    """The archive command: as it is, as the files say, as ALTER SYSTEM said. Raises ValueError."""
    said = json.loads(answer)
    return {name: said[name] for name in ("command", "written", "altered")}


_READ = Read(
    "settings",
    lambda known: server.on_server(known) + 'settings_of "$data"\n',
    _settings,
    root=True,
    deadline_seconds=PATIENT_SECONDS,
)


def _wanted(known: Known) -> str:
    return str(known.parameters["archive_command"]) or str(known.before["settings"]["written"] or "")


_HOW_IT_GOES = """now=$(sql -c 'show archive_command') || cannot_tell 'which command is set'
[ "$now" = "$wanted" ] || no "the command is: $now"
said=$(sql -F ' ' -c "select coalesce(last_archived_time > last_failed_time, last_failed_time is null),
    failed_count, last_failed_wal, archived_count from pg_stat_archiver") || cannot_tell "how archiving goes"
case $said in t*) yes "archiving works: $said (failed, last failed, archived)";; esac
no "archiving has not worked yet: $said (failed, last failed, archived)"
"""


def _works(known: Known) -> str:
    return server.on_server(known) + f"wanted={word(_wanted(known))}\n" + _HOW_IT_GOES


def _another(known: Known) -> str:
    return server.on_server(known) + (
        f"wanted={word(_wanted(known))} now={word(str(known.before['settings']['command']))}\n"
        '[ -n "$wanted" ] || no "the configuration files set no archive_command: give one"\n'
        '[ "$now" != "$wanted" ] || no "this is the command that fails: mend what it calls, or give another one"\n'
        '[ "$(sql -c "show archive_mode")" != off ] || no "archive_mode is off"\n'
        'yes "it fails with: $now"\n'
    )


def _set(known: Known, value: str | None) -> list[Command]:
    change = "alter system reset archive_command" if value is None else "alter system set archive_command = :'command'"
    text = server.to_server(known) + (
        f'echo "{change}" | sql -v command={word(value or "")} && sql -c "select pg_reload_conf()" >/dev/null\n'
    )
    return [Command(text, "archive_command in postgresql.auto.conf", root=True)]


_ALTERED = """now=$(sql -c "select coalesce((select setting from pg_file_settings where name = 'archive_command'
    and sourcefile like '%/postgresql.auto.conf' order by seqno desc limit 1), 'nothing is set')") ||
  cannot_tell 'what ALTER SYSTEM says'
[ "$now" = "$was" ] && yes "ALTER SYSTEM says as before: $was"
no "ALTER SYSTEM says: $now"
"""


def _as_before(known: Known) -> str:
    before = known.before["settings"]["altered"]
    return server.on_server(known) + f"was={word('nothing is set' if before is None else before)}\n" + _ALTERED


MEND = Step(
    name="mend",
    title="Set an archive command that works",
    why="Every segment is kept until it is archived: the archive is the cause, the files are only what one sees.",
    reads=(_READ,),
    prechecks=(patient("it is another command than the one that fails", _another),),
    commands=lambda known: _set(known, str(known.parameters["archive_command"]) or None),
    verify=patient("archiving works", _works),
    undo=Undo(
        lambda known: _set(known, known.before["settings"]["altered"]),
        patient("the setting is as before", _as_before),
        takes="a second",
    ),
    verify_seconds=120,
    deadline_seconds=180,
)


def _refuses(parameters: Mapping[str, Any]) -> str:
    command = str(parameters["archive_command"])
    if command and "%p" not in command:
        return "archive_command must name the file with %p: one that archives nothing breaks every backup, silently"
    return server.refuses(parameters)


RUNBOOK = Runbook(
    name="mend-archiver",
    version="2",
    title="Mend the archive command, and let PostgreSQL archive and remove its WAL",
    purpose="WAL fills a partition because archive_command fails.",
    not_when="The command is right and its target is full or away: mend the target, nothing here is needed then.",
    takes="Seconds, and as long as the archive takes for what waits.",
    undo_takes="A second; what was archived stays archived.",
    parameters=(
        filesystem.MOUNTPOINT,
        server.DATA_DIRECTORY,
        Parameter("archive_command", "str", str, "", "one that works, with %p; empty: that of the configuration files"),
    ),
    steps=(MEND, server.release("mend")),
    refuses=_refuses,
    touches=server.touches,
)
