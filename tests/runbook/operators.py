"""People, for the tests: what they were told, and what they answer."""

from __future__ import annotations

from collections.abc import Iterable


class Scripted:
    """An operator who answers in this order; a question too many is the end of input."""

    folds = True

    def __init__(self, answers: Iterable[str] = (), *, present: bool = True) -> None:
        self.answers = list(answers)
        self.present = present
        self.said: list[str] = []
        self.asked: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def fold(self, title: str, text: str) -> bool:
        if self.folds:
            self.said.append(f"{title}\n{text}")
        return self.folds

    def ask(self, question: str) -> str:
        self.asked.append(question)
        if not self.answers:
            raise EOFError
        return self.answers.pop(0)

    @property
    def text(self) -> str:
        return "\n".join(self.said)
