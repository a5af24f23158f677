"""Holes to complete, drawn at picture size: boxes, strokes, outpainting frames, products. 1 = to generate."""

from __future__ import annotations

import cv2
import numpy as np

GREY = 0.0
"""What a hole is filled with before encoding, in [-1, 1]: the encoder must not see what is to be generated."""


def random_mask(rng: np.random.Generator, height: int, width: int | None = None) -> np.ndarray:
    """float32 (height, width) of 0 and 1, square without a width; covers about 10 to 90 % of the picture."""
    shape = (height, height if width is None else width)
    kind = rng.choice(["boxes", "strokes", "frame"], p=[0.4, 0.3, 0.3])
    mask = {"boxes": _boxes, "strokes": _strokes, "frame": _frame}[str(kind)](rng, *shape)
    return mask.astype(np.float32)


def product_hole(product: np.ndarray) -> np.ndarray:
    """bool (H, W) product → float32 hole: everything but the product (an inverse-subject mask)."""
    return 1.0 - product.astype(np.float32)


def jittered_hole(rng: np.random.Generator, product: np.ndarray, reach: float) -> np.ndarray:
    """bool (H, W) product → float32 hole that keeps the product and an uneven rim of 0 to `reach` pixels around it.

    Never less than the product is kept: a hole that cuts it, as a mask drawn too tightly does, shows the model products
    that go on beyond the mask, and it learns to grow them. A rim shows it that they end; its uneven width, that
    the mask's outline says nothing about theirs.
    """
    height, width = product.shape
    away = cv2.distanceTransform((~product).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)  # 0 on the product
    rim = rng.uniform(0, reach) * rng.random((4, 4), dtype=np.float32)
    return (away > cv2.resize(rim, (width, height), interpolation=cv2.INTER_LINEAR)).astype(np.float32)


def punch(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) in [-1, 1] with its hole (H, W) greyed."""
    return image * (1.0 - hole[..., None]) + GREY * hole[..., None]


def to_cells(hole: np.ndarray, factor: int) -> np.ndarray:
    """(…, H, W) in [0, 1] → (…, H/factor, W/factor): the share of each latent cell that is to be generated."""
    *lead, height, width = hole.shape
    cells = hole.reshape(*lead, height // factor, factor, width // factor, factor)
    return cells.mean(axis=(-3, -1), dtype=np.float32)


def _boxes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        tall, wide = rng.integers([height // 5, width // 5], [int(height * 0.7), int(width * 0.7)])
        top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        mask[top : top + tall, left : left + wide] = 1
    return mask


def _strokes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    size = min(height, width)
    for _ in range(rng.integers(1, 4)):
        points = rng.integers(0, [width, height], size=(rng.integers(2, 6), 1, 2)).astype(np.int32)
        cv2.polylines(mask, [points], False, 1, thickness=int(rng.integers(max(2, size // 12), max(3, size // 4))))
    return mask


def _frame(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Everything outside a kept window; a side may be kept up to the border."""
    mask = np.ones((height, width), np.uint8)
    sides = np.array([height, height, width, width])
    margins = rng.integers(0, sides // 2 - sides // 12) * (rng.random(4) < 0.7)
    if not margins.any():
        side = rng.integers(4)
        margins[side] = sides[side] // 4
    top, bottom, left, right = (int(m) for m in margins)
    mask[top : height - bottom, left : width - right] = 0
    return mask
