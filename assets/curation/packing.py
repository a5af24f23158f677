"""From kept pictures to committed slices: the same pictures always give the same slices, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from assets.curation.pool import Workers
from assets.curation.scan import Packed, pack_all
from infra.errors import BackdropError
from infra.object_store import ObjectStore
from infra.shards import FILTERED_COLUMNS, Slice, write_slice

SPLITS = ("train", "holdout")
ROOT = "filtered"


class Kept:
    """One kept picture: its catalog row and what the scan found."""

    __slots__ = ("confidence", "height", "mask", "row", "width")

    def __init__(self, row: Any, mask: bytes, confidence: float | None, width: int, height: int) -> None:
        self.row = row
        self.mask = mask
        self.confidence = confidence
        self.width = width
        self.height = height


def pack(
    store: ObjectStore,
    delivery: str,
    kept: Sequence[Kept],
    workers: Workers,
    *,
    slice_size: int,
    max_side: int,
    progress: Callable[[int, int], None],
    note: Callable[[Kept, str], None],
) -> list[Slice]:
    """Write the slices of every split. `note` hears why a delivered mask was left out."""
    slices: list[Slice] = []
    done = 0
    for split in SPLITS:
        members = [one for one in kept if one.row.split == split]
        for start in range(0, len(members), slice_size):
            part = members[start : start + slice_size]
            slices.append(
                write_slice(
                    store,
                    ROOT,
                    FILTERED_COLUMNS,
                    _samples(part, workers, max_side, note),
                    {"delivery": delivery, "split": split},
                )
            )
            done += len(part)
            progress(done, len(kept))
    return slices


def _samples(
    part: Sequence[Kept], workers: Workers, max_side: int, note: Callable[[Kept, str], None]
) -> Iterator[dict[str, Any]]:
    tasks = [(one.row.uri, one.row.mask_uri, one.mask, one.width, one.height) for one in part]
    for one, packed in zip(part, workers.map(pack_all, tasks, max_side, dead=_died, chunk=16), strict=True):
        if packed.note:
            note(one, packed.note)
        yield sample(one, packed)


def sample(one: Kept, packed: Packed) -> dict[str, Any]:
    """The row of a slice of filtered images (infra.shards.FILTERED_COLUMNS)."""
    attributes = dict(one.row.attributes)
    if one.confidence is not None:
        attributes["mask_confidence"] = one.confidence
    return {
        "id": one.row.image_id,
        "image": packed.image,
        "mask": packed.mask,
        "captions": list(one.row.captions),
        "attributes": attributes,
        "width": packed.width,
        "height": packed.height,
        "source": one.row.source,
    }


def _died(task: tuple[Any, ...]) -> Packed:
    raise BackdropError(
        f"the process that packed {task[0]} died although the picture was decoded before",
        "look for a lack of memory on this machine and run again",
    )
