"""Events about objects (core/v1), counted up where the same thing is said again."""

from __future__ import annotations

from tests.cluster.server.objects import Object, Store, stamp
from tests.cluster.server.resources import EVENTS


class Recorder:
    """Writes events as one component."""

    def __init__(self, store: Store, component: str, host: str = "") -> None:
        self._store = store
        self._source = {"component": component} | ({"host": host} if host else {})
        self._seen: dict[tuple[str, str, str], tuple[str, str]] = {}

    def normal(self, about: Object, reason: str, message: str) -> None:
        self._record("Normal", about, reason, message)

    def warning(self, about: Object, reason: str, message: str) -> None:
        self._record("Warning", about, reason, message)

    def _record(self, kind: str, about: Object, reason: str, message: str) -> None:
        meta = about["metadata"]
        now = stamp(self._store.clock.now())
        seen = (meta["uid"], reason, message)
        with self._store.lock:
            if seen in self._seen and self._store.change(EVENTS, self._seen[seen], lambda e: _again(e, now)):
                return
            namespace = meta.get("namespace", "default")
            name = f"{meta['name']}.{self._store.new_uid().replace('-', '')[:16]}"
            self._seen[seen] = (namespace, name)
            reference = {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": meta["name"],
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            }
            event = {
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": reference | ({"namespace": namespace} if "namespace" in meta else {}),
                "type": kind,
                "reason": reason,
                "message": message[:1024],
                "source": self._source,
                "reportingComponent": self._source["component"],
                "reportingInstance": self._source.get("host", ""),
                "count": 1,
                "firstTimestamp": now,
                "lastTimestamp": now,
                "eventTime": None,
            }
            self._store.add(EVENTS, event)


def _again(event: Object, now: str) -> None:
    event["count"] += 1
    event["lastTimestamp"] = now
