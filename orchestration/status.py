"""`backdrop status`: the line on one screen. Starts nothing unless it is asked to.

services up   ─► asked now, and remembered in <state>/status.json
services down ─► what was remembered, with its date; jobs and settings are on the disk and always of now
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console

from infra.errors import BackdropError
from infra.files import write_atomic
from infra.settings import Settings
from orchestration.remembered import as_last_run
from orchestration.running import HOW_TO_START, look
from orchestration.screen import plain

if TYPE_CHECKING:
    import dagster as dg

    from assets.line import Line

_FILE = "status.json"
GATHERED = ("run", "assets", "champion", "challenger", "budget", "automation", "alerts")
_FAILED_RUN = {"failure", "canceled"}

_log = logging.getLogger(__name__)


def status(settings: Settings, console: Console, start: bool) -> dict[str, Any]:
    """Everything that is known. `start`: bring the services up for it, and down again after it."""
    from orchestration.services import services

    if not start:
        return _status(settings)
    with services(settings, console) as environment:
        from infra.services import wait_for_mlflow

        uri = environment.get("BACKDROP_MLFLOW_URI", settings.mlflow_uri)
        with console.status("waiting for MLflow"):
            wait_for_mlflow(settings.model_copy(update={"mlflow_uri": uri}))
        return _status(settings)


def remember_status(line: Line, instance: dg.DagsterInstance) -> None:
    """Writes down how the line is, for whoever asks when the services are down. Nothing depends on it."""
    from orchestration.status_gathered import gather

    try:
        _remember(line.settings, gather(line, instance, mlflow_up=True), plain(datetime.now(UTC)))
    except Exception:
        _log.debug("the status could not be remembered", exc_info=True)


def remember_models(line: Line) -> None:
    """The same of champion and challenger alone, after they were moved."""
    from orchestration.status_models import aliases

    gathered, as_of = _recall(line.settings)
    if gathered is not None and as_of is not None:
        try:
            _remember(line.settings, {**gathered, **aliases(line, mlflow_up=True)}, as_of)
        except BackdropError as error:
            _log.debug("the status could not be remembered: %s", error)


def problems(document: dict[str, Any]) -> list[str]:
    """What is not well, in sentences. Pure. What cannot be seen is not well either."""
    found = [f"{one['name']} is down" + (f": {one['said']}" if one["said"] else "") for one in document["services"]
             if not one["up"]]  # fmt: skip
    found += [document["problem"]] if document["problem"] else []
    run = document["run"]
    if run and run["state"] in _FAILED_RUN:
        found.append(f"the newest run ({run['job']}, {run['id'][:8]}) ended with {run['state']}")
    for one in document["assets"] or []:
        found += [f"the check {name} of {one['asset']} failed" for name in one["checks_failed"]]
    if document["champion"] and document["champion"]["tainted"]:
        found.append(f"the champion is tainted: {'; '.join(document['champion']['tainted'])}")
    if document["budget"] and document["budget"]["paused"]:
        found.append(f"automation is {document['budget']['paused']}")
    return found


def _status(settings: Settings) -> dict[str, Any]:
    now, preset = plain(datetime.now(UTC)), as_last_run(settings).get("BACKDROP_PRESET", settings.preset)
    seen = look(settings)
    gathered, problem = None, ""
    if seen.environment is not None:
        try:
            gathered = _gather(settings, seen.environment, mlflow_up=seen.mlflow_up)
            as_of = now
            _remember(settings, gathered, now)
        except BackdropError as error:
            problem = error.what
    if gathered is None:
        gathered, as_of = _recall(settings)
    rows, unseen = _jobs(settings)
    document = {
        "at": now,
        "state": str(settings.state),
        "preset": preset,
        "launcher": settings.launcher,
        "services": plain(seen.services),
        "start": "" if all(one.up for one in seen.services) else HOW_TO_START,
        "live": as_of == now,
        "as_of": as_of,
        "problem": problem or unseen,
        **{name: (gathered or {}).get(name) for name in GATHERED},
        "jobs": rows,
    }
    return {**document, "problems": problems(document)}


def _gather(settings: Settings, environment: dict[str, str], *, mlflow_up: bool) -> dict[str, Any]:
    from orchestration.running import kept_up

    os.environ.update({**environment, **as_last_run(settings)})
    with kept_up(settings):
        import dagster as dg

        from assets.line import Line
        from orchestration.status_gathered import gather

        with dg.DagsterInstance.get() as instance:
            return gather(Line(), instance, mlflow_up=mlflow_up)


def _jobs(settings: Settings) -> tuple[list[dict[str, Any]], str]:
    """The jobs that have not ended, and why those of the cluster cannot be seen."""
    from orchestration.job_list import Here, every_job, places

    try:
        where, unseen = places(settings), ""
        found = every_job(where)
    except Exception as error:  # a cluster that is away takes nothing else with it
        if not isinstance(error, BackdropError) and settings.launcher != "kubernetes":
            raise
        found, unseen = every_job([Here(settings.state)]), f"the cluster's jobs cannot be seen: {error}"
    return [plain(row) for _, row in found if not row.ended], unseen


def _remember(settings: Settings, gathered: dict[str, Any], at: str) -> None:
    with contextlib.suppress(OSError):
        write_atomic(settings.state / _FILE, json.dumps({"as_of": at, "gathered": gathered}))


def _recall(settings: Settings) -> tuple[dict[str, Any] | None, str | None]:
    try:
        found = json.loads((settings.state / _FILE).read_text())
        return found["gathered"], found["as_of"]
    except (OSError, ValueError, KeyError):
        return None, None
