"""One sync of a Job, after Kubernetes' job controller: a pure function of the job, its pods and the time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from tests.cluster.server import conditions
from tests.cluster.server.indexes import read_indexes, write_indexes
from tests.cluster.server.objects import Object, clone, stamp
from tests.cluster.server.pod_failure import (
    Backoff,
    active,
    completion_index,
    failed,
    failure_count,
    finished_at,
    index_failed,
    judge,
    replacement_notes,
    terminating,
    tracked,
)

MOST_PER_SYNC = 500  # pods created or deleted at once
Event = tuple[str, str, str]  # Normal or Warning, reason, message


@dataclass(frozen=True)
class Creation:
    """A pod to create: its completion index, and the annotations it takes over from the one it replaces."""

    index: int | None = None
    notes: dict[str, str] = field(default_factory=dict)


@dataclass
class Plan:
    """What a sync decided. `interim` is written before pods lose their finalizer, `status` after."""

    status: Object
    interim: Object | None = None
    create: list[Creation] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)
    release: list[Object] = field(default_factory=list)  # pods that are counted, or never will be
    events: list[Event] = field(default_factory=list)
    again: float | None = None  # seconds until the next sync, whatever happens
    backoff: Backoff = field(default_factory=Backoff)


def finished(job: Object) -> bool:
    return any(conditions.holds(job.get("status", {}), kind) for kind in ("Complete", "Failed"))


def sync(job: Object, pods: list[Object], backoff: Backoff, now: datetime, first_backoff: float = 10.0) -> Plan:
    """`pods` are the job's that are not counted yet or still run."""
    if finished(job):
        return Plan(job["status"], release=[p for p in pods if tracked(p)])
    return _Sync(job, pods, backoff, now, first_backoff).run()


class _Sync:
    def __init__(self, job: Object, pods: list[Object], backoff: Backoff, now: datetime, first: float) -> None:
        self.job, self.spec, self.now, self.first = job, job["spec"], now, first
        self.status: Object = clone(job.get("status", {}))
        self.pods = pods
        self.indexed = self.spec["completionMode"] == "Indexed"
        self.per_index = self.indexed and "backoffLimitPerIndex" in self.spec
        self.policy = self.spec.get("podFailurePolicy")
        self.active = [p for p in pods if active(p)]
        self.terminating = sum(map(terminating, pods))
        uncounted = [p for p in pods if tracked(p) and self._valid(p)]
        self.new_succeeded = [p for p in uncounted if p["status"]["phase"] == "Succeeded"]
        self.new_failed = [p for p in uncounted if failed(p, job)]
        self.plan = Plan(self.status, backoff=backoff.after(self.new_succeeded, self.new_failed))
        self.completed = read_indexes(self.status.get("completedIndexes", ""))
        self.completed |= {i for p in self.new_succeeded if (i := completion_index(p)) is not None}
        self.failed_indexes = read_indexes(self.status.get("failedIndexes", ""))
        self.succeeded = (
            len(self.completed) if self.indexed else self.status.get("succeeded", 0) + len(self.new_succeeded)
        )
        self.failures = self.status.get("failed", 0) + sum(judge(self.policy, p).counts for p in self.new_failed)
        self.waiting: dict[int, Object] = {}  # the failed pod of an index that waits for its replacement

    def _valid(self, pod: Object) -> bool:
        index = completion_index(pod)
        return not self.indexed or (index is not None and index < self.spec["completions"])

    def run(self) -> Plan:
        suspended = self.spec.get("suspend", False)
        if "startTime" not in self.status and not suspended:
            self.status["startTime"] = stamp(self.now)
        if self.per_index:
            self._judge_indexes()
        end = self._end(suspended)
        now_active = len(self.active)
        if end is not None:
            self.plan.delete = self.active
            self.terminating += now_active
            now_active = 0
        else:
            if "deletionTimestamp" not in self.job["metadata"]:
                now_active = self._manage(suspended, now_active)
            if self.succeeded >= self.spec.get("completions", 1) and now_active == 0:
                end = ("SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods")
            else:
                self._suspension(suspended)
        self.status["active"] = now_active
        going = {id(p) for p in self.plan.delete}
        self.status["ready"] = sum(conditions.holds(p["status"], "Ready") for p in self.active if id(p) not in going)
        self.status["terminating"] = self.terminating
        self._count(end)
        return self.plan

    # ---- why the job ends
    def _end(self, suspended: bool) -> tuple[str, str, str] | None:
        """(interim condition, reason, message) where the job has ended or must end now."""
        for kind in ("SuccessCriteriaMet", "FailureTarget"):
            if conditions.holds(self.status, kind):
                found = conditions.find(self.status, kind) or {}
                return kind, found.get("reason", ""), found.get("message", "")
        for pod in self.pods:
            if failed(pod, self.job) and (message := judge(self.policy, pod).message):
                return "FailureTarget", "PodFailurePolicy", message
        if self.failures > self.spec["backoffLimit"]:
            return "FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        deadline = self.spec.get("activeDeadlineSeconds")
        if deadline is not None and not suspended:
            left = deadline - (self.now - conditions.moment(self.status["startTime"])).total_seconds()
            if left <= 0:
                return "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline"
            self._again(left)
        if self.per_index and self.failed_indexes:
            if len(self.failed_indexes) > self.spec.get("maxFailedIndexes", len(self.failed_indexes)):
                text = "Job has exceeded the specified maximal number of failed indexes"
                return "FailureTarget", "MaxFailedIndexesExceeded", text
            if len(self.failed_indexes | self.completed) >= self.spec["completions"]:
                return "FailureTarget", "FailedIndexes", "Job has failed indexes"
        return None

    def _judge_indexes(self) -> None:
        running = {completion_index(p) for p in self.active}
        for pod in self.new_failed:
            if index_failed(pod, self.job):
                self.failed_indexes.add(_index(pod))
        for pod in self.new_failed:
            index = _index(pod)
            if index in running or index in self.completed or index in self.failed_indexes:
                continue
            other = self.waiting.get(index)
            if other is None or failure_count(pod, ignored=True) > failure_count(other, ignored=True):
                self.waiting[index] = pod

    # ---- which pods there should be
    def _manage(self, suspended: bool, now_active: int) -> int:
        """Plans deletions or creations; how many pods are active after."""
        want = min(self.spec["parallelism"], max(0, self.spec.get("completions", 10**9) - self.succeeded))
        if "completions" not in self.spec and self.succeeded:
            want = now_active
        surplus = self.active if suspended else self._surplus(max(0, now_active - want))
        if surplus or suspended:
            # These were not failures: they lose their finalizer uncounted.
            self.plan.delete = surplus[:MOST_PER_SYNC] if not suspended else surplus
            self.plan.release += [p for p in self.plan.delete if tracked(p)]
            self.terminating += len(self.plan.delete)
            return now_active - len(self.plan.delete)
        held = self.terminating if self.spec["podReplacementPolicy"] == "Failed" else 0
        missing = min(want - now_active - held, MOST_PER_SYNC)
        if missing <= 0:
            return now_active
        if not self.per_index and (wait := self.plan.backoff.remaining(self.now, self.first)) > 0:
            self._again(wait)
            return now_active
        if self.indexed:
            for index in self._free_indexes(missing):
                notes = replacement_notes(self.waiting.get(index), self.job) if self.per_index else {}
                self.plan.create.append(Creation(index, notes))
        else:
            self.plan.create = [Creation() for _ in range(missing)]
        return now_active + len(self.plan.create)

    def _surplus(self, at_least: int) -> list[Object]:
        """Active pods to remove: doubles of an index first, then the least advanced."""
        seen: dict[int | None, Object] = {}
        doubles = []
        for pod in sorted(self.active, key=_progress, reverse=True) if self.indexed else []:
            if completion_index(pod) in seen or not self._valid(pod):
                doubles.append(pod)
            seen[completion_index(pod)] = pod
        twice = {id(p) for p in doubles}
        left = sorted((p for p in self.active if id(p) not in twice), key=_progress) if len(doubles) < at_least else []
        return doubles + left[: max(0, at_least - len(doubles))]

    def _free_indexes(self, count: int) -> list[int]:
        """The lowest indexes without a pod or a result that may have a pod now."""
        held = self.spec["podReplacementPolicy"] == "Failed"
        pods = {completion_index(p) for p in self.pods if active(p) or (held and terminating(p))}
        taken = self.completed | self.failed_indexes | pods
        free: list[int] = []
        waits: list[float] = []
        for index in range(self.spec["completions"]):
            if len(free) + len(waits) == count:
                break
            if index in taken:
                continue
            before = self.waiting.get(index)
            wait = self._index_backoff(before).remaining(self.now, self.first) if before else 0.0
            (free.append(index) if wait <= 0 else waits.append(wait))
        if waits:
            self._again(min(waits))
        return free

    def _index_backoff(self, pod: Object) -> Backoff:
        return Backoff(failure_count(pod, ignored=True) + 1, finished_at(pod))

    # ---- what is written down
    def _suspension(self, suspended: bool) -> None:
        value, reason, message = (
            ("True", "JobSuspended", "Job suspended") if suspended else ("False", "JobResumed", "Job resumed")
        )
        if not suspended and conditions.find(self.status, "Suspended") is None:
            return
        if not conditions.put(
            self.status, "Suspended", value, self.now, reason, message, lastProbeTime=stamp(self.now)
        ):
            return
        self.plan.events.append(("Normal", reason.removeprefix("Job"), message))
        if suspended:
            self.status.pop("startTime", None)
        else:
            self.status["startTime"] = stamp(self.now)

    def _count(self, end: tuple[str, str, str] | None) -> None:
        """Counts finished pods, releases them, and sets the conditions in their order."""
        failing = end is not None and end[0] == "FailureTarget"
        counted: list[Object] = []
        dropped = {id(p) for p in self.plan.release}
        for pod in self.pods:
            bad = failed(pod, self.job)
            done = pod["status"]["phase"] == "Succeeded"
            if not tracked(pod) or id(pod) in dropped:
                continue
            if not (end or done or bad or "deletionTimestamp" in self.job["metadata"]):
                continue
            if not end and not done and pod is self.waiting.get(_index(pod)):
                continue  # its index's failures go to the replacement first
            self.plan.release.append(pod)
            if not done and (bad or failing) and self._valid(pod) and judge(self.policy, pod).counts:
                counted.append(pod)
        status = self.status
        status["uncountedTerminatedPods"] = {}
        status["succeeded"] = self.succeeded
        if self.indexed:
            status["completedIndexes"] = write_indexes(self.completed)
            if self.per_index:
                status["failedIndexes"] = write_indexes(self.failed_indexes)
        if end and conditions.put(status, end[0], "True", self.now, end[1], end[2], lastProbeTime=stamp(self.now)):
            uncounted = {"failed": [p["metadata"]["uid"] for p in counted]} if counted else {}
            self.plan.interim = _without_zeros(clone(status) | {"uncountedTerminatedPods": uncounted})
        status["failed"] = status.get("failed", 0) + len(counted)
        if end is not None and not self.terminating:
            kind = "Failed" if failing else "Complete"
            conditions.put(status, kind, "True", self.now, end[1], end[2], lastProbeTime=stamp(self.now))
            if kind == "Complete":
                status["completionTime"] = stamp(self.now)
            self.plan.events.append(
                ("Warning", end[1], end[2]) if failing else ("Normal", "Completed", "Job completed")
            )
        self.plan.status = _without_zeros(status)

    def _again(self, seconds: float) -> None:
        self.plan.again = min(seconds, self.plan.again if self.plan.again is not None else seconds)


def _without_zeros(status: Object) -> Object:
    """As it is written: these fields are left out when they are zero or empty."""
    omitted = ("succeeded", "failed", "active", "completedIndexes")
    return {name: value for name, value in status.items() if value or name not in omitted}


def _index(pod: Object) -> int:
    """The completion index; -1 for a pod without one."""
    index = completion_index(pod)
    return -1 if index is None else index


def _progress(pod: Object) -> tuple[bool, bool, bool, str]:
    """How far a pod has come: the least comes first, and goes first."""
    phase = pod["status"]["phase"]
    placed = bool(pod["spec"].get("nodeName"))
    return placed, phase == "Running", conditions.holds(pod["status"], "Ready"), pod["metadata"]["creationTimestamp"]
