"""Processes that work off slices; a poisoned item costs its own call, never the slice, let alone the delivery.

Each worker says which item it has in its hands. When it dies or takes too long over one, it is replaced, and the new
one does the slice again without that item: a decoder that crashes, loops or eats all memory is found out and named.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import cv2

from infra.errors import BackdropError
from infra.processes import end_with_parent

T = TypeVar("T")
R = TypeVar("R")

_NOTHING = -1
_PATIENCE_S = 1.0  # how often slow workers are looked for
_ITEMS_LOST = 64  # items of one slice that may each kill a worker before the machine itself is to blame


class Hands:
    """Where a worker says which item of its slice it holds; shared with its parent."""

    def __init__(self, context: Any) -> None:
        self._item = context.Value(ctypes.c_int, _NOTHING, lock=False)
        self._since = context.Value(ctypes.c_double, 0.0, lock=False)

    def take(self, item: int) -> None:
        """Says that this item is being worked on."""
        self._since.value = time.monotonic()
        self._item.value = item

    def drop(self) -> None:
        """Says that no item is, for example while the slice is written."""
        self._item.value = _NOTHING

    def held(self) -> tuple[int, float]:
        """(item or -1, seconds since it was taken)."""
        return self._item.value, time.monotonic() - self._since.value


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    hands: Hands
    task: tuple[Callable[..., Any], Any] | None = None
    poisoned: dict[int, str] = field(default_factory=dict)
    spared: bool = False  # its process died over nothing, and another has this task


class Crew:
    """`count` processes that work off streams of tasks, one stream after the other.

    Each has one thread, for together they use every core. `memory` limits each one's address space in bytes.
    """

    def __init__(self, count: int, *, memory: int = 6 << 30) -> None:
        # spawn: the job holds threads and connections that must not be forked. A fork saves the two seconds of imports
        # and now and then leaves a worker waiting for ever for a lock that one of those threads held.
        self._context: Any = multiprocessing.get_context("spawn")
        self._memory = memory
        self._count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()

    def map(
        self, function: Callable[[T, Hands, Mapping[int, str]], R], tasks: Iterable[T], timeout_s: float = 60.0
    ) -> Iterator[R]:
        """`function(task, hands, poisoned)` of each task, in the order in which they end.

        `poisoned` maps items of the task that killed a worker, or held it up for `timeout_s`, to the reason. Tasks are
        drawn only when a worker is free.
        """
        stream = iter(tasks)
        exhausted = False
        while True:
            for worker in self._idle():
                if exhausted:
                    break
                try:
                    worker.task = (function, next(stream))
                except StopIteration:
                    exhausted = True
                    break
                self._hand_over(worker)
            busy = [worker for worker in self._workers if worker.task is not None]
            if not busy:
                return
            yield from self._collect(busy, timeout_s)

    def _idle(self) -> Iterator[_Worker]:
        yield from [worker for worker in self._workers if worker.task is None]
        while len(self._workers) < self._count:
            self._workers.append(self._start())
            yield self._workers[-1]

    def _collect(self, busy: list[_Worker], timeout_s: float) -> Iterator[Any]:
        by_pipe = {worker.pipe: worker for worker in busy}
        for pipe in wait(list(by_pipe), timeout=_PATIENCE_S):
            worker = by_pipe.pop(pipe)  # type: ignore[call-overload]
            try:
                result, error = worker.pipe.recv()
            except (EOFError, ConnectionError):
                self._replace(worker, "its decoder died")
                continue
            worker.task, worker.poisoned, worker.spared = None, {}, False
            if error is not None:
                raise error
            yield result
        for worker in by_pipe.values():
            item, seconds = worker.hands.held()
            if item != _NOTHING and seconds > timeout_s:
                worker.process.kill()
                self._replace(worker, f"nothing came of it in {timeout_s:g} s")

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Another process for what this one had to do. One that held no picture may have died while it waited."""
        item, _ = worker.hands.held()
        worker.process.join()
        if (item == _NOTHING and worker.spared) or len(worker.poisoned) >= _ITEMS_LOST:
            raise BackdropError(
                f"a worker process died (exit code {worker.process.exitcode}) over no picture in particular",
                "look for a lack of memory on this machine and run again: finished slices are kept",
            )
        if item == _NOTHING:
            worker.spared = True
        else:
            worker.poisoned[item] = reason
        fresh = self._start()
        worker.process, worker.pipe, worker.hands = fresh.process, fresh.pipe, fresh.hands
        self._hand_over(worker)

    def _hand_over(self, worker: _Worker) -> None:
        assert worker.task is not None
        with contextlib.suppress(ConnectionError):  # it is dead, which its pipe says soon
            worker.pipe.send((*worker.task, worker.poisoned))

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        hands = Hands(self._context)
        process = self._context.Process(target=_work, args=(theirs, hands, self._memory), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, hands)


def _work(pipe: Connection, hands: Hands, memory: int) -> None:
    """A worker's life: tasks in, (result, error) out, until the pipe is closed."""
    end_with_parent()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    cv2.setNumThreads(1)
    while True:
        try:
            function, task, poisoned = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer: tuple[Any, Exception | None] = (function(task, hands, poisoned), None)
        except BackdropError as error:
            answer = (None, error)
        except Exception as error:
            import traceback

            text = "".join(traceback.format_exception(error)[-3:]).strip()
            answer = (None, RuntimeError(f"{type(error).__name__} in worker {os.getpid()}: {text}"))
        hands.drop()
        pipe.send(answer)
