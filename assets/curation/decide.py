"""One delivery on its way through the filters: who was dropped by what, in one fixed order (that of the URIs)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from assets.curation import duplicates
from assets.curation.duplicates import Known, find_copies
from assets.curation.filters.base import DROP, FIX, KEEP, UNSURE, Judgement
from assets.curation.packing import Kept
from assets.curation.scan import DECODE, MASK, Scan, Task, look
from assets.curation.specs import CurationSection

if TYPE_CHECKING:
    from infra.catalog import Catalog, SightingRow, VerdictRow

READ, EXACT, NEAR = "read", "exact duplicate", "near duplicate"
ORDER = (READ, EXACT, DECODE, "size", "text overlay", NEAR)
"""The filters that drop, in the order in which they run."""


class Batch:
    """The sightings of a delivery and what has been decided about their images so far."""

    def __init__(self, rows: list[SightingRow]) -> None:
        self.rows = rows
        self._dropped: dict[int, Judgement] = {}  # by row
        self._judged: dict[str, dict[str, Judgement]] = {}  # image id → filter → judgement
        self._scans: dict[int, Scan] = {}  # by row, of the first sighting of each image
        self._first: dict[str, int] = {}
        self._known = Known([], [], lambda _: None)
        for index, row in enumerate(rows):
            if row.image_id is None:
                self._dropped[index] = Judgement(READ, "1", DROP, 0.0, "missing: listed, but not in the delivery")
            else:
                self._first.setdefault(row.image_id, index)

    # ── deciding ──────────────────────────────────────────────────────────────────────────────────────────────

    def judge(self, image_id: str, judgement: Judgement) -> None:
        """Record one filter's opinion; a later one of the same filter replaces it."""
        self._judged.setdefault(image_id, {})[judgement.filter] = judgement

    def drop_exact(self, known: Known) -> None:
        """Second sightings go, and images that an earlier delivery already brought."""
        sightings = Counter(row.image_id for row in self.rows if row.image_id is not None)
        there = set(known.ids)
        self._known = known
        for index, row in enumerate(self.rows):
            if row.image_id is None:
                continue
            first = self._first[row.image_id]
            if row.image_id in there:
                reason = "exact duplicate: an earlier delivery brought the same bytes"
                self._dropped[index] = Judgement(EXACT, "1", DROP, sightings[row.image_id], reason)
                self.judge(row.image_id, self._dropped[index])
            elif index != first:
                reason = f"exact duplicate of {_name(self.rows[first].uri)}"
                self._dropped[index] = Judgement(EXACT, "1", DROP, sightings[row.image_id], reason)
        for image_id, count in sightings.items():
            if image_id not in there:
                reason = f"met {count} times, packed once" if count > 1 else ""
                self.judge(image_id, Judgement(EXACT, "1", FIX if count > 1 else KEEP, count, reason))

    def tasks(self) -> list[Task]:
        """What is left to look at."""
        return [
            Task(index, row.image_id, row.uri, row.mask_uri)
            for index, row in enumerate(self.rows)
            if index not in self._dropped and row.image_id is not None
        ]

    def add(self, scan: Scan) -> None:
        """Take in what a worker found."""
        self._scans[scan.index] = scan
        image_id = self.rows[scan.index].image_id
        assert image_id is not None  # tasks() leaves the others out
        for judgement in scan.judgements:
            self.judge(image_id, judgement)
        if scan.dropped is not None:
            self._dropped[scan.index] = scan.dropped

    def drop_copies(self, config: CurationSection, progress: Callable[[int, int], None]) -> None:
        """Near duplicates of an earlier row or of an earlier delivery go."""
        left = [i for i in sorted(self._scans) if i not in self._dropped]
        ids = [self._id(i) for i in left]
        copies = find_copies(
            ids,
            [self._scans[i].phash for i in left],
            [self._thumb(i) for i in left],
            self._known,
            max_distance=config.hash_distance,
            max_residual=config.residual,
            progress=progress,
        )
        for index, image_id in zip(left, ids, strict=True):
            match = copies.get(image_id)
            if match is None:
                self.judge(image_id, Judgement(NEAR, duplicates.VERSION, KEEP, 0.0))
                continue
            of = _name(self.rows[self._first[match.of]].uri) if match.of in self._first else match.of[:12]
            reason = f"near duplicate of {of}: {match.distance} bits, {match.residual:g} grey levels apart"
            self._dropped[index] = Judgement(NEAR, duplicates.VERSION, DROP, match.residual, reason)
            self.judge(image_id, self._dropped[index])

    def _id(self, index: int) -> str:
        image_id = self.rows[index].image_id
        assert image_id is not None
        return image_id

    def _thumb(self, index: int) -> np.ndarray:
        thumb = self._scans[index].thumb
        assert thumb is not None  # only pictures that were not dropped are asked for
        return thumb

    # ── results ───────────────────────────────────────────────────────────────────────────────────────────────

    def kept(self) -> list[Kept]:
        """What gets packed, in the order of the rows."""
        return [
            Kept(self.rows[i], s.mask, s.confidence, s.width, s.height)
            for i, s in sorted(self._scans.items())
            if i not in self._dropped
        ]

    def phashes(self) -> dict[str, int]:
        """Perceptual hashes of what was looked at to the end."""
        return {self._id(i): s.phash for i, s in self._scans.items() if s.dropped is None}

    def verdicts(self) -> Iterator[VerdictRow]:
        """All judgements as catalog rows."""
        from infra.catalog import VerdictRow

        for image_id, judged in self._judged.items():
            for one in judged.values():
                yield VerdictRow(image_id, one.filter, one.version, one.decision, float(one.score), one.reason)

    def funnel(self) -> list[dict[str, Any]]:
        """[{"filter", "seen", "dropped", "left"}] in the order of the filters, by file."""
        counts = Counter(judgement.filter for judgement in self._dropped.values())
        steps, left = [], len(self.rows)
        for name in ORDER:
            steps.append({"filter": name, "seen": left, "dropped": counts[name], "left": left - counts[name]})
            left -= counts[name]
        return steps

    def truth(self) -> dict[str, Any]:
        """What was planted against what was dropped; {} for a delivery that does not know its own dirt.

        {"kinds": {kind: {"planted", "dropped", "by": {filter: n}}}, "clean": {"files", "dropped", "by"}}.
        """
        if not any("planted" in row.attributes for row in self.rows):
            return {}
        kinds: dict[str, dict[str, Any]] = {}
        clean: dict[str, Any] = {"files": 0, "dropped": 0, "by": {}}
        for index, row in enumerate(self.rows):
            kind = row.attributes.get("planted")
            entry = clean if not kind else kinds.setdefault(kind, {"planted": 0, "dropped": 0, "by": {}})
            entry["planted" if kind else "files"] += 1
            if index in self._dropped:
                entry["dropped"] += 1
                name = self._dropped[index].filter
                entry["by"][name] = entry["by"].get(name, 0) + 1
        return {"kinds": dict(sorted(kinds.items())), "clean": clean}

    def _unsure(self) -> list[tuple[int, Judgement]]:
        return [
            (i, self._judged[self._id(i)][MASK])
            for i in sorted(self._scans)
            if i not in self._dropped
            and MASK in self._judged[self._id(i)]
            and self._judged[self._id(i)][MASK].decision == UNSURE
        ]

    def unsure_masks(self) -> list[dict[str, Any]]:
        """[{"image", "uri", "confidence", "reason"}], the least sure first."""
        found = [
            {"image": self._id(i), "uri": self.rows[i].uri, "confidence": j.score, "reason": j.reason}
            for i, j in self._unsure()
        ]
        return sorted(found, key=lambda entry: (entry["confidence"], entry["uri"]))

    def unsure_examples(self, limit: int) -> list[tuple[np.ndarray, str]]:
        """(thumbnail, label) of unsure masks, the surest first: those are worth a look."""
        ranked = sorted(self._unsure(), key=lambda pair: -pair[1].score)[:limit]
        return [(self._thumb(i), f"{_name(self.rows[i].uri)}: {j.score:.2f}") for i, j in ranked]

    def mask_count(self) -> int:
        """Kept pictures that are packed with a mask."""
        unsure = {index for index, _ in self._unsure()}
        return sum(1 for i in self._scans if i not in self._dropped and i not in unsure)

    def dropped_examples(self, limit: int) -> list[tuple[np.ndarray | None, str, str]]:
        """(thumbnail or None, file name, reason) of dropped files, the filters taking turns."""
        by_filter: dict[str, list[int]] = {name: [] for name in ORDER}
        for index, judgement in sorted(self._dropped.items()):
            by_filter[judgement.filter].append(index)
        queues = [queue for queue in by_filter.values() if queue]
        chosen: list[int] = []
        while queues and len(chosen) < limit:
            chosen += [queue.pop(0) for queue in queues][: limit - len(chosen)]
            queues = [queue for queue in queues if queue]
        place = {name: k for k, name in enumerate(ORDER)}
        chosen.sort(key=lambda i: (place[self._dropped[i].filter], i))
        return [(self._any_thumb(i), _name(self.rows[i].uri), self._dropped[i].reason) for i in chosen]

    def _any_thumb(self, index: int) -> np.ndarray | None:
        """Of the row itself, else of the first sighting of the same image."""
        image_id = self.rows[index].image_id
        own = self._scans.get(index) or self._scans.get(self._first.get(image_id or "", -1))
        return own.thumb if own is not None else None

    def table(self) -> list[dict[str, Any]]:
        """One row of metadata per file, for the suite."""
        table = []
        unsure = {index for index, _ in self._unsure()}
        for index, row in enumerate(self.rows):
            scan, reason = self._scans.get(index), self._dropped.get(index)
            short, long = sorted((scan.width, scan.height)) if scan else (0, 0)
            table.append(
                {
                    "id": row.image_id,
                    "format": row.format,
                    "split": row.split,
                    "short_side": short,
                    "aspect": long / short if short else 0.0,
                    "captions": len(row.captions),
                    "caption_length": max((len(caption) for caption in row.captions), default=0),
                    "licence": row.licence,
                    "mask": index not in unsure,
                    "decoded": not (reason and reason.filter in (READ, DECODE)),
                    "kept": reason is None,
                }
            )
        return table


def earlier_pictures(catalog: Catalog, delivery: str) -> Known:
    """What earlier deliveries of photographs brought and kept.

    Rendered catalogues are left out on both sides: only one is in the mix at a time, and the same scenes at another
    size would look like copies.
    """
    deliveries = {one.name: one for one in catalog.list_deliveries()}
    own = deliveries.get(delivery)
    if own is None or own.kind == "sample":
        return Known([], [], lambda _: None)
    earlier = [d.name for d in deliveries.values() if d.kind != "sample" and d.added_at < own.added_at]
    kept = {i for name in earlier for piece in catalog.slices(delivery=name) for i in catalog.members(piece.id)}
    hashes = {i: h for i, h in catalog.kept_phashes(excluding=delivery).items() if i in kept}
    places: dict[str, str] = {}

    def look_up(image_id: str) -> np.ndarray | None:
        if not places:
            for name in earlier:
                places.update({r.image_id: r.uri for r in catalog.sightings(name) if r.image_id in hashes})
        return look(places[image_id], image_id) if image_id in places else None

    return Known(list(hashes), list(hashes.values()), look_up)


def _name(uri: str) -> str:
    return uri.rsplit("/", 1)[-1]
