"""What Kueue does to a job with a queue's label: a Workload, a place in the queue, admission and preemption.

When a job is admitted or preempted is the test's decision; this only does then what Kueue would.
"""

from __future__ import annotations

import hashlib

from tests.cluster.server import conditions, jobs
from tests.cluster.server.errors import not_found
from tests.cluster.server.events import Recorder
from tests.cluster.server.objects import Change, Key, Object, clone, key_of
from tests.cluster.server.registry import Registry
from tests.cluster.server.resources import JOBS, LOCAL_QUEUES, PRIORITY_CLASSES, WORKLOADS, Resource

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_PREEMPTED = "Preempted to accommodate a workload (UID: {uid}) due to prioritization in the ClusterQueue"


class Kueue:
    """Kueue's webhook and its job and workload controllers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._events = Recorder(registry.store, "batch/job-kueue-controller")
        self._todo: dict[Key, None] = {}

    def __call__(self, resource: Resource, data: Object) -> None:
        """Kueue's webhook: a job with a queue starts suspended."""
        if resource == JOBS and QUEUE_LABEL in (data["metadata"].get("labels") or {}):
            data["spec"]["suspend"] = True

    def observe(self, change: Change) -> None:
        data = change.new.data
        if change.resource == JOBS and QUEUE_LABEL in (data["metadata"].get("labels") or {}):
            self._todo[change.key] = None

    def step(self) -> None:
        todo, self._todo = self._todo, {}
        for key in todo:
            job = self._store.find(JOBS, key)
            if job is None:
                continue
            name = workload_name(job)
            workload = self._store.find(WORKLOADS, (key[0], name))
            if workload is None and not jobs.finished(job):
                self._registry.add(WORKLOADS, key[0], self._workload(job, name))
                self._events.normal(job, "CreatedWorkload", f"Created Workload: {key[0]}/{name}")
            elif workload is not None:
                self._follow(job, workload)

    def _follow(self, job: Object, workload: Object) -> None:
        """Carries the job's end, or the end of its pods after a preemption, to its workload."""
        status = workload["status"]
        if jobs.finished(job) and not conditions.holds(status, "Finished"):
            ended = next(c for c in job["status"]["conditions"] if c["type"] in ("Complete", "Failed"))
            reason = "Succeeded" if ended["type"] == "Complete" else "Failed"
            text = ended.get("message", "") or "Job finished successfully"
            self._set(workload, ("Finished", "True", reason, text))
        evicted = conditions.find(status, "Evicted")
        quiet = not job["status"].get("active") and not job["status"].get("terminating")
        if evicted and evicted["status"] == "True" and conditions.holds(status, "QuotaReserved") and quiet:
            message = evicted["message"]
            self._set(
                workload,
                ("QuotaReserved", "False", "Pending", message),
                ("Admitted", "False", "NoReservation", "The workload has no reservation"),
                ("Requeued", "True", evicted["reason"], message),
            )

    # ---- what the test decides
    def admit(self, job_key: Key) -> None:
        job = self._store.get(JOBS, job_key)
        workload = self._of(job)
        if workload is not None:
            queue = workload["spec"]["queueName"]
            counts = [{"name": s["name"], "count": s["count"]} for s in workload["spec"]["podSets"]]

            def assign(data: Object) -> None:
                data["status"]["admission"] = {"clusterQueue": queue, "podSetAssignments": counts}

            self._set(
                workload,
                ("QuotaReserved", "True", "QuotaReserved", f"Quota reserved in ClusterQueue {queue}"),
                ("Admitted", "True", "Admitted", "The workload is admitted"),
                ("Evicted", "False", "QuotaReserved", "Previously: Preempted"),
            )
            self._store.change(WORKLOADS, key_of(workload), assign)
            self._events.normal(job, "Started", f"Admitted by clusterQueue {queue}")
        self._suspend(job_key, value=False)

    def preempt(self, job_key: Key) -> None:
        job = self._store.get(JOBS, job_key)
        workload = self._of(job)
        if workload is not None:
            message = _PREEMPTED.format(uid=self._store.new_uid())
            self._set(
                workload,
                ("Evicted", "True", "Preempted", message),
                ("Preempted", "True", "InClusterQueue", message),
            )
            self._events.normal(job, "Stopped", message)
        self._suspend(job_key, value=True)

    def pending(self, namespace: str, queue: str) -> list[Object]:
        """The visibility API's summary of a queue, first in line first."""
        if self._store.find(LOCAL_QUEUES, (namespace, queue)) is None:
            raise not_found(LOCAL_QUEUES, queue)
        waiting = [
            w
            for w in self._store.all(WORKLOADS, namespace)
            if w["spec"]["queueName"] == queue
            and not any(conditions.holds(w["status"], c) for c in ("QuotaReserved", "Finished"))
        ]
        waiting.sort(key=lambda w: (-w["spec"]["priority"], int(w["metadata"]["resourceVersion"])))
        waiting.sort(key=lambda w: (-w["spec"]["priority"], w["metadata"]["creationTimestamp"]))
        return [
            {
                "metadata": {
                    f: w["metadata"][f] for f in ("name", "namespace", "creationTimestamp", "ownerReferences")
                },
                "priority": w["spec"]["priority"],
                "localQueueName": queue,
                "positionInClusterQueue": place,
                "positionInLocalQueue": place,
            }
            for place, w in enumerate(waiting)
        ]

    def _suspend(self, job_key: Key, *, value: bool) -> None:
        def suspend(data: Object) -> None:
            data["spec"]["suspend"] = value

        self._store.change(JOBS, job_key, suspend)

    def _of(self, job: Object) -> Object | None:
        """The job's workload; made now where the controller has not come to it yet."""
        if QUEUE_LABEL not in (job["metadata"].get("labels") or {}):
            return None
        self._todo[key_of(job)] = None
        self.step()
        return self._store.find(WORKLOADS, (job["metadata"]["namespace"], workload_name(job)))

    def _set(self, workload: Object, *entries: tuple[str, str, str, str]) -> None:
        now = self._store.clock.now()

        def write(data: Object) -> None:
            for kind, value, reason, message in entries:
                if value == "True" or conditions.find(data["status"], kind) is not None:
                    conditions.put(data["status"], kind, value, now, reason, message)

        self._store.change(WORKLOADS, key_of(workload), write)

    def _workload(self, job: Object, name: str) -> Object:
        spec, meta = job["spec"], job["metadata"]
        queue = meta["labels"][QUEUE_LABEL]
        template = clone(spec["template"])
        priority_class = template["spec"].get("priorityClassName", "")
        found = self._store.find(PRIORITY_CLASSES, ("", priority_class))
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
        status: Object = {}
        reason, text = (
            "Pending",
            "couldn't assign flavors to pod set main: insufficient unused quota in flavor default-flavor",
        )
        if self._store.find(LOCAL_QUEUES, (meta["namespace"], queue)) is None:
            reason, text = "Inadmissible", f"LocalQueue {queue} doesn't exist"
        conditions.put(status, "QuotaReserved", "False", self._store.clock.now(), reason, text)
        return {
            "metadata": {
                "name": name,
                "labels": {"kueue.x-k8s.io/job-uid": meta["uid"]},
                "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
            },
            "spec": {
                "queueName": queue,
                "podSets": [{"name": "main", "count": spec["parallelism"], "template": template}],
                "priority": found["value"] if found else 0,
                "active": True,
            }
            | ({"priorityClassName": priority_class} if found else {}),
            "status": status,
        }


def workload_name(job: Object) -> str:
    """`job-<name>-<hash>`, as Kueue names it."""
    meta = job["metadata"]
    tail = hashlib.sha1(f"Job\nbatch\n{meta['name']}\n{meta['uid']}".encode()).hexdigest()[:5]
    return f"job-{meta['name'][:53]}-{tail}"
