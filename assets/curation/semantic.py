"""Semantic duplicates: pictures that a model takes for the same, though their pixels are not (SemDeDup, Abbas et al.
2023, arXiv 2303.09540).

A picture goes when the kept picture nearest to it is at least as similar as the threshold: one that another delivery
keeps, or one of this delivery that comes earlier in the order of precedence. SemDeDup looks inside clusters to save
comparisons; here every pair is compared, portion by portion, so that the outcome hangs on no clustering.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from assets.curation.filters.base import DROP, KEEP, NOT_SCORED
from infra.catalog.rows import CopyRow, VerdictRow

if TYPE_CHECKING:
    from assets.curation.decide import Candidates, Known

SEMANTIC = "semantic duplicate"
VERSION = "1"
_PORTION = 4096  # pictures: with 1024 dimensions 100 MB for two portions and their products
_DIGITS = 6  # float32 has about seven; the last one depends on how the products are added up

#: Embeddings float32 (D,) of length 1 by image id, of those that have one.
Read = Callable[[Sequence[str]], dict[str, np.ndarray]]


@dataclass
class Nearest:
    """The kept picture nearest to each of the delivery's; of equally near ones the first that was offered."""

    similarity: np.ndarray  # float64 (n,), cosine; NaN: it has no embedding, -inf: there is nothing to compare with
    place: np.ndarray  # int64 (n,), among the delivery's own pictures or the known ones
    known: np.ndarray  # bool (n,)

    @classmethod
    def of_none(cls, size: int) -> Nearest:
        return cls(np.full(size, np.nan), np.zeros(size, np.int64), np.zeros(size, bool))

    def offer(self, rows: np.ndarray, similarities: np.ndarray, places: np.ndarray, known: bool) -> None:
        """For each of `rows` one more kept picture, (n,) each."""
        rounded = similarities.astype(np.float64).round(_DIGITS)
        nearer = rounded > self.similarity[rows]
        self.similarity[rows[nearer]] = rounded[nearer]
        self.place[rows[nearer]] = places[nearer]
        self.known[rows[nearer]] = known


def find_nearest(
    own: Candidates, known: Known, among: np.ndarray, read: Read, threshold: float, progress: Callable[[int], None]
) -> Nearest:
    """The nearest kept picture of each of `among`, int64 (n,) ascending: what of `own` is still kept.

    From the similarity `threshold` on a picture is not kept itself, and so nobody's nearest. `own` is in the order of
    precedence; `known` is what other deliveries keep.
    """
    found = Nearest.of_none(len(own))
    done = 0
    # Each portion meets all that is kept so far: from a file, the database is asked for each embedding once.
    with tempfile.TemporaryDirectory(prefix="embeddings-") as folder:
        shelf = _Shelf(Path(folder))
        for portion in _portions(np.arange(len(known.ids))):
            shelf.add(*_embedded(portion, known, read), known=True)
        for portion in _portions(among):
            rows, mine = _embedded(portion, own, read)
            found.similarity[rows] = -np.inf
            for places, theirs, is_known in shelf if len(rows) else ():
                similarities = mine @ theirs.T  # (rows, places)
                nearest = similarities.argmax(axis=1)
                found.offer(rows, similarities[np.arange(len(rows)), nearest], places[nearest], is_known)
            kept = _settle(found, rows, mine, threshold)
            shelf.add(rows[kept], mine[kept], known=False)
            done += len(portion)
            progress(done)
    return found


class _Shelf:
    """Portions of embeddings in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._portions: list[tuple[np.ndarray, bool]] = []

    def add(self, places: np.ndarray, embeddings: np.ndarray, *, known: bool) -> None:
        if len(places):
            np.save(self._folder / f"{len(self._portions)}.npy", embeddings)
            self._portions.append((places, known))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        """(places, embeddings, known), in the order in which they were added."""
        for number, (places, known) in enumerate(self._portions):
            yield places, np.load(self._folder / f"{number}.npy", mmap_mode="r"), known


def _settle(found: Nearest, rows: np.ndarray, mine: np.ndarray, threshold: float) -> np.ndarray:
    """Compares `rows` among themselves, in order; which of them are kept, bool (n,)."""
    similarities = mine @ mine.T  # (rows, rows)
    kept = np.zeros(len(rows), bool)
    for row in range(len(rows)):
        earlier = np.flatnonzero(kept[:row])
        if len(earlier):
            nearest = earlier[similarities[row, earlier].argmax()]
            found.offer(rows[[row]], similarities[row, [nearest]], rows[[nearest]], False)
        kept[row] = found.similarity[rows[row]] < threshold
    return kept


def _embedded(places: np.ndarray, of: Candidates | Known, read: Read) -> tuple[np.ndarray, np.ndarray]:
    """Those of the places whose pictures have an embedding, int64 (n,), and their embeddings, float32 (n, D)."""
    ids = {of.id(place): place for place in places.tolist()}
    vectors = read(list(ids))
    there = [(place, vectors[one]) for one, place in ids.items() if one in vectors]
    if not there:
        return np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    return np.array([place for place, _ in there], np.int64), np.stack([vector for _, vector in there])


def _portions(places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), _PORTION):
        yield places[start : start + _PORTION]


def copies(own: Candidates, known: Known, nearest: Nearest, threshold: float) -> dict[int, CopyRow]:
    """What is dropped, by its place in `own`. A better copy of what another delivery keeps is recorded, not swapped."""
    found = {}
    for index in np.flatnonzero(nearest.similarity >= threshold).tolist():
        place, there = int(nearest.place[index]), bool(nearest.known[index])
        of = known.id(place) if there else own.id(place)
        better = there and bool(own.pixels[index] > known.pixels[place])
        found[index] = CopyRow(own.id(index), of, None, None, better, float(nearest.similarity[index]))
    return found


def verdicts(
    own: Candidates, among: np.ndarray, nearest: Nearest, copies: dict[int, CopyRow], embedder: str
) -> Iterator[VerdictRow]:
    """One verdict on each of `among`; its score is the similarity to the nearest kept picture.

    Nothing is called kept that no embedder looked at.
    """
    version = f"{VERSION} {embedder}".strip()
    unscored = "not scored: " + ("it has no embedding" if embedder else "no embedder is configured")
    for index in among.tolist():
        sighting, image_id, similarity = int(own.sightings[index]), own.id(index), float(nearest.similarity[index])
        if np.isnan(similarity):
            yield VerdictRow(sighting, image_id, SEMANTIC, version, NOT_SCORED, 0.0, unscored)
        elif index not in copies:
            score = similarity if similarity > -np.inf else None
            yield VerdictRow(sighting, image_id, SEMANTIC, version, KEEP, score)
        else:
            better = "; a better copy, recorded and not swapped" if copies[index].better else ""
            reason = f"semantic duplicate of {copies[index].of[:12]}: similarity {similarity:.4f}{better}"
            yield VerdictRow(sighting, image_id, SEMANTIC, version, DROP, similarity, reason)
