"""Runs whose process is gone: Dagster would show them as started for ever, so the next run ends them."""

from __future__ import annotations

import dagster as dg

from assets.owner import PID, alive

_UNFINISHED = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
    dg.DagsterRunStatus.NOT_STARTED,
]


def end_stale_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark as failed every unfinished run of ours whose process is gone; returns their ids."""
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if PID in run.tags and not alive(run.tags):
            instance.report_run_failed(run, "the process of this run is gone; a new run takes over")
            ended.append(run.run_id)
    return ended
