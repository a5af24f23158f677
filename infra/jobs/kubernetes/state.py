"""What the cluster says about a job, reduced to what a person and the launcher want to know; pure.

queued ─► starting ─► running ─► succeeded
   ▲          │          │
   └──────────┴──────────┴─► failed: for good, or to be tried again
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kubernetes import client as k8s

from infra.jobs.kubernetes.build import DETERMINISTIC
from infra.jobs.kubernetes.variables import PREEMPTED

# Reasons of a container that waits: what time may mend, and what it never does.
_PULLING = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
_HOPELESS = {"InvalidImageName", "ErrImageNeverPull"}
UNPULLABLE = _PULLING | _HOPELESS
"""Reasons of a container that waits for its image in vain, for now or for good."""
_MISSING = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_REFUSED = re.compile(r"\bdenied\b|is forbidden")
_STARTING = {"ContainerCreating", "PodInitializing"}
_WRONG_EXIT = re.compile(rf"exit code ({'|'.join(map(str, DETERMINISTIC))})\b")


class Phase(StrEnum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Failure(StrEnum):
    """Why a job failed, which decides what is done about it."""

    WRONG = "wrong configuration or data"
    DISRUPTED = "disrupted"
    VAIN = "waiting cannot help"
    DELETED = "deleted"
    FAILED = "failed"


@dataclass(frozen=True)
class JobState:
    """A job at one moment. `reason` is in the cluster's own words.

    `stuck`: a pod waits for what may never come (an image, a secret); `hopeless`: waiting cannot help. `succeeded`
    counts indexes.
    """

    phase: Phase
    reason: str = ""
    nodes: tuple[str, ...] = ()
    succeeded: int = 0
    failed_indexes: str = ""
    failure: Failure | None = None
    place: int | None = None
    stuck: bool = False
    hopeless: bool = False

    @property
    def ended(self) -> bool:
        return self.phase in (Phase.SUCCEEDED, Phase.FAILED)

    def __str__(self) -> str:
        where = f" on {', '.join(self.nodes)}" if self.nodes else ""
        where += f", {self.place} before it" if self.place is not None else ""
        return f"{self.phase}{where}" + (f": {self.reason}" if self.reason else "")


def reduce(
    job: k8s.V1Job,
    pods: Sequence[k8s.V1Pod] = (),
    events: Sequence[k8s.CoreV1Event] = (),
    workload: Mapping[str, Any] | None = None,
    place: int | None = None,
) -> JobState:
    """The state of a job, from it and its pods, the events of both, Kueue's Workload where there is one, and its place
    in the queue (0: the next)."""
    status = job.status or k8s.V1JobStatus()
    counts: dict[str, Any] = {
        "succeeded": status.succeeded or 0,
        "failed_indexes": status.failed_indexes or "",
    }
    ended = {one.type: one for one in status.conditions or [] if one.status == "True"}
    if "Complete" in ended:
        return JobState(Phase.SUCCEEDED, **counts)
    if "Failed" in ended:
        failed = ended["Failed"]
        reason = f"{failed.reason}: {failed.message}" if failed.message else failed.reason or "Failed"
        return JobState(Phase.FAILED, reason, failure=_failure(failed, pods), **counts)
    if job.spec.suspend:
        return JobState(Phase.QUEUED, _queued(workload, events), place=place, **counts)
    living = [pod for pod in pods if pod.status.phase in ("Pending", "Running")]
    running = [pod for pod in living if pod.status.phase == "Running"]
    runs = bool(running) or (status.ready or 0) > 0  # of slices only those that wait are listed
    nodes = tuple(sorted({pod.spec.node_name for pod in running if pod.spec.node_name}))
    waiting = [pod for pod in living if pod.status.phase == "Pending"]
    if waiting:
        reason, stuck, hopeless = _worst(waiting, events)
        phase = Phase.RUNNING if runs else Phase.STARTING
        return JobState(phase, reason, nodes, stuck=stuck, hopeless=hopeless, **counts)
    if runs:
        return JobState(Phase.RUNNING, "", nodes, **counts)
    refused = _newest(events, {"FailedCreate"})
    reason = f"{refused.reason}: {refused.message}" if refused is not None else _disruption(pods)
    # Webhooks, policies, pod security, limits, service accounts: each has words of its own.
    hopeless = refused is not None and "exceeded quota" not in reason and bool(_REFUSED.search(reason))
    return JobState(Phase.STARTING, reason, hopeless=hopeless, **counts)


def _failure(condition: k8s.V1JobCondition, pods: Sequence[k8s.V1Pod]) -> Failure:
    """The reason behind the first pod that failed: where a rank is lost or wrong, the others crash a moment before or
    after it.
    """
    codes = {code for pod in pods if (code := _exit_code(pod)) is not None}
    policy = condition.reason == "PodFailurePolicy"
    wrong = policy and _WRONG_EXIT.search(condition.message or "")
    if wrong or codes & set(DETERMINISTIC):
        return Failure.WRONG
    return Failure.DISRUPTED if policy or PREEMPTED in codes or any(map(disrupted, pods)) else Failure.FAILED


def _exit_code(pod: k8s.V1Pod) -> int | None:
    for container in pod.status.container_statuses or []:
        if container.state and container.state.terminated:
            return int(container.state.terminated.exit_code)
    return None


def _queued(workload: Mapping[str, Any] | None, events: Sequence[k8s.CoreV1Event]) -> str:
    for condition in (workload or {}).get("status", {}).get("conditions", []):
        if condition.get("type") in ("QuotaReserved", "Evicted") and condition.get("message"):
            return f"{condition['reason']}: {condition['message']}"
    event = _newest(events, {"Suspended", "Stopped", "Pending", "CreatedWorkload"})
    return f"{event.reason}: {event.message}" if event is not None else "waiting in the queue"


def _worst(pods: Sequence[k8s.V1Pod], events: Sequence[k8s.CoreV1Event]) -> tuple[str, bool, bool]:
    """(why pods are pending, whether for want of something, whether waiting cannot help)."""
    found: list[tuple[int, str, bool, bool]] = []
    for pod in pods:
        for container in pod.status.container_statuses or []:
            waiting = container.state.waiting if container.state else None
            if waiting is None or waiting.reason in _STARTING:
                continue
            words = f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
            if waiting.reason in _PULLING:
                pulled = _newest(events, {"Failed"}, pod.metadata.name)
                words = f"{words} ({pulled.message})" if pulled is not None and pulled.message not in words else words
            hopeless = waiting.reason in _HOPELESS
            found.append((0 if hopeless else 1, words, waiting.reason in _PULLING | _MISSING, hopeless))
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                found.append((2, f"{condition.reason}: {condition.message or ''}".rstrip(": "), False, False))
    if not found:
        return "its containers are being created (the image is pulled)", False, False
    _, reason, stuck, hopeless = min(found, key=lambda one: one[0])
    return reason, stuck, hopeless


def _disruption(pods: Sequence[k8s.V1Pod]) -> str:
    """Why the last pod went, where something from outside took it."""
    gone = [
        (condition.last_transition_time, f"{condition.reason}: {condition.message or ''}".rstrip(": "))
        for pod in pods
        for condition in pod.status.conditions or []
        if condition.type == "DisruptionTarget" and condition.status == "True"
    ]
    return max(gone, key=lambda one: str(one[0]))[1] if gone else ""


def disrupted(pod: k8s.V1Pod) -> bool:
    """Whether something from outside ended this pod."""
    return bool(_disruption([pod]))


def _newest(events: Sequence[k8s.CoreV1Event], reasons: set[str], about: str | None = None) -> k8s.CoreV1Event | None:
    found = [
        event for event in events if event.reason in reasons and (about is None or event.involved_object.name == about)
    ]
    return max(found, key=_time_of, default=None)


def _time_of(event: k8s.CoreV1Event) -> str:
    at = event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return at.isoformat() if at is not None else ""
