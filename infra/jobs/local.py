"""The launcher of a laptop: a job is a process on this machine that outlives its orchestrator.

The handle is written before the process is started. A launcher that finds one adopts the job (its process
runs, or ended well unwatched), replaces it (it makes something else), or begins anew. Only an interrupt ends
a job; kill -9 of the orchestrator does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dagster import (
    DagsterExecutionInterruptedError,
    PipesEnvContextInjector,
    open_pipes_session,
)

from infra.errors import ServiceError
from infra.jobs.delivery import Context, collected_by, read_result, was_delivered
from infra.jobs.events import Event
from infra.jobs.folder import JobFolder, job_folder, safe_key
from infra.jobs.handle import Action, Handle, Job, decide, new_handle, read_handle, write_handle
from infra.jobs.outcome import JobFailed, failure_of, job_failed
from infra.jobs.process import LAUNCH_VARIABLE, ProcessId, end_processes, kill_all_of, processes_of
from infra.jobs.reader import ObjectStoreReader
from infra.jobs.spec import JobResult, JobSpec
from infra.jobs.warm import Child, SpawnedChild, WarmInterpreter
from infra.object_store import open_store
from infra.settings import REPOSITORY

__all__ = ["JobFailed", "LocalLauncher"]

_log = logging.getLogger(__name__)


class LocalLauncher:
    """Runs jobs as processes with folders below ``state``/jobs, talking through the object store at
    ``store_uri``.

    ``grace_s``: how long an interrupted job may take to save before it is killed. ``warm``: what jobs are forked
    from once it stands; without it each starts an interpreter of its own.
    """

    slices = 1
    """How many processes share a job that can be shared: one machine's job starts its own."""

    def __init__(
        self,
        state: Path,
        store_uri: str,
        *,
        grace_s: float = 30.0,
        poll_s: float = 0.2,
        warm: WarmInterpreter | None = None,
    ) -> None:
        self._warm = warm
        self._state = state
        self._store = open_store(store_uri)
        self._grace_s = grace_s
        self._poll_s = poll_s

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

        ``key`` names the job across runs of the orchestrator. ``code_version`` is the hash of the job's
        sources: a job that runs older code is not adopted. Raises :class:`JobFailed`, and ServiceError while
        another orchestrator that lives watches a different job of this key.
        """
        if slices is not None:
            raise ValueError("a job on this machine is not shared by processes of the launcher's")
        job = Job(key, room, verb, spec, code_version)
        folder = job_folder(self._state, key)
        with contextlib.ExitStack() as deciding:
            deciding.enter_context(_launch_lock(folder))
            handle, action = self._plan(context, folder, job)
            reader = ObjectStoreReader(self._store, handle.prefix, context.run.run_id, on_event)
            child: Child | None = None
            with open_pipes_session(context, PipesEnvContextInjector(), reader) as session:
                try:
                    if action == Action.ADOPT:
                        write_handle(folder, handle)
                    else:
                        folder.clear(keep_save=action == Action.START)
                        write_handle(folder, handle)
                        child = self._spawn(folder, job, handle, {**(env or {}), **session.get_bootstrap_env_vars()})
                        handle = handle.model_copy(update={"process": child.process})
                        write_handle(folder, handle)
                        child.begin()
                    deciding.close()
                    self._watch(folder, handle, child, reader)
                except (KeyboardInterrupt, DagsterExecutionInterruptedError):
                    _log.info("Interrupted: ending the %s job, which may save first", job)
                    end_processes(handle.find_process(), handle.launch, self._grace_s, meanwhile=reader.poll)
                    raise
        result = self._result(folder, job, handle, child, reader)
        write_handle(folder, handle.model_copy(update={"collected": collected_by(context)}))
        return result

    def elsewhere(self) -> list[str]:
        """The jobs that run on other machines: none."""
        return []

    def ended_unwatched(self, job: Job) -> bool:
        """Whether this very job has ended well and nobody was given what it said."""
        folder = job_folder(self._state, job.key)
        handle = read_handle(folder)
        if handle is None or handle.collected is not None or handle.identity != job.identity:
            return False
        exit = folder.read_exit(handle.launch)
        return exit is not None and exit.code == 0

    def _plan(self, context: Context, folder: JobFolder, job: Job) -> tuple[Handle, Action]:
        """Decides about the job that is in the folder, and ends it where it is in the way."""
        found = read_handle(folder)
        run_id = context.run.run_id
        process = found.find_process() if found is not None else None
        exit = folder.read_exit(found.launch) if found is not None else None
        action = decide(
            found.identity if found is not None else None,
            job.identity,
            running=process is not None,
            succeeded=exit is not None and exit.code == 0,
            delivered=found is not None and was_delivered(context, found.collected),
        )
        if found is not None:
            if action == Action.ADOPT:
                context.log.info("Adopting the %s job of launch %s; log: %s", job, found.launch, folder.log)
                update = {"process": process or found.process, "watcher": ProcessId.of_this_process()}
                return found.model_copy(update=update), action
            if action == Action.REPLACE:
                self._end_replaced(context, found, process, job)
            # What a killed job left behind would go on using its folder and its cores.
            kill_all_of(found.launch)
        folder.check_free()
        return new_handle(found, job, self._store.uri, run_id), action

    def _end_replaced(self, context: Context, found: Handle, process: ProcessId | None, job: Job) -> None:
        if found.watcher.alive and found.watcher != ProcessId.of_this_process():
            raise ServiceError(
                f"process {found.watcher.pid} (Dagster run {found.run_id}) is running another {job} job",
                "wait for that run to finish, or cancel it",
            )
        context.log.info("Ending the %s job: its spec or its code has changed", job)
        end_processes(process, found.launch, self._grace_s)

    def _spawn(self, folder: JobFolder, job: Job, handle: Handle, env: Mapping[str, str]) -> Child:
        spec_key = f"specs/{safe_key(job.key)}.json"
        self._store.put(spec_key, job.spec.model_dump_json(indent=1).encode())
        paths = (str(REPOSITORY), env.get("PYTHONPATH") or os.environ.get("PYTHONPATH", ""))
        variables = {**os.environ, **env, LAUNCH_VARIABLE: handle.launch}
        variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        arguments = [job.verb, "--spec", f"{self._store.uri}/{spec_key}", "--folder", str(folder.path)]
        child: Child | None = self._warm.fork(job.room, arguments, variables, folder.log) if self._warm else None
        if child is None:
            with folder.log.open("wb") as log:
                child = SpawnedChild(
                    subprocess.Popen(
                        [sys.executable, "-m", job.room, *arguments],
                        cwd=REPOSITORY,
                        env=variables,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # a Ctrl-C in the terminal is for the orchestrator to pass on
                    )
                )
        _log.info("The %s job is process %s; log: %s", job, child.process.pid, folder.log)
        return child

    def _watch(self, folder: JobFolder, handle: Handle, child: Child | None, reader: ObjectStoreReader) -> None:
        """Listens until the job's process has ended; a child is reaped on the way.

        A job that has said how it ended is done: libraries may hang while Python shuts down.
        """
        said: float | None = None
        while _running(handle, child):
            reader.poll()
            time.sleep(self._poll_s)
            if said is None and folder.exit_file.exists() and folder.read_exit(handle.launch) is not None:
                said = time.monotonic()
            if said is not None and time.monotonic() - said > self._grace_s:
                _log.warning("The job of launch %s has ended but its process has not: killing it", handle.launch)
                kill_all_of(handle.launch)
                return

    def _result(
        self,
        folder: JobFolder,
        job: Job,
        handle: Handle,
        child: Child | None,
        reader: ObjectStoreReader,
    ) -> JobResult:
        _let_end(handle.launch)
        for pid in kill_all_of(handle.launch):
            _log.warning("Ended process %s, which the %s job left behind", pid, job)
        exit = folder.read_exit(handle.launch)
        # What it wrote last counts before its exit code: libraries may crash while Python shuts down.
        code = exit.code if exit is not None else child.code if child is not None else None
        failure = failure_of(str(job), folder, code, exit, reader.error)
        if failure is not None:
            raise failure
        result = read_result(self._store, reader.result)
        if result is None:
            what, remedy = "exited 0 without reporting a result", "this is a mistake in the job"
            raise job_failed(str(job), folder, what, remedy, 0, retryable=False, show_log=True)
        return result


def _let_end(launch: str, patience_s: float = 1.0) -> None:
    """Waits a moment for helpers that end by themselves when their job has."""
    deadline = time.monotonic() + patience_s
    while processes_of(launch) and time.monotonic() < deadline:
        time.sleep(0.05)


def _running(handle: Handle, child: Child | None) -> bool:
    return child.running() if child is not None else handle.find_process() is not None


@contextlib.contextmanager
def _launch_lock(folder: JobFolder) -> Iterator[None]:
    """One launcher at a time decides about the folder's job and starts it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / "launch.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
