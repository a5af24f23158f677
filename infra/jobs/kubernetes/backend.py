"""What kind of object a job is on the cluster: a batch/v1 Indexed Job here; a JobSet or a TrainJob could serve too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kubernetes import client as k8s

from infra.jobs.kubernetes.api import Api, Away, Exists, Missing, OverQuota
from infra.jobs.kubernetes.build import RUN_LABEL, Launch, build_job, build_service
from infra.jobs.kubernetes.settings import ClusterSettings
from infra.jobs.kubernetes.state import JobState, Phase, reduce

_MOST_WAITING, _MOST_ASKED = 20, 3


@dataclass(frozen=True)
class Look:
    """A job's state, and all of its pods; None where there are too many to list."""

    state: JobState
    pods: Sequence[k8s.V1Pod] | None = None


class JobBackend(Protocol):
    """What a launcher asks of the cluster. Each raises Away while it does not answer, Refused where it never will."""

    def create(self, launch: Launch) -> None:
        """Makes the job with all that belongs to it; what is there already is left as it is."""

    def adopt(self, launch: Launch) -> None:
        """Makes the job that is there this run's; nothing where it is gone."""

    def look(self, launch: Launch) -> Look:
        """How it is. Raises Missing where there is none."""

    def pods(self, name: str) -> Iterator[Sequence[k8s.V1Pod]]:
        """All pods of it, in parts: once it has ended, where there were too many to list at every look."""

    def state_of(self, name: str) -> JobState:
        """How it is by name, without looking at pods. Raises Missing."""

    def run_of(self, name: str) -> str:
        """The id of the Dagster run that it is for; "" where there is none."""

    def is_gone(self, name: str) -> bool:
        """Whether nothing of it runs any more."""

    def delete(self, name: str, grace_s: int | None = None) -> None:
        """Takes it away with all that belongs to it; `grace_s` in place of its pods' own."""


class IndexedJobs:
    """A Job for each launch, and a headless Service where it has several nodes."""

    def __init__(self, api: Api, settings: ClusterSettings) -> None:
        self._api, self._settings = api, settings

    def create(self, launch: Launch) -> None:
        try:
            try:
                job = self._api.create_job(build_job(launch, self._settings))
            except Exists:
                self._api.label_job(launch.name, {RUN_LABEL: launch.run_id})
                job = self._api.job(launch.name)
            self._serve(launch, job)
        except OverQuota as full:
            raise Away(f"the namespace's quota is used up: {full}") from full

    def adopt(self, launch: Launch) -> None:
        try:
            self._api.label_job(launch.name, {RUN_LABEL: launch.run_id})
            self._serve(launch, self._api.job(launch.name))
        except Missing:  # it succeeded, and its time to live is over
            return

    def look(self, launch: Launch) -> Look:
        """Asks for as little as the state hangs on."""
        job = self._api.job(launch.name)
        # Of thousands of slices only those that wait are looked at one by one.
        sliced = launch.slices is not None
        pods = self._api.pods(launch.name, "Pending", _MOST_WAITING) if sliced else self._api.pods(launch.name)
        state = reduce(job, pods)
        if not state.ended and state.phase != Phase.RUNNING:
            state = self._explained(job, pods)
        return Look(state, None if sliced else pods)

    def pods(self, name: str) -> Iterator[Sequence[k8s.V1Pod]]:
        return self._api.pages_of_pods(name)

    def state_of(self, name: str) -> JobState:
        return reduce(self._api.job(name))

    def run_of(self, name: str) -> str:
        try:
            return str((self._api.job(name).metadata.labels or {}).get(RUN_LABEL, ""))
        except Missing:
            return ""

    def is_gone(self, name: str) -> bool:
        return not self._api.pods(name, most=1)

    def delete(self, name: str, grace_s: int | None = None) -> None:
        self._api.delete_job(name, grace_s)

    def _explained(self, job: k8s.V1Job, pods: Sequence[k8s.V1Pod]) -> JobState:
        """Why it does not run, in the words of events and of the queue."""
        name, queue = job.metadata.name, self._settings.queue
        if job.spec.suspend:
            workload = self._api.workload(job)
            place = self._api.place_in_queue(queue, workload) if workload is not None and queue else None
            return reduce(job, pods, self._api.events(name), workload, place)
        events = self._api.events(name)
        for pod in [pod for pod in pods if pod.status.phase == "Pending"][:_MOST_ASKED]:
            events += self._api.events(pod.metadata.name)
        return reduce(job, pods, events)

    def _serve(self, launch: Launch, job: k8s.V1Job) -> None:
        """The Service by which the nodes of a computation find each other."""
        if launch.nodes == 1:
            return
        try:
            self._api.create_service(build_service(launch, self._settings, job))
        except Exists:
            return
