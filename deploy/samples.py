"""Pictures of a dataset version as arrays: the held-out catalogue, real photographs, and what was trained on."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from evaluation.adherence import regions_of
from infra.images import decode, decode_mask, fit
from infra.object_store import ObjectStore
from infra.shards import Slice, load_version, read_slices


@dataclass(frozen=True)
class Sample:
    """One picture with its product mask, at the preset's size."""

    id: str
    image: np.ndarray  # uint8 (S, S, 3)
    product: np.ndarray  # bool (S, S)
    captions: tuple[str, ...]
    attributes: Mapping[str, Any]
    source: str

    @property
    def caption(self) -> str:
        """The first caption, which in the sample catalogue names everything."""
        return self.captions[0]


def is_catalogue(attributes: Mapping[str, Any]) -> bool:
    """Whether a picture was rendered for the sample catalogue."""
    return "catalogue" in attributes


def to_sample(row: Mapping[str, Any], size: int) -> Sample:
    """One row of a filtered slice; the row must have a mask."""
    product = fit(decode_mask(row["mask"]).astype(np.uint8) * 255, size) >= 128
    return Sample(
        id=row["id"],
        image=fit(decode(row["image"]), size),
        product=product,
        captions=tuple(row["captions"]) or ("a product",),
        attributes=row["attributes"],
        source=row["source"],
    )


def true_regions(sample: Sample) -> np.ndarray:
    """uint8 (S, S): product, wall, floor and shadow as rendered (see `evaluation.adherence`)."""
    regions = regions_of(sample.attributes)
    side = sample.image.shape[0]
    return (
        regions if regions.shape == (side, side) else cv2.resize(regions, (side, side), interpolation=cv2.INTER_NEAREST)
    )


def _spread(row: Mapping[str, Any]) -> bytes:
    return sha256(str(row["id"]).encode()).digest()


class Pictures:
    """The slices of one dataset version. `cache` is a local folder for stores that are not one."""

    def __init__(self, store: ObjectStore, version: str, size: int, cache: Path) -> None:
        self._store, self._size, self._cache = store, size, cache
        self._version = load_version(store, version)

    def holdout(self, limit: int) -> list[Sample]:
        """The first `limit` held-out catalogue pictures that carry their truth."""
        rows = (
            row
            for row in self._rows(self._version.of("holdout"))
            if row["mask"] and is_catalogue(row["attributes"]) and row["attributes"].get("regions")
        )
        return [to_sample(row, self._size) for row in islice(rows, limit)]

    def photographs(self, limit: int) -> list[Sample]:
        """Up to `limit` held-out pictures that are not the catalogue's and have a confident mask: the smallest hashes.

        A hash spreads the choice over all deliveries and keeps it the same from run to run.
        """
        held_out = self._rows(self._version.of("holdout"))
        rows = (row for row in held_out if row["mask"] and not is_catalogue(row["attributes"]))
        chosen = heapq.nsmallest(limit, rows, key=_spread)
        samples = [to_sample(row, self._size) for row in chosen]
        # A product that fills the crop leaves nothing to generate, an empty one nothing to keep.
        return [sample for sample in samples if 0.01 < sample.product.mean() < 0.9]

    def training(self, limit: int) -> list[Sample]:
        """Up to `limit` catalogue pictures that were trained on, chosen as `photographs` are; in the shards' order."""
        rows = self._rows(self._version.of("train"))
        known = enumerate(row for row in rows if row["mask"] and is_catalogue(row["attributes"]))
        chosen = heapq.nsmallest(limit, known, key=lambda one: _spread(one[1]))
        return [to_sample(row, self._size) for _, row in sorted(chosen, key=lambda one: one[0])]

    def any(self, limit: int) -> list[Sample]:
        """The first `limit` pictures with a mask, held-out ones before others."""
        slices = [*self._version.of("holdout"), *self._version.of("train")]
        return [to_sample(row, self._size) for row in islice((r for r in self._rows(slices) if r["mask"]), limit)]

    def _rows(self, slices: Iterable[Slice]) -> Iterator[dict[str, Any]]:
        return read_slices(self._store, slices, self._cache)
