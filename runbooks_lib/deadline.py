"""A deadline for what has none of its own: a name look-up, a server that sends a byte now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T], cut: Callable[[], object] = lambda: None) -> T:
    """What `work()` returns or raises, in a thread that is waited for so long. Raises TimeoutError then: `cut` is to
    end what can be ended, and the thread is left to the rest."""
    answer: Future[T] = Future()

    def do() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=do, name="deadline", daemon=True).start()
    try:
        return answer.result(max(0.01, seconds))
    except TimeoutError:
        if not answer.done():
            cut()
        raise
