"""Time that a test can hold: the real clock, and one that only `advance` moves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


class Clock:
    """Real time."""

    def now(self) -> datetime:
        """The time of day, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> None:
        """`condition.wait(timeout)` in this clock's seconds; the caller holds the condition and looks again after."""
        condition.wait(timeout)

    def leave(self) -> None:
        """Says that this thread is done with sleeping, though it lives on: nobody need wait for its next sleep."""

    def asleep(self, thread: threading.Thread) -> bool:
        """Whether only this clock can wake the thread. Of a real one nobody knows."""
        return False


@dataclass(frozen=True)
class _Sleeper:
    ticket: int
    deadline: float
    condition: threading.Condition
    thread: threading.Thread


class FakeClock(Clock):
    """Time stands until `advance`. Whoever sleeps or waits by this clock is woken in the order of their deadlines.

    After each deadline `advance` lets the woken threads come back to sleep, or end, before time goes on (for at most
    `patience` real seconds), then calls every function in `settle`: so a loop of short sleeps runs through three days
    as it would have run through real ones.
    """

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC), patience: float = 2.0) -> None:
        self.patience = patience
        self.settle: list[Callable[[], None]] = []
        self._start = start
        self._elapsed = 0.0
        self._lock = threading.Condition()
        self._sleepers: dict[int, _Sleeper] = {}
        self._tickets = itertools.count()
        self._slept: dict[threading.Thread, int] = {}  # each thread's newest ticket

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        until = self._elapsed + seconds
        condition = threading.Condition()
        with condition:
            while self._elapsed < until:
                self.wait(condition, until - self._elapsed)

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> None:
        if timeout is not None and timeout <= 0:
            return
        with self._lock:
            deadline = float("inf") if timeout is None else self._elapsed + timeout
            sleeper = _Sleeper(next(self._tickets), deadline, condition, threading.current_thread())
            self._sleepers[sleeper.ticket] = sleeper
            self._slept[sleeper.thread] = sleeper.ticket
            self._lock.notify_all()
        try:
            condition.wait()
        finally:
            with self._lock:
                self._sleepers.pop(sleeper.ticket, None)

    def leave(self) -> None:
        with self._lock:
            self._slept.pop(threading.current_thread(), None)
            self._lock.notify_all()

    def asleep(self, thread: threading.Thread) -> bool:
        with self._lock:
            return self._slept.get(thread) in self._sleepers

    def advance(self, seconds: float) -> None:
        """Moves time by this many seconds, deadline by deadline."""
        target = self._elapsed + seconds
        self._settle([])
        while due := self._due(target):
            self._settle(due)
        self._elapsed = target
        self._settle([])
        with self._lock:
            self._slept = {thread: ticket for thread, ticket in self._slept.items() if thread.is_alive()}

    def _due(self, target: float) -> list[_Sleeper]:
        """Whoever sleeps to the next deadline, woken; none: nobody sleeps to a moment before the target."""
        with self._lock:
            deadline = min((s.deadline for s in self._sleepers.values()), default=float("inf"))
            if deadline > target:
                return []
            self._elapsed = max(self._elapsed, deadline)
            due = [s for s in self._sleepers.values() if s.deadline <= deadline]
        for sleeper in due:
            with sleeper.condition:
                sleeper.condition.notify_all()
        return due

    def _settle(self, woken: list[_Sleeper]) -> None:
        give_up = time.monotonic() + self.patience
        with self._lock:
            while any(s.thread.is_alive() and self._slept.get(s.thread) == s.ticket for s in woken):
                left = give_up - time.monotonic()
                if left <= 0:
                    break
                self._lock.wait(min(left, 0.02))  # a thread that ends tells nobody
            for sleeper in woken:  # one that is stuck elsewhere in real time must not be due for ever
                self._sleepers.pop(sleeper.ticket, None)
        for settle in list(self.settle):
            settle()
