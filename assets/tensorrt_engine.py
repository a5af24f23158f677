"""tensorrt_engine: the student as ONNX, held against PyTorch, behind one engine interface."""

import dagster as dg

from assets.about import describe, tags_of
from assets.check_words import asks
from assets.launchpad import launchpad
from assets.line import Line
from assets.stage import upstream_of
from assets.training_job import launch_recipe
from assets.trust import seal, trust_of
from deploy.specs import EXPORT_CHECKS


@dg.asset(
    description=describe("tensorrt_engine"),
    tags=tags_of("tensorrt_engine"),
    config_schema=launchpad("export"),
    deps=["training_set", "autoencoder", "distilled_model"],
    group_name="shipping",
    pool="gpu",
    kinds={"file", "mlflow"},
    owners=["team:serving"],
    check_specs=[dg.AssetCheckSpec(name, asset="tensorrt_engine", description=asks(name)) for name in EXPORT_CHECKS],
)
def tensorrt_engine(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """What serves. TensorRT where it is installed, ONNX Runtime otherwise; the page says which of the two ran."""
    from assets.curation.decide import BUCKETS
    from deploy.specs import ExportSpec

    return launch_recipe(
        context,
        line,
        asset="tensorrt_engine",
        room="deploy",
        verb="export",
        section="export",
        spec=ExportSpec,
        recipe="deploy.export",
        upstream={"autoencoder": ("autoencoder", "model"), "distilled_model": ("student", "model")},
        register="engine",
        dataset_field="probe",
        extra={
            "trust": trust_of(line),
            "masked_decoder": upstream_of(context, line, "autoencoder").result.data.get("masked_decoder"),
            "buckets": BUCKETS if line.preset.latents.aspect_ratios else (),
        },
        seal=lambda result: seal(line, result),
    )
