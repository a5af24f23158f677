"""distilled_model: the same model in few steps, one forward per step, guidance baked in."""

import dagster as dg

from assets.about import describe, tags_of
from assets.launchpad import launchpad
from assets.line import Line
from assets.training_job import launch_recipe


@dg.asset(
    description=describe("distilled_model"),
    tags=tags_of("distilled_model"),
    config_schema=launchpad("distil"),
    deps=["training_set", "autoencoder", "latent_shards", "inpainting_finetune"],
    group_name="training",
    pool="gpu",
    kinds={"pytorch", "mlflow"},
    owners=["team:models"],
)
def distilled_model(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """The student: a flow map anchored at the fine-tuned teacher, four forwards where the teacher takes sixteen."""
    from training.specs import DistilSpec

    return launch_recipe(
        context,
        line,
        asset="distilled_model",
        verb="distil",
        section="distil",
        spec=DistilSpec,
        upstream={
            "autoencoder": ("autoencoder", "model"),
            "latent_shards": ("latents", "latents"),
            "inpainting_finetune": ("teacher", "model"),
        },
    )
