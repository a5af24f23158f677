"""What workers found is written by their parent, in a thread of its own: no worker waits for the database.

Nor does a worker need the database's libraries, whose import costs as much as scanning a thousand pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

_AHEAD = 4  # slices that are found out but not written yet: they are held in memory


class Commits:
    """Writes, one after the other, in the order in which they were put."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commits")
        self._waiting: deque[Future[None]] = deque()

    def put(self, write: Callable[[], None]) -> None:
        """Has this written soon. Waits while too much is waiting, and raises what an earlier write raised."""
        self._waiting.append(self._thread.submit(write))
        while len(self._waiting) > _AHEAD or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def __enter__(self) -> Commits:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """All is written; or, after an error, what was not begun never is."""
        self._thread.shutdown(cancel_futures=error is not None)
        if error is None:
            for one in self._waiting:
                one.result()
