"""Watches: one line of JSON per change, bookmarks between them, 410 where the past is forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from tests.cluster.server.errors import ApiError
from tests.cluster.server.objects import Change, Object, Store, Stored
from tests.cluster.server.resources import Resource
from tests.cluster.server.selectors import Selector

_BOOKMARK_EVERY = 60.0


@dataclass(frozen=True)
class WatchRequest:
    """What a watch asks for; `version` "" or "0" means: the present first."""

    resource: Resource
    namespace: str
    selector: Selector
    version: str
    bookmarks: bool
    initial_bookmark: bool  # sendInitialEvents: a bookmark says where the present ends
    timeout: float


class Watches:
    """Serves watches until `end`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._round = 0
        self._awake = 0  # watches that are not waiting for a change

    def end(self) -> None:
        """Ends every watch that now runs, as an API server does that restarts."""
        with self._store.lock:
            self._round += 1
            self._store.changed.notify_all()

    def quiet(self) -> bool:
        """Whether every watch has told all there is."""
        return not self._awake

    def lines(self, request: WatchRequest) -> Iterator[bytes]:
        """Lines for the client; the first is empty: a watch answers before anything happens."""
        with self._store.lock:
            self._awake += 1
        try:
            yield b""
            yield from self._told(request)
        finally:
            with self._store.lock:
                self._awake -= 1
            self._store.clock.leave()

    def _told(self, request: WatchRequest) -> Iterator[bytes]:
        store, clock = self._store, self._store.clock
        end, running = clock.monotonic() + request.timeout, self._round
        bookmark = clock.monotonic() + _BOOKMARK_EVERY
        with store.lock:
            version = store.version if request.version in ("", "0") else int(request.version)
            present = store.select(request.resource, request.namespace, request.selector.pairs)
        if request.version in ("", "0"):
            yield from (_line("ADDED", s) for s in present if request.selector.matches(s.data))
            if request.initial_bookmark:
                yield _bookmark(request, version, {"k8s.io/initial-events-end": "true"})
        while True:
            with store.lock:
                changes, error = self._since(version)
                now = clock.monotonic()
                if self._round != running:
                    return
                if not error and not changes and now < min(end, bookmark):
                    self._awake -= 1
                    clock.wait(store.changed, min(end, bookmark) - now)
                    self._awake += 1
                    continue
            if error:
                yield error
                return
            for change in changes:
                version = change.version
                if change.resource == request.resource and request.namespace in ("", change.key[0]):
                    line = _event(request.selector, change)
                    if line:
                        yield line
            if changes:
                continue
            if request.bookmarks:
                yield _bookmark(request, version, {})
            if now >= end:
                return
            bookmark = now + _BOOKMARK_EVERY

    def _since(self, version: int) -> tuple[list[Change], bytes]:
        """The changes after a version, or the line that says they are forgotten."""
        try:
            return self._store.since(version), b""
        except ApiError as error:
            return [], json.dumps({"type": "ERROR", "object": error.status()}).encode() + b"\n"


def _event(selector: Selector, change: Change) -> bytes:
    """What a change is to a watch with this selector: what begins to match is added, what ceases is deleted."""
    matches = selector.matches(change.new.data)
    matched = change.old is not None and selector.matches(change.old.data)
    if change.kind == "DELETED":
        return _line("DELETED", change.new) if matched or matches else b""
    if matches:
        return _line("MODIFIED" if matched else "ADDED", change.new)
    return _line("DELETED", change.new) if matched else b""


def _line(kind: str, stored: Stored) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), stored.json())


def _bookmark(request: WatchRequest, version: int, notes: dict[str, str]) -> bytes:
    meta: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if notes:
        meta["annotations"] = notes
    data = {"kind": request.resource.kind, "apiVersion": request.resource.api_version, "metadata": meta}
    return json.dumps({"type": "BOOKMARK", "object": data}).encode() + b"\n"
