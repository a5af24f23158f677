"""Uploaded bytes → the photograph and its mask, safely; and a mask for a photograph that came without one."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from deploy.studio.limits import Limits
from deploy.studio.refusal import Refusal, bad_picture
from evaluation.segmentation import segment
from infra import png, raster, webp
from infra.bad_image import BadImage
from infra.images import decode, decode_mask, probe, shrink

SEGMENTED = 512
"""Pixels of the longer side at which a product is looked for; the cut itself works on fewer."""
LEAST_ALPHA = 0.001
LONGEST = 16_000
"""Pixels of a side; WebP ends at 16,383."""


@dataclass(frozen=True)
class Mask:
    """`product` bool (H, W); where it is from (upload, sample, alpha, automatic), and how sure it is."""

    product: np.ndarray
    source: str
    confidence: float | None = None

    @property
    def share(self) -> float:
        """Of the picture."""
        return float(self.product.mean())


def read_photograph(data: bytes | None, limits: Limits) -> np.ndarray:
    """uint8 (H, W, 3), upright sRGB. Raises Refusal (413, 415, 422)."""
    if data is None:
        raise Refusal(422, "field", "There is no photograph.", "Give the file field 'photograph', or a sample's id.")
    try:
        return _of_sane_sides(decode(data, limits.pixels), "photograph")
    except BadImage as error:
        raise bad_picture(error, "photograph", limits.pixels) from None


def read_mask(data: bytes, limits: Limits) -> np.ndarray:
    """bool (H, W): alpha where the file has some, half white and more where not. Raises Refusal (413, 415, 422)."""
    try:
        return _of_sane_sides(decode_mask(data, limits.pixels), "mask")
    except BadImage as error:
        raise bad_picture(error, "mask", limits.pixels) from None


def _of_sane_sides(picture: np.ndarray, what: str) -> np.ndarray:
    """The picture (H, W, …). Raises Refusal (413) for a ribbon that no file format or screen would take back."""
    if max(picture.shape[:2]) > LONGEST:
        raise Refusal(413, "too many pixels", f"The {what} is more than {LONGEST:,} pixels long.", "Cut it shorter.")
    return picture


def fitted(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask that was drawn on a smaller or larger copy, at the photograph's size; one of another shape as it is."""
    tall, wide = mask.shape
    # A side of the copy is rounded, so that shapes may differ by a pixel of either.
    if abs(tall * width - wide * height) > max(tall, wide, height, width) or (tall, wide) == (height, width):
        return mask
    return np.asarray(cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR) >= 128)


def find_mask(data: bytes | None, photograph: np.ndarray, limits: Limits) -> Mask:
    """The product of a photograph that came as `data`: cut out by its alpha, or found by the embedded segmenter."""
    cut_out = alpha_of(data, limits) if data is not None else None
    if cut_out is not None and cut_out.shape == photograph.shape[:2] and LEAST_ALPHA < cut_out.mean() < 1:
        return Mask(cut_out, "alpha")
    small, confidence = segment(shrink(photograph, SEGMENTED))
    height, width = photograph.shape[:2]
    return Mask(fitted(small, height, width), "automatic", confidence)


def alpha_of(data: bytes, limits: Limits) -> np.ndarray | None:
    """bool (H, W) of an upright PNG or WebP with transparent pixels; None for any other picture."""
    try:
        kind, _, _ = probe(data)
        if kind not in ("png", "webp"):
            return None
        layout = png.walk(data) if kind == "png" else webp.walk(data)
        if layout.orientation != 1:
            return None
        picture = raster.load(layout.picture(data, keep_profile=False), kind, limits.pixels, set())
        opacity = raster.alpha(picture)
        return None if opacity is None else opacity >= 128
    except BadImage:
        return None


def grown(mask: np.ndarray) -> np.ndarray:
    """A mask and a rim of a hundredth of the picture: what is erased leaves no halo. An empty one stays empty."""
    if not mask.any():
        return mask
    reach = max(1, round(0.01 * max(mask.shape)))
    # By distance: a dilation's time goes with the square of its reach, which a long, thin picture makes huge.
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) <= reach)
