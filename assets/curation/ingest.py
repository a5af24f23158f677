"""The verb `ingest`: every picture of a delivery becomes a row of the catalog; its bytes stay where they are.

An image is its SHA-256: a file that is met twice is one image with two sightings. Running again changes nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError

from assets.curation.readers import Item, read_delivery
from assets.curation.specs import CatalogueSection, IngestSpec
from infra.errors import BackdropError, nearest
from infra.files import canonical_json, sha256_bytes
from infra.images import BadImage, probe
from infra.jobs.spec import JobResult
from infra.object_store import ObjectMissing, ObjectStore, read_uri

if TYPE_CHECKING:
    from infra.catalog import Catalog, SightingRow
    from infra.jobs.program import JobContext

_AHEAD = 256  # files read ahead of the catalog
_READERS = 8

T = TypeVar("T")
R = TypeVar("R")


def run(spec: IngestSpec, job: JobContext) -> JobResult:
    """Read the delivery `spec.uri` into the catalog as `spec.delivery`."""
    rendered = spec.uri.startswith("sample://")
    place = render_delivery(spec, job) if rendered else spec.uri
    catalog = open_catalog()
    catalog.add_delivery(spec.delivery, spec.uri, "sample" if rendered else "pictures")
    items = list(read_delivery(place))
    job.log.info("%d pictures in %s", len(items), place)
    tally = Tally()

    def rows() -> Iterator[SightingRow]:
        for done, row in enumerate(ordered_map(lambda item: read_item(item, spec.licence), items), start=1):
            tally.add(row)
            job.progress("ingest", done, len(items), "images")
            yield row

    catalog.ingest(spec.delivery, rows())
    return JobResult(metadata=tally.shown(), data={**tally.shown(), "place": place})


def read_item(item: Item, licence: str) -> SightingRow:
    """One picture's catalog row: id, size in bytes, and what its header claims. A vanished file has no id.

    Raises BackdropError when the file is there but may not be read.
    """
    from infra.catalog import SightingRow

    try:
        data = read_uri(item.uri)
    except ObjectMissing:
        data = None
    kind, width, height = "", 0, 0
    if data is not None:
        try:
            kind, width, height = probe(data)
        except BadImage:
            kind = "unreadable"
    return SightingRow(
        uri=item.uri,
        image_id=None if data is None else sha256_bytes(data),
        bytes=0 if data is None else len(data),
        format=kind,
        width=width,
        height=height,
        licence=item.licence or licence,
        source=item.source,
        captions=list(item.captions),
        mask_uri=item.mask_uri,
        attributes=dict(item.attributes),
        split=item.split,
    )


class Tally:
    """Counts of what was read."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.files = self.missing = self.unreadable = self.bytes = self.uncaptioned = 0

    def add(self, row: SightingRow) -> None:
        self.files += 1
        if row.image_id is None:
            self.missing += 1
            return
        self.seen.add(row.image_id)
        self.bytes += row.bytes
        self.unreadable += row.format == "unreadable"
        self.uncaptioned += not row.captions

    def shown(self) -> dict[str, int]:
        """Plain numbers for the asset's page."""
        return {
            "files": self.files,
            "images": len(self.seen),
            "exact_duplicates": self.files - self.missing - len(self.seen),
            "unreadable": self.unreadable,
            "missing": self.missing,
            "without_caption": self.uncaptioned,
            "bytes": self.bytes,
        }


def ordered_map(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map` in threads with a bounded look-ahead; results in order, the first error stops it."""
    with ThreadPoolExecutor(_READERS) as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


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
    for _ in ordered_map(lambda path: store.put_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path), files):
        pass
    store.put_file(last, manifest)


def open_catalog() -> Catalog:
    """The catalog named by the environment. Raises BackdropError when none is."""
    from infra.catalog import Catalog
    from infra.settings import Settings

    url = Settings.load().catalog_url
    if not url:
        raise BackdropError(
            "no catalog database is configured (BACKDROP_CATALOG_URL is empty)",
            "start the job through `make run`, or give the URL of a PostgreSQL database",
        )
    return Catalog(url)
