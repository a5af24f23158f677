"""filtered_shards[delivery]: what passed the filters, packed as MDS shards; what did not, with its reason."""

import dagster as dg

from assets.curation import drift, suite
from assets.deliveries import deliveries
from assets.line import Line
from assets.stage import Stage, materialize, upstream_of


@dg.asset(
    partitions_def=deliveries,
    deps=["raw_images"],
    group_name="data",
    kinds={"mosaicml"},
    owners=["team:data"],
    check_specs=[dg.AssetCheckSpec(name, asset="filtered_shards") for name in (*suite.CHECKS, *drift.CHECKS)],
)
def filtered_shards(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """Decoded, deduplicated and judged pictures as MDS shards with caption and product mask.

    Every picture gets a verdict and a reason in the catalog. The batch's metadata is held against a
    Great Expectations suite, whose results are the asset's checks.
    """
    from assets.curation.specs import CurationSection, FilterSpec

    name = context.partition_key
    raw = upstream_of(context, line, "raw_images", partition=name)
    curation = CurationSection.model_validate(line.preset.curation)
    stage = Stage(
        asset="filtered_shards",
        room="assets.curation",
        verb="filter",
        recipe="assets.curation.filter",
        upstream={"raw_images": raw.data_version},
        config={"delivery": name, "image_size": line.preset.image_size, **curation.model_dump(mode="json")},
    )
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
