"""Jobs on a cluster that no run wants any more: found and removed by a sensor, or by `backdrop jobs reap`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import dagster as dg
from rich.console import Console

from assets.line import Line
from infra.errors import BackdropError
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.jobs.kubernetes.reaper import Orphan

ON_CLUSTER = os.environ.get("BACKDROP_LAUNCHER") == "kubernetes"


def reap_jobs(line: Line, instance: dg.DagsterInstance) -> list[Orphan]:
    """Deletes them with their pods and Services, and closes their MLflow runs."""
    from infra.jobs.kubernetes.launcher import KubernetesLauncher
    from infra.jobs.kubernetes.reaper import reap
    from infra.mlflow_runs import MlflowRuns

    launcher = line.launcher
    if not isinstance(launcher, KubernetesLauncher):
        return []
    uri = line.settings.mlflow_uri
    return reap(launcher.api, instance, lambda key: MlflowRuns(uri).end_left(key) if uri else None)


def reap_now(settings: Settings, console: Console) -> dict[str, Any]:
    """The command; what it removed."""
    from orchestration.services import services

    if settings.launcher != "kubernetes":
        raise BackdropError("jobs run on this machine, not on a cluster", "`backdrop clean` ends those left behind")
    with services(settings, console) as environment:
        os.environ.update(environment)
        with dg.DagsterInstance.get() as instance:
            gone = reap_jobs(Line(), instance)
    for one in gone:
        console.print(f"removed {one.name}: {one.why}", highlight=False)
    if not gone:
        console.print("no job runs for nobody")
    return {"removed": [{"job": one.name, "key": one.key, "run": one.run_id, "why": one.why} for one in gone]}


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING if ON_CLUSTER else dg.DefaultSensorStatus.STOPPED,
)
def job_reaper(context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]) -> dg.SkipReason:
    """Ends jobs on the cluster whose run was cancelled, or ended and was not gone on with."""
    gone = reap_jobs(line, context.instance)
    for one in gone:
        context.log.info("removed the Job %s of run %s: %s", one.name, one.run_id, one.why)
    return dg.SkipReason(f"{len(gone)} jobs removed" if gone else "no job runs for nobody")
