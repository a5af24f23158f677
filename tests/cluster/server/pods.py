"""The parts of a pod that are no object: its log, and its eviction through the API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.server.errors import ApiError, bad_request
from tests.cluster.server.kubelet import Kubelet
from tests.cluster.server.nodes import disrupt
from tests.cluster.server.objects import Key, Object
from tests.cluster.server.registry import DeleteOptions, Registry
from tests.cluster.server.resources import PODS

_LOOK_EVERY = 0.05  # real seconds: a followed log grows in real time


class PodParts:
    """Serves logs and evictions."""

    def __init__(self, registry: Registry, kubelet: Kubelet) -> None:
        self._registry = registry
        self._kubelet = kubelet

    def evict_by_api(self, key: Key, options: Object) -> None:
        """What `kubectl drain` does. Budgets are not looked at."""
        store = self._registry.store
        with store.lock:
            pod = store.get(PODS, key)
            if pod["status"]["phase"] in ("Succeeded", "Failed"):
                self._registry.delete(PODS, key, DeleteOptions(grace=options.get("gracePeriodSeconds")))
            else:
                disrupt(self._registry, key, "EvictionByEvictionAPI", "Eviction API: evicting")

    def log(self, key: Key, query: dict[str, str]) -> Iterator[bytes]:
        """The log's text; with `follow`, until the container ends."""
        pod = self._registry.store.get(PODS, key)
        names = [c["name"] for k in ("containers", "initContainers") for c in pod["spec"].get(k, [])]
        name = query.get("container") or names[0]
        if name not in names:
            raise bad_request(f"container {name} is not valid for pod {key[1]}")
        if pod["spec"].get("nodeName") in self._kubelet.lost:
            raise ApiError(
                500,
                "InternalError",
                f'Get "https://{pod["spec"]["nodeName"]}:10250/containerLogs": dial tcp: i/o timeout',
            )
        waiting = _waiting(pod, name)
        if waiting:
            raise bad_request(f'container "{name}" in pod "{key[1]}" is waiting to start: {waiting}')
        path = self._kubelet.log_file(pod["metadata"]["uid"], name)
        return self._follow(key, name, path, query) if query.get("follow") == "true" else _whole(path, query)

    def _follow(self, key: Key, name: str, path: Path, query: dict[str, str]) -> Iterator[bytes]:
        sent = 0
        while True:
            pod = self._registry.store.find(PODS, key)
            data = path.read_bytes() if path.is_file() else b""
            if not sent and "tailLines" in query:
                sent = len(data) - sum(map(len, _whole(path, query)))
            yield data[sent:]
            sent = len(data)
            if pod is None or pod["status"]["phase"] in ("Succeeded", "Failed"):
                return
            time.sleep(_LOOK_EVERY)


def _whole(path: Path, query: dict[str, str]) -> Iterator[bytes]:
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    tail = query.get("tailLines")
    text = b"".join(lines[len(lines) - min(len(lines), int(tail)) :] if tail is not None else lines)
    limit = query.get("limitBytes")
    yield text[: int(limit)] if limit is not None else text


def _waiting(pod: Object, name: str) -> str:
    """Why this container has not started; empty once it has."""
    statuses = [*pod["status"].get("containerStatuses", []), *pod["status"].get("initContainerStatuses", [])]
    found = next((s for s in statuses if s["name"] == name), None)
    if found is None:
        return "ContainerCreating"
    return str(found["state"].get("waiting", {}).get("reason", ""))
