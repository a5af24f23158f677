"""Where requests wait: a bounded room, two hands that decode and encode, one thread that the engines run on."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from deploy.studio.limits import Limits
from deploy.studio.metrics import Metrics
from deploy.studio.refusal import HungUp, Refusal

T = TypeVar("T")


class Place:
    """One request's place in the room, given back once; `pixels` is what it holds decoded."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._pixels, self._kept_by = desk, 0, False

    def claim(self, pixels: int) -> None:
        """Raises Refusal (429) where so many more do not fit. One request alone always fits."""
        self._desk.claim(pixels)
        self._pixels += pixels

    def keep_until(self, done: asyncio.Future[T]) -> None:
        """Given back not by `leave` but when this is done: what it holds is still in use."""
        self._kept_by = True
        done.add_done_callback(lambda _: self._give_back())

    def leave(self) -> None:
        """The request has its answer."""
        if not self._kept_by:
            self._give_back()

    def _give_back(self) -> None:
        self._desk.give_back(self._pixels)


class Desk:
    """Lives on one event loop; only the work itself runs in its threads."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._hands = ThreadPoolExecutor(2, thread_name_prefix="hands")
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="opener")
        self._inside = self._pixels = self._waiting = 0
        self._pace = 0.5  # seconds that a request keeps the engine, lately
        self._busy_since: float | None = None

    @property
    def stuck(self) -> bool:
        """Whether the engine's thread has been on one request for too long."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._limits.engine_seconds

    def enter(self) -> Place:
        """A place for one request, before anything of it is read. Raises Refusal (429) where none is free."""
        if self._inside >= self._limits.waiting:
            raise self._full(f"{self._inside} requests are waiting", self._inside)
        self._inside += 1
        self._metrics.inside.set(self._inside)
        return Place(self)

    def claim(self, pixels: int) -> None:
        """See `Place.claim`."""
        if self._pixels and self._pixels + pixels > self._limits.waiting_pixels:
            raise self._full(f"photographs of {self._pixels / 1e6:.0f} megapixels are waiting", self._inside)
        self._pixels += pixels

    def give_back(self, pixels: int) -> None:
        """See `Place.leave`."""
        self._inside -= 1
        self._pixels -= pixels
        self._metrics.inside.set(self._inside)

    async def by_opener(self, work: Callable[[], T]) -> T:
        """Opens an engine beside the one that serves, in a thread of its own. Raises Refusal (503) while it lasts long.

        Who waits for it holds up nobody: it may take minutes where plans are built.
        """
        done = asyncio.get_running_loop().run_in_executor(self._opener, work)
        done.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # perhaps nobody asks for it
        ended, _ = await asyncio.wait({done}, timeout=self._limits.queue_seconds)
        if not ended:
            raise Refusal(
                503, "opening", "The challenger is being opened.", "Try again in 10 s.", {"Retry-After": "10"}
            )  # fmt: skip
        return done.result()

    async def by_hand(self, work: Callable[[], T]) -> T:
        """Something that decodes or encodes, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._hands, work)

    async def by_engine(self, work: Callable[[], T], place: Place, gone: asyncio.Task[None]) -> T:
        """Waits for the engine's thread and does the work there.

        Raises HungUp when `gone` is done first: what still waits is then dropped, what runs is let run. Raises Refusal:
        429 after too long a wait, 504 for a call that does not end; its place is then kept until it does.
        """
        future = self._engine.submit(self._timed, work)
        self._waiting += 1
        self._metrics.waiting.set(self._waiting)
        done = asyncio.wrap_future(future)
        done.add_done_callback(self._left)
        either: set[asyncio.Future[Any]] = {done, gone}
        await asyncio.wait(either, timeout=self._limits.queue_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done.done() and future.cancel():
            if gone.done():
                raise HungUp
            raise self._full(f"it has waited {self._limits.queue_seconds:.0f} s for the engine", self._waiting)
        await asyncio.wait({done}, timeout=self._limits.engine_seconds)
        if not done.done():
            place.keep_until(done)
            raise Refusal(504, "engine", "The engine does not answer.", "Look into the studio's log; start it again.")
        if gone.done():
            raise HungUp
        return done.result()

    def close(self) -> None:
        """Ends the threads; what waits is dropped."""
        for pool in (self._hands, self._engine, self._opener):
            pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, work: Callable[[], T]) -> T:
        began = self._busy_since = time.monotonic()
        try:
            return work()
        finally:
            self._busy_since = None
            self._pace += 0.2 * (time.monotonic() - began - self._pace)

    def _left(self, done: asyncio.Future[T]) -> None:
        self._waiting -= 1
        self._metrics.waiting.set(self._waiting)
        if not done.cancelled():
            done.exception()  # looked at: nobody may be left to ask for it

    def _full(self, why: str, ahead: int) -> Refusal:
        """`ahead`: requests that are done first; the one that runs takes as long as it has, at the least."""
        since = self._busy_since
        runs = 0.0 if since is None else time.monotonic() - since
        seconds = max(1, math.ceil(max(self._pace, runs) + self._pace * ahead))
        return Refusal(
            429, "busy", f"The studio is busy: {why}.", f"Try again in {seconds} s.", {"Retry-After": str(seconds)}
        )
