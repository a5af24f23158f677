"""Between a photograph's size and the model's: what the model gets to see, and its answer brought back. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Seen:
    """A part of a picture as the model sees it: whole, in the middle of a square, what is around it to be painted.

    `image` uint8 (S, S, 3); `kept` bool (S, S), False beyond `inner`, the part's own place in the square.
    """

    image: np.ndarray
    kept: np.ndarray
    inner: Box


def look(image: np.ndarray, keep: np.ndarray, part: Box, size: int, whole: float) -> Seen:
    """The `part` of `image` uint8 (H, W, 3) and `keep` bool (H, W) at the model's `size`.

    A pixel of the model counts as kept when at least the share `whole` of what it covers is.
    """
    inner = place(part.height, part.width, size)
    shown, kept = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
    shape = (inner.width, inner.height)
    how = cv2.INTER_AREA if max(part.height, part.width) >= size else cv2.INTER_CUBIC
    shown[inner.slices] = cv2.resize(image[part.slices], shape, interpolation=how)
    # OpenCV's mean over areas is rounded: 255 is wholly kept.
    share = cv2.resize(keep[part.slices].astype(np.uint8) * 255, shape, interpolation=cv2.INTER_AREA)
    kept[inner.slices] = share >= 255 * whole
    return Seen(shown, kept, inner)


def place(height: int, width: int, size: int) -> Box:
    """Where a picture of height × width lies in a square of `size`: as large as it can be, centred."""
    scale = size / max(height, width)
    tall, wide = (min(size, max(1, round(side * scale))) for side in (height, width))
    return Box((size - tall) // 2, (size - wide) // 2, tall, wide)


def around(hole: np.ndarray, least: int, context: float = 2.0) -> Box:
    """A square around the True of `hole` (H, W), `context` times as large and at least `least`, inside the picture.

    A small hole is painted at more than the whole picture's scale. Where the picture is narrower than the square, the
    part is as narrow. Raises ValueError where nothing is True.
    """
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    if not len(rows):
        raise ValueError("there is no hole")
    first, last = (int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1)
    side = max(least, round(context * max(last[0] - first[0], last[1] - first[1])))
    corner, extent = [], []
    for start, end, full in zip(first, last, hole.shape, strict=True):
        length = min(side, full)
        corner.append(min(max(0, (start + end - length) // 2), full - length))
        extent.append(length)
    return Box(corner[0], corner[1], extent[0], extent[1])


def bring_back(made: np.ndarray, seen: Seen, part: Box) -> np.ndarray:
    """The model's picture uint8 (S, S, 3) at the size of the `part`: uint8 (part.height, part.width, 3)."""
    inner = np.ascontiguousarray(made[seen.inner.slices])
    how = cv2.INTER_CUBIC if part.height >= inner.shape[0] else cv2.INTER_AREA
    return np.asarray(cv2.resize(inner, (part.width, part.height), interpolation=how))


def matched(made: np.ndarray, seen: Seen) -> np.ndarray:
    """`made` uint8 (S, S, 3), moved so that it meets what is kept: the difference there is spread over the hole.

    A model paints what it kept a little too dark or too warm, and the hole in the same way: without this, a seam shows.
    """
    if not seen.kept.any():
        return made
    away = (seen.image.astype(np.float32) - made) * seen.kept[..., None]
    moved = made + spread(away, seen.kept.astype(np.float32))
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8)


def spread(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values float32 (H, W, C), zero where `known` (H, W) is zero, made smooth over there: pull and push.

    Gortler et al. 1996, "The Lumigraph": averages of what is known go up a pyramid, and down to where nothing is.
    """
    height, width = known.shape
    if max(height, width) <= 2 or known.all():
        total = known.sum()
        mean = values.sum((0, 1)) / total if total else np.zeros(values.shape[2], np.float32)
    else:
        half = (max(1, width // 2), max(1, height // 2))
        weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
        less = cv2.resize(values, half, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-6)[..., None]
        some = (weight > 0).astype(np.float32)
        below = spread(less * some[..., None], some)
        mean = cv2.resize(below, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(known[..., None] > 0, values, mean).astype(np.float32)
