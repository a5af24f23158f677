"""The job controller: keeps each job's uncounted pods at hand and carries out what `jobs.sync` plans."""

from __future__ import annotations

from typing import Any

from tests.cluster.server import jobs
from tests.cluster.server.controllers import Timers
from tests.cluster.server.defaults import INDEX_ANNOTATION, TRACKING_FINALIZER
from tests.cluster.server.errors import ApiError
from tests.cluster.server.events import Recorder
from tests.cluster.server.objects import Change, Key, Object, clone, key_of
from tests.cluster.server.pod_failure import Backoff, tracked
from tests.cluster.server.registry import DeleteOptions, Registry
from tests.cluster.server.resources import JOBS, PODS

# Seconds between tries to create pods that are refused. A change of its pods makes a job try again after the first.
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0


class JobController:
    """Kubernetes' job controller without its batching: it syncs a job at every change of its pods."""

    def __init__(self, registry: Registry, timers: Timers, first_backoff: float) -> None:
        self._registry = registry
        self._store = registry.store
        self._timers = timers
        self._first_backoff = first_backoff
        self._events = Recorder(registry.store, "job-controller")
        self._keys: dict[str, Key] = {}  # of jobs, by uid
        self._live: dict[str, dict[Key, Object]] = {}  # by the job's uid: pods that run or are not counted
        self._backoffs: dict[str, Backoff] = {}
        self._refused: dict[str, tuple[int, float]] = {}  # by the job's uid: tries in a row without a pod, and the last
        self._dirty: dict[str, None] = {}

    def observe(self, change: Change) -> None:
        data = change.new.data
        if change.resource == JOBS:
            uid = data["metadata"]["uid"]
            if change.kind == "DELETED":
                for state in (self._keys, self._backoffs, self._refused):
                    state.pop(uid, None)
                for pod in self._live.pop(uid, {}).values():
                    self._release(pod)
            else:
                self._keys[uid] = change.key
                self._dirty[uid] = None
        elif change.resource == PODS and (uid := _owner(data)):
            live = self._live.setdefault(uid, {})
            ended = data["status"]["phase"] in ("Succeeded", "Failed")
            if change.kind == "DELETED" or (ended and not tracked(data)):
                live.pop(change.key, None)
            else:
                live[change.key] = data
            if uid not in self._keys:  # an orphan of a job that is gone
                self._live.pop(uid)
                self._release(data)
            self._dirty[uid] = None

    def step(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for uid in dirty:
            job = self._store.find(JOBS, self._keys[uid]) if uid in self._keys else None
            if job is not None and job["spec"].get("managedBy", "kubernetes.io/job-controller").startswith(
                "kubernetes.io/"
            ):
                self._sync(uid, job)

    def _sync(self, uid: str, job: Object) -> None:
        pods = list(self._live.get(uid, {}).values())
        plan = jobs.sync(job, pods, self._backoffs.get(uid, Backoff()), self._store.clock.now(), self._first_backoff)
        self._backoffs[uid] = plan.backoff
        self._create(uid, job, plan)
        if plan.interim is not None:
            self._write(job, plan.interim)
        for pod in plan.release:
            self._release(pod)
        for pod in plan.delete:
            self._delete(job, pod)
        self._write(job, plan.status)
        for kind, reason, message in plan.events:
            (self._events.normal if kind == "Normal" else self._events.warning)(job, reason, message)
        if plan.again is not None:
            self._timers.after(plan.again, lambda: self._dirty.setdefault(uid, None))

    def _create(self, uid: str, job: Object, plan: jobs.Plan) -> None:
        """Creates pods until one is refused; the rest waits for the next try, as the controller's slow start has it."""
        now = self._store.clock.monotonic()
        tries, last = self._refused.get(uid, (0, now - _FIRST_RETRY))
        if plan.create and now < last + _FIRST_RETRY:
            self._postpone(plan, len(plan.create), last + _FIRST_RETRY - now)
            return
        for number, creation in enumerate(plan.create):
            prefix = f"{job['metadata']['name']}-"
            if creation.index is not None:
                suffix = f"-{creation.index}-"
                prefix = job["metadata"]["name"][: 58 - len(suffix)] + suffix
            try:
                pod = self._registry.add(PODS, job["metadata"]["namespace"], _pod(job, creation, prefix))
            except ApiError as error:
                self._events.warning(job, "FailedCreate", f"Error creating: {error.message}")
                self._refused[uid] = (tries + 1, now)
                wait = min(_FIRST_RETRY * 2 ** min(tries, 10), _LONGEST_RETRY)
                self._postpone(plan, len(plan.create) - number, wait)
                return
            self._live.setdefault(uid, {})[key_of(pod)] = pod
            self._events.normal(job, "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}")
        if plan.create:
            self._refused.pop(uid, None)

    def _postpone(self, plan: jobs.Plan, count: int, seconds: float) -> None:
        """Takes so many pods that were not created out of the plan, for some time."""
        plan.status["active"] = plan.status.get("active", 0) - count
        if not plan.status["active"]:
            del plan.status["active"]
        plan.again = min(seconds, plan.again if plan.again is not None else seconds)

    def _delete(self, job: Object, pod: Object) -> None:
        key = key_of(pod)
        if self._store.find(PODS, key):
            self._registry.delete(PODS, key, DeleteOptions())
            self._events.normal(job, "SuccessfulDelete", f"Deleted pod: {key[1]}")

    def _release(self, pod: Object) -> None:
        def release(data: Object) -> None:
            data["metadata"]["finalizers"] = [f for f in data["metadata"]["finalizers"] if f != TRACKING_FINALIZER]
            if not data["metadata"]["finalizers"]:
                del data["metadata"]["finalizers"]

        current = self._store.find(PODS, key_of(pod))
        if current is not None and current["metadata"]["uid"] == pod["metadata"]["uid"] and tracked(current):
            self._store.change(PODS, key_of(pod), release)

    def _write(self, job: Object, status: Object) -> None:
        def write(data: Object) -> None:
            data["status"] = status

        current = self._store.find(JOBS, key_of(job))
        if current is not None and current["metadata"]["uid"] == job["metadata"]["uid"]:
            self._store.change(JOBS, key_of(job), write)


def _owner(pod: Object) -> str:
    """The uid of the job that controls this pod, or nothing."""
    for owner in pod["metadata"].get("ownerReferences", ()):
        if owner.get("controller") and owner["kind"] == "Job":
            return str(owner["uid"])
    return ""


def _pod(job: Object, creation: jobs.Creation, prefix: str) -> Object:
    """The pod of a template, as the controller completes it."""
    template, name = job["spec"]["template"], job["metadata"]["name"]
    meta: dict[str, Any] = clone(template.get("metadata", {}))
    spec = clone(template["spec"])
    meta |= {"generateName": prefix, "namespace": job["metadata"]["namespace"]}
    meta["finalizers"] = [*meta.get("finalizers", []), TRACKING_FINALIZER]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
    meta["ownerReferences"] = [owner | {"controller": True, "blockOwnerDeletion": True}]
    if creation.index is not None:
        index = str(creation.index)
        meta["annotations"] = meta.get("annotations", {}) | {INDEX_ANNOTATION: index} | creation.notes
        meta["labels"] = meta.get("labels", {}) | {INDEX_ANNOTATION: index}
        spec["hostname"] = f"{name}-{index}"
        reference = {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX_ANNOTATION}']"}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            if all(v["name"] != "JOB_COMPLETION_INDEX" for v in container.get("env", [])):
                variable = {"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": reference}}
                container.setdefault("env", []).append(variable)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
