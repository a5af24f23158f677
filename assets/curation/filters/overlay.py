"""Decides whether lines of text were laid over a picture, or are part of what was photographed. Pure: lines in, a
reason out.

"Has text" is not "text overlay": print on a product is what the product looks like. What a program drew differs by
where it stands (exactly level at the frame's margin), by repetition (one text, tilted, all over the picture) and by its
words (what watermarks and offers say). Further from the rim colour helps: print shares the light and shade of its
ground, drawn text does not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

LETTERS = 3  # fewer are misread texture
_LEVEL = 2.0  # degrees: what a pixel's rounding leaves of an exact horizontal in a line of ten letters
_CORNER = (0.10, 0.07)  # of width and height: how close a credit or a date comes to two sides
_CORNER_WIDTH = 0.10  # of the width: shorter lines at the rim are signs in the scene
_BAND = 0.12  # of the height from the top or the foot: captions, subtitles, banners
_BAND_WIDTH = 0.30  # of the width
_TILTED = (8.0, 82.0)  # degrees: neither level nor upright; shelves repeat labels, but level
_TILES = 3
_ALIKE = 0.7  # of a text that two readings of it share
_SPREAD = 0.4  # of width and of height that a tiled watermark reaches over
_BIG = 0.25  # of the width: a watermark's words mean nothing in small print
_WORDS = re.compile(
    r"©|\(c\)\s|copyright|watermark|\bsample\b|\bpreview\b|\bproof\b|\bdo not copy\b|\bdemo\b|\bdraft\b|\bspecimen\b"
    r"|all rights reserved|shutterstock|getty ?images|\balamy\b|istock|depositphotos|dreamstime|adobe ?stock|123rf"
    r"|fotosearch|fotolia|bigstock|\bwww\.|https?:",
    re.I,
)
# A shop's sign says this too, but hardly ever level to a pixel and large at once.
_OFFER = re.compile(
    r"\bsale\b|\d ?% ?off|-\d\d ?%|[$€£] ?\d|free shipping|buy now|order now|best price|special offer", re.I
)
_OFFER_WIDTH = 0.20
_NAMES = 4  # letters: a name, a date, an address; three are a number in the scene
_DRAWN = 6.0  # levels of spread within drawn letters: compression alone
_SHADED = 24.0  # levels of spread around them: what drawn letters lie over changes, and they do not


@dataclass(frozen=True)
class Text:
    """One line that was read: its corners in pixels, (4, 2) clockwise from the top left, and what it says."""

    corners: np.ndarray
    words: str
    confidence: float

    @property
    def letters(self) -> int:
        return sum(letter.isalnum() for letter in self.words)

    @property
    def angle(self) -> float:
        """Degrees off the horizontal, −90 … 90."""
        x, y = (self.corners[1] - self.corners[0] + self.corners[2] - self.corners[3]) / 2
        turned = float(np.degrees(np.arctan2(y, x)))
        return (turned + 90) % 180 - 90

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom as shares of the picture."""
        (left, top), (right, bottom) = self.corners.min(axis=0), self.corners.max(axis=0)
        return left / width, top / height, right / width, bottom / height


def find_overlay(pixels: np.ndarray, texts: Sequence[Text]) -> str:
    """Why the lines are an overlay on the picture, uint8 (H, W, 3); "" where nothing says so."""
    height, width = pixels.shape[:2]
    for text in texts:
        left, top, right, bottom = text.box(width, height)
        if _WORDS.search(text.words) and right - left >= _BIG:
            return f"a watermark says {text.words!r}"
        if abs(text.angle) > _LEVEL:
            continue
        above, beside = min(top, 1 - bottom), min(left, 1 - right)
        if above <= _BAND and right - left >= _BAND_WIDTH and (above <= _CORNER[1] or _drawn(pixels, text)):
            return f"a line along the {'top' if top < 1 - bottom else 'foot'} says {text.words!r}"
        if above <= _CORNER[1] and beside <= _CORNER[0] and right - left >= _CORNER_WIDTH and text.letters >= _NAMES:
            return f"a mark in the corner says {text.words!r}"
        if _OFFER.search(text.words) and right - left >= _OFFER_WIDTH:
            return f"an offer says {text.words!r}"
    tiled = _tiled(texts, width, height)
    return f"{tiled!r} is repeated over the picture" if tiled else ""


def _tiled(texts: Sequence[Text], width: int, height: int) -> str:
    """The text that a tilted, tiled watermark repeats; "" where there is none."""
    for text in texts:
        if not _TILTED[0] <= abs(text.angle) <= _TILTED[1]:
            continue
        same = [other for other in texts if abs(other.angle - text.angle) <= 4 and _alike(text.words, other.words)]
        centres = np.array([other.corners.mean(axis=0) for other in same]) / (width, height)
        if len(same) >= _TILES and bool((np.ptp(centres, axis=0) >= _SPREAD).all()):
            return text.words
    return ""


def _alike(one: str, other: str) -> bool:
    """Whether both may be readings of one text; at the rim a part of it is left."""
    one, other = one.lower(), other.lower()
    return one in other or other in one or difflib.SequenceMatcher(None, one, other).ratio() >= _ALIKE


def _drawn(pixels: np.ndarray, text: Text) -> bool:
    """Whether letters of one colour lie over a ground of many."""
    left, top = np.maximum(text.corners.min(axis=0).astype(int), 0)
    right, bottom = text.corners.max(axis=0).astype(int) + 1
    patch = pixels[top:bottom, left:right]
    if min(patch.shape[:2]) < 6:
        return False
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)
    for level in np.sort(grey, axis=None)[[grey.size // 25, grey.size - grey.size // 25 - 1]]:
        letters = np.abs(grey.astype(np.int16) - int(level)) <= 12
        share = float(letters.mean())
        around = ~(cv2.dilate(letters.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)
        if not 0.06 <= share <= 0.5 or around.mean() < 0.15:
            continue
        # The stroke's inside: its rim is mixed with the ground.
        inside = cv2.erode(letters.astype(np.uint8), np.ones((2, 2), np.uint8)) > 0
        if (
            np.count_nonzero(inside) >= 20
            and patch[inside].std(axis=0).max() <= _DRAWN
            and grey[around].std() >= _SHADED
        ):
            return True
    return False
