"""A halo or an edge that runs along the product in the composite: steps near its outline against steps farther away.

Only pairs of background pixels count. The product's own edge is a step in every picture, and says nothing.
"""

from __future__ import annotations

import cv2
import numpy as np

REACH = 3
"""Pixels from the product that the ring reaches."""

CONTROL = (5, 10)
"""Pixels from the product between which the control ring lies: background that no seam touches."""


def seam_gradient(composite: np.ndarray, product: np.ndarray) -> float:
    """Mean step between neighbours in the ring less that in the control ring, in levels of 255; about 0 is best.

    A photograph's is above 0 too, for contact shadows and soft outlines lie in the ring: see `seam_excess`.
    0 where a ring is empty, that is, the product fills the picture or there is none.

    Args:
        composite: uint8 (H, W, 3), the generated background behind the original's product.
        product: bool (H, W).
    """
    if composite.shape[:2] != product.shape:
        raise ValueError(f"shapes differ: {composite.shape}, mask {product.shape}")
    if not product.any():
        return 0.0
    distance = cv2.distanceTransform((~product).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring = (distance > 0) & (distance <= REACH)
    control = (distance > CONTROL[0]) & (distance <= CONTROL[1])
    near, far = _mean_step(composite, ring), _mean_step(composite, control)
    return 0.0 if near is None or far is None else near - far


def seam_excess(composite: np.ndarray, original: np.ndarray, product: np.ndarray) -> float:
    """What the composite's `seam_gradient` has above the original photograph's own, at least 0: 0 is no seam.

    One-sided, for a background that is smoother around the product than the photograph's shows no seam.
    """
    return max(0.0, seam_gradient(composite, product) - seam_gradient(original, product))


def _mean_step(image: np.ndarray, where: np.ndarray) -> float | None:
    """Mean |difference| over pairs of neighbours that both lie in bool (H, W), and channels; None without a pair."""
    total, pairs = 0.0, 0
    for axis in (0, 1):
        both = where[1:] & where[:-1] if axis == 0 else where[:, 1:] & where[:, :-1]
        step = np.abs(np.diff(image.astype(np.int16), axis=axis)).mean(axis=2)
        total, pairs = total + float(step[both].sum()), pairs + int(both.sum())
    return total / pairs if pairs else None
