"""What the asset's page shows of a filtered delivery, all of it asked from the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from assets.curation import drift
from assets.curation.check_pictures import pictures_of
from assets.curation.decide import NEAR
from assets.curation.embedder import embedder_id
from assets.curation.filters import ORDER as FILTERS
from assets.curation.pictures import dropped_grid, funnel_chart, mask_grid
from assets.curation.report.gather import Threshold
from assets.curation.report.lines import lines
from assets.curation.report.write import write_report
from assets.curation.scan import DECODE, READ, look, picture_at
from assets.curation.semantic import SEMANTIC
from assets.curation.specs import FilterSpec
from assets.curation.suite import Validation, validate
from infra.catalog.rows import EXACT, TAKEN
from infra.jobs.spec import Check, JobResult
from infra.shards import Slice

if TYPE_CHECKING:
    from infra.catalog import Catalog, Delivery
    from infra.jobs.program import JobContext

ORDER = (READ, DECODE, TAKEN, *FILTERS, EXACT, NEAR, SEMANTIC)
"""The filters that drop, in the order in which they run."""
_SHOWN = 200  # unsure masks listed in the result; all are in the catalog
_TILES, _MASK_TILES = 60, 48
_DROPPED, _FUNNEL, _UNSURE = "Dropped, and why", "Funnel", "Unsure masks"
_ABOUT = {
    "something_is_kept": (_DROPPED, _FUNNEL),
    "masks_are_present": (_UNSURE,),
    "most_files_decode": (_DROPPED, _FUNNEL),
    "most_files_are_kept": (_DROPPED, _FUNNEL),
    "drop_rate_drift": (_DROPPED, _FUNNEL),
}
"""Check → the delivery's pictures that say more about its failure."""


def report(
    spec: FilterSpec,
    job: JobContext,
    catalog: Catalog,
    delivery: Delivery,
    slices: Sequence[Slice],
    masks: str,
    captions: str,
    seconds: float,
) -> JobResult:
    """Pictures, numbers, checks and the page of a delivery whose slices are committed.

    `masks` and `captions`: which segmenter's and captioner's count.
    """
    name = spec.delivery
    totals, funnel, truth = catalog.totals(name), funnel_of(catalog, name), catalog.planted(name, ORDER)
    kept = sum(piece.samples for piece in slices)
    unsure = [
        {"image": one.image_id, "uri": one.uri, "confidence": one.confidence, "reason": "unsure mask"}
        for one in catalog.mask_examples(name, masks, "unsure", 1_000_000)
    ]
    unsure.sort(key=lambda entry: (entry["confidence"] or 0.0, entry["uri"]))
    pictures = _pictures(job, catalog, name, funnel, masks)
    files = {
        "funnel": job.put_json("funnel.json", funnel),
        "truth": job.put_json("truth.json", truth),
        "unsure_masks": job.put_json("unsure_masks.json", unsure),
    }
    validation = validate(
        catalog.metadata_rows(name, masks, captions), min_size=spec.min_size, max_aspect=spec.config.filters.max_aspect
    )
    compared = drift.compare_delivery(catalog, name, embedder_id(spec.config.embedder))
    own = _of_checks(job, catalog, validation)
    checks = [_pictured(check, own, pictures) for check in (*validation.checks, *drift.checks(compared))]
    page = write_report(
        catalog,
        job.store,
        name,
        spec.output,
        lines(spec.config.filters, spec.min_size)
        | {SEMANTIC: [Threshold(spec.config.embedder.threshold, "above", "similarity to the nearest kept picture")]},
        look=picture_at,
        masks=masks,
        checks=checks,
        drift=compared,
        data_docs=validation.data_docs(),
    )
    for key, ids in page.shows.items():
        job.note_shown(key, ids)
    files |= {"report": page.page, "data docs": f"{spec.output}/report/data_docs/index.html"}
    counts = catalog.mask_counts(name, masks)
    metadata: dict[str, Any] = {
        "files": totals["sightings"],
        "images": totals["images"],
        "kept": kept,
        "held_out": sum(piece.samples for piece in slices if piece.split == "holdout"),
        "quarantined": totals["quarantined"],
        "slices": len(slices),
        "masks": counts.get("delivered", 0) + counts.get("cut", 0),
        "unsure_masks": len(unsure),
        "seconds": round(seconds, 2),
        "images_per_second": round(totals["sightings"] / max(seconds, 1e-6), 1),
        **{f"dropped: {step['filter']}": step["dropped"] for step in funnel if step["dropped"]},
    }
    data = {
        "slices": [{"id": p.id, "prefix": p.prefix, "samples": p.samples, "split": p.split} for p in slices],
        "images": kept,
        "funnel": funnel,
        "truth": truth,
        "unsure_masks": unsure[:_SHOWN],
    }
    return JobResult(metadata=metadata, files=files, data=data, pictures=pictures, checks=checks)


def funnel_of(catalog: Catalog, delivery: str) -> list[dict[str, Any]]:
    """[{"filter", "seen", "dropped", "left"}] in the order of the filters, by file."""
    dropped = {step.filter: step.total for step in catalog.funnel(delivery, ORDER)}
    steps, left = [], catalog.totals(delivery)["sightings"]
    for name in [*ORDER, *(name for name in dropped if name not in ORDER)]:
        lost = dropped.get(name, 0)
        if lost or name in (DECODE, EXACT, NEAR):
            steps.append({"filter": name, "seen": left, "dropped": lost, "left": left - lost})
            left -= lost
    return steps


def _pictures(
    job: JobContext, catalog: Catalog, delivery: str, funnel: list[dict[str, Any]], masks: str
) -> dict[str, str]:
    """Title → key of a PNG, each registered with the images that it shows."""
    pictures = {_FUNNEL: job.put_png("funnel.png", funnel_chart(funnel, delivery))}
    tiles: list[tuple[np.ndarray | None, str, str]] = []
    ids: list[str] = []
    lost = [step["filter"] for step in funnel if step["dropped"]]
    for name in lost:
        for one in catalog.dropped_examples(delivery, name, max(1, _TILES // len(lost))):
            tiles.append((look(one.uri, one.image_id), one.uri.rsplit("/", 1)[-1], one.reason))
            ids.append(one.image_id)
    if tiles:
        pictures[_DROPPED] = job.put_png("dropped.png", dropped_grid(tiles), ids)
    unsure = list(islice(catalog.mask_examples(delivery, masks, "unsure", _MASK_TILES), _MASK_TILES))
    seen = [(look(one.uri, one.image_id), one) for one in unsure]
    labelled = [(thumb, f"{one.uri.rsplit('/', 1)[-1]}: {one.confidence or 0:.2f}") for thumb, one in seen]
    if labelled:
        pictures[_UNSURE] = job.put_png("unsure_masks.png", mask_grid(labelled), [one.image_id for one in unsure])
    return pictures


def _of_checks(job: JobContext, catalog: Catalog, validation: Validation) -> dict[str, str]:
    """Check → key of the picture of rows that it found; nothing is asked or read where all rows meet everything."""
    wanted = {one.sighting for rows in validation.unexpected.values() for one in rows}
    if not wanted:
        return {}
    shown = pictures_of(validation.unexpected, catalog.sighted(sorted(wanted), ORDER), look)
    keys = {check: f"checks/{check}.png" for check in shown}
    # Known before they are stored: a crash, and a next run without this row, leave no picture that nobody knows of.
    catalog.add_shown({f"{job.output}/{keys[check]}": one.ids for check, one in shown.items()})
    return {check: job.put_png(keys[check], one.png, one.ids) for check, one in shown.items()}


def _pictured(check: Check, own: Mapping[str, str], pictures: Mapping[str, str]) -> Check:
    """The check with its own picture, and, if it failed, with those of the delivery that say more."""
    mine = {check.failures_title: own[check.name]} if check.name in own else {}
    more = () if check.passed else _ABOUT.get(check.name, ())
    return check.model_copy(update={"pictures": mine | {title: pictures[title] for title in more if title in pictures}})
