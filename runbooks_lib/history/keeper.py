"""The thread of a round that stores what the hosts said, while others are still asked."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from runbooks_lib.errors import RunbookError
from runbooks_lib.history.sqlite import SqliteHistory
from runbooks_lib.history.writing import Snapshot

_MOST_AT_ONCE = 200


class Keeper:
    """Stores snapshots as they come, all that wait in one transaction; a context manager whose end is the last one's.

    `error` is the first failure: what comes after it is not stored, for one clear message about a full disk and not one
    per host.
    """

    def __init__(self, history: SqliteHistory) -> None:
        self.error: RunbookError | None = None
        self._history = history
        self._waiting: queue.SimpleQueue[Snapshot | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    def keep(self, snapshot: Snapshot) -> None:
        """Store it soon. For one thread; the keeper's own begins with the first, so that none exists before."""
        self._waiting.put(snapshot)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        for batch in self._batches():
            if self.error is None:
                try:
                    self._history.store_snapshots(batch)
                except RunbookError as error:
                    self.error = error
                except Exception as defect:
                    self.error = RunbookError(f"unexpected {type(defect).__name__}: {defect}")
                    self.error.__cause__ = defect

    def _batches(self) -> Iterator[list[Snapshot]]:
        while True:
            batch = [self._waiting.get()]
            while batch[-1] is not None and len(batch) < _MOST_AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get())
            if found := [each for each in batch if each is not None]:
                yield found
            if batch[-1] is None:
                return
