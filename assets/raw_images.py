"""raw_images[delivery]: every picture of a delivery becomes a row of the catalog."""

import dagster as dg

from assets.about import describe, tags_of
from assets.data_job import materialize
from assets.deliveries import delivery_asset
from assets.line import Line
from assets.stage import Stage
from infra.errors import BackdropError


@delivery_asset(
    description=describe("raw_images"),
    tags=tags_of("raw_images"),
    group_name="data",
    kinds={"postgres"},
    owners=["team:data"],
)
def raw_images(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """The delivery's pictures as catalog rows: SHA-256 id, source, licence, caption and size.

    The pictures stay where they are. A picture that is seen twice is one image with two sightings.
    """
    from assets.curation.specs import IngestSpec

    name = context.partition_key
    delivery = line.catalog.delivery(name)
    if delivery is None:
        raise BackdropError(
            f"delivery '{name}' is not in the catalog",
            "hand pictures in with `make run IMAGES=<folder or s3:// prefix>` or let the sensor find them",
        )
    rendered = delivery.uri.startswith("sample://")
    stage = Stage(
        asset="raw_images",
        room="assets.curation",
        verb="ingest",
        recipe="assets.curation.ingest",
        upstream={},
        config={"delivery": name, "uri": delivery.uri},
        # A folder may have changed since it was last read; a rendered delivery cannot.
        memoise=rendered,
    )
    return materialize(
        context,
        line,
        stage,
        lambda output: IngestSpec(
            store=line.settings.store_uri,
            output=output,
            delivery=name,
            uri=delivery.uri,
            licence=line.settings.licence,
        ),
    )
