"""A product mask for a photograph that came without one, and how far to trust it.

The embedded segmenter is GrabCut (Rother et al. 2004) on a small copy, run from two priors that fail differently: a
central ellipse, and the colours that the border of the picture does not have. A mask is good where both agree and it
looks like one product: apart from the border, in one piece, of other colours than its surroundings, its outline on
edges. The confidence says how much so; masks below a threshold are not used.
"""

from __future__ import annotations

import cv2
import numpy as np

VERSION = "grabcut-1"
_SIDE = 128  # pixels of the longer side at which the cut is made
_ROUNDS = 3
_FRAME = 0.02  # of the shorter side: surely not product
# Each sign of a good mask: the value that makes it worthless, the value beyond which it cannot be better.
_SPAN_STABLE = (0.5, 1.0)
_SPAN_SEPARATE = (0.25, 0.85)
_SPAN_SOLID = (0.45, 0.95)
_SPAN_EDGE = (0.7, 3.0)
_SPAN_BORDER = (0.30, 0.0)
_AREA = (0.02, 0.06, 0.60, 0.80)  # of the picture: impossible, fine, fine, impossible


def segment(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The product in uint8 (H, W, 3): (mask bool (H, W), confidence in [0, 1]). Deterministic."""
    rows, columns = _without_bars(image)
    mask = np.zeros(image.shape[:2], bool)
    mask[rows, columns], confidence = _segment(image[rows, columns])
    return mask, confidence


def _without_bars(image: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the picture between plain bars, where it has them on two opposite sides and only there.

    A packshot on plain paper is plain on all four sides and stays whole.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    height, width = grey.shape
    top, bottom = _plain_run(grey), _plain_run(grey[::-1])
    left, right = _plain_run(grey.T), _plain_run(grey.T[::-1])
    if min(left, right) >= 0.03 * width and top == bottom == 0 and left + right < 0.7 * width:
        return slice(None), slice(left, width - right)
    if min(top, bottom) >= 0.03 * height and left == right == 0 and top + bottom < 0.7 * height:
        return slice(top, height - bottom), slice(None)
    return slice(None), slice(None)


def _plain_run(grey: np.ndarray) -> int:
    """How many rows from the first on are of one level, the same for all of them."""
    plain = (grey.std(axis=1) < 3) & (np.abs(grey.mean(axis=1) - grey[0].mean()) < 3)
    return len(plain) if plain.all() else int(np.argmin(plain))


def _segment(image: np.ndarray) -> tuple[np.ndarray, float]:
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    small = cv2.resize(
        image, (max(8, round(width * scale)), max(8, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    smooth = cv2.bilateralFilter(small, 5, 30, 3)
    first = _clean(_cut(smooth, _ellipse_prior(smooth)))
    second = _clean(_cut(smooth, _border_prior(smooth)))
    confidence, mask = max(
        ((_confidence(small, mask, other), mask) for mask, other in ((first, second), (second, first))),
        key=lambda pair: pair[0],
    )
    full = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    return full, confidence


def _ellipse_prior(image: np.ndarray) -> np.ndarray:
    """GrabCut labels: a central ellipse is probably product, a thin frame is surely not."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    inside = ((x - width / 2) / (0.38 * width)) ** 2 + ((y - height / 2) / (0.38 * height)) ** 2 <= 1
    return _framed(np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD))


def _border_prior(image: np.ndarray) -> np.ndarray:
    """GrabCut labels: probably product where the colour is far from the border's colours, more so in the centre."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    height, width = lab.shape[:2]
    depth = max(2, round(0.06 * min(height, width)))
    frame = np.ones((height, width), bool)
    frame[depth:-depth, depth:-depth] = False
    border = lab[frame]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 1.0)
    cv2.setRNGSeed(0)
    _, _, centres = cv2.kmeans(border, min(4, len(border)), None, criteria, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    distance = np.sqrt(((lab[:, :, None, :] - centres[None, None]) ** 2).sum(-1)).min(-1)  # (h, w)
    y, x = np.mgrid[0:height, 0:width]
    centre = np.exp(-(((x - width / 2) / (0.45 * width)) ** 2) - ((y - height / 2) / (0.45 * height)) ** 2)
    score = cv2.GaussianBlur(distance * centre.astype(np.float32), (0, 0), 2.0)
    scaled = np.clip(score / max(float(score.max()), 1e-6) * 255, 0, 255).astype(np.uint8)
    _, found = cv2.threshold(scaled, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return _framed(np.where(found > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD))


def _framed(labels: np.ndarray) -> np.ndarray:
    labels = labels.astype(np.uint8)
    edge = max(1, round(_FRAME * min(labels.shape)))
    for strip in (labels[:edge], labels[-edge:], labels[:, :edge], labels[:, -edge:]):
        strip[:] = cv2.GC_BGD
    return labels


def _cut(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """GrabCut from `labels` → bool (h, w)."""
    if not np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
        return np.zeros(labels.shape, bool)
    labels = labels.copy()
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    except cv2.error:  # too few colours for a mixture: a flat picture has no product
        return np.zeros(labels.shape, bool)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _clean(mask: np.ndarray) -> np.ndarray:
    """The main piece (and others at least a fifth of it), smooth and without holes."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    if count <= 1:
        return np.zeros(mask.shape, bool)
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = np.isin(labels, 1 + np.flatnonzero(areas >= 0.2 * areas.max())).astype(np.uint8)
    outlines, hierarchy = cv2.findContours(kept, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    limit = 0.01 * areas.max()
    for outline, links in zip(outlines, hierarchy[0], strict=True):
        if links[3] >= 0 and cv2.contourArea(outline) <= limit:  # small holes are noise, a handle's hole is not
            cv2.drawContours(kept, [outline], -1, 1, cv2.FILLED)
    return cv2.morphologyEx(kept, cv2.MORPH_CLOSE, kernel).astype(bool)


def _confidence(image: np.ndarray, mask: np.ndarray, other: np.ndarray) -> float:
    """How much like one well-cut product the mask looks, in [0, 1]: the geometric mean of six signs."""
    area = float(mask.mean())
    if area <= _AREA[0] or area >= _AREA[3]:
        return 0.0
    union = float((mask | other).sum())
    signs = (
        _ramp(float((mask & other).sum()) / union, *_SPAN_STABLE),
        min(_ramp(area, _AREA[0], _AREA[1]), _ramp(area, _AREA[3], _AREA[2])),
        _ramp(_border_share(mask), *_SPAN_BORDER),
        _ramp(_separation(image, mask), *_SPAN_SEPARATE),
        _ramp(_solidity(mask), *_SPAN_SOLID),
        _ramp(_edge_support(image, mask), *_SPAN_EDGE),
    )
    return float(np.prod(signs) ** (1 / len(signs)))


def _ramp(value: float, zero: float, one: float) -> float:
    """0 at `zero`, 1 at `one`, linear between."""
    return float(np.clip((value - zero) / (one - zero), 0, 1))


def _border_share(mask: np.ndarray) -> float:
    """Share of the worst side of the picture, just inside the frame, that the mask covers."""
    edge = max(1, round(_FRAME * min(mask.shape)))
    inner = mask[edge:-edge, edge:-edge]
    return max(float(side.mean()) for side in (inner[0], inner[-1], inner[:, 0], inner[:, -1]))


def _separation(image: np.ndarray, mask: np.ndarray) -> float:
    """Bhattacharyya distance (0 alike … 1 disjoint) between the colours inside and in a band around the mask."""
    reach = max(3, round(0.12 * max(mask.shape)))
    near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).astype(bool) & ~mask
    if not near.any():
        return 0.0
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)

    def histogram(where: np.ndarray) -> np.ndarray:
        found = cv2.calcHist([lab], [0, 1, 2], where.astype(np.uint8), [8, 12, 12], [0, 256] * 3)
        return cv2.normalize(found, found, 1.0, 0.0, cv2.NORM_L1)

    return float(cv2.compareHist(histogram(mask), histogram(near), cv2.HISTCMP_BHATTACHARYYA))


def _solidity(mask: np.ndarray) -> float:
    """Area over the area of the convex hull of the whole mask."""
    points = cv2.findNonZero(mask.astype(np.uint8))
    hull = float(cv2.contourArea(cv2.convexHull(points)))
    return min(1.0, float(mask.sum()) / max(hull, 1.0))


def _edge_support(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean gradient on the mask's outline over the mean gradient outside the mask."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (3, 3), 0).astype(np.float32)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    gradient = cv2.dilate(gradient, np.ones((3, 3), np.uint8))
    outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
    return float(gradient[outline].mean() / max(float(gradient[~mask].mean()), 4.0))
