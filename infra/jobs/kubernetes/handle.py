"""The launcher's memory of a job, as an object in the store: written before its Job is created.

The Job's name follows from it, so whoever reads it, on whatever machine, finds the Job or makes it, and a second
create is refused by the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import BackdropError
from infra.jobs.folder import safe_key
from infra.jobs.handle import Collected, Job
from infra.jobs.kubernetes.build import job_name
from infra.jobs.kubernetes.usage import Usage
from infra.object_store import ObjectMissing, ObjectStore


class ClusterHandle(BaseModel):
    """One launch of a job. `restart` is how often its Job was made again because a node took it along; `ended` how
    it ended: "" while nobody knows. `usage` is what its pods have held so far."""

    model_config = ConfigDict(frozen=True)

    key: str
    identity: str
    attempt: int
    asset: str
    partition: str = ""
    run_id: str
    created_at: str
    restart: int = 0
    failures: int = 0
    ended: str = ""
    collected: Collected | None = None
    usage: Usage = Usage()

    @property
    def launch(self) -> str:
        """The same for two orchestrators that begin at the same moment, so that one of them adopts."""
        return f"{self.identity[:12]}-{self.attempt}"

    @property
    def job_name(self) -> str:
        return job_name(self.asset, self.key, self.launch, self.restart)

    @property
    def prefix(self) -> str:
        """Where its messages go."""
        return f"messages/{safe_key(self.key)}/{self.launch}"

    @property
    def logs(self) -> str:
        """Where the logs of its pods go."""
        return f"logs/{safe_key(self.key)}/{self.launch}"


def new_handle(
    found: ClusterHandle | None, job: Job, labels: Mapping[str, str], run_id: str, now: datetime
) -> ClusterHandle:
    """The handle of a launch that is about to happen, after the one `found`."""
    return ClusterHandle(
        key=job.key,
        identity=job.identity,
        attempt=found.attempt + 1 if found is not None else 1,
        run_id=run_id,
        created_at=now.isoformat(timespec="seconds"),
        # What an attempt that came to nothing has used belongs to what comes of the next one.
        usage=found.usage if found is not None and found.identity == job.identity and not found.collected else Usage(),
        **labels,
    )


def handle_key(key: str) -> str:
    return f"jobs/{safe_key(key)}/handle.json"


def read_handle(store: ObjectStore, key: str) -> ClusterHandle | None:
    """The last launch of a job; None when there was none."""
    try:
        return ClusterHandle.model_validate_json(store.get(handle_key(key)))
    except ObjectMissing:
        return None
    except ValidationError as error:
        raise BackdropError(
            f"{store.uri}/{handle_key(key)} cannot be read: {error.errors()[0]['msg']}",
            f"make sure that no Job of it runs (kubectl get jobs), then delete it and messages/{safe_key(key)}/",
        ) from None


def write_handle(store: ObjectStore, handle: ClusterHandle) -> None:
    store.put(handle_key(handle.key), handle.model_dump_json(indent=1).encode())
