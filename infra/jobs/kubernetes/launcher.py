"""Runs a job on a cluster, or adopts it: the loop between Dagster and Kubernetes.

    handle (object store) ─► Job ─► watch: state, messages, usage ─► result
                              ▲                 │
                              └── next Job ◄────┘ a node was lost: all ranks restart from the last checkpoint

Nothing that happens to this process ends the job: not SIGTERM, not SIGKILL, not an API server that is away. Only the
user's own cancel does, and a reaper where that could not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dagster import (
    AssetExecutionContext,
    DagsterExecutionInterruptedError,
    DagsterRunStatus,
    PipesEnvContextInjector,
    open_pipes_session,
)

from infra.errors import ServiceError
from infra.files import canonical_json
from infra.jobs.delivery import Context, collected_by, read_result, was_delivered
from infra.jobs.events import Event
from infra.jobs.folder import safe_key
from infra.jobs.handle import Action, Job, decide
from infra.jobs.kubernetes.api import Api, Clock, Missing
from infra.jobs.kubernetes.backend import IndexedJobs, JobBackend
from infra.jobs.kubernetes.build import DETERMINISTIC, Launch
from infra.jobs.kubernetes.handle import ClusterHandle, new_handle, read_handle, write_handle
from infra.jobs.kubernetes.pod import last_words_key
from infra.jobs.kubernetes.settings import ClusterSettings
from infra.jobs.kubernetes.state import Failure, JobState, Phase, reduce
from infra.jobs.kubernetes.variables import COST
from infra.jobs.kubernetes.watching import Watching
from infra.jobs.outcome import JobFailed
from infra.jobs.reader import ObjectStoreReader
from infra.jobs.spec import JobResult, JobSpec
from infra.object_store import ObjectMissing, open_store

CANCEL_GRACE_S = 5
_CHECKPOINTS = "checkpoints"
_REMEDIES = {
    Failure.WRONG: "correct what it names; the same again would end the same",
    Failure.DISRUPTED: "run it again: it resumes",
    Failure.VAIN: "change what it names; waiting does not help",
    Failure.DELETED: "run it again: it resumes its last checkpoint",
    Failure.FAILED: "see the logs",
}

_log = logging.getLogger(__name__)


class KubernetesLauncher:
    """Jobs in one namespace, talking through the object store at `store_uri`, which pods can reach.

    `kubeconfig`: None is the pod's own service account, or the user's default.
    """

    def __init__(
        self, settings: ClusterSettings, store_uri: str, *, kubeconfig: Path | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.api = Api(settings.namespace, kubeconfig, clock)
        self._backend: JobBackend = IndexedJobs(self.api, settings)
        self._store = open_store(store_uri)

    @property
    def slices(self) -> int:
        """How many processes share a job that can be shared."""
        return self.settings.slices

    def run(
        self,
        *,
        context: Context,
        room: str,
        verb: str,
        spec: JobSpec,
        key: str,
        on_event: Callable[[Event], None] | None = None,
        env: Mapping[str, str] | None = None,
        code_version: str = "",
        slices: int | None = None,
    ) -> JobResult:
        """Runs ``python -m <room> <verb>`` on ``spec`` to its end, or adopts it, and returns its result.

        ``key`` names the job across runs of the orchestrator; ``code_version`` is the hash of its sources. ``slices``:
        that many processes, each on its own part of the spec; they report no result but that they are done. Raises
        :class:`JobFailed`, and ServiceError while another run that lives watches a different job of this key.
        """
        job = Job(key, room, verb, spec, code_version)
        found = read_handle(self._store, key)
        handle, action = self._plan(context, found, job)
        reader = ObjectStoreReader(self._store, handle.prefix, context.run.run_id, on_event)
        # Slices say nothing: the cluster counts them.
        session = open_pipes_session(context, PipesEnvContextInjector(), reader) if slices is None else nullcontext()
        with session as told:
            variables = {**(env or {}), **(told.get_bootstrap_env_vars() if told is not None else {})}

            def launch_of(handle: ClusterHandle) -> Launch:
                return self._launch(handle, job, variables, slices)

            watching = Watching(
                self.api, self._backend, self.settings, self._store, context, handle, launch_of, reader, on_event
            )
            try:
                if action == Action.ADOPT:
                    watching.adopt()
                else:
                    if action != Action.START:
                        self._store.delete_prefix(f"{spec.output}/{_CHECKPOINTS}/")
                    self._store.put(_spec_key(handle), spec.model_dump_json(indent=1).encode())
                    watching.create()
                state = watching.until_ended()
            except (KeyboardInterrupt, DagsterExecutionInterruptedError):
                self._interrupted(context, watching.launch)
                raise
        result = self._result(job, state, watching, reader)
        costs = watching.handle.usage.metadata(self.settings.price_per_gpu_hour, result.joules)
        if costs:
            self._store.put(f"{spec.output}/{COST}", canonical_json(costs))
        write_handle(self._store, watching.handle.model_copy(update={"collected": collected_by(context)}))
        return result

    def elsewhere(self) -> list[str]:
        """The jobs that run on other machines, by name: all of ours that have not ended."""
        jobs = self.api.persist(self.api.jobs)
        return [job.metadata.name for job in jobs if not reduce(job).ended]

    def ended_unwatched(self, job: Job) -> bool:
        """Whether this very job has ended well and nobody was given what it said and cost."""
        handle = read_handle(self._store, job.key)
        if handle is None or handle.collected is not None or handle.identity != job.identity:
            return False
        state = self._state_of(handle)
        return state is not None and state.phase == Phase.SUCCEEDED

    def _plan(self, context: Context, found: ClusterHandle | None, job: Job) -> tuple[ClusterHandle, Action]:
        """Decides about the job of the last launch, and deletes it where it is in the way."""
        state = self._state_of(found) if found is not None else None
        action = decide(
            found.identity if found is not None else None,
            job.identity,
            running=state is not None and not state.ended,
            succeeded=state is not None and state.phase == Phase.SUCCEEDED,
            delivered=found is not None and was_delivered(context, found.collected),
        )
        run_id = context.run.run_id
        # All ranks may have lost a node while nobody watched: whoever watches again makes them restart.
        lost = state is not None and state.phase == Phase.FAILED and found is not None and not found.ended
        if lost and action == Action.START and self.settings.resources(_labels(context, job)["asset"]).nodes > 1:
            action = Action.ADOPT
        if found is not None and action == Action.ADOPT:
            return found.model_copy(update={"run_id": run_id}), action
        if found is not None and action == Action.REPLACE:
            run = context.instance.get_run_by_id(found.run_id)
            if run is not None and not run.is_finished and found.run_id != run_id:
                raise ServiceError(
                    f"Dagster run {found.run_id} is running another {job} job",
                    "wait for that run to finish, or cancel it",
                )
            context.log.info("Ending the %s job: its spec or its code has changed", job)
            self.api.persist(lambda: self._backend.delete(found.job_name))
            while not self.api.persist(lambda: self._backend.is_gone(found.job_name)):
                self.api.clock.sleep(2.0)  # it may still save, where the next one is to begin anew
        return new_handle(found, job, _labels(context, job), run_id, self.api.clock.now()), action

    def _state_of(self, handle: ClusterHandle) -> JobState | None:
        """How the handle's Job is; None where there is none any more."""
        if handle.ended:
            return JobState(Phase(handle.ended))
        try:
            return self.api.persist(lambda: self._backend.state_of(handle.job_name))
        except Missing:
            return None

    def _launch(self, handle: ClusterHandle, job: Job, env: Mapping[str, str], slices: int | None) -> Launch:
        return Launch(
            key=handle.key,
            launch=handle.launch,
            asset=handle.asset,
            partition=handle.partition,
            run_id=handle.run_id,
            arguments=(job.room, job.verb, "--spec", f"{self._store.uri}/{_spec_key(handle)}"),
            resources=self.settings.resources(handle.asset),
            restart=handle.restart,
            slices=slices,
            log=f"{self._store.uri}/{handle.logs}",
            env=env,
        )

    def _interrupted(self, context: Context, launch: Launch) -> None:
        """Deletes the job where the user wants it gone; an orchestrator that has to go leaves it to the next one."""
        run = context.instance.get_run_by_id(context.run.run_id)
        if run is not None and run.status in (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED):
            other = self.api.persist(lambda: self._backend.run_of(launch.name))
            adopter = context.instance.get_run_by_id(other) if other != run.run_id else None
            if adopter is not None and not adopter.is_finished:
                _log.info("Cancelled: the Job %s goes on for run %s, which has adopted it", launch.name, other)
                return
            _log.info("Cancelled: deleting the Job %s", launch.name)
            self.api.persist(lambda: self._backend.delete(launch.name, CANCEL_GRACE_S))
        else:
            _log.info("Interrupted: the Job %s goes on, and the next run adopts it", launch.name)

    def _result(self, job: Job, state: JobState, watching: Watching, reader: ObjectStoreReader) -> JobResult:
        launch = watching.launch
        if state.phase == Phase.FAILED:
            by_itself = state.failure in (Failure.WRONG, Failure.FAILED)
            said = (reader.error or self._last_words(watching.handle, state)) if by_itself else None
            what = f"failed: {said['what']}" if said is not None else f"failed: {state.reason}"
            remedy = said["remedy"] if said is not None else _REMEDIES[state.failure or Failure.FAILED]
            wrong = state.failure in (Failure.WRONG, Failure.VAIN) or (said and said["code"] in DETERMINISTIC)
            raise _failed(job, launch, what, remedy, retryable=not wrong)
        if launch.slices is not None:
            return JobResult(metadata={"slices": launch.slices})
        result = read_result(self._store, reader.result)
        if result is None:
            # Not to be taken for done by the next run.
            write_handle(self._store, watching.handle.model_copy(update={"ended": str(Phase.FAILED)}))
            what, remedy = "exited 0 without reporting a result", "this is a mistake in the job"
            raise _failed(job, launch, what, remedy, retryable=False)
        return result

    def _last_words(self, handle: ClusterHandle, state: JobState) -> Mapping[str, Any] | None:
        """What the first slice that failed for good said of it."""
        first = state.failed_indexes.partition(",")[0].partition("-")[0]
        if not first:
            return None
        try:
            return dict(json.loads(self._store.get(f"{handle.logs}/{last_words_key(int(first))}")))
        except ObjectMissing:
            return None


def _spec_key(handle: ClusterHandle) -> str:
    return f"specs/{safe_key(handle.key)}/{handle.launch}.json"


def _failed(job: Job, launch: Launch, what: str, remedy: str, *, retryable: bool) -> JobFailed:
    return JobFailed(
        f"the {job} job {what}",
        f"{remedy}; logs: {launch.log}",
        job_exit_code=None,
        retryable=retryable,
        log=launch.log,
    )


def _labels(context: Context, job: Job) -> dict[str, str]:
    """The asset and partition a job is for; the verb where it is for no asset."""
    if isinstance(context, AssetExecutionContext):
        partition = context.partition_key if context.has_partition_key else ""
        return {"asset": context.asset_key.to_user_string().replace("/", "-"), "partition": partition}
    return {"asset": job.verb, "partition": ""}
