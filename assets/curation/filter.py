"""The verb `filter`: judge a delivery's pictures, pack the good ones, and say why the others are missing.

Scan (in parallel: decode, judge, fingerprint), decide (in order: copies), pack (slices), commit (one transaction).
Killed anywhere and run again it writes the same bytes; only the last transaction makes them count.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import cv2

from assets.curation.decide import Batch, earlier_pictures
from assets.curation.duplicates import Known
from assets.curation.filters.base import DROP, UNSURE, Judgement
from assets.curation.ingest import open_catalog
from assets.curation.packing import Kept, pack
from assets.curation.pictures import dropped_grid, funnel_chart, mask_grid
from assets.curation.pool import Workers
from assets.curation.scan import DECODE, MASK, Scan, Task, scan_all
from assets.curation.specs import FilterSpec
from assets.curation.suite import validate
from infra.errors import BackdropError
from infra.jobs.spec import JobResult

if TYPE_CHECKING:
    from infra.catalog import Catalog
    from infra.jobs.program import JobContext
    from infra.shards import Slice

_SHOWN = 200  # unsure masks listed in the result; all are in the catalog


def run(spec: FilterSpec, job: JobContext) -> JobResult:
    """Filter the delivery `spec.delivery` as the catalog knows it."""
    started = time.monotonic()
    catalog = open_catalog()
    batch = Batch(list(catalog.sightings(spec.delivery)))
    if not batch.rows:
        raise BackdropError(
            f"the catalog knows no picture of the delivery '{spec.delivery}'",
            f"materialise raw_images[{spec.delivery}]",
        )
    config = spec.config
    cv2.setNumThreads(1)  # the workers already use every core
    # The workers decode while this process imports what only the end needs.
    threading.Thread(target=_load_ahead, name="imports", daemon=True).start()
    with Workers(config.workers) as workers:
        _scan(batch, spec, job, workers, earlier_pictures(catalog, spec.delivery))
        batch.drop_copies(config, lambda done, total: job.progress("near duplicates", done, total, "images"))
        kept = batch.kept()
        slices = pack(
            job.store,
            spec.delivery,
            kept,
            workers,
            slice_size=config.slice_size,
            max_side=config.max_side,
            progress=lambda done, total: job.progress("pack", done, total, "images"),
            note=lambda one, reason: batch.judge(one.row.image_id, Judgement(MASK, "1", UNSURE, 0.0, reason)),
        )
    _commit(catalog, spec.delivery, batch, slices, kept)
    return _report(spec, job, batch, slices, time.monotonic() - started)


def _load_ahead() -> None:
    """What packing needs first; who asks for the rest too early waits on Python's own import lock."""
    from assets.curation.suite import load_great_expectations
    from infra._compat.streaming import load

    # A hundred thousand objects that live to the end: the collector need not visit them, now or at exit.
    gc.disable()
    try:
        load()
        load_great_expectations()
        gc.freeze()
    finally:
        gc.enable()


def _scan(batch: Batch, spec: FilterSpec, job: JobContext, workers: Workers, known: Known) -> None:
    batch.drop_exact(known)
    tasks = batch.tasks()
    minimum = spec.config.min_size or spec.image_size
    scans = workers.map(scan_all, tasks, spec.config, minimum, dead=_dead)
    for done, found in enumerate(scans, start=1):
        batch.add(found)
        job.progress("decode and judge", done, len(tasks), "images")


def _dead(task: Task) -> Scan:
    reason = "corrupt: the decoder's process died on it"
    return Scan(task.index, (Judgement(DECODE, "1", DROP, 0.0, reason),))


def _commit(catalog: Catalog, delivery: str, batch: Batch, slices: list[Slice], kept: list[Kept]) -> None:
    catalog.set_phashes(batch.phashes())
    catalog.clear_verdicts(delivery)
    catalog.write_verdicts(delivery, batch.verdicts())
    by_split = {split: [one.row.image_id for one in kept if one.row.split == split] for split in ("train", "holdout")}
    members: dict[str, list[str]] = {}
    for piece in slices:
        ids = by_split[piece.split]
        members[piece.id], by_split[piece.split] = ids[: piece.samples], ids[piece.samples :]
    catalog.commit_slices(delivery, slices, members)


def _report(spec: FilterSpec, job: JobContext, batch: Batch, slices: list[Slice], seconds: float) -> JobResult:
    funnel, truth, unsure = batch.funnel(), batch.truth(), batch.unsure_masks()
    kept = sum(piece.samples for piece in slices)
    checks = validate(
        batch.table(), min_size=spec.config.min_size or spec.image_size, max_aspect=spec.config.max_aspect
    )
    pictures = {"Funnel": job.put_png("funnel.png", funnel_chart(funnel, spec.delivery))}
    dropped = batch.dropped_examples(limit=60)
    if dropped:
        pictures["Dropped, and why"] = job.put_png("dropped.png", dropped_grid(dropped))
    if unsure:
        examples = batch.unsure_examples(limit=48)
        pictures["Unsure masks"] = job.put_png("unsure_masks.png", mask_grid(examples))
    files = {
        "funnel": job.put_json("funnel.json", funnel),
        "truth": job.put_json("truth.json", truth),
        "unsure_masks": job.put_json("unsure_masks.json", unsure),
    }
    metadata: dict[str, Any] = {
        "files": len(batch.rows),
        "kept": kept,
        "held_out": sum(piece.samples for piece in slices if piece.split == "holdout"),
        "slices": len(slices),
        "masks": batch.mask_count(),
        "unsure_masks": len(unsure),
        "seconds": round(seconds, 2),
        "images_per_second": round(len(batch.rows) / max(seconds, 1e-6), 1),
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
