"""Whether the generated light is the one that the product was photographed in: its shading stays, all else is new.

A shadow on the wrong side of a lit product is what makes a picture look pasted. On the sample catalogue the light that
shaded the product is known, and so is where its shadow falls.
"""

from __future__ import annotations

import numpy as np

from evaluation.metrics.colour import away_from
from evaluation.palette import rgb_to_lab


def shadow_agreement(image: np.ndarray, lit: np.ndarray, shaded: np.ndarray) -> float:
    """How surely a pixel where the true shadow lies is darker than one of lit floor: in [0, 1], 0.5 is chance.

    The area under the ROC curve (Mann and Whitney 1947), which knows no threshold and no colour of the floor: a shadow
    as in truth scores 1, none 0.5, and one on the other side less. 0.5 where there is no floor or no shadow to see.

    Args:
        image: uint8 (H, W, 3), before compositing.
        lit, shaded: bool (H, W), the floor in light and in shadow as they truly are, without the product.
    """
    lightness = rgb_to_lab(image)[..., 0]
    bright, dark = lightness[lit], lightness[shaded]
    if not len(bright) or not len(dark):
        return 0.5
    ordered = np.sort(bright)
    below, up_to = (np.searchsorted(ordered, dark, side=side) for side in ("left", "right"))
    return float(1 - (below + up_to).mean() / (2 * len(bright)))


def light_fall(image: np.ndarray, wall: np.ndarray, product: np.ndarray) -> float:
    """How much brighter the wall gets from the picture's left edge to its right one, in L*; 0 without a wall to see.

    Slope of the median lightness per column: light from the right makes it positive.

    Args:
        image: uint8 (H, W, 3).
        wall: bool (H, W).
        product: bool (H, W).
    """
    where = wall & away_from(product)
    columns = np.flatnonzero(where.sum(axis=0) >= 4)
    if len(columns) < image.shape[1] // 4:
        return 0.0
    lightness = rgb_to_lab(image)[..., 0]
    medians = np.array([np.median(lightness[where[:, column], column]) for column in columns])
    return float(np.polyfit(columns / image.shape[1], medians, 1)[0])
