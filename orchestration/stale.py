"""Runs whose process is gone: Dagster would show them as started for ever, so the next command ends them.

    its own process ─► lives? ─► no word of one yet ─► does the server live that was to start it?

What they held of a pool goes with them, or the next run would wait for a stage that nobody works on. All this is of one
machine: on a cluster Dagster itself watches the pods.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psutil

from assets.owner import PID, alive
from infra.errors import BackdropError
from infra.jobs.folder import JobFolder
from infra.jobs.handle import read_handle

if TYPE_CHECKING:
    from infra.settings import Settings

LAST_SIGN = "backdrop/last_sign"
"""On a run that was found dead: when it was last alive (seconds since 1970). Dagster knows when that was found."""
SERVER = ".dagster/grpc_info"
"""Dagster's tag on a run that the daemon has launched: where the server listens that starts its process."""
_PATIENCE_S = 60.0
"""How long a launch may say nothing: to whom it goes stands on the run only a moment after it has begun."""
_SLACK_S = 5.0  # between the clocks of processes and of events
_AT_WORK = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
    dg.DagsterRunStatus.NOT_STARTED,
]


def end_stale_runs(instance: dg.DagsterInstance, settings: Settings) -> list[str]:
    """Mark as failed every unfinished run of this machine that nobody works on; returns their ids."""
    ended = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=_AT_WORK)) if settings.launcher == "local" else ():
        run = instance.get_run_by_id(record.dagster_run.run_id) if gone(instance, record) else None
        if run is not None and not run.is_finished:  # it may have ended well since it was looked up
            instance.add_run_tags(run.run_id, {LAST_SIGN: f"{_last_sign(instance, run, settings.state):.0f}"})
            instance.report_run_failed(run, "the process of this run is gone; a new run takes over")
            ended.append(run.run_id)
    free_slots(instance)
    return ended


def gone(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether nobody works on an unfinished run of this machine any more, nor will.

    A run that waits in the queue has no process, one that is being launched not yet. The tags of a repeated run are
    those of the run before it, so what it says of its process itself goes first.
    """
    run = record.dagster_run
    if run.status not in _AT_WORK:
        return False
    if words := list(_processes(instance, run.run_id)):
        return not any(_lives(pid, at) for pid, at in words)
    if PID in run.tags and run.parent_run_id is None:
        return not alive(run.tags)
    if run.status == dg.DagsterRunStatus.NOT_STARTED:
        return False
    return time.time() - _last_word(instance, run.run_id) > _PATIENCE_S and not _listens(run.tags.get(SERVER))


def last_sign(tags: Mapping[str, str]) -> float | None:
    """When a run that was found dead was last alive; None of all others."""
    return float(tags[LAST_SIGN]) if LAST_SIGN in tags else None


def free_slots(instance: dg.DagsterInstance) -> None:
    """Give back what ended runs hold of pools: a process that is killed cannot do so itself."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


def _processes(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[int, float]]:
    """The processes that worked on the run, as Dagster wrote them down, each with the moment."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=100).records
    for record in records:
        event = record.event_log_entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            yield int(str(pid.value)), record.event_log_entry.timestamp


def _lives(pid: int, at: float) -> bool:
    """Whether the process that had this pid then has it still."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= at + _SLACK_S and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _listens(server: str | None) -> bool:
    """Whether anybody listens where a run was launched; where nothing says that nobody does, somebody may."""
    place = json.loads(server) if server else {}
    if path := place.get("socket"):
        family, address = socket.AF_UNIX, path
    elif port := place.get("port"):
        family, address = socket.AF_INET, (place["host"], port)
    else:
        return False
    with socket.socket(family) as client:
        client.settimeout(2.0)
        return client.connect_ex(address) not in (errno.ENOENT, errno.ECONNREFUSED)


def _last_word(instance: dg.DagsterInstance, run_id: str) -> float:
    found = instance.get_records_for_run(run_id, limit=1, ascending=False).records
    return found[0].event_log_entry.timestamp if found else 0.0


def _last_sign(instance: dg.DagsterInstance, run: dg.DagsterRun, state: Path) -> float:
    """The newest of what the run has said and what its jobs have written. A job that lives on is not the run's any
    more: the next run watches it, and counts what it takes."""
    signs = [_last_word(instance, run.run_id)]
    for path in (state / "jobs").glob("*/handle.json"):
        folder = JobFolder(path.parent)
        with contextlib.suppress(BackdropError):  # whoever wants that job is told
            handle = read_handle(folder)
            mine = handle is not None and (handle.run_id == run.run_id or str(handle.watcher.pid) == run.tags.get(PID))
            if handle is not None and mine and handle.find_process() is None:
                signs += _written(folder)
    return min(max(signs), time.time())


def _written(folder: JobFolder) -> Iterator[float]:
    """When a job wrote to its log, and to the files that it saved."""
    saved = (Path(place, name) for place, _, names in os.walk(folder.save) for name in names)
    for path in (folder.handle, folder.log, *saved):
        try:
            yield path.stat().st_mtime
        except OSError:  # a file that is no more
            continue
