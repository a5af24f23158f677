"""Runs that failed.

Not by Dagster's run failure sensor: that takes five runs a tick, none of another code location, and goes on to the next
when telling of one has failed. What is asked for here stays until it is written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from infra.catalog.rows import Alert
from orchestration.alerts.causes import LOOK_BACK, Kind, Pages, Seen, cause

if TYPE_CHECKING:
    from infra.catalog import Catalog

SCOPE = "run-failed:"
OVERLAP = timedelta(minutes=10)
"""Looked at twice: clocks differ, and what will be tried again is marked as that after it has failed."""
_PAGE = 200
_READ = 20  # errors that are read in one go: in a storm the rest is told by its name alone
_WILL_RETRY = "dagster/will_retry"


def failed_runs(
    instance: dg.DagsterInstance, catalog: Catalog, pages: Pages, memory: Mapping[str, Any], now: datetime
) -> Seen:
    """Every run that failed since a day before the first look, but those that Dagster launches again by itself."""
    first = datetime.fromisoformat(memory["first"]) if "first" in memory else now - LOOK_BACK
    seen = datetime.fromisoformat(memory["seen"]) if "seen" in memory else first
    records = _failed(instance, max(first, seen - OVERLAP))
    failed = {f"{SCOPE}{one.dagster_run.run_id}": one for one in records if _ended(one) >= first}
    known = catalog.written_causes(failed)
    new = [(key, one) for key, one in failed.items() if key not in known and not _again(instance, one)]
    causes = tuple(_cause(key, one, instance if k < _READ else None, pages) for k, (key, one) in enumerate(new))
    return Seen(SCOPE, causes, None, {"first": first.isoformat(), "seen": now.isoformat()})


def _failed(instance: dg.DagsterInstance, after: datetime) -> list[dg.RunRecord]:
    found: list[dg.RunRecord] = []
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=after)
    while True:
        page = instance.get_run_records(
            wanted, limit=_PAGE, order_by="id", ascending=True, cursor=found[-1].dagster_run.run_id if found else None
        )
        found += page
        if len(page) < _PAGE:
            return found


def _ended(record: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(record.end_time, UTC) if record.end_time else _aware(record.update_timestamp)


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _again(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether it is tried again, or nobody knows yet: the tag comes after the failure."""
    return instance.run_retries_enabled and record.dagster_run.tags.get(_WILL_RETRY, "true") == "true"


def _cause(key: str, record: dg.RunRecord, instance: dg.DagsterInstance | None, pages: Pages) -> Alert:
    run = record.dagster_run
    what = f"run {run.run_id[:8]} of {_job(run)} failed"
    step, why = failure_of(instance, run.run_id) if instance is not None else ("", "")
    title = f"{what} in {step}" if step else what
    return cause(Kind.RUN_FAILED, key, title, why, _ended(record), pages.run(run.run_id))


def _job(run: dg.DagsterRun) -> str:
    if run.job_name.startswith("__"):  # Dagster's name for a selection of assets
        names = sorted(key.to_user_string() for key in run.asset_selection or ())
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "assets"
    return run.job_name


def failure_of(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str]:
    """The step that failed first, and what it said; a run without one (its process died) says so itself."""
    kinds = (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE)
    entries = list(instance.all_logs(run_id, of_type=set(kinds)))
    for kind in kinds:
        for entry in entries:
            event = entry.dagster_event
            if event is None or event.event_type != kind:
                continue
            error = getattr(event.event_specific_data, "error", None)
            while error is not None and error.cause is not None:
                error = error.cause
            return event.step_key or "", _words(error.message) if error is not None else (event.message or "")
    return "", ""


def _words(message: str) -> str:
    """An error's message without the class before it, and without the lines of a traceback."""
    head, _, rest = message.strip().partition(": ")
    return rest if rest and " " not in head else message.strip()
