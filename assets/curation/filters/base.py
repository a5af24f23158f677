"""What every picture filter is: a name, a version, and a judgement with a score and a reason.

A filter is a pure function of one `Picture`. Grey planes that several filters look at are made once per picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np

KEEP, DROP, FIX, UNSURE, NOT_SCORED = "keep", "drop", "fix", "unsure", "not scored"
WORK = 256  # pixels of the longer side of `Picture.small`


@dataclass(frozen=True)
class Judgement:
    """One filter's opinion on one picture. `reason` is empty for a plain keep.

    `score` is the measure that the filter is named after; a filter with several measures gives the largest of
    measure / threshold, so that 1 is where it starts to drop. `detail` holds the measures themselves.
    """

    filter: str
    version: str
    decision: str  # keep | drop | fix | unsure | not scored
    score: float
    reason: str = ""
    detail: dict[str, Any] | None = None


@dataclass(frozen=True)
class Picture:
    """A decoded picture and what came with it."""

    image_id: str
    pixels: np.ndarray  # uint8 (H, W, 3), sRGB, upright
    captions: tuple[str, ...] = ()
    format: str = "jpeg"
    bytes: int = 0  # as stored
    fixes: tuple[str, ...] = ()  # what safe decoding changed

    @cached_property
    def grey(self) -> np.ndarray:
        """Luma, uint8 (H, W)."""
        return cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY)

    @cached_property
    def small(self) -> np.ndarray:
        """Luma with a longer side of at most `WORK` pixels, each the mean of what it covers; uint8 (h, w)."""
        return reduced(self.grey, WORK)

    @cached_property
    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Luma steps from each pixel to the next: across (H, W − 1) and down (H − 1, W)."""
        grey = self.grey
        if min(grey.shape) < 2:
            return np.zeros((0, 0), np.uint8), np.zeros((0, 0), np.uint8)
        return cv2.absdiff(grey[:, 1:], grey[:, :-1]), cv2.absdiff(grey[1:], grey[:-1])

    @cached_property
    def mean_steps(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean of `steps` between each column and the next, float (W − 1,), and each row and the next, (H − 1,)."""
        across, down = self.steps
        return means(across, 0), means(down, 1)


def means(plane: np.ndarray, axis: int) -> np.ndarray:
    """The mean of a uint8 plane along an axis: of each column (0) or of each row (1)."""
    if plane.size == 0:
        return np.zeros(plane.shape[1 - axis])
    return cv2.reduce(plane, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / plane.shape[axis]


def reduced(plane: np.ndarray, side: int) -> np.ndarray:
    """The plane with its longer side shrunk to `side` pixels by averaging; itself where it is no larger."""
    height, width = plane.shape[:2]
    if max(height, width) <= side:
        return plane
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)


class PictureFilter(Protocol):
    """Judges one picture. Built once per worker process; whatever is heavy is loaded with the first picture."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def judge(self, picture: Picture) -> Judgement:
        """The verdict on one picture; pure."""
