"""The second barrier: one deterministic pass over what the scan left. Who repeats whom, and what is kept.

Byte copies and takedowns are judged in the database. Near duplicates: the hash index proposes pairs, sketches turn most
of them down, pixels decide (:mod:`assets.curation.duplicates`). Semantic duplicates: of what is left, where an embedder
is configured, embeddings decide (:mod:`assets.curation.semantic`). Pictures are taken in order of precedence (held-out
first, then more pixels, more bytes, nothing to fix, the earlier URI), so the best copy of a group stays; what
another delivery keeps already stays there, and a better copy of it is recorded, not swapped.

Nothing here holds a picture but for the pairs that are looked at, and of the delivery only ids, hashes and sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from assets.curation import duplicates, semantic
from assets.curation.duplicates import HashIndex, alike, allowed, components, residual
from assets.curation.embedder import embedder_id
from assets.curation.filters.base import DROP, KEEP
from assets.curation.scan import look
from assets.curation.specs import FilterSpec
from infra.catalog.rows import CandidateRow, CopyRow, VerdictRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from infra.catalog import Catalog

NEAR = "near duplicate"
_PAIRS = 8192  # compared at once
_THUMBS = 1024  # kept at hand while groups are looked at
_BASE = 8192  # image ids asked for at once

#: Width over height; each picture goes into the nearest. Those of the usual cameras, phones and shops, both ways.
BUCKETS = ("1x2", "9x16", "2x3", "3x4", "4x5", "1x1", "5x4", "4x3", "3x2", "16x9", "2x1")
_RATIOS = {name: math.log(int(name.split("x")[0]) / int(name.split("x")[1])) for name in BUCKETS}


#: Hears how far a stage is: (stage, done, of how many, of what).
Progress = Callable[[str, float, float, str], None]


@dataclass(frozen=True)
class Match:
    """Why a picture is a copy: the kept one's id, the hash distance in bits and the residual in grey levels."""

    of: str
    distance: int
    residual: float
    better: bool = False


@dataclass
class Candidates:
    """The delivery's pictures in order of precedence, as arrays: tens of bytes for each."""

    ids: np.ndarray  # bytes (n,)
    sightings: np.ndarray  # int64 (n,)
    hashes: np.ndarray  # uint64 (n,)
    pixels: np.ndarray  # int64 (n,)
    buckets: np.ndarray  # uint8 (n,)
    heldout: np.ndarray  # bool (n,)

    def __len__(self) -> int:
        return len(self.ids)

    def id(self, index: int) -> str:
        return bytes(self.ids[index]).decode()


@dataclass
class Known:
    """What other deliveries keep."""

    ids: np.ndarray  # bytes (m,)
    hashes: np.ndarray  # uint64 (m,)
    pixels: np.ndarray  # int64 (m,)

    def id(self, index: int) -> str:
        return bytes(self.ids[index]).decode()


def decide(spec: FilterSpec, catalog: Catalog, kind: str, progress: Progress) -> int:
    """Writes the decision over the delivery and returns how many pictures are kept. `kind`: the delivery's.

    Rendered catalogues are compared with no other delivery: only one is in the mix at a time, and the same scenes at
    another size would look like copies.
    """
    compared, section = kind != "sample", spec.config.embedder
    with catalog.deciding(spec.delivery) as connection:
        catalog.drop_exact(connection, spec.delivery, compared)
        share = spec.config.holdout_share if compared else 0.0  # a catalogue brings held-out pictures of its own
        own = _candidates(catalog.candidates(connection, spec.delivery), share)
        known = _known(catalog.known_hashes(connection, spec.delivery) if compared else iter(()))
        lookup = _Lookup(catalog, connection)
        matches = find_copies(own, known, spec, lookup, lambda n, of: progress("near duplicates", n, of, "groups"))
        kept = np.ones(len(own), bool)
        kept[list(matches)] = False
        left, embedder, threshold = np.flatnonzero(kept), embedder_id(section), section.threshold
        nearest = semantic.Nearest.of_none(len(own))
        if embedder:
            read = partial(catalog.embeddings, connection, embedder)
            nearest = semantic.find_nearest(
                own, known, left, read, threshold, lambda n: progress("semantic duplicates", n, len(left), "images")
            )
        repeated = semantic.copies(own, known, nearest, threshold)
        kept[list(repeated)] = False
        near = [CopyRow(own.id(i), m.of, m.distance, m.residual, m.better) for i, m in sorted(matches.items())]
        catalog.write_decision(
            connection,
            spec.delivery,
            chain(_verdicts(own, matches), semantic.verdicts(own, left, nearest, repeated, embedder)),
            [*near, *repeated.values()],
            (
                (BUCKETS[own.buckets[i]], "holdout" if own.heldout[i] else "train", own.id(i), int(own.sightings[i]))
                for i in np.flatnonzero(kept).tolist()
            ),
        )
    return int(kept.sum())


def find_copies(
    own: Candidates, known: Known, spec: FilterSpec, lookup: _Lookup, progress: Callable[[int, int], None]
) -> dict[int, Match]:
    """Which of `own` repeat an earlier one of them or a known one; the first of a group stays.

    A candidate that cannot be looked at is no copy: a picture is dropped for what was seen, never for a hash.
    """
    config = spec.config
    first, second, apart = _proposed(own.hashes, own, own, lookup, config.hash_distance, earlier=True)
    mine, theirs, apart_known = _proposed(known.hashes, own, known, lookup, config.hash_distance)
    groups = components(len(own), np.concatenate([first, mine]), np.concatenate([second, mine]))
    among_own = _by_query(first, second, apart)
    among_known = _by_query(mine, theirs, apart_known)
    involved = {own.id(i) for group in groups for i in group} | {known.id(i) for i in theirs.tolist()}
    places = lookup.places(involved)

    @lru_cache(maxsize=_THUMBS)
    def thumb(image_id: str) -> np.ndarray | None:
        return look(places[image_id], image_id) if image_id in places else None

    def compare(one: str, other: str) -> float | None:
        a, b = thumb(one), thumb(other)
        if a is None or b is None:
            return None
        most = allowed(a, b, config.residual)
        left = residual(a, b, most)
        return left if left <= most else None

    def first_match(index: int, dropped: Mapping[int, Match]) -> Match | None:
        for place, distance in among_known.get(index, ()):
            left = compare(own.id(index), known.id(place))
            if left is not None:
                better = bool(own.pixels[index] > known.pixels[place])
                return Match(known.id(place), distance, round(left, 2), better)
        for place, distance in among_own.get(index, ()):
            if place in dropped:
                continue
            left = compare(own.id(index), own.id(place))
            if left is not None:
                return Match(own.id(place), distance, round(left, 2))
        return None

    def settle(group: list[int]) -> dict[int, Match]:
        dropped: dict[int, Match] = {}
        for index in group:
            match = first_match(index, dropped)
            if match is not None:
                dropped[index] = match
        return dropped

    found: dict[int, Match] = {}
    # OpenCV and the decoder let go of the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(config.workers) as pool:
        for done, dropped in enumerate(pool.map(settle, groups), start=1):
            found |= dropped
            progress(done, len(groups))
    return found


def _proposed(
    base: np.ndarray, own: Candidates, other: Candidates | Known, lookup: _Lookup, distance: int, earlier: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(own index, other index, distance) of the pairs whose hashes and sketches are alike."""
    kept: list[tuple[np.ndarray, ...]] = []
    if len(own) and len(base):
        for rows, found, apart in HashIndex(base).near(own.hashes, distance):
            if earlier:
                before = found < rows
                rows, found, apart = rows[before], found[before], apart[before]
            for start in range(0, len(rows), _PAIRS):
                part = slice(start, start + _PAIRS)
                same = lookup.alike(
                    [own.id(i) for i in rows[part].tolist()], [other.id(i) for i in found[part].tolist()]
                )
                kept.append((rows[part][same], found[part][same], apart[part][same]))
    if not kept:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    rows, found, apart = (np.concatenate(column) for column in zip(*kept, strict=True))
    return rows, found, apart


def _by_query(rows: np.ndarray, found: np.ndarray, apart: np.ndarray) -> dict[int, list[tuple[int, int]]]:
    """own index → [(other index, distance)], the nearest first, then the better one."""
    pairs: dict[int, list[tuple[int, int]]] = {}
    for row, place, distance in zip(rows.tolist(), found.tolist(), apart.tolist(), strict=True):
        pairs.setdefault(row, []).append((place, distance))
    return pairs


class _Lookup:
    """Sketches and places of images, asked for in portions and from one thread."""

    def __init__(self, catalog: Catalog, connection: Connection) -> None:
        self._catalog, self._connection = catalog, connection

    def alike(self, first: list[str], second: list[str]) -> np.ndarray:
        """Which pairs of images have sketches that are alike; False where one has none."""
        sketches: dict[str, bytes] = {}
        for some in _portions({*first, *second}):
            sketches |= self._catalog.sketches(self._connection, some)
        there = np.array([a in sketches and b in sketches for a, b in zip(first, second, strict=True)], bool)
        if there.any():
            some_pairs = np.flatnonzero(there).tolist()
            there[some_pairs] = alike(
                [sketches[first[i]] for i in some_pairs], [sketches[second[i]] for i in some_pairs]
            )
        return there

    def places(self, image_ids: Iterable[str]) -> dict[str, str]:
        """Where each image can be read."""
        places: dict[str, str] = {}
        for some in _portions(image_ids):
            places |= self._catalog.places(self._connection, some)
        return places


def _portions(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(sorted(ids))
    while some := list(islice(rest, _BASE)):
        yield some


def _candidates(rows: Iterator[CandidateRow], holdout_share: float) -> Candidates:
    table = np.fromiter(
        (
            (row.image_id.encode(), row.sighting, row.phash, row.width * row.height, *placed(row, holdout_share))
            for row in rows
        ),
        dtype=[("id", "S64"), ("at", "i8"), ("hash", "u8"), ("pixels", "i8"), ("bucket", "u1"), ("held", "?")],
    )
    return Candidates(*(np.ascontiguousarray(table[name]) for name in ("id", "at", "hash", "pixels", "bucket", "held")))


def placed(row: CandidateRow, holdout_share: float) -> tuple[int, bool]:
    """Bucket, and whether nothing learns from it: the id, being a hash, spreads these evenly and keeps them so."""
    held_out = row.split == "holdout" or int(row.image_id[:8], 16) < holdout_share * (1 << 32)
    return BUCKETS.index(bucket_of(row.width, row.height)), held_out


def _known(rows: Iterator[tuple[str, int, int]]) -> Known:
    table = np.fromiter(
        ((image_id.encode(), value, pixels) for image_id, value, pixels in rows),
        dtype=[("id", "S64"), ("hash", "u8"), ("pixels", "i8")],
    )
    return Known(*(np.ascontiguousarray(table[name]) for name in ("id", "hash", "pixels")))


def bucket_of(width: int, height: int) -> str:
    """The aspect-ratio bucket of a picture: the nearest ratio on a logarithmic scale, so that 2:1 is as far as 1:2."""
    ratio = math.log(width / height)
    return min(BUCKETS, key=lambda name: abs(ratio - _RATIOS[name]))


def _verdicts(own: Candidates, matches: Mapping[int, Match]) -> Iterator[VerdictRow]:
    for index in range(len(own)):
        match = matches.get(index)
        image_id, sighting = own.id(index), int(own.sightings[index])
        if match is None:
            yield VerdictRow(sighting, image_id, NEAR, duplicates.VERSION, KEEP, 0.0)
            continue
        better = "; a better copy, recorded and not swapped" if match.better else ""
        reason = (
            f"near duplicate of {match.of[:12]}: {match.distance} bits, {match.residual:g} grey levels apart{better}"
        )
        yield VerdictRow(sighting, image_id, NEAR, duplicates.VERSION, DROP, match.residual, reason)
