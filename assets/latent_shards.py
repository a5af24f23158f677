"""latent_shards: latents, masked latents and text embeddings, precomputed once per picture."""

import dagster as dg

from assets.about import describe, tags_of
from assets.launchpad import launchpad
from assets.line import Line
from assets.training_job import launch_recipe


@dg.asset(
    description=describe("latent_shards"),
    tags=tags_of("latent_shards"),
    config_schema=launchpad("latents"),
    deps=["training_set", "autoencoder"],
    group_name="training",
    pool="gpu",
    kinds={"dataset", "pytorch"},
    owners=["team:models"],
)
def latent_shards(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """What the transformer trains on. Incremental: a slice this autoencoder has encoded is not encoded again."""
    from training.specs import LatentsSpec

    return launch_recipe(
        context,
        line,
        asset="latent_shards",
        verb="latents",
        section="latents",
        spec=LatentsSpec,
        upstream={"autoencoder": ("autoencoder", "model")},
        register=None,
    )
