"""Runs whose process is gone: Dagster would show them as started for ever, so the next run ends them.

What they held of a pool goes with them, or the next run would wait for a stage that nobody works on.
"""

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
    free_slots(instance)
    return ended


def free_slots(instance: dg.DagsterInstance) -> None:
    """Give back what ended runs hold of pools: a process that is killed cannot do so itself."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
