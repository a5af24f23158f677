"""tensorrt_engine: the student as ONNX, held against PyTorch, behind one engine interface."""

import dagster as dg

from assets.line import Line
from assets.stage import StageConfig
from assets.training_job import launch_recipe
from deploy.specs import EXPORT_CHECKS


@dg.asset(
    deps=["training_set", "autoencoder", "distilled_model"],
    group_name="shipping",
    kinds={"onnx", "mlflow"},
    owners=["team:serving"],
    check_specs=[dg.AssetCheckSpec(name, asset="tensorrt_engine") for name in EXPORT_CHECKS],
)
def tensorrt_engine(
    context: dg.AssetExecutionContext, config: StageConfig, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult:
    """What serves. TensorRT where it is installed, ONNX Runtime otherwise; the page says which of the two ran."""
    from deploy.specs import ExportSpec

    return launch_recipe(
        context,
        line,
        config,
        asset="tensorrt_engine",
        room="deploy",
        verb="export",
        section="export",
        spec=ExportSpec,
        recipe="deploy.export",
        upstream={"autoencoder": ("autoencoder", "model"), "distilled_model": ("student", "model")},
        register="engine",
        dataset_field="probe",
    )
