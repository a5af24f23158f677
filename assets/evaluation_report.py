"""evaluation_report: what the engine can do, measured on pictures nothing was trained on, as one HTML page."""

from pathlib import Path

import dagster as dg

from assets.about import describe, tags_of
from assets.check_words import asks
from assets.launchpad import launchpad
from assets.line import Line
from assets.stage import upstream_of
from assets.training_job import launch_recipe
from assets.trust import trust_of
from deploy.specs import CHECKS
from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes, sha256_file

_PRETRAINED = ("clip", "dinov2", "inception")
"""Kinds of feature extractors whose name goes on with a path (`evaluation.pretrained`)."""

_STAGES = [
    "autoencoder",
    "latent_shards",
    "pretrained_dit",
    "inpainting_finetune",
    "distilled_model",
    "tensorrt_engine",
]


@dg.asset(
    description=describe("evaluation_report"),
    tags=tags_of("evaluation_report"),
    config_schema=launchpad("evaluate"),
    deps=["training_set", *_STAGES],
    group_name="shipping",
    pool="gpu",
    kinds={"report", "mlflow"},
    owners=["team:serving"],
    check_specs=[dg.AssetCheckSpec(name, asset="evaluation_report", description=asks(name)) for name in CHECKS],
)
def evaluation_report(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """Colours, floor line, shadow, product identity, expansion and latency against the teacher and simple baselines."""
    from deploy.specs import EvaluateSpec

    inputs = {name: upstream_of(context, line, name) for name in _STAGES}
    champion, tainted = champion_for(line, str(inputs["tensorrt_engine"].result.data["engine"]))
    deliveries = {
        delivery.name: key
        for delivery in line.catalog.list_deliveries()
        if (key := _filter_result(context, line, delivery.name))
    }
    return launch_recipe(
        context,
        line,
        asset="evaluation_report",
        room="deploy",
        verb="evaluate",
        recipe="deploy.evaluate",
        section="evaluate",
        spec=EvaluateSpec,
        register=None,
        upstream={
            "tensorrt_engine": ("engine", "engine"),
            "inpainting_finetune": ("teacher", "model"),
            "autoencoder": ("autoencoder", "model"),
        },
        extra={
            "trust": trust_of(line),
            "champion": champion,
            "champion_tainted": tainted,
            "judges": judges_of(line),
            "preset": line.preset.name,
            "delivery_results": deliveries,
            "stage1": inputs["inpainting_finetune"].result.data.get("stage1"),
            "stage_results": {name: found.result_key for name, found in inputs.items()},
        },
    )


def judges_of(line: Line) -> dict[str, str]:
    """Path → hash of the labels and weights that the preset judges by: other contents are another report."""
    section = line.preset.evaluate
    kind, _, weights = section.extractor.partition(":")
    paths = [section.reward_labels, weights if kind in _PRETRAINED else None]
    return {path: hash_of(Path(path).expanduser()) for path in paths if path}


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names; empty where there is nothing: the job says so."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(one for one in path.rglob("*") if one.is_file())
    if not files:
        return ""
    return sha256_bytes(canonical_json([[str(one.relative_to(path)), sha256_file(one)] for one in files]))


def champion_for(line: Line, engine: str) -> tuple[str | None, str]:
    """The engine that this one has to beat, None where there is none, and why that has to go anyway.

    It is the champion; of the champion itself the one that it replaced, so that its report stays what it was.
    """
    from deploy.registry import CHAMPION, REGISTERED_NAMES, TAINT_TAG, Registry

    name, registry = REGISTERED_NAMES["tensorrt_engine"], Registry(str(line.settings.mlflow_uri))
    champion = registry.get_alias(name, CHAMPION)
    if champion is None:
        return None, ""
    if champion.bundle != engine:
        taint = champion.tags.get(TAINT_TAG, "")
        return champion.bundle, f"the champion is tainted ({taint})" if taint else ""
    rows = line.catalog.settled(name, CHAMPION)  # newest first
    crowned = [row for row in rows if row.bundle == engine]
    if not crowned or crowned[-1].from_version is None:  # the alias was not set, or had been dropped
        return None, ""
    first = crowned[-1]  # when it became champion for the first time
    before = [row for row in rows if row.to_version == first.from_version and row.id < first.id]
    return (before[0].bundle or None) if before else None, ""


def _filter_result(context: dg.AssetExecutionContext, line: Line, delivery: str) -> str | None:
    if not context.instance.has_dynamic_partition("deliveries", delivery):
        return None
    try:
        return upstream_of(context, line, "filtered_shards", partition=delivery).result_key
    except BackdropError:
        return None
