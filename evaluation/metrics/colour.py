"""Which named colour a region has: the nearest of twelve to its median CIELAB away from the product."""

from __future__ import annotations

import cv2
import numpy as np

from evaluation.palette import NAMES, nearest_colours, rgb_to_lab

RING = 4
"""Pixels around the product that no background measurement looks at: soft edges, contact shadows."""

BORDER_SHARE = 0.08
"""Width of the picture's border ring as a share of its shorter side."""


def away_from(product: np.ndarray, pixels: int = RING) -> np.ndarray:
    """True farther than `pixels` (Euclidean) from the product; bool (H, W) → bool (H, W)."""
    if not product.any():
        return np.ones_like(product)
    distance = cv2.distanceTransform((~product).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance > pixels)


def median_lab(image: np.ndarray, where: np.ndarray) -> np.ndarray | None:
    """Channel-wise median CIELAB (3,) of uint8 (H, W, 3) over bool (H, W); None where that is empty."""
    pixels = image[where]
    return np.median(rgb_to_lab(pixels), axis=0) if len(pixels) else None


def named_colour(image: np.ndarray, where: np.ndarray) -> str | None:
    """The palette's name for a region's median colour; None for an empty region."""
    lab = median_lab(image, where)
    return None if lab is None else NAMES[int(nearest_colours(lab))]


def region_colour(image: np.ndarray, region: np.ndarray, product: np.ndarray) -> str | None:
    """Name of the colour of a region (bool (H, W): wall or floor) outside the ring around the product."""
    return named_colour(image, region & away_from(product))


def border_colour(image: np.ndarray, product: np.ndarray) -> str | None:
    """Name of the colour along the picture's border, for photographs whose wall and floor nobody has marked.

    None if the product and its ring cover the whole border.
    """
    return named_colour(image, border(product.shape) & away_from(product))


def border(shape: tuple[int, ...]) -> np.ndarray:
    """bool (H, W): the ring along the picture's edge, `BORDER_SHARE` wide."""
    width = max(1, round(BORDER_SHARE * min(shape)))
    out = np.ones(shape, bool)
    out[width:-width, width:-width] = False
    return out
