"""Dagster's side of the message channel (the job's side, and the layout of the chunks, are in ``messages``).

What Dagster's own blob-store reader loses, and this one does not: the tail of what a job said when it lags
behind, the messages of a process that replaces another, and everything at its second use in one process.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dagster import PipesMessageReader
from dagster._core.pipes.context import PipesMessageHandler

from infra.errors import BackdropError, ServiceError
from infra.jobs.events import Event, Log, Metrics, Picture, Progress
from infra.object_store import ObjectMissing, ObjectStore

_log = logging.getLogger(__name__)

# Sorts after every incarnation and chunk name, which are made of digits and dashes.
_AFTER_ALL = "~"
_COMPLAIN_EVERY_S = 60.0


@dataclass(frozen=True)
class Reported:
    """Where the result is that a job reported, and its SHA-256."""

    key: str
    sha256: str


@dataclass
class _Life:
    """What has been read of one incarnation: ``last_key`` and message ``number``, and what it ended with."""

    last_key: str = ""
    number: int = 0
    result: Reported | None = None
    error: Mapping[str, Any] | None = None
    closed: Mapping[str, Any] | None = None


class ObjectStoreReader(PipesMessageReader):
    """Reads all incarnations below ``prefix`` from the beginning, each message once; for one session.

    What earlier readers were given is known by ``<prefix>.read.json``: those events come again, because this
    process has not heard them, but marked ``replayed``; log lines that the same Dagster run already has are
    not logged again.

    There is no thread: the launcher calls :meth:`poll` while it waits, and the session's end drains the rest.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        run_id: str,
        on_event: Callable[[Event], None] | None = None,
        drain_patience_s: float = 60.0,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._run_id = run_id
        self._on_event = on_event
        self._patience = drain_patience_s
        self._handler: PipesMessageHandler | None = None
        self._lives: dict[str, _Life] = {}
        self._opened = False
        self._complained = 0.0
        self._saved: dict[str, int] = {}
        self._saved_at = 0.0
        self._heard_run, self._heard = self._load_cursor()

    @property
    def result(self) -> Reported | None:
        """What the last incarnation reported: a replaced one's result is void."""
        life = self._last_life()
        return life.result if life else None

    @property
    def error(self) -> Mapping[str, Any] | None:
        """``code``, ``what`` and ``remedy`` of the error that the last incarnation ended with."""
        life = self._last_life()
        return life.error if life else None

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[Mapping[str, Any]]:
        if self._handler is not None:
            raise RuntimeError("a reader serves one session; make a new one")
        self._handler = handler
        try:
            yield {"store": self._store.uri, "prefix": self._prefix, "index": 0}
        finally:
            self._drain()

    @property
    def expected_writer_count(self) -> int:
        """One ``opened`` and one ``closed`` are forwarded, however many processes speak."""
        return 1

    def no_messages_debug_text(self) -> str:
        return f"Looked for messages below {self._prefix} in {self._store.uri}."

    def poll(self) -> None:
        """Delivers everything that has been written so far. A store that is away is tried again at the next
        call.
        """
        try:
            self._read_new()
            self._save_cursor()
        except Exception as error:
            if isinstance(error, BackdropError) and not isinstance(error, ServiceError | ObjectMissing):
                raise
            now = time.monotonic()
            if now - self._complained >= _COMPLAIN_EVERY_S or not self._complained:
                self._complained = now
                _log.warning("Messages cannot be read from %s (%s); trying again", self._store.uri, error)

    def _drain(self) -> None:
        """Reads the rest; then, as nothing more will come, forwards the last incarnation's ``closed``."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._read_new()
                self._save_cursor(force=True)
                break
            except Exception:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(1.0)
        life = self._last_life()
        if life is not None and life.closed is not None:
            self._forward(life.closed)

    def _last_life(self) -> _Life | None:
        mine = [name for name in self._lives if name.startswith(f"{self._prefix}/0/")]
        return self._lives[max(mine)] if mine else None

    def _read_new(self) -> None:
        # From incarnation to incarnation: an older one may still be writing while a newer one has begun, so a
        # single cursor over all keys would skip what it writes.
        place = ""
        while (first := next(self._store.list(f"{self._prefix}/", place), None)) is not None:
            name = first.rpartition("/")[0]
            life = self._lives.setdefault(name, _Life())
            for key in self._store.list(f"{name}/", life.last_key):
                for line in self._store.get(key).splitlines():
                    self._receive(name, life, json.loads(line))
                life.last_key = key
            place = f"{name}/{_AFTER_ALL}"

    def _receive(self, name: str, life: _Life, message: dict[str, Any]) -> None:
        number = message.pop("n")
        if number <= life.number:  # the writer was not sure that its chunk had arrived, and wrote it again
            return
        method, params = message["method"], message["params"] or {}
        replayed = number <= self._heard.get(name, 0)
        if method == "opened":
            if not self._opened:
                self._opened = True
                self._forward(message)
        elif method == "closed":
            life.closed = message
        elif method == "log":
            if not (replayed and self._heard_run == self._run_id):
                self._forward(message)
            self._tell(Log(params.get("level", "info").lower(), params["message"], replayed))
        elif method == "report_custom_message" and isinstance(params.get("payload"), dict):
            self._receive_ours(life, message, params["payload"], replayed)
        else:
            self._forward(message)
        life.number = number

    def _receive_ours(self, life: _Life, message: dict[str, Any], payload: dict[str, Any], replayed: bool) -> None:
        match payload.get("kind"):
            case "progress":
                stage, unit = payload["stage"], payload["unit"]
                self._tell(Progress(stage, payload["done"], payload["total"], unit, replayed))
            case "metrics":
                self._tell(Metrics(payload["values"], payload["step"], replayed))
            case "picture":
                shows = tuple(payload.get("shows", ()))
                self._tell(Picture(payload["name"], payload["key"], payload["step"], replayed, shows))
            case "result":
                life.result = Reported(payload["key"], payload["sha256"])
            case "error":
                life.error = payload
            case _:
                self._forward(message)

    def _forward(self, message: Mapping[str, Any]) -> None:
        if self._handler is not None:
            self._handler.handle_message(message)  # type: ignore[arg-type]  # it has the keys of a PipesMessage

    def _tell(self, event: Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            # Whoever draws the progress must not be able to end a training run.
            _log.exception("An event of the job could not be handled: %s", event)

    @property
    def _cursor_key(self) -> str:
        return f"{self._prefix}.read.json"

    def _load_cursor(self) -> tuple[str, dict[str, int]]:
        try:
            found = json.loads(self._store.get(self._cursor_key))
        except ObjectMissing:
            return "", {}
        return found["run_id"], found["heard"]

    def _save_cursor(self, force: bool = False) -> None:
        heard = {name: max(life.number, self._heard.get(name, 0)) for name, life in self._lives.items()}
        now = time.monotonic()
        if heard == self._saved or (not force and now - self._saved_at < 1.0):
            return
        value = {"run_id": self._run_id, "heard": heard}
        self._store.put(self._cursor_key, json.dumps(value).encode())
        self._saved, self._saved_at = heard, now
