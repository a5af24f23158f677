"""A job's result on its way to the Dagster step that asked for it; the same for every launcher."""

from __future__ import annotations

from dagster import AssetExecutionContext, OpExecutionContext
from pydantic import ValidationError

from infra.files import sha256_bytes
from infra.jobs.handle import Collected
from infra.jobs.reader import Reported
from infra.jobs.spec import JobResult
from infra.object_store import ObjectMissing, ObjectStore

Context = AssetExecutionContext | OpExecutionContext


def read_result(store: ObjectStore, reported: Reported | None) -> JobResult | None:
    """The reported result when it is there and is what was reported."""
    if reported is None:
        return None
    try:
        data = store.get(reported.key)
        return JobResult.model_validate_json(data) if sha256_bytes(data) == reported.sha256 else None
    except (ObjectMissing, ValidationError):
        return None


def collected_by(context: Context) -> Collected:
    """The step that is given a result now."""
    return Collected(run_id=context.run.run_id, step=context.get_step_execution_context().step.key)


def was_delivered(context: Context, collected: Collected | None) -> bool:
    """Whether the Dagster step that was given the job's result lived to record it.

    Of a run that this instance does not know nothing can be found out; asking for the job again then means a
    new one.
    """
    if collected is None:
        return False
    if not context.instance.has_run(collected.run_id):
        return True
    stats = context.instance.get_run_step_stats(collected.run_id, [collected.step])
    return any(item.status is not None and item.status.value == "SUCCESS" for item in stats)
