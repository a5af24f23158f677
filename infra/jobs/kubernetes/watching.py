"""One job on its way from created to ended for good, over all its restarts."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

from dagster import AssetExecutionContext, AssetObservation

from infra.errors import ServiceError
from infra.jobs.delivery import Context
from infra.jobs.events import Event, Progress
from infra.jobs.kubernetes.api import Api, Away, Missing
from infra.jobs.kubernetes.backend import JobBackend
from infra.jobs.kubernetes.build import DETERMINISTIC, Launch
from infra.jobs.kubernetes.handle import ClusterHandle, write_handle
from infra.jobs.kubernetes.settings import ClusterSettings
from infra.jobs.kubernetes.state import Failure, JobState, Phase
from infra.jobs.kubernetes.usage import Usage
from infra.jobs.reader import ObjectStoreReader
from infra.object_store import ObjectStore

MESSAGES_EVERY_S = 2.0
LOOK_S = 2.0
"""Between two looks at a job, after a change; without one it grows."""
LONGEST_LOOK_S, LONGEST_LOOK_IN_QUEUE_S = 10.0, 60.0
LONGEST_AGAIN_S = 60.0
_LATER = 1.3
_WRITE_EVERY_S = 60.0

_log = logging.getLogger(__name__)


class Watching:
    """Makes the Job of `handle`, watches it, and makes it again where all ranks have to restart."""

    def __init__(
        self,
        api: Api,
        backend: JobBackend,
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
        self._api, self._backend, self._clock = api, backend, api.clock
        self._settings, self._store = settings, store
        self._context, self._launch_of, self._reader, self._on_event = context, launch_of, reader, on_event
        self._written = float("-inf")
        self._stuck_since: float | None = None

    @property
    def launch(self) -> Launch:
        return self._launch_of(self.handle)

    def create(self) -> None:
        """Makes the job, or finds it made; a full quota is waited for."""
        launch = self.launch
        self._api.persist(lambda: write_handle(self._store, self.handle))
        self._api.persist(lambda: self._backend.create(launch), self._reader.poll)
        _log.info("The job %s is %s; logs: %s", launch.key, launch.name, launch.log)

    def adopt(self) -> None:
        """Takes over the job that is there: from now on it is this run's."""
        launch = self.launch
        self._api.persist(lambda: write_handle(self._store, self.handle))
        self._context.log.info("Adopting the Job %s", launch.name)
        self._api.persist(lambda: self._backend.adopt(launch), self._reader.poll)

    def until_ended(self) -> JobState:
        """Watches, however long it takes and whoever is away meanwhile."""
        wait = LOOK_S
        while True:
            before, state = self.state, self._look()
            if state is not None and state != before:
                self._count(state)
            if state is not None and (before is None or _seen(state) != _seen(before)):
                wait = LOOK_S
                self._show(state)
            if state is not None and self._is_vain(state):
                self._api.persist(lambda: self._backend.delete(self.launch.name), self._reader.poll)
                state = self.state = JobState(Phase.FAILED, state.reason, failure=Failure.VAIN)
            if state is not None and state.ended:
                if self.launch.slices is not None:
                    self._count_slices()
                if not self._goes_on(state):
                    return state
                # A node that takes every job down at once must not make the cluster a Job every moment.
                self._listen(min(LOOK_S**self.handle.restart, LONGEST_AGAIN_S), MESSAGES_EVERY_S)
                self.create()
                continue
            if self._clock.monotonic() - self._written > _WRITE_EVERY_S:
                self._write()
            phase = state.phase if state is not None else Phase.STARTING
            self._listen(wait * random.uniform(0.8, 1.0), MESSAGES_EVERY_S if phase == Phase.RUNNING else wait)
            wait = min(wait * _LATER, LONGEST_LOOK_IN_QUEUE_S if phase == Phase.QUEUED else LONGEST_LOOK_S)

    def _look(self) -> JobState | None:
        """The state now; what it was while the API server is away."""
        if self.handle.ended:
            self.state = JobState(Phase(self.handle.ended))
            return self.state
        launch = self.launch
        try:
            look = self._backend.look(launch)
        except Away as away:
            self._api.complain(away)
        except Missing:
            self.state = JobState(Phase.FAILED, f"the Job {launch.name} was deleted", failure=Failure.DELETED)
        else:
            self.state = look.state
            if look.pods is not None:
                usage = self.handle.usage.model_copy(update={"gpus": launch.resources.gpus})
                usage = usage.noted(launch.name, look.pods, self._clock.now())
                self.handle = self.handle.model_copy(update={"usage": usage})
        return self.state

    def _count_slices(self) -> None:
        """What the slices' pods held, where they held GPUs: of thousands that is asked once."""
        launch, usage = self.launch, self.handle.usage.model_copy(update={"gpus": self.launch.resources.gpus})
        if not usage.gpus or self.handle.ended:
            return

        def counted() -> Usage:
            found = usage
            for page in self._backend.pods(launch.name):
                found = found.noted(launch.name, page, self._clock.now(), whole=False)
            return found

        self.handle = self.handle.model_copy(update={"usage": self._api.persist(counted, self._reader.poll)})

    def _is_vain(self, state: JobState) -> bool:
        """Whether waiting cannot help, or has not for long enough."""
        now = self._clock.monotonic()
        if not state.stuck:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        if state.ended or (state.phase == Phase.RUNNING and self.launch.slices is not None):
            return False  # one bad node does not end the slices on the others
        waited = 0.0 if self._stuck_since is None else now - self._stuck_since
        return state.hopeless or waited > self._settings.pull_patience_s

    def _goes_on(self, state: JobState) -> bool:
        """Whether the job is made again: a node was lost, or a computation failed and has a retry left. Single pods and
        slices are retried by the cluster.
        """
        launch, failure = self.launch, state.failure
        if failure == Failure.FAILED and self.handle.usage.lost_pods(launch.name):
            failure = Failure.DISRUPTED  # the others crashed before the lost one's end was known
        if self._reader.error is not None and self._reader.error["code"] in DETERMINISTIC:
            failure = Failure.WRONG
        failures = self.handle.failures + (failure == Failure.FAILED)
        again = launch.nodes > 1 and (
            failure == Failure.DISRUPTED or (failure == Failure.FAILED and failures <= launch.resources.retries)
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
        try:
            write_handle(self._store, self.handle)
        except ServiceError as away:
            self._api.complain(away)

    def _listen(self, seconds: float, every: float) -> None:
        """Reads messages for that long, this often."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            if self.launch.slices is None:
                self._reader.poll()
            self._clock.sleep(min(left, every))

    def _count(self, state: JobState) -> None:
        launch = self.launch
        if self._on_event is not None and launch.slices is not None:
            self._on_event(Progress(launch.asset, state.succeeded, launch.slices, "slices"))

    def _show(self, state: JobState) -> None:
        """On the asset's page and in the run's log; where these are away nothing ends, and the next change is told."""
        try:
            self._tell(state)
        except Exception:
            _log.warning("the state of %s could not be shown", self.launch.name, exc_info=True)

    def _tell(self, state: JobState) -> None:
        launch, context = self.launch, self._context
        context.log.info("%s: %s", launch.name, state)
        if isinstance(context, AssetExecutionContext):
            metadata: dict[str, Any] = {"state": str(state.phase), "job": launch.name, "logs": launch.log}
            metadata |= {"why": state.reason} if state.reason else {}
            metadata |= {"place": state.place} if state.place is not None else {}
            metadata |= {"nodes": ", ".join(state.nodes)} if state.nodes else {}
            partition = context.partition_key if context.has_partition_key else None
            context.log_event(AssetObservation(context.asset_key, partition=partition, metadata=metadata))


def _seen(state: JobState) -> tuple[object, ...]:
    """What a person wants to hear of; counts change all the time."""
    return state.phase, state.reason, state.nodes, state.place
