"""One job on its way from created to ended for good, over all its restarts."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

from dagster import AssetExecutionContext, AssetObservation
from kubernetes import client as k8s

from infra.jobs.delivery import Context
from infra.jobs.events import Event, Progress
from infra.jobs.kubernetes.api import Api, Away, Exists, Missing, OverQuota
from infra.jobs.kubernetes.build import RUN_LABEL, Launch, build_job, build_service
from infra.jobs.kubernetes.handle import ClusterHandle, write_handle
from infra.jobs.kubernetes.settings import ClusterSettings
from infra.jobs.kubernetes.state import Failure, JobState, Phase, reduce
from infra.jobs.reader import ObjectStoreReader
from infra.object_store import ObjectStore

MESSAGES_EVERY_S = 1.0
LOOK_S = 2.0
"""Between two looks at a job, after a change; without one it grows."""
LONGEST_LOOK_S, LONGEST_LOOK_IN_QUEUE_S = 10.0, 60.0
_LATER = 1.3
_WRITE_EVERY_S = 60.0
_MOST_WAITING, _MOST_ASKED = 20, 3

_log = logging.getLogger(__name__)


class Watching:
    """Makes the Job of `handle`, watches it, and makes it again where all ranks have to restart."""

    def __init__(
        self,
        api: Api,
        settings: ClusterSettings,
        store: ObjectStore,
        context: Context,
        handle: ClusterHandle,
        launch_of: Callable[[ClusterHandle], Launch],
        reader: ObjectStoreReader,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self.handle = handle
        self.state: JobState | None = None
        self._api, self._clock, self._settings, self._store = api, api.clock, settings, store
        self._context, self._launch_of, self._reader, self._on_event = context, launch_of, reader, on_event
        self._written = float("-inf")

    @property
    def launch(self) -> Launch:
        return self._launch_of(self.handle)

    def create(self) -> None:
        """Makes the Job, or finds it made; a full quota is waited for."""
        write_handle(self._store, self.handle)
        launch = self.launch

        def create() -> k8s.V1Job:
            try:
                return self._api.create_job(build_job(launch, self._settings))
            except Exists:
                return self._api.job(launch.name)
            except OverQuota as full:
                raise Away(f"the namespace's quota is used up: {full}") from full

        job = self._api.persist(create, self._reader.poll)
        _log.info("The job %s is Job %s; logs: %s", launch.key, launch.name, launch.log)
        self._serve(launch, job)

    def adopt(self) -> None:
        """Takes over the Job that is there: from now on it is this run's."""
        write_handle(self._store, self.handle)
        launch = self.launch
        self._context.log.info("Adopting the Job %s", launch.name)

        def adopt() -> k8s.V1Job | None:
            try:
                self._api.label_job(launch.name, {RUN_LABEL: launch.run_id})
                return self._api.job(launch.name)
            except Missing:  # it succeeded, and its time to live is over
                return None

        job = self._api.persist(adopt, self._reader.poll)
        if job is not None:
            self._serve(launch, job)

    def until_ended(self) -> JobState:
        """Watches, however long it takes and whoever is away meanwhile."""
        wait = LOOK_S
        while True:
            before, state = self.state, self._look()
            if state is not None and state != before:
                wait = LOOK_S
                self._show(state)
            if state is not None and self._is_vain(state):
                self._api.persist(lambda: self._api.delete_job(self.launch.name), self._reader.poll)
                state = self.state = JobState(Phase.FAILED, state.reason, failure=Failure.WRONG)
            if state is not None and state.ended:
                if not self._goes_on(state):
                    return state
                self.create()
                continue
            if self._clock.monotonic() - self._written > _WRITE_EVERY_S:
                self._write()
            phase = state.phase if state is not None else Phase.STARTING
            self._listen(wait * random.uniform(0.8, 1.0), MESSAGES_EVERY_S if phase == Phase.RUNNING else wait)
            wait = min(wait * _LATER, LONGEST_LOOK_IN_QUEUE_S if phase == Phase.QUEUED else LONGEST_LOOK_S)

    def _serve(self, launch: Launch, job: k8s.V1Job) -> None:
        """The Service by which the nodes of a computation find each other."""
        if launch.nodes == 1:
            return

        def create() -> None:
            try:
                self._api.create_service(build_service(launch, self._settings, job))
            except Exists:
                return

        self._api.persist(create, self._reader.poll)

    def _look(self) -> JobState | None:
        """The state now; what it was while the API server is away."""
        if self.handle.ended:
            self.state = JobState(Phase(self.handle.ended))
            return self.state
        launch = self.launch
        try:
            self.state = self._asked(launch)
        except Away as away:
            self._api.complain(away)
        except Missing:
            self.state = JobState(Phase.FAILED, f"the Job {launch.name} was deleted", failure=Failure.DELETED)
        return self.state

    def _asked(self, launch: Launch) -> JobState:
        """Asks the cluster for as little as the state hangs on."""
        job = self._api.job(launch.name)
        # Of thousands of slices only those that wait are looked at one by one.
        sliced = launch.slices is not None
        pods = self._api.pods(launch.name, "Pending", _MOST_WAITING) if sliced else self._api.pods(launch.name)
        if not sliced:
            usage = self.handle.usage.model_copy(update={"gpus": launch.resources.gpus})
            self.handle = self.handle.model_copy(update={"usage": usage.noted(launch.name, pods, self._clock.now())})
        state = reduce(job, pods)
        if state.ended or state.phase == Phase.RUNNING:
            return state
        if state.phase == Phase.QUEUED:
            workload = self._api.workload(job)
            queue = self._settings.queue
            place = self._api.place_in_queue(queue, workload) if workload is not None and queue else None
            return reduce(job, pods, self._api.events(launch.name), workload, place)
        events = self._api.events(launch.name)
        for pod in [pod for pod in pods if pod.status.phase == "Pending"][:_MOST_ASKED]:
            events += self._api.events(pod.metadata.name)
        return reduce(job, pods, events)

    def _is_vain(self, state: JobState) -> bool:
        """Whether waiting cannot help, or has not for long enough."""
        if state.ended or state.stuck_since is None:
            return state.hopeless and not state.ended
        waited = (self._clock.now() - state.stuck_since).total_seconds()
        return state.hopeless or waited > self._settings.pull_patience_s

    def _goes_on(self, state: JobState) -> bool:
        """Whether the job is made again: a node was lost, or a computation failed and has a retry left. Single pods and
        slices are retried by the cluster.
        """
        launch = self.launch
        failures = self.handle.failures + (state.failure == Failure.FAILED)
        again = launch.nodes > 1 and (
            state.failure == Failure.DISRUPTED
            or (state.failure == Failure.FAILED and failures <= launch.resources.retries)
        )
        if again:
            self._context.log.warning("%s; all ranks restart from the last checkpoint", state)
            update = {"restart": self.handle.restart + 1, "failures": failures}
            self.handle = self.handle.model_copy(update=update)
        else:
            self.handle = self.handle.model_copy(update={"ended": str(state.phase)})
            self._write()
        return again

    def _write(self) -> None:
        self._written = self._clock.monotonic()
        write_handle(self._store, self.handle)

    def _listen(self, seconds: float, every: float) -> None:
        """Reads messages for that long, this often."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            self._reader.poll()
            self._clock.sleep(min(left, every))

    def _show(self, state: JobState) -> None:
        """On the asset's page and in the run's log."""
        launch, context = self.launch, self._context
        context.log.info("%s: %s", launch.name, state)
        if self._on_event is not None and launch.slices is not None:
            self._on_event(Progress(launch.asset, state.succeeded, launch.slices, "slices"))
        if isinstance(context, AssetExecutionContext):
            metadata: dict[str, Any] = {"state": str(state.phase), "job": launch.name, "logs": launch.log}
            metadata |= {"why": state.reason} if state.reason else {}
            metadata |= {"place": state.place} if state.place is not None else {}
            metadata |= {"nodes": ", ".join(state.nodes)} if state.nodes else {}
            partition = context.partition_key if context.has_partition_key else None
            context.log_event(AssetObservation(context.asset_key, partition=partition, metadata=metadata))
