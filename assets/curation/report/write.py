"""Writes the page about a delivery and its thumbnails: `<output>/report/index.html`, `thumbs/` and `data_docs/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from assets.curation.drift import Comparison
from assets.curation.report.gather import Threshold, Wanted, gather
from assets.curation.report.page import render
from infra.images import BadImage, decode_mask, encode_jpeg
from infra.jobs.spec import Check
from infra.object_store import ObjectMissing, ObjectStore

if TYPE_CHECKING:
    from infra.catalog import Catalog

THUMB = 224
"""Longer side of a thumbnail in pixels: sharp at the 112 that a phone's screen of two pixels per point shows."""

Look = Callable[[str, str], np.ndarray | None]
"""(uri, image id) → the picture, or None where it is gone or no longer that image."""


@dataclass(frozen=True)
class WrittenReport:
    """`page`: the page's key; `shows`: which images each stored key shows, the page itself too (names, captions)."""

    page: str
    shows: Mapping[str, Sequence[str]]


def write_report(
    catalog: Catalog,
    store: ObjectStore,
    delivery: str,
    output: str,
    thresholds: Mapping[str, Sequence[Threshold]],
    *,
    look: Look,
    masks: str = "",
    checks: Sequence[Check] = (),
    drift: Comparison | None = None,
    data_docs: bytes | None = None,
) -> WrittenReport:
    """Writes the report in place of an earlier one below the same output; reads only the catalog, the store and `look`.

    Args:
        thresholds: the lines that each filter draws, in the order in which the filters run.
        look: the picture at a URI as uint8 (H, W, 3), None where there is no longer that image.
        masks: the segmenter whose masks count.
        data_docs: Great Expectations' page (`Validation.data_docs`).

    What the keys show is registered before anything is stored: a crash leaves no picture that nobody knows of.
    """
    wanted = Wanted()
    report, quoted = gather(catalog, delivery, thresholds, masks, checks, drift or Comparison((), ()), wanted)
    folder = f"{output}/report"
    thumbs = _thumbnails(store, look, wanted)
    shows = {f"{folder}/thumbs/{name}.jpg": [wanted.of[name][0]] for name in thumbs}
    # The page names files and quotes captions, of the pictures that it shows too.
    shows[f"{folder}/index.html"] = sorted(quoted | {image_id for image_id, _, _ in wanted.of.values()})
    catalog.add_shown(shows)
    store.delete_prefix(f"{folder}/")
    for name, data in thumbs.items():
        store.put(f"{folder}/thumbs/{name}.jpg", data)
    if data_docs is not None:
        store.put(f"{folder}/data_docs/index.html", data_docs)
    report = replace(report, thumbs=frozenset(thumbs), data_docs="data_docs/index.html" if data_docs else "")
    store.put(f"{folder}/index.html", render(report).encode())
    return WrittenReport(f"{folder}/index.html", shows)


def _thumbnails(store: ObjectStore, look: Look, wanted: Wanted) -> dict[str, bytes]:
    thumbs = {}
    for name, (image_id, uri, mask) in wanted.of.items():
        pixels = look(uri, image_id)
        if pixels is not None:
            small = thumbnail(pixels)
            thumbs[name] = encode_jpeg(_outlined(store, small, mask) if mask else small, quality=85)
    return thumbs


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """At most THUMB pixels on the longer side, uint8 (h, w, 3); smaller pictures stay as they are."""
    height, width = pixels.shape[:2]
    scale = THUMB / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def _outlined(store: ObjectStore, picture: np.ndarray, key: str) -> np.ndarray:
    """The picture with what is not the product greyed out, and a line around the product."""
    try:
        mask = decode_mask(store.get(key))
    except (ObjectMissing, BadImage):
        return picture
    size = (picture.shape[1], picture.shape[0])
    product = np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)) > 0
    shown = np.where(product[..., None], picture, (picture * 0.35 + 255 * 0.6).astype(np.uint8))
    outline, _ = cv2.findContours(product.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(cv2.drawContours(np.ascontiguousarray(shown), outline, -1, (230, 60, 160), 2))
