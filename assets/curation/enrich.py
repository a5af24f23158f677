"""Between deciding and packing: masks and captions for kept pictures that came without one.

Only what is kept costs anything here, and nothing is done twice: masks and captions stay with the image, by segmenter
and by captioner, whatever delivery it comes in. Delivered ones are never replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from assets.curation.captioner import Captioner, choose_captioner
from assets.curation.commits import Commits
from assets.curation.crew import Crew, Hands
from assets.curation.filters.base import KEEP, UNSURE
from assets.curation.segmenter import Segmenter, SegmentSection, choose_segmenter
from assets.curation.specs import FilterSpec
from infra.catalog.rows import MaskRow, PackRow, VerdictRow
from infra.errors import BackdropError, ServiceError
from infra.images import encode_png, prepare
from infra.object_store import ObjectStore, open_store, read_uri

if TYPE_CHECKING:
    from infra.catalog import Catalog

MASK, CAPTIONER = "mask", "captioner"
_MASKS, _CAPTIONS = 16, 64  # pictures per task, per request

T = TypeVar("T")


@dataclass(frozen=True)
class Tools:
    """What a worker keeps from task to task."""

    segmenter: Segmenter
    store: ObjectStore


def masks_by(spec: FilterSpec) -> str:
    """Under which name the masks of the chosen segmenter are kept."""
    chosen = choose_segmenter(spec.config.segmenter)
    return f"{chosen.name}@{chosen.version}"


def cut_masks(spec: FilterSpec, catalog: Catalog, crew: Crew, progress: Callable[[int], None]) -> None:
    """Cuts the masks that are missing, in parallel, and judges all that are used here."""
    source = masks_by(spec)
    missing = (row for row in catalog.keep_list(spec.delivery, source) if not (row.mask_uri or row.mask_key))
    with Commits() as commits:
        for masks in crew.map(partial(_cut, spec, source), _batched(missing, _MASKS)):
            commits.put(partial(catalog.commit_masks, masks))
            progress(len(masks))
    used = (row for row in catalog.keep_list(spec.delivery, source) if row.mask_confidence is not None)
    catalog.replace_verdicts(spec.delivery, MASK, (_judged(row, source, spec.config.mask_confidence) for row in used))


def captions_by(spec: FilterSpec, store: ObjectStore) -> str:
    """Under which name the captions of the chosen captioner are kept; "" where none is chosen."""
    captioner = choose_captioner(spec.config.captioner, store)
    return captioner.name if captioner is not None else ""


def write_captions(spec: FilterSpec, catalog: Catalog, store: ObjectStore, progress: Callable[[int], None]) -> str:
    """Asks the captioner, where one is set, for what is missing, and returns its name ("" without one).

    A picture is sent without its metadata. One that cannot be described keeps its reason as a verdict.
    """
    captioner = choose_captioner(spec.config.captioner, store)
    if captioner is None:
        return ""
    wanted = catalog.uncaptioned(spec.delivery, captioner.name, every=spec.config.recaption == "all")
    problems: list[VerdictRow] = []
    for rows in _batched(wanted, _CAPTIONS):
        written = _described(captioner, rows)
        catalog.commit_captions(captioner.name, {one: text for one, (text, _) in written.items() if text})
        for row in rows:
            text, problem = written[row.image_id]
            if not text:
                reason = f"no caption: {problem}"
                problems.append(VerdictRow(row.sighting, row.image_id, CAPTIONER, captioner.name, UNSURE, 0.0, reason))
        progress(len(rows))
    catalog.replace_verdicts(spec.delivery, CAPTIONER, problems)
    return captioner.name


def _described(captioner: Captioner, rows: list[PackRow]) -> dict[str, tuple[str, str]]:
    """image id → (caption, why there is none)."""
    answers: dict[str, tuple[str, str]] = {}
    pictures = []
    for row in rows:
        try:
            pictures.append((row.image_id, prepare(read_uri(row.uri)).data))
        except ServiceError:
            raise
        except BackdropError as error:
            answers[row.image_id] = ("", error.what)
    for one in captioner.caption(pictures):
        answers[one.image_id] = (one.text, one.problem)
    return answers


def _judged(row: PackRow, source: str, needed: float) -> VerdictRow:
    confidence = row.mask_confidence or 0.0
    if confidence >= needed:
        return VerdictRow(row.sighting, row.image_id, MASK, source, KEEP, confidence)
    reason = f"unsure mask: confidence {confidence:.2f}, {needed:.2f} are needed; packed without a mask"
    return VerdictRow(row.sighting, row.image_id, MASK, source, UNSURE, confidence, reason)


# ── in a worker ───────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def _tools(segmenter: str, store: str) -> Tools:
    return Tools(choose_segmenter(SegmentSection.model_validate_json(segmenter)), open_store(store))


def _cut(
    spec: FilterSpec, source: str, rows: list[PackRow], hands: Hands, poisoned: Mapping[int, str]
) -> list[MaskRow]:
    tools, masks = _tools(spec.config.segmenter.model_dump_json(), spec.store), []
    for index, row in enumerate(rows):
        hands.take(index)
        confidence, key = 0.0, ""
        pixels = None if index in poisoned else _pixels(row, spec.config.max_side)
        if pixels is not None:
            mask, sure = tools.segmenter.segment(pixels)
            confidence, key = round(sure, 4), f"masks/{source.replace(':', '-')}/{row.image_id}.png"
            tools.store.put(key, encode_png(mask.astype(np.uint8) * 255))
        masks.append(MaskRow(row.image_id, source, confidence, key))
    hands.drop()
    return masks


def _pixels(row: PackRow, max_side: int) -> np.ndarray | None:
    try:
        return prepare(read_uri(row.uri), max_side=max_side).pixels
    except ServiceError:
        raise
    except BackdropError:
        return None


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    stream = iter(items)
    while some := list(islice(stream, size)):
        yield some
