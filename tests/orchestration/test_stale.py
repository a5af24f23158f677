"""A run whose process was killed is ended by the next one; a living run is left alone."""

from __future__ import annotations

import subprocess
import sys

import dagster as dg
import psutil

from assets.owner import PID, STARTED, alive, process_tags
from orchestration.stale import end_stale_runs


@dg.op
def nothing() -> None:
    """A step that does nothing."""


@dg.job
def one_step() -> None:
    nothing()


def start(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    run = instance.create_run_for_job(one_step, tags=tags)
    started = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=run.job_name)
    instance.report_dagster_event(started, run.run_id)
    return run.run_id


def test_only_the_dead_are_ended() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        dead = {PID: str(child.pid), STARTED: f"{psutil.Process(child.pid).create_time():.2f}"}
        assert alive(dead)
        child.kill()
        child.wait()
        mine, theirs = start(instance, process_tags()), start(instance, dead)
        foreign = start(instance, {})
        assert end_stale_runs(instance) == [theirs]
        statuses = {run.run_id: run.status for run in instance.get_runs()}
        assert statuses[theirs] == dg.DagsterRunStatus.FAILURE
        assert statuses[mine] == statuses[foreign] == dg.DagsterRunStatus.STARTED


def test_a_reused_pid_is_not_the_same_process() -> None:
    tags = process_tags()
    assert alive(tags)
    assert not alive({**tags, STARTED: "1.00"})
    assert not alive({})
