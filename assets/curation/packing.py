"""The last barrier: the keep list becomes slices of MDS shards, the same bytes whenever and wherever they are packed.

The list, sorted by aspect-ratio bucket, split and image id, is cut into chunks at places that the ids choose, so that a
picture that comes or goes changes one slice. A chunk's objects are written first, then one transaction records the
slice as staged; when all of the delivery's chunks are there, one more makes them count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from assets.curation.chunks import chunks
from assets.curation.commits import Commits
from assets.curation.crew import Crew, Hands
from assets.curation.enrich import masks_by
from assets.curation.filters.base import DROP, UNSURE
from assets.curation.specs import FilterSpec
from infra.catalog.rows import PackRow, VerdictRow
from infra.errors import BackdropError, ServiceError
from infra.files import canonical_json, sha256_bytes
from infra.images import cleaned, decode_mask, encode_png, prepare, probe
from infra.object_store import ObjectStore, open_store, read_uri
from infra.shards import COMMIT, FILTERED_COLUMNS, Slice, shard_places, write_slice

if TYPE_CHECKING:
    from infra.catalog import Catalog

ROOT = "filtered"
MASK, LOST = "delivered mask", "packing"
_VERSION = "2"


@dataclass(frozen=True)
class Chunk:
    """Pictures that are packed together. `id` is the hash of all that decides the slice's bytes."""

    id: str
    bucket: str
    split: str
    rows: list[PackRow]


@dataclass(frozen=True)
class Packed:
    """What came of a chunk: a slice and its members (image id, shard file, place in it). `notes` are verdicts on
    pictures that were lost or whose mask could not be used."""

    chunk: str
    slice: Slice
    members: list[tuple[str, str, int]]
    handled: int
    notes: list[VerdictRow]


def pack(
    spec: FilterSpec,
    catalog: Catalog,
    store: ObjectStore,
    code: str,
    crew: Crew,
    progress: Callable[[int], None],
    captioner: str = "",
) -> list[Slice]:
    """Packs what is not packed yet and returns the slices of this part of the list; nothing counts before
    they are committed. `captioner`: whose captions are packed beside the delivered ones."""
    staged, slices = catalog.staged_slices(spec.delivery), []

    def missing() -> Iterator[Chunk]:
        for chunk in chunks_of(catalog.keep_list(spec.delivery, masks_by(spec), captioner), spec, code):
            if int(chunk.id[:8], 16) % spec.parts != spec.part:
                continue
            there = staged.get(chunk.id)
            if there is not None and store.exists(f"{there.prefix}/{COMMIT}"):
                slices.append(there)
                progress(len(chunk.rows))
            else:
                yield chunk

    def commit(packed: Packed) -> None:
        catalog.write_verdicts(spec.delivery, packed.notes)  # first: a slice that is staged is not looked at again
        catalog.stage_slice(spec.delivery, packed.slice, packed.chunk, packed.members)

    with Commits() as commits:
        for packed in crew.map(partial(pack_chunk, spec), missing(), timeout_s=600):
            commits.put(partial(commit, packed))
            slices.append(packed.slice)
            progress(packed.handled)
    return [piece for piece in slices if piece.samples]


def chunks_of(rows: Iterator[PackRow], spec: FilterSpec, code: str) -> Iterator[Chunk]:
    """The keep list in chunks, none of which mixes buckets or splits."""
    how = [_VERSION, code, spec.config.max_side, spec.config.mask_confidence, sorted(FILTERED_COLUMNS.items())]
    for (bucket, split), some in groupby(rows, key=lambda row: (row.bucket, row.split)):
        for held in chunks(some, lambda row: row.image_id, spec.config.slice_size):
            what = [
                [row.image_id, row.captions, row.attributes, row.source, row.mask_uri, row.mask_key, row.untouched]
                for row in held
            ]
            yield Chunk(sha256_bytes(canonical_json([how, bucket, split, what])), bucket, split, held)


# ── in a worker ───────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def _store(uri: str) -> ObjectStore:
    return open_store(uri)


def pack_chunk(spec: FilterSpec, chunk: Chunk, hands: Hands, poisoned: Mapping[int, str]) -> Packed:
    """Writes one slice; it counts for nothing until it is recorded as staged."""
    store = _store(spec.store)
    notes: list[VerdictRow] = []
    held: list[str] = []

    def samples() -> Iterator[dict[str, Any]]:
        for index, row in enumerate(chunk.rows):
            hands.take(index)
            try:
                if index in poisoned:
                    raise BackdropError(f"not packed: {poisoned[index]}")
                found = sample(row, store, spec, notes)
            except ServiceError:
                raise
            except BackdropError as error:
                notes.append(VerdictRow(row.sighting, row.image_id, LOST, _VERSION, DROP, 0.0, error.what))
                continue
            held.append(row.image_id)
            yield found
        hands.drop()

    meta = {"delivery": spec.delivery, "split": chunk.split, "bucket": chunk.bucket}
    piece = write_slice(store, ROOT, FILTERED_COLUMNS, samples(), meta)
    members = [(one, *place) for one, place in zip(held, shard_places(store, piece), strict=True)]
    return Packed(chunk.id, piece, members, len(chunk.rows), notes)


def sample(row: PackRow, store: ObjectStore, spec: FilterSpec, notes: list[VerdictRow]) -> dict[str, Any]:
    """The row of a slice (infra.shards.FILTERED_COLUMNS). Raises BackdropError where the source is gone or changed."""
    data = read_uri(row.uri)
    if sha256_bytes(data) != row.image_id:
        raise BackdropError("changed: the file is no longer the one that was scanned")
    # It was decoded by the scan: where at most metadata has to go it need not be decoded again.
    if row.untouched and max(row.width, row.height) <= spec.config.max_side:
        image, width, height = data, row.width, row.height
    else:
        image, width, height = cleaned(data, max_side=spec.config.max_side) or _encoded(data, spec.config.max_side)
    attributes = dict(row.attributes)
    mask = b""
    if row.mask_uri is not None:
        try:
            mask = fitted(read_uri(row.mask_uri), width, height)
        except ServiceError:
            raise
        except BackdropError as error:
            reason = f"mask not usable: {error.what}"
            notes.append(VerdictRow(row.sighting, row.image_id, MASK, _VERSION, UNSURE, 0.0, reason))
    elif row.mask_confidence is not None:
        attributes["mask_confidence"] = row.mask_confidence
        if row.mask_key and row.mask_confidence >= spec.config.mask_confidence:
            mask = fitted(store.get(row.mask_key), width, height)
    return {
        "id": row.image_id,
        "image": image,
        "mask": mask,
        "captions": row.captions,
        "attributes": attributes,
        "width": width,
        "height": height,
        "source": row.source,
    }


def _encoded(data: bytes, max_side: int) -> tuple[bytes, int, int]:
    picture = prepare(data, max_side=max_side)
    return picture.data, picture.width, picture.height


def fitted(data: bytes, width: int, height: int) -> bytes:
    """A mask as a grey PNG of this size; passed on bit for bit where it already is one.

    Raises BackdropError for a file that is no picture, or of another shape than the picture.
    """
    import cv2
    import numpy as np

    mask = decode_mask(data)
    if probe(data) == ("png", width, height) and data[24:26] == b"\x08\x00":  # IHDR: 8 bits, grey
        return data
    if abs(mask.shape[1] * height - mask.shape[0] * width) > 0.02 * width * height:
        raise BackdropError(f"the mask is {mask.shape[1]} × {mask.shape[0]}, the picture {width} × {height}")
    full = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return encode_png(full * 255)
