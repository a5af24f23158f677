"""Failed pods of a job: what its failure policy says of them, and how long their replacement waits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tests.cluster.server import conditions
from tests.cluster.server.defaults import INDEX_ANNOTATION, TRACKING_FINALIZER
from tests.cluster.server.objects import Object

FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"
LONGEST_BACKOFF = 600.0


@dataclass(frozen=True)
class Verdict:
    """What the policy says of one failed pod."""

    action: str = ""  # the matched rule's, or none
    counts: bool = True  # towards the back-off limit
    message: str = ""  # of a FailJob


def judge(policy: Object | None, pod: Object) -> Verdict:
    """The first rule that matches decides."""
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for number, rule in enumerate((policy or {}).get("rules", [])):
        action = rule["action"]
        text = ""
        if "onExitCodes" in rule:
            container = _exit_match(pod["status"], rule["onExitCodes"])
            if container is not None:
                code = container["state"]["terminated"]["exitCode"]
                text = f"Container {container['name']} for pod {name} failed with exit code {code}"
        else:
            condition = _condition_match(pod["status"], rule.get("onPodConditions", []))
            text = f"Pod {name} has condition {condition}" if condition else ""
        if text:
            message = f"{text} matching {action} rule at index {number}" if action == "FailJob" else ""
            return Verdict(action, action != "Ignore", message)
    return Verdict()


def _exit_match(status: Object, rule: Object) -> Object | None:
    for container in [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]:
        ended = container.get("state", {}).get("terminated")
        if ended is None or rule.get("containerName", container["name"]) != container["name"]:
            continue
        code = ended["exitCode"]
        if code != 0 and (code in rule["values"]) == (rule["operator"] == "In"):
            return dict(container)
    return None


def _condition_match(status: Object, patterns: list[Object]) -> str:
    for condition in status.get("conditions", []):
        if any(p["type"] == condition["type"] and p.get("status", "True") == condition["status"] for p in patterns):
            return str(condition["type"])
    return ""


def completion_index(pod: Object) -> int | None:
    text = pod["metadata"].get("annotations", {}).get(INDEX_ANNOTATION)
    return int(text) if text is not None else None


def tracked(pod: Object) -> bool:
    """Whether the job has not counted this pod yet."""
    return TRACKING_FINALIZER in pod["metadata"].get("finalizers", ())


def active(pod: Object) -> bool:
    return pod["status"]["phase"] not in ("Succeeded", "Failed") and "deletionTimestamp" not in pod["metadata"]


def terminating(pod: Object) -> bool:
    return pod["status"]["phase"] not in ("Succeeded", "Failed") and "deletionTimestamp" in pod["metadata"]


def failed(pod: Object, job: Object) -> bool:
    """Whether the job may count this pod as failed; a terminating one only where the job replaces such at once."""
    if pod["status"]["phase"] == "Failed":
        return True
    return job["spec"]["podReplacementPolicy"] != "Failed" and terminating(pod)


def finished_at(pod: Object) -> datetime:
    """When the pod ended: by its containers, its Ready condition, its deletion, else its creation."""
    ends = [
        c.get("state", {}).get("terminated", {}).get("finishedAt") for c in pod["status"].get("containerStatuses", [])
    ]
    if ends and all(ends):
        return max(conditions.moment(e) for e in ends)
    ready = conditions.find(pod["status"], "Ready")
    if ready is not None and ready["status"] == "False":
        return conditions.moment(ready["lastTransitionTime"])
    meta = pod["metadata"]
    if "deletionTimestamp" in meta:
        return conditions.moment(meta["deletionTimestamp"]) - timedelta(seconds=meta["deletionGracePeriodSeconds"])
    return conditions.moment(meta["creationTimestamp"])


def failure_count(pod: Object, *, ignored: bool) -> int:
    """Failures of this pod's index before it, with or without ignored ones."""
    notes = pod["metadata"].get("annotations", {})
    return int(notes.get(FAILURES, 0)) + (int(notes.get(IGNORED, 0)) if ignored else 0)


def index_failed(pod: Object, job: Object) -> bool:
    """Whether this failed pod was its index's last chance."""
    verdict = judge(job["spec"].get("podFailurePolicy"), pod)
    if verdict.action == "FailIndex":
        return True
    return verdict.counts and failure_count(pod, ignored=False) >= job["spec"]["backoffLimitPerIndex"]


def replacement_notes(pod: Object | None, job: Object) -> dict[str, str]:
    """The annotations in which an index's failures go from a pod to its replacement."""
    if pod is None:
        return {FAILURES: "0"}
    count = failure_count(pod, ignored=False)
    ignored = failure_count(pod, ignored=True) - count
    if judge(job["spec"].get("podFailurePolicy"), pod).counts:
        count += 1
    else:
        ignored += 1
    return {FAILURES: str(count)} | ({IGNORED: str(ignored)} if ignored else {})


@dataclass(frozen=True)
class Backoff:
    """A job's failures since its last success."""

    failures: int = 0
    last: datetime | None = None

    def after(self, succeeded: list[Object], fresh: list[Object]) -> Backoff:
        """The record with pods that newly succeeded and failed."""
        ends = sorted(finished_at(p) for p in fresh)
        if not succeeded:
            return replace(self, failures=self.failures + len(ends), last=ends[-1]) if ends else self
        success = max(finished_at(p) for p in succeeded)
        later = [e for e in ends if e > success]
        return Backoff(len(later), later[-1] if later else None)

    def remaining(self, now: datetime, first: float) -> float:
        """Seconds until a replacement may be made; `first` is the wait after one failure."""
        if not self.failures or self.last is None:
            return 0.0
        wait = min(first * 2 ** min(self.failures - 1, 30), LONGEST_BACKOFF)
        return max(0.0, wait - (now - self.last).total_seconds())
