"""The job's side of the message channel: Dagster Pipes messages as objects in the object store.

Chunks lie at ``<prefix>/<index>/<incarnation>/<seq:08d>.jsonl``. ``index`` is the node of a job that has
several; an incarnation is one life of one process (its start time and pid, so that later ones sort after
earlier ones): a process that replaces another writes beside it, never over it. Every message carries its
number ``n`` within the incarnation, so that a chunk written twice after an unclear answer of the store is not
heard twice.

Dagster's own blob-store writer restarts at chunk 1 after a restart and overwrites; hence this one.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    PipesContext,
    PipesDefaultContextLoader,
    PipesEnvVarParamsLoader,
    PipesMessage,
    PipesMessageWriter,
    PipesMessageWriterChannel,
    PipesParams,
)

from infra.errors import ServiceError
from infra.jobs.channel import Channel, ConsoleChannel
from infra.object_store import ObjectStore, open_store

_log = logging.getLogger(__name__)

# A job that says a lot is cut into chunks of about this many bytes, so that a reader never holds much at
# once.
CHUNK_BYTES = 1 << 20


def incarnation() -> str:
    """A name for this life of this process: later lives sort after earlier ones, on one machine and across
    several.
    """
    return f"{time.time_ns():020d}-{os.getpid()}"


class ObjectStoreChannel(PipesMessageWriterChannel):
    """Buffers messages and writes them as chunks from a thread of its own, at least every ``interval``
    seconds.

    Only that thread writes: a signal is raised in the main thread and so never tears a write apart. While the
    store is away messages are kept and the write is tried again; :meth:`close` gives up after ``patience``
    seconds with a ServiceError.
    """

    def __init__(self, store: ObjectStore, prefix: str, interval: float = 0.5, patience: float = 60.0) -> None:
        self._store = store
        self._prefix = prefix
        self._interval = interval
        self._patience = patience
        self._lines: list[bytes] = []
        self._lock = threading.Lock()
        # Whoever forks waits for a write to end: a child would inherit the locks of boto3 and OpenSSL, held for ever.
        self._writing = threading.Lock()
        os.register_at_fork(
            before=self._writing.acquire,
            after_in_parent=self._writing.release,
            after_in_child=self._writing.release,
        )
        self._number = 0
        self._sequence = 0
        self._pid = os.getpid()
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._write_until_closed, name="messages", daemon=True)
        self._thread.start()

    def write_message(self, message: PipesMessage) -> None:
        # A forked data-loading worker has a copy of this object but neither its thread nor a sane lock.
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._number += 1
            line = json.dumps({**message, "n": self._number}, separators=(",", ":"))
            self._lines.append(line.encode() + b"\n")

    def close(self) -> None:
        """Write what is left. Raises ServiceError when the store did not take it."""
        self._closing.set()
        self._thread.join()
        if self._lines:
            raise ServiceError(
                f"{len(self._lines)} messages could not be written to {self._store.uri}: {self._failure}",
                "check that the object store can be reached and written to, then run the job again",
            )

    def _write_until_closed(self) -> None:
        wait = self._interval
        deadline: float | None = None
        while True:
            self._closing.wait(wait)
            if self._closing.is_set() and deadline is None:
                deadline, wait = time.monotonic() + self._patience, self._interval
            try:
                with self._writing:
                    self._flush()
                wait, self._failure = self._interval, None
                if deadline is not None:
                    return
            except Exception as error:
                if self._failure is None:
                    _log.warning("Messages cannot be written to %s (%s); trying again", self._store.uri, error)
                self._failure = error
                if deadline is not None and time.monotonic() >= deadline:
                    return
                wait = min(wait * 2, 10.0)
                if deadline is not None:
                    time.sleep(min(wait, 1.0))

    def _flush(self) -> None:
        while self._lines:
            with self._lock:
                count = size = 0
                for line in self._lines:
                    if count and size + len(line) > CHUNK_BYTES:
                        break
                    count, size = count + 1, size + len(line)
                chunk = b"".join(self._lines[:count])
            # A number is used up even when the write fails: it may have arrived all the same.
            self._sequence += 1
            self._store.put(f"{self._prefix}/{self._sequence:08d}.jsonl", chunk)
            with self._lock:
                del self._lines[:count]


class ObjectStoreMessageWriter(PipesMessageWriter[ObjectStoreChannel]):
    """Opens the channel that the launcher's reader listens to: ``{"store": uri, "prefix": key prefix,
    "index": n}``.
    """

    @contextmanager
    def open(self, params: PipesParams) -> Iterator[ObjectStoreChannel]:
        prefix = f"{params['prefix']}/{params.get('index', 0)}/{incarnation()}"
        channel = ObjectStoreChannel(open_store(params["store"]), prefix)
        try:
            yield channel
        finally:
            channel.close()


class PipesChannel:
    """A job's :class:`~infra.jobs.channel.Channel` over Dagster Pipes."""

    def __init__(self, context: PipesContext) -> None:
        self._context = context

    def send(self, payload: Mapping[str, Any]) -> None:
        if not self._context.is_closed:
            self._context.report_custom_message(dict(payload))

    def log(self, level: str, message: str) -> None:
        if not self._context.is_closed:
            self._context.log.log(logging.getLevelNamesMapping()[level.upper()], "%s", message)

    def close(self) -> None:
        self._context.close()


def open_channel() -> Channel:
    """The channel to the launcher that started this process; the console when nobody did.

    The variables that name the channel are taken out of the environment: a program that this job starts must
    not speak in its name.
    """
    loader = PipesEnvVarParamsLoader()
    if not loader.is_dagster_pipes_process():
        return ConsoleChannel()
    context = PipesContext(loader, PipesDefaultContextLoader(), ObjectStoreMessageWriter())
    for name in (DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR):
        os.environ.pop(name, None)
    return PipesChannel(context)
