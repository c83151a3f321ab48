"""How a failure is told: what happened, where, what is true now, what to do next."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes of every `runbook` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    THRESHOLD = 3


class RunbookError(Exception):
    """A failure told to a person, never a traceback.

    `what` happened, `where` (host, path, key), what is `true_now`, what to do `next`. Empty parts are left out.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, what: str, *, where: str = "", true_now: str = "", next: str = "") -> None:
        self.what, self.where, self.true_now, self.next = what, where, true_now, next
        super().__init__(what)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception would be made again from the first argument alone, which a kind with more of them refuses.
        return _again, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        for label, text in (("now: ", self.true_now), ("next:", self.next)):
            if text:
                lines.append(f"  {label} " + text.replace("\n", "\n        "))
        return "\n".join(lines)

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it (IPython asks for this): the words, and no stack."""
        return str(self).split("\n")


def _again(kind: type[RunbookError], args: tuple[Any, ...], state: dict[str, Any]) -> RunbookError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(RunbookError):
    """The command or a file it was given is wrong; nothing was done. Exit code 2."""

    exit_code = ExitCode.USAGE
