"""The verb `ingest`: a delivery's listing becomes rows of the catalog; its pictures stay where they are, unread.

The listing streams from the reader into COPY, so nothing grows with the delivery. Running again changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError

from assets.curation.catalogue import open_catalog
from assets.curation.readers import Item, read_delivery
from assets.curation.specs import CatalogueSection, IngestSpec
from infra.catalog.rows import SightingRow
from infra.errors import BackdropError, nearest
from infra.files import canonical_json, sha256_bytes
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore

if TYPE_CHECKING:
    from infra.jobs.program import JobContext

_UPLOADS = 8  # at once


def run(spec: IngestSpec, job: JobContext) -> JobResult:
    """Read the delivery `spec.uri` into the catalog as `spec.delivery`.

    Its data version is the hash of the listing: it changes when a file, its size or time, or a caption does.
    """
    rendered = spec.uri.startswith("sample://")
    place = render_delivery(spec, job) if rendered else spec.uri
    catalog = open_catalog()
    catalog.add_delivery(spec.delivery, spec.uri, "sample" if rendered else "pictures")
    listing = sha256()
    seen = {"files": 0, "without_caption": 0, "problems": 0}

    def rows() -> Iterator[SightingRow]:
        for item in read_delivery(place):
            row = row_of(item, spec.licence)
            listing.update(canonical_json([row.uri, row.etag, row.captions, row.mask_uri, row.split, row.problem]))
            seen["files"] += 1
            seen["without_caption"] += not row.captions
            seen["problems"] += bool(row.problem)
            if seen["files"] % 1000 == 0:
                job.progress("list", seen["files"], 0, "files")
            yield row

    count = catalog.ingest(spec.delivery, rows())
    job.log.info("%d pictures in %s", count, place)
    # What is rendered is the same wherever and whenever it is.
    version = sha256_bytes(place.rsplit("/", 1)[-1].encode()) if rendered else listing.hexdigest()
    return JobResult(metadata={**seen}, data={**seen, "place": place, "data_version": version})


def row_of(item: Item, licence: str) -> SightingRow:
    """A delivered picture as a row of the catalog."""
    return SightingRow(
        uri=item.uri,
        etag=item.etag,
        licence=item.licence or licence,
        source=item.source,
        captions=list(item.captions),
        mask_uri=item.mask_uri,
        attributes=dict(item.attributes),
        split=item.split,
        problem=item.problem,
    )


def parse_sample_uri(uri: str, options: CatalogueSection | None = None) -> CatalogueSection:
    """``sample://<preset>?count=6000&seed=0…`` → its options; what the URI names wins over `options`.

    Raises BackdropError on an unknown option (naming the nearest) or a value out of range.
    """
    query = dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))
    known = list(CatalogueSection.model_fields)
    for name in query:
        if name not in known:
            raise BackdropError(
                f"{uri}: the sample catalogue has no option '{name}'.{nearest(name, known)}",
                f"its options are {', '.join(known)}",
            )
    base = options.model_dump() if options is not None else {}
    try:
        return CatalogueSection.model_validate({**base, **query})
    except ValidationError as error:
        first = error.errors()[0]
        raise BackdropError(
            f"{uri}: '{first['loc'][0]}' is {first['input']!r}: {first['msg']}",
            "correct the sample catalogue's options",
        ) from None


def render_delivery(spec: IngestSpec, job: JobContext) -> str:
    """Renders the sample catalogue into the store and returns the delivery's URI; a whole one is not drawn again.

    Its place is the hash of its options, so two orders never mix.
    """
    from assets.sample_catalogue.delivery import write_delivery

    options = parse_sample_uri(spec.uri, spec.options).model_dump()
    prefix = f"deliveries/sample-{sha256_bytes(canonical_json(options))[:16]}"
    folder = job.store.local_path(prefix)
    workers = os.cpu_count() or 1

    def progress(done: int, total: int) -> None:
        job.progress("render", done, total, "images")

    if folder is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_delivery(folder, **options, workers=workers, progress=progress)
        return folder.as_uri()
    local = job.folder / "delivery"
    manifest = write_delivery(local, **options, workers=workers, progress=progress)
    _upload(job.store, prefix, manifest)
    return f"{job.store.uri}/{prefix}"


def _upload(store: ObjectStore, prefix: str, manifest: Path) -> None:
    """The delivery's files into a bucket; the manifest last, as the sign that it is whole."""
    last = f"{prefix}/{manifest.name}"
    if store.exists(last):
        return
    folder = manifest.parent
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != manifest]
    with ThreadPoolExecutor(_UPLOADS) as pool:
        for _ in pool.map(lambda path: store.put_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path), files):
            pass
    store.put_file(last, manifest)
