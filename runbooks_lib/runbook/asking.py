"""A question before a change: a short answer is wanted; the exact commands are there for whoever wants to read them.

Long commands would push what matters most out of sight. A notebook folds them away under a line that opens at a click;
in a terminal the word `commands` shows them. Short ones are shown at once.
"""

from __future__ import annotations

from runbooks_lib.runbook import words
from runbooks_lib.runbook.operator import Operator

COMMANDS = "commands"
_MOST_LINES_AT_ONCE = 15


class Answers:
    """What a person answers, one after another, until the caller is content."""

    def __init__(self, operator: Operator, commands: str, question: str) -> None:
        """Shows `commands` (lines of text), or says where they are. `question` ends where its answers are listed."""
        self._operator, self._commands, self._question = operator, commands, question
        title = words.commands_title(commands)
        self._shows = False
        if commands.count("\n") < _MOST_LINES_AT_ONCE:
            operator.say(commands)
        elif not operator.fold(title, commands):
            operator.say(f"{title}: type `{COMMANDS}` to read them.")
            self._shows = True

    def next(self, *others: str) -> str:
        """The next answer; an end of the input is `stop`. `others` are what may be said but the name."""
        choices = ", ".join([COMMANDS, *others] if self._shows else others)
        while True:
            try:
                answer = self._operator.ask(f"{self._question} {choices}:")
            except EOFError:
                return "stop"
            if not self._shows or answer != COMMANDS:
                return answer
            self._operator.say(self._commands)
