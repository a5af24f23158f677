"""inpainting_finetune: random masks first, then product masks with LoRA on every layer, merged."""

import dagster as dg

from assets.about import describe, tags_of
from assets.launchpad import launchpad
from assets.line import Line
from assets.training_job import launch_recipe


@dg.asset(
    description=describe("inpainting_finetune"),
    tags=tags_of("inpainting_finetune"),
    config_schema=launchpad("finetune"),
    deps=["training_set", "autoencoder", "latent_shards", "pretrained_dit"],
    group_name="training",
    pool="gpu",
    kinds={"pytorch", "mlflow"},
    owners=["team:models"],
)
def inpainting_finetune(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """The model that paints a background around a product, and nothing over it."""
    from training.specs import FinetuneSpec

    return launch_recipe(
        context,
        line,
        asset="inpainting_finetune",
        verb="finetune",
        section="finetune",
        spec=FinetuneSpec,
        upstream={
            "autoencoder": ("autoencoder", "model"),
            "latent_shards": ("latents", "latents"),
            "pretrained_dit": ("base", "model"),
        },
    )
