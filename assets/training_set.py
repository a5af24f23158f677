"""training_set: the many deliveries become one dataset version. No pixels move; it takes seconds."""

from collections.abc import Iterable

import dagster as dg

from assets.about import describe, tags_of
from assets.data_job import commit_result
from assets.deliveries import in_the_mix
from assets.line import Line
from infra.errors import BackdropError
from infra.jobs.spec import JobResult
from infra.shards import Slice


@dg.asset(
    description=describe("training_set"),
    tags=tags_of("training_set"),
    deps=["filtered_shards"],
    group_name="data",
    kinds={"dataset"},
    owners=["team:data"],
    # Once what is being curated has come to rest. The sensor that acts on it is off until someone turns it on.
    automation_condition=(
        dg.AutomationCondition.any_deps_updated().since_last_handled()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    ),
)
def training_set(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """The dataset version: the content hash of the merged shard list.

    Every later asset takes the version from here and pins the one it used; none asks the catalog for "the latest".
    """
    from infra.shards import make_version

    slices = slices_now(line)
    if not any(piece.split == "train" for piece in slices):
        raise BackdropError(
            "no picture of any delivery has passed the filters",
            "look at filtered_shards' report for the reasons, or hand pictures in with `make run IMAGES=…`",
        )
    _refuse_unclean(line, (piece.id for piece in slices))
    version = make_version(line.store, slices)
    line.catalog.add_dataset_version(version)
    counts = {split: sum(s.samples for s in slices if s.split == split) for split in ("train", "holdout")}
    result = JobResult(
        metadata={
            "dataset_version": version.version,
            "images": counts["train"],
            "held_out": counts["holdout"],
            "slices": len(slices),
        },
        data={"version": version.version, "samples": counts["train"]},
    )
    return commit_result(context, line, "training_set", version.version, result)


def slices_now(line: Line) -> list[Slice]:
    """The slices that a dataset version made now would list: one query, however many deliveries there are.

    Of the rendered delivery the held-out part is never left out: engines are judged by it.
    """
    return [
        piece.slice
        for piece in line.catalog.pieces()
        if in_the_mix(piece.delivery, piece.kind, line.preset)
        and (piece.kind != "sample" or line.settings.sample_catalogue or piece.slice.split == "holdout")
    ]


def _refuse_unclean(line: Line, slice_ids: Iterable[str]) -> None:
    """Raises BackdropError when a slice still holds an image that was taken down."""
    unclean = set(line.catalog.unclean_slices()).intersection(slice_ids)
    if unclean:
        orders = [order.target for order in line.catalog.unfinished_takedowns()]
        again = " and ".join(f"`backdrop takedown {target}`" for target in orders[:3])
        raise BackdropError(
            f"{len(unclean)} slices hold pictures that were taken down, the first {min(unclean)[:12]}",
            f"a takedown was interrupted: run {again} again"
            if orders
            else "materialise filtered_shards again: a delivery was packed while a takedown was carried out",
        )
