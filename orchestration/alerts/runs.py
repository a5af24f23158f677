"""Runs that failed.

Not by Dagster's run failure sensor: that takes five runs a tick, none of another code location, and goes on to the next
when telling of one has failed. What is asked for here stays until it is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from infra.catalog.rows import Alert
from orchestration.alerts.causes import LOOK_BACK, OVERLAP, Kind, Pages, Seen, cause

if TYPE_CHECKING:
    from infra.catalog import Catalog

SCOPE = "run-failed:"
RETRIES = 3
"""So many times Dagster launches a run again before it is told of: what never starts is tried for days."""
PATIENCE = timedelta(minutes=5)
"""For a run that is to be launched again and is not: Dagster does not where its backfill is over."""
_PAGE = 200
_READ = 20  # errors that are read in one go: in a storm the rest is told by its name alone
_REMEMBERED = 100  # retries whose beginning need not be looked for again
_WILL_RETRY, _RETRY_NUMBER, _CHILD = "dagster/will_retry", "dagster/retry_number", "dagster/auto_retry_run_id"
_ROOT, _PARENT = "dagster/root_run_id", "dagster/parent_run_id"


def failed_runs(
    instance: dg.DagsterInstance, catalog: Catalog, pages: Pages, memory: Mapping[str, Any], now: datetime
) -> Seen:
    """The runs that failed since a day before the first look, each with what Dagster launched for it by itself as one.

    Of one that is launched again people hear after RETRIES of its kind, or where nothing came of it within PATIENCE.
    """
    first = datetime.fromisoformat(memory["first"]) if "first" in memory else now - LOOK_BACK
    seen = datetime.fromisoformat(memory["seen"]) if "seen" in memory else first
    records = [one for one in _failed(instance, max(first, seen - OVERLAP)) if _ended(one) >= first]
    begun = _beginnings(instance, [one.dagster_run for one in records], memory.get("retries", {}))
    failed = {one.dagster_run.run_id: f"{SCOPE}{begun[one.dagster_run.run_id]}" for one in records}
    known = catalog.written_causes(failed.values())
    new: dict[str, dg.RunRecord] = {}
    for one in records:
        key = failed[one.dagster_run.run_id]
        if key not in known and key not in new and not _again(instance, one, now):
            new[key] = one
    causes = tuple(_cause(key, one, instance if k < _READ else None, pages) for k, (key, one) in enumerate(new.items()))
    retries = dict([(run, beginning) for run, beginning in begun.items() if run != beginning][-_REMEMBERED:])
    return Seen(SCOPE, causes, None, {"first": first.isoformat(), "seen": now.isoformat(), "retries": retries})


def _beginnings(
    instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun], known: Mapping[str, str]
) -> dict[str, str]:
    """Run → the one that Dagster has launched again and again until it was this one; itself where somebody asked for
    it. `runs`: oldest first; `known`: what was found before."""
    found = dict(known)
    for run in runs:
        if _RETRY_NUMBER not in run.tags:
            found[run.run_id] = run.run_id
        elif run.tags.get(_PARENT) in found:
            found[run.run_id] = found[run.tags[_PARENT]]
        else:
            found[run.run_id] = _beginning(instance, run)
    return found


def _beginning(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """As above, from all that has the same root: up to a thousand runs."""
    wanted = dg.RunsFilter(tags={_ROOT: run.tags.get(_ROOT, "")})
    group = {one.run_id: one for one in instance.get_runs(wanted)}
    while _RETRY_NUMBER in run.tags and _PARENT in run.tags:
        if run.tags[_PARENT] not in group:
            return run.tags[_PARENT]  # the root, which does not name itself
        run = group[run.tags[_PARENT]]
    return run.run_id


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


def _again(instance: dg.DagsterInstance, record: dg.RunRecord, now: datetime) -> bool:
    """Whether it is tried again and need not be told of, or nobody knows yet: the tag comes after the failure."""
    tags = record.dagster_run.tags
    if not instance.run_retries_enabled or tags.get(_WILL_RETRY, "true") != "true":
        return False
    return _number(record.dagster_run) < RETRIES and (now - _ended(record) < PATIENCE or _followed(instance, record))


def _followed(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    run = record.dagster_run
    children = dg.RunsFilter(tags={_PARENT: run.run_id})
    return _CHILD in run.tags or bool(instance.get_run_ids(children, limit=1))


def _retries(run: dg.DagsterRun) -> str:
    number, again = _number(run), run.tags.get(_WILL_RETRY) == "true"
    if again and number < RETRIES:
        return "Dagster was to launch it again and has not"
    goes_on = ", and Dagster goes on launching it" if again else ""
    return f"it was retry {number} of Dagster's{goes_on}" if number else ""


def _number(run: dg.DagsterRun) -> int:
    """Which retry it is; 0: none of Dagster's."""
    number = run.tags.get(_RETRY_NUMBER, "0")
    return int(number) if number.isdecimal() else 0


def _cause(key: str, record: dg.RunRecord, instance: dg.DagsterInstance | None, pages: Pages) -> Alert:
    run = record.dagster_run
    what = f"run {run.run_id[:8]} of {_job(run)} failed"
    step, why = failure_of(instance, run.run_id) if instance is not None else ("", "")
    title = f"{what} in {step}" if step else what
    why = "\n".join(filter(None, [why, _retries(run)]))
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
