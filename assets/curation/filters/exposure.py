"""Drops pictures too dark or too light to see anything, burnt out, or with nothing in them.

A black or white backdrop is no fault: every test asks whether anything at all stands out of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from assets.curation.filters.base import DROP, KEEP, Judgement, Picture, reduced
from assets.curation.filters.settings import ExposureSection

_TAIL = 0.01  # of the pixels: fewer are specks, hot pixels and the ringing of a compressed edge
_CLIPPED = 250  # grey level from which all detail is gone in a JPEG
_BACKDROP = 0.9  # of the frame's outermost pixels are clipped: a white backdrop, not a burnt-out scene


@dataclass(frozen=True)
class ExposureFilter:
    """Score: the worst of measure / threshold; 1 is where it starts to drop."""

    section: ExposureSection
    name: str = "exposure"
    version: str = "1"

    def judge(self, picture: Picture) -> Judgement:
        section, small = self.section, picture.small
        darkest, lightest = _tails(small)
        burnt = clipped_share(small)
        contrast = strongest_contrast(small)
        if contrast < section.min_contrast:  # a drawing of one brightness has its edges in colour
            contrast = strongest_contrast(picture.pixels)
        detail = {"darkest": darkest, "lightest": lightest, "clipped": round(burnt, 3), "contrast": contrast}
        found = [
            (section.dark_level / max(lightest, 1), f"too dark: 99 % of it is below grey level {lightest + 1}"),
            (
                (darkest + 1) / (section.light_level + 1),
                f"too light: 99 % of it is above grey level {darkest - 1}",
            ),
            (burnt / section.max_clipped, f"burnt out: {burnt:.0%} of it is clipped, and not as a plain backdrop"),
            (
                section.min_contrast / max(contrast, 1),
                f"nothing in it: no contrast of more than {contrast} levels",
            ),
        ]
        score, reason = max(found)
        score = round(score, 4)
        if score < 1:
            return Judgement(self.name, self.version, KEEP, score, "", detail)
        return Judgement(self.name, self.version, DROP, score, reason, detail)


def _tails(plane: np.ndarray) -> tuple[int, int]:
    """The grey levels that 1 % of the pixels lie below, and above."""
    shares = np.cumsum(cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel()) / plane.size
    return int(np.searchsorted(shares, _TAIL)), int(np.searchsorted(shares, 1 - _TAIL))


def clipped_share(plane: np.ndarray) -> float:
    """Share of clipped pixels of a luma plane; 0 where the frame's outermost pixels show that they are a white
    backdrop."""
    clipped = plane >= _CLIPPED
    rim = np.concatenate([clipped[0], clipped[-1], clipped[:, 0], clipped[:, -1]])
    if rim.mean() >= _BACKDROP:
        return 0.0
    return float(np.count_nonzero(clipped) / clipped.size)


def strongest_contrast(plane: np.ndarray) -> int:
    """Levels between neighbouring areas of 1/32 of the longer side, in the place (and channel) where it is largest.

    A plain colour, a smooth gradient and a faint haze of noise have next to none, whatever their overall range.
    """
    areas = reduced(plane, 32)
    window = np.ones((3, 3), np.uint8)
    return int(cv2.subtract(cv2.dilate(areas, window), cv2.erode(areas, window)).max())
