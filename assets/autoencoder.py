"""autoencoder: pixels to a small latent grid and back, trained in the line."""

import dagster as dg

from assets.about import describe, tags_of
from assets.launchpad import launchpad
from assets.line import Line
from assets.training_job import launch_recipe


@dg.asset(
    description=describe("autoencoder"),
    tags=tags_of("autoencoder"),
    config_schema=launchpad("autoencoder"),
    deps=["training_set"],
    group_name="training",
    pool="gpu",
    kinds={"pytorch", "mlflow"},
    owners=["team:models"],
)
def autoencoder(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """A KL autoencoder: every picture becomes a grid of latents on which the transformer is cheap."""
    from training.specs import AutoencoderSpec

    return launch_recipe(
        context,
        line,
        asset="autoencoder",
        verb="autoencoder",
        section="autoencoder",
        spec=AutoencoderSpec,
        upstream={},
    )
