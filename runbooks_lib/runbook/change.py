"""Changing a host: one command, behind the lock's fence, with a record on the host of what became of it.

The record is a directory of its own for each change, made by `mkdir` before the command and never used again: `group`
holds the process group and when its leader was started, `status` the exit status. Whoever comes later - after the
operator's machine has died, say - learns from it whether the command never began, still runs, ended, or was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.host import DeadlineExceeded, Host, HostError, OutputLimitExceeded, Script
from runbooks_lib.hosts.wrapper import end_group_script
from runbooks_lib.runbook.check import bounded
from runbooks_lib.runbook.lock import LOST_STATUS, Lock
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.quoting import text_of, word
from runbooks_lib.runbook.step import Command
from runbooks_lib.secrets import resolve

_NO_RECORD_STATUS = 95
_OUTPUT_BYTES = 4 * 1024 * 1024
# The directory is the user's own and closed to others: in a sticky directory anybody may have made the name before.
RECORDS = f"""records=$base/runbooks-$(id -u); (umask 077; mkdir -- "$records" 2>/dev/null)
[ -d "$records" ] && [ ! -L "$records" ] && [ -O "$records" ] || {{
  echo "runbooks: $records is not a directory of ours" >&2; exit {_NO_RECORD_STATUS}; }}
chmod 700 -- "$records"
"""
# Whoever links `group` first decides: the command itself, or a later operator who makes sure that it never begins.
CLAIM = f"""(umask 077; mkdir -p -- "$record" && read -r x </proc/$$/stat && set -- ${{x##*) }} &&
  g=$3 && printf '%s %s\\n' "$g" "$(started "$g")" >"$record/part.$$" && ln -- "$record/part.$$" "$record/group"
) || {{ echo "runbooks: no record could be made" >&2; exit {_NO_RECORD_STATUS}; }}
"""
# When a process was started, in the kernel's ticks; a zombie is gone (proc(5): the third field and the 22nd).
STARTED = """started() { read -r x <"/proc/$1/stat" || return 1; set -- ${x##*) }
case $1 in Z|X) return 1;; esac; printf '%s' "${20}"; }
"""


class Became(StrEnum):
    """What became of a change."""

    ENDED = "ended"  # with an exit status
    NOT_BEGUN = "not begun"
    CUT = "cut"  # it began and was ended before its end; its process group is gone
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Changed:
    """What came of a change. `output` is both streams, bounded."""

    became: Became
    exit_status: int | None
    output: str
    error: str = ""

    @property
    def ok(self) -> bool:
        """It ended with status 0."""
        return self.became is Became.ENDED and self.exit_status == 0

    @property
    def words(self) -> str:
        """What came of it, for a person."""
        if self.became is Became.ENDED:
            return f"ended with status {self.exit_status}" + (f": {self.output}" if self.output else "")
        return f"{self.became}" + (f": {self.error}" if self.error else "")


def change_text(command: Command, lock: Lock, run: str, change: str) -> str:
    """Everything that is sent for one change."""
    return (
        lock.fence()
        + RECORDS
        + STARTED
        + record_line(run, change)
        + CLAIM
        + "unset base lock f h token links records x\n"
        + f"( unset record; eval {word(command.text)}\n)\n"
        + 'x=$?; (umask 077; printf "%s\\n" "$x" >"$record/status"); exit "$x"\n'
    )


def change(host: Host, command: Command, lock: Lock, *, run: str, change: str, deadline_seconds: float) -> Changed:
    """Run one change once. No error of the host escapes; KeyboardInterrupt does."""
    script = Script(change_text(command, lock, run, change), name=f"change {change}", changes=True, root=command.root)
    secret = resolve(command.secret).encode() + b"\n" if command.secret else b""
    try:
        result = host.run(script, input=secret, deadline_seconds=deadline_seconds, output_limit_bytes=_OUTPUT_BYTES)
    except (DeadlineExceeded, OutputLimitExceeded) as error:
        if error.group_gone:
            return Changed(Became.CUT, None, "", str(error))
        # A shell that has the text may begin with it yet: only where none was reached is it known that it never will.
        reached = not isinstance(error, DeadlineExceeded) or error.phase == "command" or error.group_gone is False
        return Changed(Became.UNKNOWN if reached else Became.NOT_BEGUN, None, "", str(error))
    except HostError as error:
        return Changed(Became.UNKNOWN, None, "", str(error))
    output = bounded("\n".join(text_of(each).strip("\n") for each in (result.stdout, result.stderr) if each))
    if result.signal or result.exit_status is None:
        return Changed(Became.UNKNOWN, None, output, f"the shell on the host was ended by {result.signal}")
    if result.exit_status in (LOST_STATUS, _NO_RECORD_STATUS) and b"runbooks: " in result.stderr:
        return Changed(Became.NOT_BEGUN, None, "", text_of(result.stderr).strip())
    return Changed(Became.ENDED, result.exit_status, output)


def settle(host: Host, places: Places, run: str, announced: Sequence[str], *, root: bool) -> dict[str, Changed]:
    """What became of the `announced` changes of a run, by the host's own records. What still runs is ended and proven
    gone; what has not begun never will. Raises HostError, RunbookError."""
    if not announced:
        return {}
    script = places.find() + RECORDS + "".join(record_line(run, change) + _LOOK for change in announced) + "exit 0\n"
    result = host.run(Script(script, name="look for what a run left", root=root, changes=True), deadline_seconds=20.0)
    lines = text_of(result.stdout).splitlines()
    if not result.ok or len(lines) != len(announced):
        raise RunbookError(
            f"what became of {', '.join(announced)} cannot be told: {text_of(result.stderr).strip()}",
            where=host.name,
            true_now="a command may still run there; nothing more was run",
            next="look at the host's processes, then resume again",
        )
    found: dict[str, Changed] = {}
    for change, line in zip(announced, lines, strict=True):
        state, *rest = line.split(" ")
        numbers = [int(each) for each in rest if each.isdigit()]
        if state == "ended" and len(numbers) == 1:
            found[change] = Changed(Became.ENDED, numbers[0], "")
        elif state == "open" and len(numbers) == 2:
            found[change] = _ended(host, *numbers, root=root)
        else:
            found[change] = Changed(Became.UNKNOWN, None, "", f"its record reads {line!r}")
    return found


def record_line(run: str, change: str) -> str:
    """Shell text that sets `record`, the directory of one change."""
    return f"record=$records/{word(run)}/{word(change)}\n"


_LOOK = """(umask 077; mkdir -p -- "$record"; echo 0 0 >"$record/never"
  ln -- "$record/never" "$record/group" 2>/dev/null)
g= s=; { read -r g s <"$record/group"; } 2>/dev/null
if [ -s "$record/status" ]; then read -r x <"$record/status"; echo "ended $x"; else echo "open $g $s"; fi
"""


def _ended(host: Host, group: int, started: int, *, root: bool) -> Changed:
    if group == 0:
        return Changed(Became.NOT_BEGUN, None, "")
    ending = Script(end_group_script(group, started), name="end what a run left", root=root)
    answer = text_of(host.run(ending, deadline_seconds=20.0).stdout).strip()
    if answer == "gone":
        return Changed(Became.CUT, None, "", "it did not end by itself; its process group is gone")
    return Changed(Became.UNKNOWN, None, "", f"its process group {group} is still there: {answer}")
