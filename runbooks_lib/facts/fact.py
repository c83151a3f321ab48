"""What an answer of a host is: a value, or the reason why there is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from runbooks_lib.errors import RunbookError

T = TypeVar("T")


class State(StrEnum):
    """What became of one fact."""

    AVAILABLE = "available"
    ABSENT = "absent"  # the host has no such thing
    NOT_ALLOWED = "not allowed"  # it has, and this user may not read it
    TIMED_OUT = "timed out"  # asked, and no answer within the fact's own deadline
    UNREADABLE = "unreadable"  # an answer that makes no sense: damaged, cut, or of an unknown format


class Damaged(ValueError):
    """Text that is not what the kernel or the tool writes. Raised by parsers, becomes `State.UNREADABLE`."""


class FactMissing(RunbookError):
    """A fact was required that the host did not give."""


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """One typed answer: `value` is set exactly when `state` is available; `detail` says why not, or what is
    incomplete."""

    state: State
    value: T | None = None
    detail: str = ""

    @property
    def known(self) -> bool:
        """True when there is a value."""
        return self.value is not None

    def require(self, what: str = "this fact", host: str = "") -> T:
        """The value. Raises FactMissing, with the state and its reason, when there is none."""
        if self.value is None:
            raise FactMissing(f"{what} is {self.state}", where=host, true_now=self.detail)
        return self.value


def available(value: T, detail: str = "") -> Fact[T]:
    """A fact with its value."""
    return Fact(State.AVAILABLE, value, detail)


def absent(detail: str) -> Fact[Any]:
    """A fact that the host does not have."""
    return Fact(State.ABSENT, None, detail)


def attempt(parse: Callable[..., T], *texts: str) -> Fact[T]:
    """`parse(*texts)` as a fact; whatever the text holds, a failure is `State.UNREADABLE` with the reason, never an
    exception."""
    try:
        return Fact(State.AVAILABLE, parse(*texts))
    except (ValueError, LookupError, ArithmeticError, RecursionError, TypeError) as error:
        reason = str(error) if isinstance(error, Damaged) else f"{type(error).__name__}: {error}"
        return Fact(State.UNREADABLE, None, f"not in the expected format: {excerpt(reason, 200)}")


_NUMBER = re.compile(r"[0-9]{1,20}\Z")


def number(text: str) -> int:
    """A whole number ≥ 0 of at most 20 digits (64 bits). `int` would also take `1_0`, other alphabets' digits and
    signs. Raises Damaged."""
    if _NUMBER.match(text) is None:
        raise Damaged(f"{excerpt(text)} is not a whole number")
    return int(text)


def excerpt(text: str, length: int = 60) -> str:
    """At most `length` characters of remote text, quoted, for a message."""
    return repr(text if len(text) <= length else text[: length - 1] + "…")
