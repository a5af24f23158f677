"""What asset checks have found, past those that are only planned.

Dagster writes a check's row when a run is made that will come to it, and the result into that same row when the run has
come there. The newest row says nothing while its run waits, and never will where the run was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

DONE = ("SUCCEEDED", "FAILED")
_EVENTS = 500


def newest_finished(instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey]) -> dict[dg.AssetCheckKey, Any]:
    """Of each check the newest row with a result (Dagster's AssetCheckExecutionRecord); those without one are left
    out."""
    storage, found = instance.event_log_storage, {}
    for key, record in storage.get_latest_asset_check_execution_by_key(keys).items():
        if record.status.value in DONE:
            found[key] = record
            continue
        done = {status for status in type(record.status) if status.value in DONE}  # Dagster does not export them
        before = storage.get_asset_check_execution_history(key, limit=1, status=done)
        found |= {key: before[0]} if before else {}
    return found


def results_since(instance: dg.DagsterInstance, after: int, first: float) -> list[dg.EventLogEntry]:
    """The results of all checks that were written after event `after` and are not older than `first` (seconds since
    1970), oldest first.

    By their events, which are in the order of the results: rows are in the order in which runs were planned, and a run
    that waited for a day has its row before those of hundreds that did not.
    """
    storage, before = instance.event_log_storage, None
    found: list[dg.EventLogEntry] = []
    while True:
        wanted = dg.EventRecordsFilter(
            dg.DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after, before_cursor=before
        )
        page = storage.get_event_records(wanted, limit=_EVENTS)
        found += [one.event_log_entry for one in page if one.event_log_entry.timestamp >= first]
        if len(page) < _EVENTS or page[-1].event_log_entry.timestamp < first:
            return found[::-1]
        before = page[-1].storage_id
