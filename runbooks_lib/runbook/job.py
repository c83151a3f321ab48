"""A long command, detached: it runs on the host in a session of its own, whoever is connected.

Under a running systemd, root's jobs are units (`systemd-run`), which also survive a logout where logind kills what a
user leaves behind; otherwise `setsid`. The record's directory (0700) holds the script, `group`, `log` (the first 256
KiB of both streams) and, in the end, `status`. Asking how it is, and ending it, need nothing but the host.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.host import Host, Script
from runbooks_lib.hosts.wrapper import end_group_script
from runbooks_lib.runbook.change import CLAIM, RECORDS, STARTED, Became, record_line, settle
from runbooks_lib.runbook.lock import LOST_STATUS, Lock
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Command

LOG_BYTES = 256 * 1024  # Debian's /run/lock holds 5 MiB, for everybody
# dd writes each piece that it reads at once, so the log can be followed; what comes after its end is let go, not
# refused: a job must not die of having said much. Left-over children that hold the output keep the job running.
# The status gets its block before the job begins, and is written into it: by its end the log may have filled the disk.
_MAIN = f"""umask 077
echo '   ' >"$record/status.part" || exit 96
{STARTED}{CLAIM}umask "$mask"
{{ (eval "$text"); x=$?; echo "$x" 1<>"$record/status.part"; }} </dev/null 2>&1 |
  {{ (umask 077; exec dd bs=1024 count={LOG_BYTES // 1024} of="$record/log" 2>/dev/null); cat >/dev/null; }}
read -r x <"$record/status.part" && [ -n "$x" ] && mv -f -- "$record/status.part" "$record/status"
"""
_START = """[ ! -e "$record/group" ] || { echo there; exit 0; }
if [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ] && command -v systemd-run >/dev/null; then
  printf '%s\\n' "$unit" >"$record/unit"
  systemd-run --quiet --collect --unit="$unit" /bin/sh "$record/job" </dev/null || exit 96
elif command -v setsid >/dev/null; then
  setsid /bin/sh "$record/job" </dev/null >/dev/null 2>&1 &
else echo "the host has neither a running systemd nor setsid" >&2; exit 96
fi
i=0; while [ ! -s "$record/group" ] && [ $i -lt 50 ]; do i=$((i+1)); sleep 0.1 2>/dev/null || sleep 1; done
[ -s "$record/group" ] || { echo "it did not start within 5 s" >&2; exit 96; }
echo started
"""
_LOOK = """g=0 s=0; { read -r g s <"$record/group"; } 2>/dev/null
ended() { [ -s "$record/status" ] && read -r x <"$record/status" && state="ended $x"; }
if ! ended; then
  if [ "$g" = 0 ]; then state="none 0"
  elif [ "$(started "$g" 2>/dev/null)" = "$s" ]; then state="running 0"
  else ended || state="lost 0"; fi
fi
size=$(wc -c <"$record/log" 2>/dev/null) || size=0
printf '%s %s %s %s\\n' "$state" "$g" "$s" "$((size))"
[ "$((size))" -le "$offset" ] || tail -c "+$((offset+1))" -- "$record/log"
exit 0
"""
_STOP_UNIT = """[ ! -s "$record/unit" ] || {
  read -r unit <"$record/unit"; systemctl kill --signal=KILL -- "$unit"; } 2>/dev/null
exit 0
"""


class JobState(StrEnum):
    """How a job is."""

    NONE = "none"  # it was never started
    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"  # it is gone and has left no exit status: killed, or the host was restarted


@dataclass(frozen=True)
class JobLook:
    """A job at one moment. `log` is what it printed from the offset that was asked for."""

    state: JobState
    exit_status: int | None
    group: int
    group_started: int
    log_bytes: int
    log: bytes


def start(host: Host, command: Command, lock: Lock, *, run: str, change: str) -> bool:
    """Start a job, once; False when it has been started before. Raises RunbookError, HostError.

    Either leaves open whether it begins later: a slow host may still have it in a queue. `look` tells whether it has
    begun, and `change.settle` makes sure that it never will.
    """
    if command.secret:
        raise RunbookError("a detached command cannot be given a secret: its script is a file on the host")
    body = f"record=$1 mask=$2\ntext={word(command.text)}\n{_MAIN}"
    script = (
        lock.fence()
        + RECORDS
        + record_line(run, change)
        + f"unit=runbook-{hashlib.sha256(f'{run} {change}'.encode()).hexdigest()[:20]}\nmask=$(umask)\n"
        + 'umask 077; mkdir -p -- "$record" || exit 96\n'
        + f'printf "%s\\n" "set -- $(printf "\\047%s\\047" "$record") $mask" {word(body)} >"$record/job" || exit 96\n'
        + _START
    )
    result = host.run(Script(script, name=f"start {change}", changes=True, root=command.root), deadline_seconds=30.0)
    said = text_of(result.stdout).strip()
    if said in ("started", "there"):
        return said == "started"
    lost = result.exit_status == LOST_STATUS
    raise RunbookError(
        f"the job was not started: {text_of(result.stderr).strip()}",
        where=host.name,
        true_now="another operator has the host now" if lost else "the command had not begun by then",
        next="look at the host, then resume",
    )


def look(host: Host, places: Places, *, run: str, change: str, root: bool, offset: int = 0) -> JobLook:
    """How a job is, and its log from `offset` on. Raises HostError, RunbookError."""
    script = places.find() + RECORDS + STARTED + record_line(run, change) + f"offset={int(offset)}\n" + _LOOK
    result = host.run(Script(script, name=f"look at {change}", root=root), deadline_seconds=20.0)
    head, _, log = result.stdout.partition(b"\n")
    try:
        state, status, group, started, size = text_of(head).split(" ")
        known = JobState(state)
        return JobLook(
            known, int(status) if known is JobState.ENDED else None, int(group), int(started), int(size), log
        )
    except ValueError:
        raise RunbookError(
            f"how {change} is cannot be told: {text_of(result.stderr).strip() or text_of(head)}",
            where=host.name,
            true_now="it may still run there",
            next="look at the host's processes",
        ) from None


def end(host: Host, places: Places, *, run: str, change: str, root: bool) -> bool:
    """End a job with its whole process group; one that has not begun never will. True when it is proven gone. Raises
    HostError, RunbookError."""
    found = look(host, places, run=run, change=change, root=root)
    if found.state is JobState.NONE:
        if settle(host, places, run, [change], root=root)[change].became is Became.NOT_BEGUN:
            return True
        found = look(host, places, run=run, change=change, root=root)  # it has begun meanwhile
    stop = places.find() + RECORDS + record_line(run, change) + _STOP_UNIT
    host.run(Script(stop, name=f"end {change}", changes=True, root=root), deadline_seconds=20.0)
    ending = Script(end_group_script(found.group, found.group_started), name=f"end {change}", root=root)
    return text_of(host.run(ending, deadline_seconds=20.0).stdout).strip() == "gone"
