"""The one thread in which every controller runs: it wakes at changes of the store and at timers of the clock."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from tests.cluster.server.objects import Change, Store

_log = logging.getLogger(__name__)


class Controller(Protocol):
    """Sees every change once, in order; then does its work. Both are called under the store's lock."""

    def observe(self, change: Change) -> None: ...

    def step(self) -> None: ...


class Timers:
    """Calls that are due at a moment of the clock."""

    def __init__(self, store: Store) -> None:
        self._clock = store.clock
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._heap, (self._clock.monotonic() + max(0.0, seconds), next(self._numbers), call))

    def next(self) -> float | None:
        """The moment of the next call."""
        return self._heap[0][0] if self._heap else None

    def run_due(self) -> None:
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()


class Manager:
    """Runs the controllers until `close`."""

    def __init__(self, store: Store, timers: Timers) -> None:
        self.store = store
        self.timers = timers
        self.controllers: Sequence[Controller] = ()
        self._pending: deque[Change] = deque()
        self._again = False
        self._idle = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="controllers", daemon=True)
        store.observers.append(self._pending.append)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self.store.lock:
            self._closed = True
            self.store.changed.notify_all()
        self._thread.join(10)

    def wake(self) -> None:
        """Lets every controller step once more; for what comes from outside the store."""
        with self.store.lock:
            self._again = True
            self.store.changed.notify_all()

    def quiet(self) -> bool:
        """Whether nothing is left to do until the store changes or the clock goes on."""
        due = self.timers.next()
        waits = due is None or due > self.store.clock.monotonic()
        return self._idle and not self._pending and not self._again and waits

    def _run(self) -> None:
        while not self._closed:
            with self.store.lock:
                self._idle = self._again = False
                try:
                    self._work()
                except Exception:
                    _log.exception("a controller of the test cluster failed")
                if self._pending or self._again or self._closed:
                    continue
                due = self.timers.next()
                self._idle = True
                self.store.clock.wait(self.store.changed, None if due is None else due - self.store.clock.monotonic())

    def _work(self) -> None:
        while self._pending:
            change = self._pending.popleft()
            for controller in self.controllers:
                controller.observe(change)
        self.timers.run_due()
        for controller in self.controllers:
            controller.step()
