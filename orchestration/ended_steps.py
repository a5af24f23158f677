"""How the steps of ended runs went, each run asked for once: what it did does not change any more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

RESTS = 600.0
"""Seconds after a run's end from which on it is kept: a step may outlive the run that was given up."""
_MOST = 5000
_kept: dict[tuple[str, tuple[str, ...]], Sequence[Any]] = {}


def steps_of(instance: dg.DagsterInstance, record: dg.RunRecord, keys: Sequence[str]) -> Sequence[Any]:
    """Dagster's RunStepKeyStatsSnapshot of each of these steps that the run has come to."""
    which = (record.dagster_run.run_id, tuple(keys))
    found = _kept.get(which)
    if found is None:
        found = instance.get_run_step_stats(record.dagster_run.run_id, step_keys=list(keys))
        if record.end_time and datetime.now(UTC).timestamp() - record.end_time > RESTS:
            while len(_kept) >= _MOST:
                _kept.pop(next(iter(_kept)), None)
            _kept[which] = found
    return found
