"""What a job costs: the seconds that its pods held GPUs, and those that were lost to disruptions; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kubernetes import client as k8s
from pydantic import BaseModel, ConfigDict

from infra.jobs.kubernetes.state import disrupted


class PodTime(BaseModel):
    """From when to when a pod of a Job held its node, in seconds since 1970; `preempted`: something from outside ended
    it."""

    job: str
    started: float
    until: float
    ended: bool = False
    preempted: bool = False

    @property
    def seconds(self) -> float:
        return max(0.0, self.until - self.started)


class Usage(BaseModel):
    """The times of all pods of a launch, by uid: those of the Jobs before a restart too."""

    gpus: int = 0
    pods: dict[str, PodTime] = {}

    model_config = ConfigDict(frozen=True)

    def noted(self, job: str, pods: Sequence[k8s.V1Pod], now: datetime, *, whole: bool = True) -> Usage:
        """With what the pods of a Job show now. `whole`: these are all of them, and one that is gone was taken away: it
        keeps what it had when it was last seen."""
        present = {pod.metadata.uid for pod in pods}
        seen = {
            uid: one.model_copy(update={"ended": True, "preempted": True})
            if whole and one.job == job and not one.ended and uid not in present
            else one
            for uid, one in self.pods.items()
        }
        for pod in pods:
            started = pod.status.start_time  # from when on the node's GPUs are its own
            if started is None or pod.spec.node_name is None:
                continue
            end = _ended_at(pod)
            seen[pod.metadata.uid] = PodTime(
                job=job,
                started=started.timestamp(),
                until=(end or now).timestamp(),
                ended=end is not None,
                preempted=disrupted(pod),
            )
        return self.model_copy(update={"pods": seen})

    def lost_pods(self, job: str) -> int:
        """How many pods of a Job were taken away."""
        return sum(one.preempted for one in self.pods.values() if one.job == job)

    @property
    def gpu_seconds(self) -> float:
        return self.gpus * sum(one.seconds for one in self.pods.values())

    @property
    def preempted_gpu_seconds(self) -> float:
        """Of them, those of pods that were taken away: what came after their last checkpoint was computed twice."""
        return self.gpus * sum(one.seconds for one in self.pods.values() if one.preempted)

    def metadata(self, price_per_gpu_hour: float, joules: float = 0.0) -> dict[str, float]:
        """For the asset's page, with the energy that the job itself has measured; nothing for a job without GPUs."""
        if not self.gpus:
            return {}
        found = {
            "gpu_seconds": round(self.gpu_seconds, 1),
            "preempted_gpu_seconds": round(self.preempted_gpu_seconds, 1),
        }
        if joules:
            found["joules"] = round(joules, 1)
        if price_per_gpu_hour:
            found["gpu_cost"] = round(self.gpu_seconds / 3600 * price_per_gpu_hour, 2)
        return found


def _ended_at(pod: k8s.V1Pod) -> datetime | None:
    if pod.status.phase not in ("Succeeded", "Failed"):
        return None
    ends = [
        container.state.terminated.finished_at
        for container in pod.status.container_statuses or []
        if container.state and container.state.terminated and container.state.terminated.finished_at
    ]
    return max(ends) if ends else None
