"""Subject similarity: how much a generated product looks like the one on the photographs, in colour and in outline.

Made for the sample catalogue, whose products have one shape and one colour. It needs no weights and says nothing of
texture or text; where a feature extractor is at hand, its cosine similarity takes this one's place.
"""

from __future__ import annotations

import cv2
import numpy as np

_BINS = (8, 12, 12)  # of L*, a*, b*
_SOFTEN = np.array((1, 4, 6, 4, 1)) / 16
_OUTLINE = 32  # pixels of the square that an outline is compared in


def subject_similarity(
    generated: np.ndarray, found: np.ndarray, photographs: np.ndarray, products: np.ndarray
) -> np.ndarray:
    """Per generated picture, float64 (N,) in [0, 1]: its mean over the photographs; 0 where no product was found.

    Half is the overlap of the products' colours (1 less the Bhattacharyya distance of CIELAB histograms), half that of
    their outlines (intersection over union, each scaled to its bounding box's longer side).

    Args:
        generated: uint8 (N, H, W, 3), before compositing.
        found: bool (N, H, W), the product in them.
        photographs: uint8 (M, H, W, 3).
        products: bool (M, H, W), the subject in them; none is empty.

    Raises:
        ValueError: pictures and masks that do not fit, or a photograph without a subject.
    """
    if generated.shape[:3] != found.shape or photographs.shape[:3] != products.shape or not len(photographs):
        raise ValueError(
            f"pictures and masks do not fit: {generated.shape} {found.shape}, {photographs.shape} {products.shape}"
        )
    if not products.any(axis=(1, 2)).all():
        raise ValueError("a photograph without a subject has nothing to be like")
    known = [(_colours(image, mask), _outline(mask)) for image, mask in zip(photographs, products, strict=True)]
    return np.array([_similarity(image, mask, known) for image, mask in zip(generated, found, strict=True)])


def _similarity(image: np.ndarray, mask: np.ndarray, known: list[tuple[np.ndarray, np.ndarray]]) -> float:
    if not mask.any():
        return 0.0
    colours, outline = _colours(image, mask), _outline(mask)
    scores = []
    for their_colours, their_outline in known:
        apart = cv2.compareHist(colours, their_colours, cv2.HISTCMP_BHATTACHARYYA)
        overlap = (outline & their_outline).sum() / (outline | their_outline).sum()
        scores.append(0.5 * (1 - apart) + 0.5 * overlap)
    return float(np.mean(scores))


def _colours(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Softened CIELAB histogram over the mask, float32 `_BINS`, summing to 1."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], mask.astype(np.uint8), list(_BINS), [0, 256] * 3)
    for axis in range(3):  # a colour near the edge of a bin belongs to its neighbours too
        counts = np.apply_along_axis(lambda line: np.convolve(line, _SOFTEN, mode="same"), axis, counts)
    return (counts / counts.sum()).astype(np.float32)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The mask's bounding box in the middle of a square, bool (`_OUTLINE`, `_OUTLINE`)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape
    side = max(height, width)
    square = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = box
    return cv2.resize(square, (_OUTLINE, _OUTLINE), interpolation=cv2.INTER_AREA) >= 0.5
