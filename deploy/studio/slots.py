"""One open engine at a time, leased by requests, swapped between two of them, closed after its last."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.studio.opened import Opened


class Slot:
    """Thread-safe. Whoever has a lease keeps the engine that was current when it began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: Opened | None = None
        self._leases: dict[int, int] = {}  # by the engine's id(), which lives as long as its leases
        self._used = time.monotonic()

    @property
    def current(self) -> Opened | None:
        """Who answers now."""
        return self._current

    @property
    def idle(self) -> float:
        """Seconds since the last lease or swap; 0 while there is a lease."""
        with self._lock:
            return 0.0 if self._leases else time.monotonic() - self._used

    def touch(self) -> None:
        """It is about to be used: not idle."""
        with self._lock:
            self._used = time.monotonic()

    @contextmanager
    def lease(self) -> Iterator[Opened | None]:
        """The current engine, open until this ends; None where there is none."""
        with self._lock:
            held = self._current
            self._used = time.monotonic()
            if held is not None:
                self._leases[id(held)] = self._leases.get(id(held), 0) + 1
        try:
            yield held
        finally:
            if held is not None:
                self._give_back(held)

    def swap(self, new: Opened | None) -> None:
        """From now on `new` answers. The old one is closed now, or by the end of its last lease."""
        with self._lock:
            old, self._current = self._current, new
            self._used = time.monotonic()
            unused = old is not None and id(old) not in self._leases
        if unused and old is not None:
            old.close()

    def _give_back(self, held: Opened) -> None:
        with self._lock:
            self._used = time.monotonic()
            self._leases[id(held)] -= 1
            last = not self._leases[id(held)]
            if last:
                del self._leases[id(held)]
            superseded = last and held is not self._current
        if superseded:
            held.close()
