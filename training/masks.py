"""Holes to complete, drawn at picture size: boxes, strokes and outpainting frames. 1 = to generate."""

from __future__ import annotations

import cv2
import numpy as np

GREY = 0.0
"""What a hole is filled with before encoding, in [-1, 1]: the encoder must not see what is to be generated."""


def random_mask(rng: np.random.Generator, size: int) -> np.ndarray:
    """float32 (size, size) of 0 and 1; covers about 10 to 90 % of the picture."""
    kind = rng.choice(["boxes", "strokes", "frame"], p=[0.4, 0.3, 0.3])
    mask = {"boxes": _boxes, "strokes": _strokes, "frame": _frame}[str(kind)](rng, size)
    return mask.astype(np.float32)


def product_hole(product: np.ndarray) -> np.ndarray:
    """bool (H, W) product → float32 hole: everything but the product."""
    return 1.0 - product.astype(np.float32)


def punch(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) in [-1, 1] with its hole (H, W) greyed."""
    return image * (1.0 - hole[..., None]) + GREY * hole[..., None]


def to_cells(hole: np.ndarray, factor: int) -> np.ndarray:
    """(…, H, W) in [0, 1] → (…, H/factor, W/factor): the share of each latent cell that is to be generated."""
    *lead, height, width = hole.shape
    cells = hole.reshape(*lead, height // factor, factor, width // factor, factor)
    return cells.mean(axis=(-3, -1), dtype=np.float32)


def _boxes(rng: np.random.Generator, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 4)):
        height, width = rng.integers(size // 5, int(size * 0.7), size=2)
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        mask[top : top + height, left : left + width] = 1
    return mask


def _strokes(rng: np.random.Generator, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 4)):
        points = rng.integers(0, size, size=(rng.integers(2, 6), 1, 2)).astype(np.int32)
        cv2.polylines(mask, [points], False, 1, thickness=int(rng.integers(max(2, size // 12), max(3, size // 4))))
    return mask


def _frame(rng: np.random.Generator, size: int) -> np.ndarray:
    """Everything outside a kept window; a side may be kept up to the border."""
    mask = np.ones((size, size), np.uint8)
    margins = rng.integers(0, size // 2 - size // 12, size=4) * (rng.random(4) < 0.7)
    if not margins.any():
        margins[rng.integers(4)] = size // 4
    top, bottom, left, right = (int(m) for m in margins)
    mask[top : size - bottom, left : size - right] = 0
    return mask
