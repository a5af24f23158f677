"""The first barrier: slices of a delivery in parallel; each picture is read, made safe, judged and fingerprinted.

    sightings ─► slices ─► [read ─► SHA-256 ─► safe decoding ─► filters, cheapest first ─► hash and sketch
        ─► embedding, where an embedder is configured] ─► catalog

A slice's findings are one transaction. Its id is the hash of what it holds and of how it is judged, so a re-run scans
exactly the slices that are not in the catalog. What cannot be decoded keeps its bytes in quarantine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from assets.curation.chunks import chunks
from assets.curation.commits import Commits
from assets.curation.crew import Crew, Hands
from assets.curation.duplicates import fingerprint, thumbnail
from assets.curation.embedder import Embedder, choose_embedder, embedder_id
from assets.curation.filters.base import DROP, FIX, KEEP, Judgement, Picture
from assets.curation.specs import CurationSection, FilterSpec
from infra.catalog.rows import EmbeddingRow, QuarantineRow, ScannedRow, SightingRow, VerdictRow
from infra.errors import BackdropError, ServiceError
from infra.files import canonical_json, sha256_bytes
from infra.images import BadImage, prepare
from infra.object_store import ObjectMissing, ObjectStore, open_store, read_uri

if TYPE_CHECKING:
    from assets.curation.filters.base import PictureFilter
    from infra.catalog import Catalog

READ, DECODE, CAPTION = "read", "decode", "caption"
_VERSION = "2"


@dataclass(frozen=True)
class Slice:
    """Sightings that are scanned together."""

    id: str
    rows: list[SightingRow]


@dataclass(frozen=True)
class Task:
    """A slice, and which of its images the catalog has embeddings of."""

    slice: Slice
    embedded: Collection[str]


@dataclass
class Found:
    """What the scan of one slice writes to the catalog."""

    rows: list[ScannedRow] = field(default_factory=list)
    verdicts: list[VerdictRow] = field(default_factory=list)
    quarantined: list[QuarantineRow] = field(default_factory=list)
    embeddings: dict[str, EmbeddingRow] = field(default_factory=dict)  # by image id

    def without(self, taken: Collection[str]) -> Found:
        """The same, with nothing of these images but which sighting showed them."""
        return Found(
            [ScannedRow(row.sighting, row.image_id) if row.image_id in taken else row for row in self.rows],
            [row for row in self.verdicts if row.image_id not in taken],
            [row for row in self.quarantined if row.image_id not in taken],
            {image_id: row for image_id, row in self.embeddings.items() if image_id not in taken},
        )


def scan(
    spec: FilterSpec,
    catalog: Catalog,
    store: ObjectStore,
    code: str,
    crew: Crew,
    progress: Callable[[int], None],
) -> Counter[str]:
    """Scans what is not scanned yet; counts of what happened. `code` is the hash of the code that judges."""
    done, counts = catalog.scanned_slices(spec.delivery), Counter[str]()
    current: set[str] = set()
    embedder = embedder_id(spec.config.embedder)

    def missing() -> Iterator[Task]:
        for piece in slices_of(catalog.sightings(spec.delivery), spec, code):
            current.add(piece.id)
            if int(piece.id[:8], 16) % spec.parts != spec.part:
                continue
            if piece.id in done:
                counts["reused"] += len(piece.rows)
                progress(len(piece.rows))
            else:
                ids = [row.image_id for row in piece.rows if row.image_id]
                yield Task(piece, catalog.embedded(embedder, ids) if embedder else ())

    with Commits() as commits:
        for piece, found, judged in crew.map(partial(scan_slice, spec, embedder), missing()):
            commits.put(partial(_commit, catalog, store, spec.delivery, piece, found))
            counts.update(judged)
            progress(len(found.rows))
    if spec.parts == 1:
        catalog.forget_scans(spec.delivery, done - current)
    return counts


def _commit(catalog: Catalog, store: ObjectStore, delivery: str, slice_id: str, found: Found) -> None:
    """One transaction. Of what was taken down, also since the slice was handed out, nothing is kept but its id."""
    taken = catalog.taken_down([row.image_id for row in found.rows if row.image_id])
    if taken:
        for row in found.quarantined:
            if row.image_id in taken and row.key:
                store.delete(row.key)
        found = found.without(taken)
    embeddings = list(found.embeddings.values())
    catalog.commit_scan(delivery, slice_id, found.rows, found.verdicts, found.quarantined, embeddings)


def slices_of(rows: Iterator[SightingRow], spec: FilterSpec, code: str) -> Iterator[Slice]:
    """The delivery's slices, in the order of its URIs."""
    how = {
        "version": _VERSION,
        "code": code,
        "config": spec.config.judging(),
        "min_size": spec.min_size,
        "store": spec.store,
    }
    if embedder := embedder_id(spec.config.embedder):
        how["embedder"] = embedder
    # Smaller than what is packed: the last ones leave the workers waiting for each other.
    for held in chunks(rows, lambda row: row.uri, max(1, spec.config.slice_size // 4)):
        what = [[row.id, row.uri, row.etag, row.captions, row.problem] for row in held]
        yield Slice(sha256_bytes(canonical_json([how, what])), held)


# ── in a worker ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Tools:
    """What a worker keeps from slice to slice."""

    filters: list[PictureFilter]
    store: ObjectStore
    config: CurationSection
    embedder: Embedder | None


def _tools(spec: FilterSpec) -> Tools:
    return _tools_for(spec.model_dump_json())


@lru_cache(maxsize=1)
def _tools_for(text: str) -> Tools:
    spec = FilterSpec.model_validate_json(text)
    from assets.curation.filters import build_filters

    every = build_filters(spec.config.filters, spec.min_size)
    filters = [one for one in every if one.name not in spec.config.skip]
    embedder = choose_embedder(spec.config.embedder)
    return Tools(filters, open_store(spec.store), spec.config, embedder)


def scan_slice(
    spec: FilterSpec, embedder: str, task: Task, hands: Hands, poisoned: Mapping[int, str]
) -> tuple[str, Found, Counter[str]]:
    """Scans one slice: its id, what was found, and counts by decision of its pictures."""
    tools, found, counts = _tools(spec), Found(), Counter[str]()
    if tools.embedder is not None and tools.embedder.id != embedder:
        raise BackdropError("the embedder's weights changed while they were in use", "run again")
    for index, row in enumerate(task.slice.rows):
        hands.take(index)
        counts[look_at(row, spec.delivery, tools, found, task, poisoned.get(index))] += 1
    hands.drop()
    return task.slice.id, found, counts


def look_at(row: SightingRow, delivery: str, tools: Tools, found: Found, task: Task, poison: str | None = None) -> str:
    """Adds to `found` what one sighting shows and what the filters say; returns 'kept' or what dropped it."""

    def say(image_id: str | None, one: Judgement) -> None:
        found.verdicts.append(
            VerdictRow(row.id, image_id, one.filter, one.version, one.decision, one.score, one.reason, one.detail)
        )

    problem, data = _read(row)
    if data is None:
        found.rows.append(ScannedRow(row.id, None))
        found.quarantined.append(QuarantineRow(row.id, row.uri, None, "unreadable", problem, 0, ""))
        say(None, Judgement(READ, _VERSION, DROP, 0.0, problem))
        return READ
    image_id = sha256_bytes(data)
    try:
        if poison is not None:
            raise BadImage("poisoned", poison)
        picture = prepare(data, max_pixels=int(tools.config.max_megapixels * 1e6), max_side=None)
    except BadImage as error:
        key = f"quarantine/{delivery}/{image_id}"
        tools.store.put(key, data)
        found.rows.append(ScannedRow(row.id, image_id, len(data)))
        found.quarantined.append(QuarantineRow(row.id, row.uri, image_id, error.reason, error.detail, len(data), key))
        say(image_id, Judgement(DECODE, _VERSION, DROP, 0.0, error.what))
        return DECODE
    pixels = picture.width * picture.height
    reason = "fixed: " + ", ".join(name.replace("_", " ") for name in picture.fixes) if picture.fixes else ""
    say(image_id, Judgement(DECODE, _VERSION, FIX if picture.fixes else KEEP, pixels, reason))
    shown = Picture(image_id, picture.pixels, tuple(row.captions), picture.format, len(data), picture.fixes)
    dropped, cleaned = "", None
    for check in tools.filters:
        one = check.judge(shown)
        say(image_id, one)
        if one.filter == CAPTION and one.decision == FIX and one.detail is not None:
            cleaned = list(one.detail["captions"])
        if one.decision == DROP:
            dropped = dropped or one.filter
            if not tools.config.audit:
                break
    value, small = (None, None) if dropped else fingerprint(shown.half)
    if (
        tools.embedder is not None
        and not dropped
        and image_id not in task.embedded
        and image_id not in found.embeddings
    ):
        vector = tools.embedder.embed(shown).tolist()
        found.embeddings[image_id] = EmbeddingRow(image_id, tools.embedder.id, vector)
    size, kind, width, height = len(picture.data), picture.format, picture.width, picture.height
    found.rows.append(ScannedRow(row.id, image_id, size, kind, width, height, value, small, cleaned))
    return dropped or "kept"


def _read(row: SightingRow) -> tuple[str, bytes | None]:
    """(why there are no bytes, or "", the bytes)."""
    if row.problem:
        return row.problem, None
    try:
        return "", read_uri(row.uri)
    except ServiceError:
        raise  # nobody's picture: the slice is scanned again once the service is back
    except ObjectMissing:
        return "vanished: listed, but no longer there", None
    except BackdropError as error:
        return f"unreadable: {error.what}", None


def picture_at(uri: str, image_id: str) -> np.ndarray | None:
    """A picture's pixels; None where it is gone, changed or does not decode. Raises ServiceError while its store is
    away: that is no answer.
    """
    try:
        data = read_uri(uri)
        return prepare(data).pixels if sha256_bytes(data) == image_id else None
    except ServiceError:
        raise
    except BackdropError:
        return None


def look(uri: str, image_id: str) -> np.ndarray | None:
    """The thumbnail of a picture; None where there is none any more."""
    pixels = picture_at(uri, image_id)
    return None if pixels is None else thumbnail(pixels)
