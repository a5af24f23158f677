"""Gathers what a plan is made from: catalog, object store and Dagster's instance, with a fixed number of queries each.

What grows with the deliveries is asked for all of them at once: their rows, their data versions, their slices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import dagster as dg

from assets.adoption import PINNED, Pin, Policy, choose, recipe_mark
from assets.deliveries import in_the_mix
from assets.filtered_shards import RECIPE, config_of
from assets.stage import latest_metadata, output_prefix
from assets.training_set import slices_now
from assets.versions import version_from
from infra.jobs.spec import JobResult
from infra.object_store import ObjectMissing
from infra.settings import REPOSITORY
from infra.sources import ROOMS, source_hash
from orchestration.automation.budget import WEEK, Spent, hours_of
from orchestration.automation.causes import CANCELLED, DONE, FAILED, WAITING, Run
from orchestration.automation.known import Batch, Champion, Deliveries, Made, Means, Training
from orchestration.automation.tags import causes_in
from orchestration.ended_steps import steps_of
from orchestration.stale import gone, last_sign

if TYPE_CHECKING:
    from pydantic import BaseModel

    from assets.line import Line
    from infra.shards import Slice

DATA_VERSION, PARTITION = "dagster/data_version", "dagster/partition"
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
"""What a backfill's run has in place of a partition, also where it is one."""
GPU = ("autoencoder", "latent_shards", "pretrained_dit", "inpainting_finetune", "distilled_model", "tensorrt_engine",
       "evaluation_report", "personalized_model")  # fmt: skip
"""Assets whose jobs want the accelerator: they share a pool, and their hours are the budget's."""
BY_HAND = "__ASSET_JOB"
"""Dagster's name for a run of assets that somebody picked on the page."""
NEWEST = 200
"""Deliveries that the champion has not seen and whose drift is looked at, the newest first."""
_AT_ONCE = 1_000  # deliveries that one query names

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_STATES = {
    dg.DagsterRunStatus.SUCCESS: DONE,
    dg.DagsterRunStatus.FAILURE: FAILED,
    dg.DagsterRunStatus.CANCELED: CANCELLED,
}


def means(line: Line, instance: dg.DagsterInstance, now: datetime | None = None) -> Means:
    """The budget and what was spent; without a budget nobody counts."""
    at, budget = now or datetime.now(UTC), line.settings.gpu_hours_per_week
    return Means(at, budget, tuple(_spent(line, instance, at)) if budget is not None else ())


def _spent(line: Line, instance: dg.DagsterInstance, now: datetime) -> list[Spent]:
    since = (now - WEEK).timestamp()
    found = []
    for asset in GPU:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), after_timestamp=since), limit=5000
        ).records
        for record in records:
            event = record.asset_materialization
            values = {name: value.value for name, value in event.metadata.items()} if event else {}
            found.append(Spent(datetime.fromtimestamp(record.timestamp, UTC), hours_of(values)))
    return found + _failed(line, instance, now)


def _failed(line: Line, instance: dg.DagsterInstance, now: datetime) -> list[Spent]:
    """What jobs on this machine took that ended without a result: by the clock of their steps. On a cluster waiting in
    its queue is no use of a GPU, and the launcher counts a job's earlier attempts into the one that succeeds."""
    if line.settings.launcher != "local":
        return []
    found = []
    for name in ("retrain", "personalise", BY_HAND):
        ended = dg.RunsFilter(
            job_name=name,
            statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED],
            updated_after=now - WEEK,
        )
        for record in instance.get_run_records(ended):
            if name == BY_HAND and not _models_of(record):
                continue
            for step in steps_of(instance, record, GPU):
                # A process that was killed has ended no step, and its run may have been ended days later.
                end = step.end_time or last_sign(record.dagster_run.tags) or record.end_time
                delivered = step.status is not None and step.status.value in ("SUCCESS", "SKIPPED")
                if step.start_time and end and end > step.start_time and not delivered:
                    found.append(Spent(datetime.fromtimestamp(end, UTC), (end - step.start_time) / 3600))
    return found


# ── deliveries ────────────────────────────────────────────────────────────────────────────────────────────────────────


def deliveries(line: Line, instance: dg.DagsterInstance) -> Deliveries:
    """The deliveries of the mix, what is filtered as it would be now, and the runs that see to the rest."""
    batches = tuple(_batches(line, instance))
    names = [batch.name for batch in batches if batch.is_due]
    return Deliveries(batches, tuple(_ingest_runs(line, instance, names)))


def _batches(line: Line, instance: dg.DagsterInstance) -> list[Batch]:
    raw, filtered = (_versions(instance, asset) for asset in ("raw_images", "filtered_shards"))
    sources, config = _sources(RECIPE), config_of(line, "")
    found = []
    for delivery in line.catalog.list_deliveries():
        if in_the_mix(delivery.name, delivery.kind, line.preset):
            name, wants = delivery.name, None
            if name in raw:
                wants = version_from(sources, {"raw_images": raw[name]}, config | {"delivery": name})
            found.append(Batch(name, filtered.get(name), wants))
    return found


def _versions(instance: dg.DagsterInstance, asset: str) -> dict[str, str]:
    """Partition → the data version that it was last made with."""
    found = instance.event_log_storage.get_latest_tags_by_partition(
        dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION]
    )
    return {partition: tags[DATA_VERSION] for partition, tags in found.items()}


def _ingest_runs(line: Line, instance: dg.DagsterInstance, due: Sequence[str]) -> list[Run]:
    """Runs that wait, also those of a backfill, and those of the last month which ended of deliveries that are due."""
    if not due:
        return []
    runs = []
    for job in ("ingest", BY_HAND):
        runs += _runs(line, instance, dg.RunsFilter(job_name=job, statuses=_UNFINISHED), None)
    wanted = set(due)
    recent = dg.RunsFilter(job_name="ingest", statuses=[*_STATES], updated_after=datetime.now(UTC) - timedelta(days=30))
    return runs + [run for run in _runs(line, instance, recent, 2000) if run.partition in wanted]


def partition_of(tags: Mapping[str, str]) -> str:
    """The one partition that a run is about; empty where there is none, or more than one."""
    first = tags.get(FIRST, "")
    return tags.get(PARTITION) or (first if first == tags.get(LAST) else "")


def _runs(line: Line, instance: dg.DagsterInstance, which: dg.RunsFilter, limit: int | None) -> list[Run]:
    found = []
    for record in instance.get_run_records(which, limit=limit):
        run = record.dagster_run
        state = _STATES.get(run.status, WAITING)
        if state == WAITING and line.settings.launcher == "local" and gone(instance, record):
            continue  # its process was killed; the next command ends it
        at = record.end_time or record.start_time
        when = datetime.fromtimestamp(at, UTC) if at else record.create_timestamp.astimezone(UTC)
        found.append(Run(run.run_id, run.job_name, state, when, causes_in(run.tags), partition_of(run.tags)))
    return found


def without_run(instance: dg.DagsterInstance, deliveries: Sequence[str]) -> list[str]:
    """Those of the deliveries of which no run was ever made, whoever would have started it."""
    ran: set[str] = set()
    for at in range(0, len(deliveries), _AT_ONCE):
        some = list(deliveries[at : at + _AT_ONCE])
        for tag in (PARTITION, FIRST):
            runs = instance.get_run_records(dg.RunsFilter(tags={tag: some}))
            ran |= {partition_of(record.dagster_run.tags) for record in runs}
    return [name for name in deliveries if name not in ran]


# ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def training(line: Line, instance: dg.DagsterInstance) -> Training:
    """The models, what they were made of, and what they would be made of now."""
    slices = slices_now(line)
    trained_on = [piece for piece in slices if piece.split == "train"]
    blocked = _blocked(line, slices)
    from infra.shards import version_of

    dataset = version_of(slices) if trained_on else ""
    withdrawn = line.catalog.withdrawn_versions()
    marks = _marks(line)
    made = tuple(_made(instance, marks, withdrawn))
    pins = tuple(_pin(line, one, marks, dataset, slices) for one in made if one.asset in PINNED)
    champion, unseen = _champion(line, slices, withdrawn)
    return Training(
        dataset=dataset,
        images=sum(piece.samples for piece in trained_on),
        made=made,
        recipes=marks,
        pins=_with_autoencoder(pins, Policy.of(line.settings)),
        policy=Policy.of(line.settings),
        champion=champion,
        drifted=_drifted(line, instance, unseen),
        runs=tuple(_retrain_runs(line, instance)),
        share=line.settings.retrain_share,
        blocked=blocked,
    )


def _blocked(line: Line, slices: Sequence[Slice]) -> str:
    if not any(piece.split == "train" for piece in slices):
        return "there is nothing to train on: no delivery has a picture that passed the filters"
    unclean = set(line.catalog.unclean_slices()).intersection(piece.id for piece in slices)
    if unclean:
        targets = " and ".join(order.target for order in line.catalog.unfinished_takedowns()[:3])
        return (
            f"a takedown was interrupted ({targets}): run the same command again"
            if targets
            else ("a delivery was packed while a takedown was carried out: materialise filtered_shards again")
        )
    return ""


def _made(instance: dg.DagsterInstance, marks: Collection[str], withdrawn: Mapping[str, str]) -> list[Made]:
    found = []
    for asset in marks:
        values = latest_metadata(instance, asset)
        if values and values.get("dataset_version"):
            dataset = str(values["dataset_version"])
            found.append(Made(asset, dataset, values.get("recipe"), withdrawn.get(dataset)))
    return found


def _pin(line: Line, made: Made, marks: Mapping[str, str], dataset: str, slices: Sequence[Slice]) -> Pin:
    growth = line.catalog.growth(made.dataset, slices)
    changed = made.recipe != marks[made.asset]
    return Pin(made.asset, dataset, made.dataset, growth.seen, growth.new, made.withdrawn, changed)


def _with_autoencoder(pins: tuple[Pin, ...], policy: Policy) -> tuple[Pin, ...]:
    """A new autoencoder's latents are other ones: the pretrained model is made anew with it, whatever its own pin."""
    if not any(
        pin.asset == "autoencoder" and (pin.changed or choose(pin, policy).version != pin.pinned) for pin in pins
    ):
        return pins
    return tuple(replace(pin, changed=True) if pin.asset == "pretrained_dit" else pin for pin in pins)


def _champion(line: Line, slices: Sequence[Slice], withdrawn: Mapping[str, str]) -> tuple[Champion | None, set[str]]:
    """The champion of the ledger, and the slices that its pretrained model has not seen."""
    from deploy.ancestry import ancestors
    from deploy.registry import CHAMPION, REGISTERED_NAMES

    rows = line.catalog.settled(REGISTERED_NAMES["tensorrt_engine"], CHAMPION)
    if not rows or not rows[0].to_version or not rows[0].bundle:
        return None, set()
    models = {model.id: model for model in line.catalog.models()}
    chain = [models[one] for one in ancestors(line.store, rows[0].bundle) if one in models]
    base = next((model for model in chain if model.asset == "pretrained_dit"), None)
    if base is None:
        return None, set()
    tainted = sorted({withdrawn[model.dataset_version] for model in chain if model.dataset_version in withdrawn})
    growth = line.catalog.growth(base.dataset_version, slices)
    seen = line.catalog.dataset_version(base.dataset_version)
    known = {piece.id for piece in seen.slices} if seen else set()
    unseen = {piece.id for piece in slices if piece.split == "train" and piece.id not in known}
    return Champion(rows[0].to_version, base.dataset_version, growth.seen, growth.new, "; ".join(tainted)), unseen


def _drifted(line: Line, instance: dg.DagsterInstance, unseen: Collection[str]) -> dict[str, str]:
    """Of the newest deliveries that hold unseen slices: those whose drift checks failed when they were filtered."""
    if not unseen:
        return {}
    holders = {piece.delivery for piece in line.catalog.pieces() if piece.slice.id in unseen}
    versions = _versions(instance, "filtered_shards")
    rows = sorted(line.catalog.list_deliveries(), key=lambda one: one.added_at, reverse=True)
    names = [row.name for row in rows if row.name in holders and row.name in versions][:NEWEST]
    with ThreadPoolExecutor(16) as pool:
        prefixes = [output_prefix("filtered_shards", versions[name], name) for name in names]
        found = pool.map(lambda output: _drift_of(line.store.uri, output), prefixes)
        return {name: what for name, what in zip(names, found, strict=True) if what}


def _drift_of(store: str, output: str) -> str:
    try:
        return _drift(store, output)
    except ObjectMissing:
        return ""


@lru_cache(maxsize=4 * NEWEST)
def _drift(store: str, output: str) -> str:
    """The failed drift checks of a result, which never changes once it stands."""
    from assets.curation.drift import CHECKS
    from infra.object_store import open_store

    result = JobResult.model_validate_json(open_store(store).get(f"{output}/result.json"))
    failed = [check.name for check in result.checks if check.name in CHECKS and not check.passed]
    return ", ".join(name.removesuffix("_drift").replace("_", " ") for name in failed)


def _models_of(record: dg.RunRecord) -> bool:
    """Whether a run that somebody put together by hand makes a model."""
    return bool({dg.AssetKey(asset) for asset in GPU}.intersection(record.dagster_run.asset_selection or ()))


def _retrain_runs(line: Line, instance: dg.DagsterInstance) -> list[Run]:
    """The last runs of the job, and runs by hand that make a model now."""
    runs = _runs(line, instance, dg.RunsFilter(job_name="retrain"), 1000)
    by_hand = []
    for record in instance.get_run_records(dg.RunsFilter(job_name=BY_HAND, statuses=_UNFINISHED)):
        if _models_of(record):
            by_hand.append(record.dagster_run.run_id)
    if by_hand:
        runs += _runs(line, instance, dg.RunsFilter(run_ids=by_hand), None)
    return runs


# ── code and configuration ────────────────────────────────────────────────────────────────────────────────────────────


def _marks(line: Line) -> dict[str, str]:
    """Stage → the mark of its sources and configuration as they are now, as `assets.training_job` writes it."""
    return {
        asset: recipe_mark(line, recipe, getattr(line.preset, section), spec, _sources)
        for asset, (recipe, section, spec) in _stages().items()
    }


def _stages() -> Mapping[str, tuple[str, str, type[BaseModel]]]:
    """Stage → recipe, section of the preset, spec: what its module gives to `launch_recipe`."""
    from deploy.specs import EvaluateSpec, ExportSpec
    from training import specs

    return {
        "autoencoder": ("training.recipes.autoencoder", "autoencoder", specs.AutoencoderSpec),
        "latent_shards": ("training.recipes.latents", "latents", specs.LatentsSpec),
        "pretrained_dit": ("training.recipes.pretrain", "pretrain", specs.PretrainSpec),
        "inpainting_finetune": ("training.recipes.finetune", "finetune", specs.FinetuneSpec),
        "distilled_model": ("training.recipes.distil", "distil", specs.DistilSpec),
        "tensorrt_engine": ("deploy.export", "export", ExportSpec),
        "evaluation_report": ("deploy.evaluate", "evaluate", EvaluateSpec),
    }


def _sources(recipe: str) -> str:
    """The hash of a recipe's sources. Reading them all takes seconds, and is done again only after a change."""
    newest = max(path.stat().st_mtime_ns for room in ROOMS for path in (REPOSITORY / room).rglob("*.py"))
    return _sources_at(recipe, newest)


@cache
def _sources_at(recipe: str, newest: int) -> str:
    return source_hash(recipe)
