"""filtered_shards[delivery]: what passed the filters, packed as MDS shards; what did not, with its reason."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.about import describe, tags_of
from assets.check_words import asks
from assets.curation import drift, suite
from assets.data_job import materialize
from assets.deliveries import delivery_asset
from assets.line import Line
from assets.stage import Stage, upstream_of

if TYPE_CHECKING:
    from assets.curation.specs import CurationSection

RECIPE = "assets.curation.filter"


@delivery_asset(
    description=describe("filtered_shards"),
    tags=tags_of("filtered_shards"),
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=14), warn_window=timedelta(days=7)),
    deps=["raw_images"],
    group_name="data",
    kinds={"dataset", "greatexpectations"},
    owners=["team:data"],
    check_specs=[
        dg.AssetCheckSpec(name, asset="filtered_shards", description=asks(name))
        for name in (*suite.CHECKS, *drift.CHECKS)
    ],
)
def filtered_shards(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """Decoded, deduplicated and judged pictures as MDS shards with caption and product mask.

    Every picture gets a verdict and a reason in the catalog. The batch's metadata is held against a
    Great Expectations suite, whose results are the asset's checks.
    """
    from assets.curation.specs import FilterSpec

    name = context.partition_key
    raw = upstream_of(context, line, "raw_images", partition=name)
    stage = stage_of(line, name, raw.data_version)
    curation = section_of(line)
    return materialize(
        context,
        line,
        stage,
        lambda output: FilterSpec(
            store=line.settings.store_uri,
            output=output,
            delivery=name,
            image_size=line.preset.image_size,
            config=curation,
        ),
        shared={"scan": True, "decide": False, "pack": True},
    )


def stage_of(line: Line, delivery: str, raw: str) -> Stage:
    """The stage of a delivery whose `raw_images` have the data version `raw`."""
    return Stage(
        asset="filtered_shards",
        room="assets.curation",
        verb="filter",
        recipe=RECIPE,
        upstream={"raw_images": raw},
        config=config_of(line, delivery),
    )


def config_of(line: Line, delivery: str) -> dict[str, Any]:
    """What decides, beside the delivery's pictures and the sources, what passes."""
    config = section_of(line).model_dump(mode="json")
    return {"delivery": delivery, "image_size": line.preset.image_size, **config}


def section_of(line: Line) -> "CurationSection":
    """The preset's section `curation`, checked."""
    from assets.curation.specs import CurationSection

    return CurationSection.model_validate(line.preset.curation)
