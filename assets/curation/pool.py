"""Worker processes that survive a poisoned file: it costs its own call, never the delivery."""

from __future__ import annotations

import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Self, TypeVar

from assets.curation.scan import prepare_worker

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """A pool of processes that maps lists of items to lists of results, in order."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # spawn: the job holds threads and connections that must not be forked.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.count, mp_context=context, initializer=prepare_worker)

    def map(
        self,
        function: Callable[..., list[R]],
        items: Sequence[T],
        *arguments: Any,
        dead: Callable[[T], R],
        chunk: int = 32,
    ) -> Iterator[R]:
        """`function(some items, *arguments)` over all items; `dead(item)` stands in where its process died."""
        pending: deque[tuple[Sequence[T], Future[list[R]]]] = deque()
        starts = iter(range(0, len(items), chunk))
        exhausted = False
        while pending or not exhausted:
            while not exhausted and len(pending) < 4 * self.count:
                start = next(starts, None)
                if start is None:
                    exhausted = True
                    break
                part = items[start : start + chunk]
                pending.append((part, self._pool.submit(function, part, *arguments)))
            if not pending:
                break
            part, future = pending.popleft()
            try:
                yield from future.result()
            except BrokenProcessPool:
                _log.warning("a worker died; its %d pictures are looked at one by one", len(part))
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = self._start()
                yield from self._one_by_one(function, part, arguments, dead)
                # What was queued behind it went down with the pool.
                pending = deque((p, self._pool.submit(function, p, *arguments)) for p, _ in pending)

    def _one_by_one(
        self, function: Callable[..., list[R]], part: Sequence[T], arguments: tuple[Any, ...], dead: Callable[[T], R]
    ) -> Iterator[R]:
        for item in part:
            try:
                yield from self._pool.submit(function, [item], *arguments).result()
            except BrokenProcessPool:
                self._pool = self._start()
                yield dead(item)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
