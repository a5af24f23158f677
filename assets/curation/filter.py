"""The verb `filter`: judge a delivery's pictures, pack the good ones, and say why the others are missing.

    scan (slices in parallel) ─► decide (one pass) ─► masks, captions ─► pack (slices in parallel) ─► commit ─► report

Each barrier keeps what is finished: killed anywhere and run again, only the rest is done and the bytes are the same.
On a cluster `scan`, `decide` and `pack` are verbs of their own; of the first and the last many processes do a part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2

from assets.curation.catalogue import open_catalog
from assets.curation.crew import Crew
from assets.curation.decide import decide
from assets.curation.enrich import captions_by, cut_masks, masks_by, write_captions
from assets.curation.outcome import report
from assets.curation.packing import pack
from assets.curation.scan import scan
from assets.curation.specs import FilterSpec
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.jobs.spec import JobResult
from infra.sources import source_hash

if TYPE_CHECKING:
    from infra.catalog import Catalog, Delivery
    from infra.jobs.program import JobContext

_JUDGING = ("assets.curation.filters", "assets.curation.duplicates", "infra.images")
_PACKING = ("infra.images", "infra.shards")


def run(spec: FilterSpec, job: JobContext) -> JobResult:
    """Filter the delivery `spec.delivery` as the catalog knows it."""
    started = time.monotonic()
    catalog = open_catalog()
    delivery, total = _opened(catalog, spec)
    cv2.setNumThreads(1)  # the workers already use every core
    with crew_for(spec) as crew:
        run_scan(spec, job, catalog, crew, total)
        kept, captioner = run_decide(spec, job, catalog, delivery)
        slices = pack(spec, catalog, job.store, code_of(_PACKING), crew, _steps(job, "pack", kept), captioner)
    catalog.commit_slices(spec.delivery, slices)
    return report(spec, job, catalog, delivery, slices, masks_by(spec), captioner, time.monotonic() - started)


def crew_for(spec: FilterSpec) -> Crew:
    """The processes that scan and pack, or cut masks; none is started before there is something to do."""
    return Crew(spec.config.workers)


def run_scan(spec: FilterSpec, job: JobContext, catalog: Catalog, crew: Crew, total: int) -> None:
    """The first barrier, or one part of it."""
    counts = scan(spec, catalog, job.store, code_of(_JUDGING), crew, _steps(job, "decode and judge", total))
    job.log.info("scanned: %s", dict(counts))


def run_decide(spec: FilterSpec, job: JobContext, catalog: Catalog, delivery: Delivery) -> tuple[int, str]:
    """The second barrier, and what the kept pictures lack: (how many are kept, whose captions they got)."""
    kept = decide(spec, catalog, delivery.kind, job.progress)
    if spec.config.masks:
        with crew_for(spec) as crew:  # the scan's models and the segmenter's share no process and its memory
            cut_masks(spec, catalog, crew, _steps(job, "masks", kept))
    return kept, write_captions(spec, catalog, job.store, _steps(job, "captions", kept))


def scan_part(spec: FilterSpec, job: JobContext) -> JobResult:
    """The verb `scan`: one of `spec.parts` processes that scan the delivery together."""
    catalog = open_catalog()
    _, total = _opened(catalog, spec)
    with crew_for(spec) as crew:
        run_scan(spec, job, catalog, crew, total)
    return JobResult(data={"part": spec.part, "parts": spec.parts})


def decide_whole(spec: FilterSpec, job: JobContext) -> JobResult:
    """The verb `decide`: one process, once every part is scanned."""
    catalog = open_catalog()
    delivery, _ = _opened(catalog, spec)
    kept, _ = run_decide(spec, job, catalog, delivery)
    return JobResult(data={"kept": kept})


def pack_part(spec: FilterSpec, job: JobContext) -> JobResult:
    """The verb `pack`: one of `spec.parts` processes that pack the keep list together; nothing counts before `filter`
    has run, which finds all of it done.
    """
    catalog = open_catalog()
    _, total = _opened(catalog, spec)
    captioner = captions_by(spec, job.store)
    with crew_for(spec) as crew:
        slices = pack(spec, catalog, job.store, code_of(_PACKING), crew, _steps(job, "pack", total), captioner)
    return JobResult(data={"part": spec.part, "parts": spec.parts, "slices": len(slices)})


def code_of(modules: tuple[str, ...]) -> str:
    """The hash of the code that decides what a slice holds."""
    return sha256_bytes("".join(source_hash(name) for name in modules).encode())


def _opened(catalog: Catalog, spec: FilterSpec) -> tuple[Delivery, int]:
    delivery, total = catalog.delivery(spec.delivery), catalog.count_sightings(spec.delivery)
    if delivery is None or total == 0:
        raise BackdropError(
            f"the catalog knows no picture of the delivery '{spec.delivery}'",
            f"materialise raw_images[{spec.delivery}]",
        )
    if spec.config.embedder.model:
        catalog.make_embeddings()
    return delivery, total


def _steps(job: JobContext, stage: str, total: int) -> Callable[[int], None]:
    """A counter that reports progress."""
    done = 0

    def step(more: int) -> None:
        nonlocal done
        done += more
        job.progress(stage, done, total, "images")

    return step
