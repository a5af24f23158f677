"""When the next request may leave: a rate limit, a pause for all when the service asks for one, and backing off.

All threads share one pace. It is slower while the service answers 429 and finds its way back (additive-increase,
multiplicative-decrease, as TCP does), so that a crowd that waited together does not return together.
"""

from __future__ import annotations

import random
import threading
import time
from email.utils import parsedate_to_datetime

_FIRST_GAP = 0.05  # seconds between requests after a first 429
_LONGEST_GAP = 10.0
_RECOVERY = 0.8  # of the gap remains after each answer that is not a 429


class Stopped(Exception):
    """The batch ends: nobody waits any longer."""


class Pace:
    """Hands out the moments at which requests may leave; `rate` in requests per second, None for no limit."""

    def __init__(self, rate: float | None) -> None:
        self._least = 1.0 / rate if rate else 0.0
        self._gap = self._least
        self._next = 0.0  # on the monotonic clock, like the next one
        self._slowed = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> float:
        """Returns the moment when this thread's turn has come. Raises Stopped once `stop` is set."""
        while True:
            with self._lock:
                now = time.monotonic()
                ahead = self._next - now
                if ahead <= 0:
                    self._next = now + self._gap
            if stop.wait(max(0.0, ahead)):
                raise Stopped
            if ahead <= 0:
                return now

    def slow_down(self, seconds: float, left: float) -> None:
        """The service had too much with the request of the moment `left`: a pause of `seconds`, then longer gaps."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now + seconds)
            if left >= self._slowed:  # what left before the last slowing tells nothing new
                self._gap = min(_LONGEST_GAP, max(self._least, 2 * self._gap, _FIRST_GAP))
                self._slowed = now

    def speed_up(self) -> None:
        """The service coped with a request."""
        with self._lock:
            shorter = self._gap * _RECOVERY
            self._gap = max(self._least, shorter if shorter > _FIRST_GAP / 2 else 0.0)


def backoff(failures: int, first: float, longest: float) -> float:
    """Seconds before the next attempt: doubling, between half and all of it by chance."""
    return min(longest, first * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0)


def retry_after(header: str | None, now: float) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110 §10.2.3: seconds or a date); 0 where it says nothing.

    `now` in seconds since the epoch.
    """
    if not header:
        return 0.0
    header = header.strip()
    if header.replace(".", "", 1).isdecimal() and header.isascii():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0
