"""`make run`: the whole lineage on the embedded default, from an empty folder or from wherever the last run stopped.

    services ─► stale runs ended ─► deliveries opened ─► ingest[each delivery] ─► retrain ─► where to look

Nothing here is needed for correctness after a crash: each asset reuses its committed result, adopts the job that
still runs, or starts the one that is missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from infra.errors import BackdropError
from infra.jobs.warm import WarmInterpreter
from infra.settings import Settings
from orchestration.progress import LineProgress

if TYPE_CHECKING:
    import dagster as dg

    from assets.line import Line

#: What the line's jobs import and take seconds for, in the order in which they ask for it. Not onnxruntime: its
#: import starts a thread, which a fork loses and its exit waits for.
WARM = ["training._compat.composer", "great_expectations", "torch.onnx", "onnxscript"]


@dataclass(frozen=True)
class Outcome:
    """Where `make run` ended: what each asset's newest materialisation says."""

    seconds: float
    reused: list[str]
    made: list[str]
    report: str | None
    metadata: Mapping[str, Mapping[str, Any]]


def run_line(settings: Settings, console: Console) -> Outcome:
    """Materialise everything. Raises BackdropError with one clear message; whatever was finished stays."""
    from infra.services import NO_TELEMETRY
    from orchestration.preflight import preflight
    from orchestration.remembered import remember
    from orchestration.services import services

    began = time.monotonic()
    preflight(settings)
    settings.state.mkdir(parents=True, exist_ok=True)
    os.environ.update(NO_TELEMETRY)
    with closing(WarmInterpreter(settings.state, WARM)) as warm:
        warm.start()  # it imports while the services start
        with services(settings, console) as environment:
            os.environ.update(environment)
            settings = Settings.load()
            with only_run(settings):
                remember(settings)
                return _run(settings, console, began, warm)


def document_of(outcome: Outcome) -> dict[str, Any]:
    """The same for programs: numbers and words, no pictures."""
    assets = {
        name: {key: value for key, value in metadata.items() if not str(value).startswith("![")}
        for name, metadata in outcome.metadata.items()
    }
    return {**asdict(replace(outcome, metadata={})), "metadata": assets}


def _run(settings: Settings, console: Console, began: float, warm: WarmInterpreter) -> Outcome:
    import dagster as dg

    from assets.deliveries import deliveries, delivery_name, sample_delivery
    from assets.line import Line
    from orchestration.automation import ingest_job, retrain_job
    from orchestration.definitions import defs
    from orchestration.stale import end_stale_runs
    from orchestration.status import remember_status

    with LineProgress(console) as progress, dg.DagsterInstance.get() as instance:
        for run in end_stale_runs(instance, settings):
            console.print(f"ended a stale run ({run[:8]}) whose process is gone")
        line = Line(listener=progress, warm=warm)
        opened = [(*sample_delivery(line.preset), "sample")]
        if settings.images:
            opened.append((delivery_name(settings.images), settings.images, "images"))
        for name, uri, kind in opened:
            line.catalog.add_delivery(name, uri, kind)
        instance.add_dynamic_partitions(str(deliveries.name), [name for name, _, _ in opened])
        done: list[dg.ExecuteInProcessResult] = []
        for name, _, _ in opened:
            done.append(execute(defs, ingest_job.name, instance, line, partition=name))
        done.append(execute(defs, retrain_job.name, instance, line))
        remember_status(line, instance)
        return _outcome(done, line, time.monotonic() - began)


def execute(
    defs: dg.Definitions,
    job: str,
    instance: dg.DagsterInstance,
    line: Line,
    partition: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run one job here, quietly, and turn a failed step into its own clear error.

    `overrides`: asset → keys of its section of the preset, as in the launchpad.
    """
    from assets.owner import process_tags

    result = defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition,
        resources={"line": line},
        tags=process_tags(),
        run_config={
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            "ops": {asset: {"config": {"overrides": dict(keys)}} for asset, keys in (overrides or {}).items()},
        },
        raise_on_error=False,
    )
    if not result.success:
        if _was_interrupted(result):
            raise KeyboardInterrupt  # Dagster turns a Ctrl-C into a failed step
        raise _failure(result)
    return result


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a step ended because somebody wanted the whole run to end."""
    failures = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return any(
        error is not None and error.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
        for error in failures
    )


def _failure(result: dg.ExecuteInProcessResult) -> BackdropError:
    """The innermost error of the first failed step, as one message."""
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            message = error.message.split(": ", 1)[-1].strip() if error else "it failed without a message"
            what, _, remedy = message.partition("\n  → ")
            return BackdropError(
                f"{event.step_key}: {what.strip()}",
                remedy.strip() or "what was finished is kept; run the same command again to go on from there",
            )
    return BackdropError("the run failed before its first step", "see the run's page in `make ui`")


def _outcome(done: list[dg.ExecuteInProcessResult], line: Line, seconds: float) -> Outcome:
    metadata: dict[str, dict[str, Any]] = {}
    for result in done:
        for event in result.get_asset_materialization_events():
            name = "/".join(event.asset_key.path) if event.asset_key else "?"
            name += f"[{event.partition}]" if event.partition else ""
            metadata[name] = {key: value.value for key, value in event.materialization.metadata.items()}
    report = metadata.get("evaluation_report", {}).get("file: report")
    reused = [name for name, values in metadata.items() if values.get("reused")]
    return Outcome(seconds, reused, [name for name in metadata if name not in reused], report, metadata)


@contextmanager
def only_run(settings: Settings) -> Iterator[None]:
    """One `make run` per state folder; the lock goes with the process, however it ends."""
    import fcntl

    path = settings.state / "run.lock"
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise BackdropError(
                f"another `make run` (process {handle.read().strip() or '?'}) works on {settings.state}",
                "wait for it, or give this one its own folder with BACKDROP_STATE",
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
