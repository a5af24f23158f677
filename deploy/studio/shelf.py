"""Finished pictures, kept in memory until they are fetched: bounded in number, bytes and time, the oldest go first."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """One file and when it came."""

    data: bytes
    format: str
    at: float


class Shelf:
    """Thread-safe. Ids cannot be guessed."""

    def __init__(self, most: int, count: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._count, self._seconds, self._clock = most, count, seconds, clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes in it now."""
        return self._bytes

    def put(self, data: bytes, format: str) -> str:
        """Its id. A picture larger than the shelf is there until the next one comes."""
        identity = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[identity] = Kept(data, format, self._clock())
            self._bytes += len(data)
            while len(self._kept) > 1 and (self._bytes > self._most or len(self._kept) > self._count or self._stale()):
                _, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone.data)
        return identity

    def get(self, identity: str) -> Kept | None:
        """None for one that never was or is gone."""
        with self._lock:
            found = self._kept.get(identity)
        return found if found is not None and self._clock() - found.at <= self._seconds else None

    def _stale(self) -> bool:
        return self._clock() - next(iter(self._kept.values())).at > self._seconds
