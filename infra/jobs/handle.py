"""The launcher's memory of a job, and what to do about one that it finds."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes, write_atomic
from infra.jobs.folder import JobFolder, safe_key
from infra.jobs.process import ProcessId, end_processes, processes_of
from infra.jobs.spec import JobSpec


@dataclass(frozen=True)
class Job:
    """What is to run. ``key`` names it across runs of the orchestrator; ``code_version`` is the hash of its
    sources.
    """

    key: str
    room: str
    verb: str
    spec: JobSpec
    code_version: str = ""

    @property
    def identity(self) -> str:
        """Jobs of one identity make the same thing, so that one of them can stand for another."""
        spec = self.spec.model_dump(mode="json")
        parts = {"room": self.room, "verb": self.verb, "spec": spec, "code_version": self.code_version}
        return sha256_bytes(canonical_json(parts))

    def __str__(self) -> str:
        return f"{self.room} {self.verb} ({self.key})"


class Collected(BaseModel):
    """The Dagster step that was given a job's result."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    step: str


class Handle(BaseModel):
    """One launch of a job. Written before its process is started, and again as soon as that has a pid."""

    model_config = ConfigDict(frozen=True)

    key: str
    room: str
    verb: str
    identity: str
    launch: str
    attempt: int
    store: str
    prefix: str
    created_at: str
    run_id: str
    watcher: ProcessId
    process: ProcessId | None = None
    collected: Collected | None = None

    def find_process(self) -> ProcessId | None:
        """The job's process while it lives, also when it was started but never written down."""
        if self.process is not None:
            return self.process if self.process.alive else None
        found = processes_of(self.launch)
        return ProcessId.of(found[0]) if found else None


class Action(StrEnum):
    """What a launcher does about the job it finds in the folder."""

    START = "start"
    """Begin, keeping the save folder: the same job resumes what an earlier attempt saved."""
    START_FRESH = "start fresh"
    """Begin with an empty save folder."""
    ADOPT = "adopt"
    """Watch the one that runs, or take the result of the one that finished unwatched."""
    REPLACE = "replace"
    """End the one that runs, then begin with an empty save folder."""


def decide(found: str | None, identity: str, running: bool, succeeded: bool, delivered: bool) -> Action:
    """What to do about a job, given the identity of its last launch (None: there was none).

    ``succeeded``: it ended with exit code 0. ``delivered``: the Dagster step that was given its result
    succeeded, so a new run of the same job was asked for on purpose; without it the orchestrator died before
    it could record the result.
    """
    if found is None:
        return Action.START_FRESH
    same = found == identity
    if running:
        return Action.ADOPT if same else Action.REPLACE
    if not same or delivered:
        return Action.START_FRESH
    return Action.ADOPT if succeeded else Action.START


def new_handle(found: Handle | None, job: Job, store: str, run_id: str) -> Handle:
    """The handle of a launch that is about to happen, after the one ``found``."""
    now = datetime.now(UTC)
    launch = f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    return Handle(
        key=job.key,
        room=job.room,
        verb=job.verb,
        identity=job.identity,
        launch=launch,
        attempt=found.attempt + 1 if found is not None and found.identity == job.identity else 1,
        store=store,
        prefix=f"messages/{safe_key(job.key)}/{launch}",
        created_at=now.isoformat(timespec="seconds"),
        run_id=run_id,
        watcher=ProcessId.of_this_process(),
    )


def read_handle(folder: JobFolder) -> Handle | None:
    """The last launch in the folder; None when there was none."""
    try:
        return Handle.model_validate_json(folder.handle.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BackdropError(
            f"{folder.handle} cannot be read: {error.errors()[0]['msg']}",
            f"make sure that no job runs there (ps), then delete {folder.path}",
        ) from None


def write_handle(folder: JobFolder, handle: Handle) -> None:
    """Writes it down for good: it is what a restarted launcher knows."""
    write_atomic(folder.handle, json.dumps(handle.model_dump(mode="json"), indent=1))


def live_jobs(state: Path) -> list[Handle]:
    """The jobs below the state folder whose processes live, for example after kill -9 of the orchestrator."""
    handles = (read_handle(JobFolder(path.parent)) for path in sorted((state / "jobs").glob("*/handle.json")))
    return [handle for handle in handles if handle is not None and handle.find_process() is not None]


def end_job(handle: Handle, grace_s: float = 30.0) -> None:
    """Ends a job and all that it started: SIGTERM, by which it saves, and SIGKILL after ``grace_s``."""
    end_processes(handle.find_process(), handle.launch, grace_s)


def end_stale(state: Path, grace_s: float = 30.0) -> list[Handle]:
    """Ends the live jobs that nobody watches any more, and returns them."""
    stale = [handle for handle in live_jobs(state) if not handle.watcher.alive]
    for handle in stale:
        end_job(handle, grace_s)
    return stale
