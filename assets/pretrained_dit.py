"""pretrained_dit: the foundation model, a latent diffusion transformer that knew completion from its first step."""

import dagster as dg

from assets.about import describe, tags_of
from assets.launchpad import launchpad
from assets.line import Line
from assets.training_job import launch_recipe


@dg.asset(
    description=describe("pretrained_dit"),
    tags=tags_of("pretrained_dit"),
    config_schema=launchpad("pretrain"),
    deps=["training_set", "autoencoder", "latent_shards"],
    group_name="training",
    pool="gpu",
    kinds={"pytorch", "mlflow"},
    owners=["team:models"],
)
def pretrained_dit(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """Flow matching on latents, conditioned on text and on (masked latent, mask)."""
    from training.specs import PretrainSpec

    return launch_recipe(
        context,
        line,
        asset="pretrained_dit",
        verb="pretrain",
        section="pretrain",
        spec=PretrainSpec,
        upstream={"autoencoder": ("autoencoder", "model"), "latent_shards": ("latents", "latents")},
    )
