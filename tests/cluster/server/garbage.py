"""What removes objects: the collector of orphans, the pod collector, and the time to live of finished jobs."""

from __future__ import annotations

from collections import deque

from tests.cluster.server import conditions, jobs
from tests.cluster.server.controllers import Timers
from tests.cluster.server.errors import ApiError
from tests.cluster.server.objects import Change, Key, Object, Store
from tests.cluster.server.registry import DeleteOptions, Registry
from tests.cluster.server.resources import EVENTS, JOBS, NODES, PODS, Resource

_EVENT_LIFETIME, _EVENT_SWEEP = 3600.0, 60.0  # seconds


class GarbageCollector:
    """Owner references: dependents go after their owner, before it (Foreground), or are set free (Orphan)."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._uids: dict[str, tuple[Resource, Key]] = {}
        self._todo: list[tuple[Resource, Key]] = []

    def observe(self, change: Change) -> None:
        data = change.new.data
        uid = data["metadata"]["uid"]
        where = (change.resource, change.key)
        if change.kind == "DELETED":
            self._uids.pop(uid, None)
            self._todo += self._store.owned(uid)
            # A foreground deletion of an owner may have waited for this one.
            owners = [self._uids.get(o["uid"]) for o in data["metadata"].get("ownerReferences", ())]
            self._todo += [o for o in owners if o is not None]
        else:
            self._uids[uid] = where
            if data["metadata"].get("ownerReferences") and change.kind == "ADDED":
                self._todo.append(where)
            if "deletionTimestamp" in data["metadata"]:
                self._todo.append(where)

    def step(self) -> None:
        todo, self._todo = self._todo, []
        for resource, key in dict.fromkeys(todo):
            found = self._store.find(resource, key)
            if found is None:
                continue
            finalizers = found["metadata"].get("finalizers", ())
            if "deletionTimestamp" in found["metadata"] and "orphan" in finalizers:
                self._orphan(resource, key, found)
            elif "deletionTimestamp" in found["metadata"] and "foregroundDeletion" in finalizers:
                self._foreground(resource, key, found)
            elif (owners := found["metadata"].get("ownerReferences")) and not any(
                o["uid"] in self._uids for o in owners
            ):
                self._delete(resource, key)

    def _orphan(self, resource: Resource, key: Key, owner: Object) -> None:
        uid = owner["metadata"]["uid"]

        def free(data: Object) -> None:
            kept = [o for o in data["metadata"]["ownerReferences"] if o["uid"] != uid]
            data["metadata"]["ownerReferences"] = kept

        for dependent in self._store.owned(uid):
            self._store.change(*dependent, free)
        _drop_finalizer(self._store, resource, key, "orphan")

    def _foreground(self, resource: Resource, key: Key, owner: Object) -> None:
        dependents = self._store.owned(owner["metadata"]["uid"])
        blocking = False
        for dependent in dependents:
            data = self._store.get(*dependent)
            references = data["metadata"]["ownerReferences"]
            blocking |= any(o["uid"] == owner["metadata"]["uid"] and o.get("blockOwnerDeletion") for o in references)
            if "deletionTimestamp" not in data["metadata"]:
                self._delete(*dependent, "Foreground")
        if not blocking or not self._store.owned(owner["metadata"]["uid"]):
            _drop_finalizer(self._store, resource, key, "foregroundDeletion")

    def _delete(self, resource: Resource, key: Key, propagation: str = "Background") -> None:
        # A pod has no dependents: to wait for them would only keep it.
        options = DeleteOptions(propagation="Background" if resource == PODS else propagation)
        self._registry.delete(resource, key, options)


class PodCollector:
    """Fails and removes pods that no kubelet can end: of a node that is gone, or deleted before they had one."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._todo: dict[Key, None] = {}

    def observe(self, change: Change) -> None:
        if change.resource == PODS and change.kind != "DELETED":
            pod = change.new.data
            node = pod["spec"].get("nodeName")
            if (not node and "deletionTimestamp" in pod["metadata"]) or (
                node and not self._store.find(NODES, ("", node))
            ):
                self._todo[change.key] = None
        elif change.resource == NODES and change.kind == "DELETED":
            name = change.key[1]
            self._todo |= {_key(p): None for p in self._store.all(PODS) if p["spec"].get("nodeName") == name}

    def step(self) -> None:
        todo, self._todo = self._todo, {}
        now = self._store.clock.now()
        for key in todo:
            pod = self._store.find(PODS, key)
            if pod is None or pod["status"]["phase"] in ("Succeeded", "Failed"):
                continue

            def fail(data: Object) -> None:
                data["status"]["phase"] = "Failed"
                if data["spec"].get("nodeName"):
                    text = "PodGC: node no longer exists"
                    conditions.put(data["status"], "DisruptionTarget", "True", now, "DeletionByPodGC", text)

            self._store.change(PODS, key, fail)
            self._registry.delete(PODS, key, DeleteOptions(grace=0))


class TimeToLive:
    """Deletes a finished job after its ttlSecondsAfterFinished."""

    def __init__(self, registry: Registry, timers: Timers) -> None:
        self._registry = registry
        self._store = registry.store
        self._timers = timers
        self._planned: dict[str, float] = {}

    def observe(self, change: Change) -> None:
        data = change.new.data
        if change.resource != JOBS or change.kind == "DELETED" or not jobs.finished(data):
            return
        seconds = data["spec"].get("ttlSecondsAfterFinished")
        uid = data["metadata"]["uid"]
        if seconds is None or self._planned.get(uid) == seconds:
            return
        self._planned[uid] = seconds
        ended = next(c for c in data["status"]["conditions"] if c["type"] in ("Complete", "Failed"))
        age = (self._store.clock.now() - conditions.moment(ended["lastTransitionTime"])).total_seconds()
        self._timers.after(seconds - age, lambda: self._expire(change.key, uid, seconds))

    def _expire(self, key: Key, uid: str, seconds: float) -> None:
        job = self._store.find(JOBS, key)
        if job is None or job["metadata"]["uid"] != uid or job["spec"].get("ttlSecondsAfterFinished") != seconds:
            return
        try:
            self._registry.delete(JOBS, key, DeleteOptions(propagation="Foreground", preconditions={"uid": uid}))
        except ApiError:
            return

    def step(self) -> None:
        return


class EventsLifetime:
    """Forgets an event an hour after it was last said, as an API server does."""

    def __init__(self, store: Store, timers: Timers) -> None:
        self._store = store
        self._timers = timers
        self._said: deque[tuple[float, str, Key]] = deque()  # until when, in which version, which one
        self._armed = False

    def observe(self, change: Change) -> None:
        if change.resource == EVENTS and change.kind != "DELETED":
            version = change.new.data["metadata"]["resourceVersion"]
            self._said.append((self._store.clock.monotonic() + _EVENT_LIFETIME, version, change.key))
            self._arm()

    def step(self) -> None:
        return

    def _arm(self) -> None:
        if not self._armed and self._said:
            self._armed = True
            # Not at each one's own moment: on a clock that is moved every moment costs a step.
            left = self._said[0][0] - self._store.clock.monotonic()
            self._timers.after(left + _EVENT_SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._armed = False
        while self._said and self._said[0][0] <= self._store.clock.monotonic():
            _, version, key = self._said.popleft()
            event = self._store.find(EVENTS, key)
            if event is not None and event["metadata"]["resourceVersion"] == version:
                self._store.remove(EVENTS, key)
        self._arm()


def _key(data: Object) -> Key:
    return data["metadata"]["namespace"], data["metadata"]["name"]


def _drop_finalizer(store: Store, resource: Resource, key: Key, name: str) -> None:
    def drop(data: Object) -> None:
        data["metadata"]["finalizers"] = [f for f in data["metadata"].get("finalizers", []) if f != name]

    store.change(resource, key, drop)
