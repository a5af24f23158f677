"""The one way an asset launches a tracked recipe: spec from preset and inputs, MLflow run, registered model version.

The MLflow run belongs to the asset. The job never talks to MLflow: its metrics and pictures arrive through the
message channel and are forwarded from here, so a tracking server that is slow or away cannot stop a training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import costs, shown, tracked
from assets.about import ABOUT
from assets.adoption import adopt, recipe_mark
from assets.launchpad import asked_in
from assets.line import Line
from assets.owner import claim
from assets.stage import (
    Stage,
    committed,
    job_key,
    log_of,
    output_prefix,
    present,
    register_shown,
    upstream_of,
)
from assets.trust import record_plans
from infra.errors import ServiceError
from infra.jobs.events import Event, Metrics, Picture
from infra.jobs.handle import Job
from infra.jobs.spec import JobResult, JobSpec
from infra.sources import source_hash
from training.presets.sections import without_operation
from training.text_source import identity

if TYPE_CHECKING:
    from training.presets import Preset
    from training.presets.sections import Section

#: Fields of a spec that say where, or follow from inputs which are in the version already (see `inputs_of`).
_NOT_VERSIONED = {"store", "output", "latents", "dataset", "text_encoder", "stage_results", "trust", "champion_tainted"}


def launch_recipe(
    context: dg.AssetExecutionContext,
    line: Line,
    *,
    asset: str,
    verb: str,
    section: str,
    spec: type[JobSpec],
    upstream: Mapping[str, tuple[str, str]],
    room: str = "training",
    recipe: str | None = None,
    dataset_field: str = "dataset",
    dataset_of: str | None = None,
    register: str | None = "model",
    extra: Mapping[str, Any] | None = None,
    seal: Callable[[JobResult], None] | None = None,
) -> dg.MaterializeResult:
    """Materialise `asset` by `python -m <room> <verb>`.

    `upstream` maps an input asset to (field of the spec, name in the input's result data). `register` names the
    bundle in the result that becomes a registered model version, `extra` adds fields to the spec. `dataset_of` names
    an input whose dataset version is this asset's too: one that reads no training set has seen none but that. `seal` is
    called with a result once it is registered, and at every materialisation after that.
    """
    claim(context)
    asked = asked_in(context)
    inputs = {name: upstream_of(context, line, name) for name in upstream}
    chosen = chosen_section(line.preset, section, asked.overrides)
    made_of = inputs_of(spec, {name: one.data_version for name, one in inputs.items()}, line.settings.text_encoder)

    def stage_on(dataset: str) -> tuple[Stage, dict[str, Any]]:
        values: dict[str, Any] = {
            dataset_field: dataset,
            "image_size": line.preset.image_size,
            "seed": line.preset.seed,
            "text_encoder": line.settings.text_encoder,
            "dit": line.preset.dit,
            "config": chosen,
            **{field: inputs[name].result.data[key] for name, (field, key) in upstream.items()},
            **(extra or {}),
        }
        fields = {name: value for name, value in values.items() if name in spec.model_fields}
        stage = Stage(
            asset=asset,
            room=room,
            verb=verb,
            recipe=recipe or f"{room}.recipes.{verb}",
            upstream={"training_set": dataset, **made_of},
            config=without_operation(versioned(spec, fields)),
            dataset_version=dataset,
        )
        return stage, fields

    adoption = None
    if dataset_of is not None:
        stage, fields = stage_on(str(inputs[dataset_of].dataset_version))
    else:
        newest = str(upstream_of(context, line, "training_set").result.data["version"])

        def made_on(dataset: str) -> bool:
            return committed(line, output_prefix(asset, stage_on(dataset)[0].version, None)) is not None

        adoption = adopt(context, line, asset, newest, asked=asked.adopt, made_on=made_on)
        stage, fields = stage_on(adoption.version)
    version = stage.version
    output = output_prefix(asset, version, None)
    outputs = [found.output for found in inputs.values()]
    result = committed(line, output)
    reused = result is not None
    record = tracked.read_record(line, output)
    if result is None or record is None:
        job = spec(store=line.settings.store_uri, output=output, **fields)
        result, record = _run_tracked(context, line, stage, version, job, result, register, outputs)
    if seal is not None:
        seal(result)
    hosted = tracked.pictures(line, record, result)
    said = {"recipe": recipe_mark(line, stage.recipe, chosen, spec)} | ({"why": adoption.why} if adoption else {})
    return present(
        context,
        line,
        version,
        f"{output}/result.json",
        result.model_copy(update={"metadata": result.metadata | said}),
        reused=reused,
        dataset=stage.dataset_version,
        links=tracked.page_links(line, record, result) | tracked.links(line, record),
        upstream=outputs,
        log=log_of(line, job_key(asset, version)),
        hosted=hosted,
    )


def versioned(spec: type[JobSpec], fields: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec's fields makes a data version. Of a taint only that there is one: a report from before it waived
    nothing."""
    kept = spec(store="-", output="-", **fields).model_dump(mode="json", exclude=_NOT_VERSIONED)
    return kept | ({"champion_tainted": True} if fields.get("champion_tainted") else {})


def chosen_section(preset: Preset, name: str, overrides: Mapping[str, Any]) -> Section:
    """The preset's section `name` with the launchpad's overrides; an unknown key names the nearest known one."""
    from pydantic import ValidationError

    from infra.layers import merge
    from training.presets import explain

    section: Section = getattr(preset, name)
    try:
        return type(section).model_validate(merge(section.model_dump(exclude_unset=True), overrides))
    except ValidationError as error:
        raise explain(error, type(section), f"overrides of {name}") from None


def inputs_of(spec: type[JobSpec], versions: Mapping[str, str], text_encoder: str | None) -> dict[str, str]:
    """What of a stage's inputs makes its data version. `versions`: input asset → data version. The text encoder counts
    by its weights, wherever they lie, and only for a stage that reads it."""
    # The latents follow from autoencoder and dataset version, which are both in the hash already; their own version
    # would make a pinned model outdated whenever a delivery adds slices.
    found = {name: version for name, version in versions.items() if name != "latent_shards"}
    return found | ({"text_encoder": identity(text_encoder)} if "text_encoder" in spec.model_fields else {})


def _run_tracked(
    context: dg.AssetExecutionContext,
    line: Line,
    stage: Stage,
    version: str,
    spec: JobSpec,
    result: JobResult | None,
    register: str | None,
    upstream: Collection[str],
) -> tuple[JobResult, dict[str, str]]:
    """Run the job inside its MLflow run, unless it is committed already and only the registration is missing."""
    key = job_key(stage.asset, version)
    opened = tracked.open_run(context, line, stage, version, key, key)
    run = opened.run
    curves = tracked.Curves(line.tracking, run, stage.verb)

    def forward(event: Event) -> None:
        if isinstance(event, Metrics):
            curves.add(event)
        elif isinstance(event, Picture):
            register_shown(line, {event.key: event.shows})
            path = f"samples/{event.name}-{event.step or 0:06d}.png"
            tracked.log_picture(line, run, path, event.key, event.shows)
        if line.listener:
            line.listener(stage.asset, event)

    code = source_hash(stage.recipe)
    try:
        # Of a job that went on alone and is done the result is there; its curve and its cost are still to be collected.
        if result is None or line.launcher.ended_unwatched(Job(key, stage.room, stage.verb, spec, code)):
            result = line.launcher.run(
                context=context,
                room=stage.room,
                verb=stage.verb,
                spec=spec,
                key=key,
                on_event=forward,
                code_version=code,
            )
        tracked.log_pictures(line, run, result)
        tracked.log_pages(line, run, result)
    except BaseException:
        opened.finish(line, "FAILED")
        raise
    recorded = line.tracking.mlflow_run_id(run)
    if recorded is None:
        raise ServiceError(
            f"MLflow at {line.tracking.uri} does not answer, so {stage.asset} cannot be registered",
            "run again once it does: the result is kept, only the registration is missing",
        )
    spent = costs.spent(line.store, spec.output, upstream)
    curves.total(shown.numbers(stage.asset, result, costs.shown(spent, spec.output)))
    tags = {**opened.tags, **costs.tags(spent)}
    registered = _register(context, line, stage, result, recorded, tags, register) if register else ""
    opened.finish(line)
    record = {
        "run": recorded,
        "experiment": tracked.experiment_of(line.tracking.uri, recorded),
        "model_version": registered,
    }
    line.store.put(f"{spec.output}/tracking.json", json.dumps(record).encode())
    return result, record


def _register(
    context: dg.AssetExecutionContext,
    line: Line,
    stage: Stage,
    result: JobResult,
    run: str,
    tags: Mapping[str, str],
    register: str,
) -> str:
    from deploy.registry import REGISTERED_NAMES, Registry

    bundle = str(result.data[register])
    record_plans(line, result, str(stage.dataset_version))
    line.catalog.record_model(
        id=bundle,
        asset=stage.asset,
        data_version=tags["backdrop.data_version"],
        dataset_version=str(stage.dataset_version),
        mlflow_run=run,
    )
    name = REGISTERED_NAMES[stage.asset]
    about = tracked.version_text(line, stage, result, run)
    version = Registry(str(line.settings.mlflow_uri)).register(name, bundle, run, dict(tags), about)
    tracked.describe_model(line, name, ABOUT[stage.asset].what)
    context.log.info("registered as %s version %s", name, version)
    return str(version)
