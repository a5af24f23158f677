"""Removes Jobs that no Dagster run wants any more, for example after SIGKILL of an orchestrator that was cancelling.

A Job whose run was cancelled goes at once. One whose run failed or is unknown stays for a while: a run that is
started again from its failure adopts it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from kubernetes import client as k8s

from infra.jobs.kubernetes.api import Api
from infra.jobs.kubernetes.build import KEY_ANNOTATION, RUN_LABEL
from infra.jobs.kubernetes.launcher import CANCEL_GRACE_S
from infra.jobs.kubernetes.state import reduce

PATIENCE = timedelta(minutes=15)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Orphan:
    """A Job that runs for nobody: its name, its job's key, the run it was for, and why nobody wants it."""

    name: str
    key: str
    run_id: str
    why: str


def orphans(jobs: list[k8s.V1Job], instance: DagsterInstance, now: datetime) -> list[Orphan]:
    """Those of the Jobs that are to go."""
    found = []
    for job in jobs:
        if reduce(job).ended:
            continue  # its time to live removes it
        run_id = (job.metadata.labels or {}).get(RUN_LABEL, "")
        why = _unwanted(job, _run(instance, run_id), instance, now)
        if why:
            key = (job.metadata.annotations or {}).get(KEY_ANNOTATION, "")
            found.append(Orphan(job.metadata.name, key, run_id, why))
    return found


def reap(api: Api, instance: DagsterInstance, end_tracking: Callable[[str], object]) -> list[Orphan]:
    """Deletes orphans and returns them; `end_tracking(key)` closes the MLflow run of each."""
    gone = orphans(api.jobs(), instance, api.clock.now())
    for one in gone:
        try:
            end_tracking(one.key)
        except Exception:
            log.warning("the MLflow run of %s could not be ended", one.key, exc_info=True)
        api.delete_job(one.name, CANCEL_GRACE_S)
    return gone


def _run(instance: DagsterInstance, run_id: str) -> DagsterRun | None:
    return instance.get_run_by_id(run_id) if run_id else None


def _group(instance: DagsterInstance, run: DagsterRun) -> list[DagsterRun]:
    """The run's retries and re-executions, and it."""
    found = instance.get_run_group(run.run_id)
    return list(found[1]) if found is not None else [run]


def _unwanted(job: k8s.V1Job, run: DagsterRun | None, instance: DagsterInstance, now: datetime) -> str:
    if run is None:
        old = now - job.metadata.creation_timestamp > PATIENCE
        return "its run is not known" if old else ""
    if run.status == DagsterRunStatus.CANCELED:
        return "its run was cancelled"
    if not run.is_finished:
        return ""
    if any(not other.is_finished for other in _group(instance, run)):
        return ""  # a retry waits for its turn, for hours if need be, and adopts
    record = instance.get_run_record_by_id(run.run_id)
    ended = record.end_time if record is not None else None
    waited = ended is None or now.timestamp() - ended > PATIENCE.total_seconds()
    return f"its run ended ({run.status.value.lower()}) and nobody went on with it" if waited else ""
