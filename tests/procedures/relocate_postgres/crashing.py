"""A move that is cut off where it is told to be, by an operator that is a process of its own.

`at` says where: `["inside", 7, "group"]` at the seventh place beside a tool that the move's commands call (`group`
kills the command, `power` restarts the machine without a warning), or by a pattern, `["inside", "after?mv*", "group"]`;
`["command", 12, "before", "kill"]` at the twelfth script that the operator sends, by killing the operator, or by
cutting its connection (`cut`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from runbooks_lib.errors import RunbookError
from runbooks_lib.hosts.bastion import Bastions
from runbooks_lib.hosts.host import Result, Script
from runbooks_lib.hosts.ssh import SshHost
from runbooks_lib.hosts.ssh_settings import resolve
from runbooks_lib.procedures.relocate_postgres import RUNBOOK, fstab
from runbooks_lib.runbook import runs
from runbooks_lib.runbook.places import Places
from runbooks_lib.runbook.quoting import word
from runbooks_lib.runbook.resume import Finished, carry_out, open_run, prove, resume
from runbooks_lib.runbook.run import Options, target
from runbooks_lib.runbook.state import Phase
from runbooks_lib.runbook.step import Command, Known, Runbook, Step, Undo
from runbooks_lib.runbook.undo import undo, undo_digest
from tests.runbook.operators import Scripted

ROOT = Path(__file__).parents[3]
# Not setsid: a function that waits for what it starts would hold the job's output open.
TOOLS = ("mv", "ln", "sync", "rm", "kill", "systemctl")
# The place is read from a file and not written into the text: a resumed run must find the commands that were approved.
HOOK = """_place() {{ {{ read -r _at _how <{case} && read -r _n <{count}; }} 2>/dev/null || return 0
_n=$((_n+1)); echo $_n >{count}
case "$_n:$*" in "$_at":* | *:$_at) ;; *) return 0;; esac
case $_how in
  group) command kill -9 0;;
  power) echo 1 >/proc/sys/kernel/sysrq; echo b >/proc/sysrq-trigger; sleep 60;;
esac; }}
""" + "".join(
    f'{tool}() {{{{ _place before {tool} "$@"; command {tool} "$@"; _x=$?; _place after {tool} "$@"; return $_x; }}}}\n'
    for tool in TOOLS
)


def hooked(directory: str) -> Runbook:
    """The runbook, with a place before and after each tool of its commands; `directory` on the host holds the case."""
    hook = HOOK.format(case=word(f"{directory}/case"), count=word(f"{directory}/count"))

    def in_front(commands: Callable[[Known], Any]) -> Callable[[Known], list[Command]]:
        return lambda known: [replace(each, text=hook + each.text) for each in commands(known)]

    def step(each: Step) -> Step:
        back = replace(each.undo, commands=in_front(each.undo.commands)) if isinstance(each.undo, Undo) else each.undo
        return replace(each, commands=in_front(each.commands), undo=back)

    return replace(RUNBOOK, steps=tuple(map(step, RUNBOOK.steps)))


class Dying:
    """A host as its operator sees it, until the operator dies or its connection does."""

    def __init__(self, host: SshHost, at: list[Any], counted: Path) -> None:
        self._host, self._at, self._number, self._counted = host, at, 0, counted
        self.name = host.name

    def run(self, script: Script, **how: Any) -> Result:
        self._number += 1
        self._counted.write_text(str(self._number))
        self._meet("before")
        result = self._host.run(script, **how)
        self._meet("after")
        return result

    def _meet(self, when: str) -> None:
        if self._at[:3] == ["command", self._number, when]:
            if self._at[3] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            connection = self._host._connection
            if connection is not None:
                with suppress(OSError):
                    connection.transport.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._host.close()


@dataclass(frozen=True)
class Operator:
    """How an operator of these tests works: over SSH, with journals in `kept`, its words in `kept`/said."""

    ssh_config: Path
    host: str
    kept: Path
    place: str
    parameters: Mapping[str, Any]

    def run(self, do: str, at: list[Any] | None = None) -> int:
        """`run` or `undo`; the exit status: 0 done, 1 stopped with a reason, negative the signal that killed it."""
        case = {"ssh_config": str(self.ssh_config), "host": self.host, "kept": str(self.kept), "place": self.place}
        case |= {"parameters": dict(self.parameters), "do": do, "at": at or ["nowhere"], "fstab": fstab.FSTAB}
        with (self.kept / "said").open("ab") as said:
            line = [sys.executable, "-m", "tests.procedures.relocate_postgres.crashing"]
            return subprocess.run(
                line, input=json.dumps(case).encode(), stdout=said, stderr=said, cwd=ROOT, check=False
            ).returncode

    def work(self, do: str, at: list[Any]) -> int:
        """The same in this process."""
        settings = partial(resolve, config_file=self.ssh_config)
        host = Dying(
            SshHost(self.host, settings_source=settings, bastions=Bastions()), at, self.kept / "commands"
        )  # fmt: skip
        runbook = hooked(self.place)
        options = Options(self.kept / "runs", Places((self.place,)), Scripted(present=False))
        print(f"--- {do} {at} {dict(self.parameters)}", flush=True)
        try:
            aim = target(runbook, host, self.parameters)
            found = runs.latest(options.runs, aim.key)
            if do == "undo":
                if found is None or found[1].outcome == "undone":
                    return 0
                held = resume(found[0], aim, options)
                undo(held, approve=undo_digest(runbook, held.state))
                return 0
            unfinished = found is not None and found[1].outcome == "open"
            plan = None if unfinished else aim.plan()
            approve = found[1].digest if found is not None and unfinished else plan.digest if plan else ""
            run = open_run(aim, replace(options, approve=approve), plan)
            print(prove(run, aim) if isinstance(run, Finished) else carry_out(run), flush=True)
        except RunbookError as error:
            print(error, flush=True)
            return 1
        return 0

    def outcome(self) -> str:
        found = runs.directories(self.kept / "runs")
        return runs.state_of(found[0]).outcome if found else "none"

    def begun(self) -> tuple[str, ...]:
        """The steps that the last run has begun, in their order."""
        (found, *_) = runs.directories(self.kept / "runs")
        state = runs.state_of(found)
        return tuple(step.name for step in RUNBOOK.steps if state.step(step.name).phase is not Phase.UNTOUCHED)

    def commands(self) -> int:
        """How many scripts the last operator sent."""
        return int((self.kept / "commands").read_text())

    def said(self) -> str:
        return (self.kept / "said").read_text(errors="replace")[-6000:]


def main() -> int:
    case = json.load(sys.stdin)
    fstab.FSTAB = case["fstab"]
    operator = Operator(
        Path(case["ssh_config"]), case["host"], Path(case["kept"]), case["place"], case["parameters"]
    )  # fmt: skip
    return operator.work(case["do"], case["at"])


if __name__ == "__main__":
    sys.exit(main())
