"""Which process works on a Dagster run, as tags on the run: how a later process sees that the owner is gone."""

from __future__ import annotations

import os
from collections.abc import Mapping

import dagster as dg
import psutil

PID, STARTED = "backdrop/pid", "backdrop/process_started"


def process_tags() -> dict[str, str]:
    """This process. A pid alone may have been given away again, so its start time goes with it."""
    me = psutil.Process(os.getpid())
    return {PID: str(me.pid), STARTED: f"{me.create_time():.2f}"}


def alive(tags: Mapping[str, str]) -> bool:
    """Whether the process named by a run's tags still runs."""
    try:
        return f"{psutil.Process(int(tags[PID])).create_time():.2f}" == tags[STARTED]
    except (KeyError, ValueError, psutil.Error):
        return False


def claim(context: dg.AssetExecutionContext) -> None:
    """Write this process on the run, whoever launched it (`make run`, the web UI, the daemon)."""
    context.instance.add_run_tags(context.run.run_id, process_tags())
