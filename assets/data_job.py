"""How a data asset is made: what is committed is used again, or its job is launched; MLflow shows it, too.

It can do without MLflow: while that is away its page has no links to it, and a click more to its pictures.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from assets import shown, tracked
from assets.line import Line
from assets.owner import claim
from assets.stage import Stage, committed, job_key, log_of, output_prefix, present, put_result
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.jobs.spec import JobResult, JobSpec
from infra.mlflow_server import wait_for_mlflow
from infra.sources import source_hash

log = logging.getLogger(__name__)

PATIENCE_S = 20.0
"""For an MLflow that still starts."""


def materialize(
    context: dg.AssetExecutionContext,
    line: Line,
    stage: Stage,
    make_spec: Callable[[str], JobSpec],
    shared: Mapping[str, bool] | None = None,
) -> dg.MaterializeResult:
    """Reuse or launch.

    `shared`: verbs that do the job's work before it where a cluster lends many processes, and whether they share it.
    """
    claim(context)
    version, partition = stage.version, context.partition_key if context.has_partition_key else None
    output = output_prefix(stage.asset, version, partition)
    result = committed(line, output) if stage.memoise else None
    reused = result is not None
    if result is None:
        key = job_key(stage.asset, version, partition)
        slices = line.launcher.slices
        for verb, many in (shared or {}).items() if slices > 1 else ():
            # Below an output of its own: what stands at the asset's is the asset's result.
            _launch(
                context, line, stage, verb, make_spec(f"{output}/{verb}"), f"{key}-{verb}", slices if many else None
            )
        result = _launch(context, line, stage, stage.verb, make_spec(output), key)
    # A job may know its result's content better than its inputs' names do (a folder that changed): its word counts.
    version = str(result.data.get("data_version", version))
    return present(
        context,
        line,
        version,
        f"{output}/result.json",
        result,
        reused=reused,
        dataset=stage.dataset_version,
        log=log_of(line, job_key(stage.asset, stage.version, partition)),
        **_seen_in_mlflow(context, line, stage, version, output, result),
    )


def _launch(
    context: dg.AssetExecutionContext,
    line: Line,
    stage: Stage,
    verb: str,
    spec: JobSpec,
    key: str,
    slices: int | None = None,
) -> JobResult:
    return line.launcher.run(
        context=context,
        room=stage.room,
        verb=verb,
        spec=spec,
        key=key,
        code_version=source_hash(stage.recipe),
        on_event=lambda event: line.listener(stage.asset, event) if line.listener else None,
        slices=slices,
    )


def commit_result(
    context: dg.AssetExecutionContext, line: Line, asset: str, version: str, result: JobResult
) -> dg.MaterializeResult:
    """For an asset that needs no job, whose data version is a dataset version: its result as a job's would be."""
    key = put_result(line, asset, version, result)
    stage = Stage(asset, "assets", "", f"assets.{asset}", {}, {}, dataset_version=version)
    seen = _seen_in_mlflow(context, line, stage, version, key.rpartition("/")[0], result)
    return present(context, line, version, key, result, reused=False, dataset=version, **seen)


def _seen_in_mlflow(
    context: dg.AssetExecutionContext, line: Line, stage: Stage, version: str, output: str, result: JobResult
) -> dict[str, Any]:
    """`links` and `hosted` of `present`; nothing while MLflow is away."""
    if not line.settings.mlflow_uri:
        return {}
    try:
        wait_for_mlflow(line.settings, PATIENCE_S)
        record = _recorded(context, line, stage, version, output, result)
    except BackdropError as error:
        log.warning("MLflow does not show %s: %s", output, error)
        return {}
    if record is None:
        return {}
    # Its pages stay in the store: they name files, quote captions and have thumbnails beside them.
    return {"links": tracked.links(line, record), "hosted": tracked.pictures(line, record, result)}


def _recorded(
    context: dg.AssetExecutionContext, line: Line, stage: Stage, version: str, output: str, result: JobResult
) -> dict[str, str] | None:
    """The MLflow run of this very result, made now if there is none. None where MLflow stopped answering."""
    content = sha256_bytes(result.model_dump_json().encode())
    record = tracked.read_record(line, output)
    if record is not None and record.get("result") == content:
        return record
    partition = context.partition_key if context.has_partition_key else None
    key = job_key(stage.asset, version, partition)
    opened = tracked.open_run(context, line, stage, version, partition or key, key)
    run = opened.run
    line.tracking.log_params(run, {"delivery": partition} if partition else {})
    line.tracking.log_metrics(run, shown.numbers(stage.asset, result, {}), 0)
    tracked.log_pictures(line, run, result)
    told = opened.finish(line)
    at = line.tracking.mlflow_run_id(run)
    if not told or at is None:
        return None
    record = {"run": at, "experiment": tracked.experiment_of(line.tracking.uri, at), "result": content}
    line.store.put(f"{output}/tracking.json", json.dumps(record).encode())
    return record
