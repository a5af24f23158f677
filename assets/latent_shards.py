"""latent_shards: latents, masked latents and text embeddings, precomputed once per picture."""

import dagster as dg

from assets.line import Line
from assets.stage import StageConfig
from assets.training_job import launch_recipe


@dg.asset(
    deps=["training_set", "autoencoder"],
    group_name="training",
    pool="gpu",
    kinds={"mosaicml"},
    owners=["team:models"],
)
def latent_shards(
    context: dg.AssetExecutionContext, config: StageConfig, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult:
    """What the transformer trains on. Incremental: a slice this autoencoder has encoded is not encoded again."""
    from training.specs import LatentsSpec

    return launch_recipe(
        context,
        line,
        config,
        asset="latent_shards",
        verb="latents",
        section="latents",
        spec=LatentsSpec,
        upstream={"autoencoder": ("autoencoder", "model")},
        register=None,
    )
