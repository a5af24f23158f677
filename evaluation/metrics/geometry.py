"""Where the floor meets the wall, and on which side of the product the shadow falls."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.colour import away_from
from evaluation.palette import rgb_to_lab

FLOOR_LINE_TOLERANCE = 0.06
"""Fraction of the picture's height; the line's quality bar."""

MIN_CONTRAST = 5.0
"""ΔE between the parts above and below, under which a picture has no floor line."""

_MARGIN = 0.08  # a line closer to the upper or lower edge than this is not looked for
_REFINE = 3  # rows on either side of the split that place it between two pixels
_SHADE = 2.0  # L* below the floor's median that grain and light falloff explain


def floor_line(image: np.ndarray, product: np.ndarray) -> float | None:
    """Height of the floor line as a fraction of the picture from its top; None where there is none.

    The rows' median colours (away from the product, so shadows and specks do not count) are cut into an upper
    and a lower part with the least variance inside both; the cut is then placed by its local blend.

    Args:
        image: uint8 (H, W, 3).
        product: bool (H, W).
    """
    height = image.shape[0]
    rows, profile = _row_profile(rgb_to_lab(image), away_from(product))  # (R,), (R, 3)
    if len(rows) < 4:
        return None
    cuts = np.arange(1, len(rows))
    total, squares = profile.cumsum(axis=0), (profile**2).cumsum(axis=0)
    count = cuts[:, None].astype(np.float64)
    upper = squares[cuts - 1] - total[cuts - 1] ** 2 / count
    below, rest = total[-1] - total[cuts - 1], len(rows) - count
    lower = squares[-1] - squares[cuts - 1] - below**2 / rest
    cost = (upper + lower).sum(axis=1)  # (R-1,)
    allowed = (rows[cuts] >= _MARGIN * height) & (rows[cuts] <= (1 - _MARGIN) * height)
    if not allowed.any():
        return None
    cut = int(cuts[np.argmin(np.where(allowed, cost, np.inf))])
    return _between_rows(rows, profile, cut, height)


def _row_profile(lab: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with at least a sixth of their pixels free, and their median colours, float64 (R, 3)."""
    rows = np.flatnonzero(free.sum(axis=1) * 6 >= free.shape[1])
    medians = [np.median(lab[row][free[row]], axis=0) for row in rows]
    return rows, np.array(medians, np.float64).reshape(-1, 3)


def _between_rows(rows: np.ndarray, profile: np.ndarray, cut: int, height: int) -> float | None:
    """The cut's position to a fraction of a row, from how much of each part the rows around it show."""
    above, below = np.median(profile[:cut], axis=0), np.median(profile[cut:], axis=0)
    step = below - above
    contrast = float(np.sqrt((step**2).sum()))
    if contrast < MIN_CONTRAST:
        return None
    start, stop = max(cut - _REFINE, 0), min(cut + _REFINE, len(rows))
    share = np.clip((profile[start:stop] - above) @ step / contrast**2, 0, 1)  # 0 upper part, 1 lower part
    return float(rows[start] + (1 - share).sum()) / height


def shadow_balance(image: np.ndarray, floor: np.ndarray, product: np.ndarray) -> float:
    """How much darker the floor right of the product is than left of it, in mean L* below the floor's median.

    Positive: the shadow falls to the right. 0 where a side has no floor to look at.

    Args:
        image: uint8 (H, W, 3).
        floor: bool (H, W), the true floor with its shadow.
        product: bool (H, W).
    """
    where = floor & away_from(product)
    if not where.any() or not product.any():
        return 0.0
    lightness = rgb_to_lab(image)[..., 0]
    darkness = np.clip(np.median(lightness[where]) - lightness - _SHADE, 0, None)
    columns = np.flatnonzero(product.any(axis=0))
    centre = (columns[0] + columns[-1] + 1) / 2
    right = np.arange(image.shape[1])[None, :] + 0.5 > centre
    sides = [where & ~right, where & right]
    if not all(side.any() for side in sides):
        return 0.0
    left_dark, right_dark = (float(darkness[side].mean()) for side in sides)
    return right_dark - left_dark


def shadow_side(image: np.ndarray, floor: np.ndarray, product: np.ndarray) -> str | None:
    """'left' or 'right': where the product's shadow falls; None if neither side is darker."""
    balance = shadow_balance(image, floor, product)
    return None if balance == 0 else "right" if balance > 0 else "left"
