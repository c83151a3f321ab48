"""An operator that dies where it is told to. Run as a program it forks one operator per line of its stdin.

Each line is a JSON object: `do` (run or undo), the host's ssh_config and name, the directories, and
`at`: where to die and how: `["journal", 7, "torn"]`, `["command", 12, "before", "kill"]`, `["inside", 5, "shell"]`. It
answers with one line: the exit status (negative: the signal), and how many journal writes, commands and places
inside changes there were.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.bastion import Bastions
from runbooks_lib.hosts.host import Result, Script
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve as resolve_ssh
from runbooks_lib.runbook import detached, journal, runs
from runbooks_lib.runbook.catalogue import all_runbooks
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.resume import Finished, carry_out, open_run, prove, resume
from runbooks_lib.runbook.run import Options, target
from runbooks_lib.runbook.undo import undo, undo_digest
from tests.runbook.every_kind import EVERY_KIND
from tests.runbook.operators import Scripted

BOOKS = {**all_runbooks(), EVERY_KIND.name: EVERY_KIND}
TOOLS = (
    "ln", "mv", "rm", "chmod", "touch", "gzip", "timeout", "tune2fs", "fallocate", "dd", "lvextend", "lvreduce",
    "resize2fs", "pvcreate", "pvremove", "vgextend", "vgreduce",
)  # fmt: skip
# Every tool of a change becomes a function that counts, and at its place does what the case says and goes no further.
HOOK = """_place() {{ read -r _n <{count}; _n=$((_n+1)); echo $_n >{count}; [ $_n = {at} ] || return 0
case {how} in
  kill) kill -9 {operator}; sleep 20;;
  cut) kill -USR1 {operator}; sleep 20;;
  shell) kill -9 $$;;
  group) kill -9 0;;
esac; }}
""" + "".join(f'{tool}() {{{{ _place; command {tool} "$@"; set -- $?; _place; return $1; }}}}\n' for tool in TOOLS)


class Dying:
    """A host as its operator sees it, until the operator dies."""

    def __init__(self, host: SshHost, at: list[Any], counts: dict[str, int], place: str) -> None:
        self._host, self._at, self._counts, self._place = host, at, counts, place
        self.name = host.name
        signal.signal(signal.SIGUSR1, lambda *_: self.cut())

    def run(self, script: Script, **how: Any) -> Result:
        self._counts["command"] += 1
        number = self._counts["command"]
        self._meet(number, "before")
        if script.name.startswith("change "):
            at, kind = (self._at[1], self._at[2]) if self._at[0] == "inside" else (0, "none")
            hook = HOOK.format(count=f"{self._place}/count", at=at, how=kind, operator=os.getpid())
            # Behind the fence and the record, in front of the command's own text.
            head, mark, tail = script.text.partition("( unset record; eval ")
            script = replace(script, text=head + hook + mark + tail)
        result = self._host.run(script, **how)
        self._meet(number, "after")
        return result

    def _meet(self, number: int, when: str) -> None:
        if self._at[:3] == ["command", number, when]:
            if self._at[3] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            self.cut()

    def cut(self) -> None:
        connection = self._host._connection
        if connection is not None:
            with suppress(OSError):
                connection.transport.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._host.close()


def operate(case: dict[str, Any], counts: dict[str, int]) -> None:
    host = SshHost(
        case["host"],
        settings_source=partial(resolve_ssh, config_file=Path(case["ssh_config"])),
        bastions=Bastions(),
    )
    at = case.get("at") or ["nowhere"]
    Path(case["place"], "count").write_text("0\n")
    detached.POLL_SECONDS = 0.05
    _let_the_journal_die(at, counts)
    runbook = BOOKS[case["book"]]
    aim = target(runbook, Dying(host, at, counts, case["place"]), case["parameters"])
    options = Options(Path(case["runs"]), Places((case["place"],)), Scripted(present=False))
    found = runs.latest(options.runs, aim.key)
    if case["do"] == "undo":
        if found is None or found[1].outcome == "undone":
            return
        held = resume(found[0], aim, options)
        undo(held, approve=undo_digest(runbook, held.state))
        return
    unfinished = found is not None and found[1].outcome == "open"
    plan = None if unfinished else aim.plan()
    approve = found[1].digest if found is not None and unfinished else plan.digest if plan else ""
    run = open_run(aim, replace(options, approve=approve), plan)
    print(prove(run, aim) if isinstance(run, Finished) else carry_out(run), file=sys.stderr)


def _let_the_journal_die(at: list[Any], counts: dict[str, int]) -> None:
    write = journal.Journal._write

    def dying(self: journal.Journal, line: bytes) -> None:
        counts["journal"] += 1
        here = at[:2] == ["journal", counts["journal"]]
        if here and at[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if here and at[2] == "torn":
            os.write(self._descriptor, line[: len(line) // 2])
            os.fsync(self._descriptor)
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, line)
        if here and at[2] == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    journal.Journal._write = dying  # type: ignore[method-assign]


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reads)
            counts = {"journal": 0, "command": 0}
            status = 0
            try:
                operate(case, counts)
            except RunbookError as error:
                print(error, file=sys.stderr)
                status = 1
            except BaseException as error:
                import traceback

                traceback.print_exception(error)
                status = 2
            os.write(writes, json.dumps(counts).encode())
            sys.stderr.flush()
            os._exit(status)
        os.close(writes)
        with os.fdopen(reads) as pipe:
            said = pipe.read()
        _, code = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(code), **json.loads(said or "{}")}), flush=True)


if __name__ == "__main__":
    main()
