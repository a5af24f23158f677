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
_LEAST_HALF = 96  # pixels of the shorter side that `Picture.half` keeps
_STRIPS = 4


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
    def half(self) -> np.ndarray:
        """The picture at half its size where it is a large one, each pixel the mean of 2 × 2; itself otherwise."""
        height, width = (side // 2 for side in self.pixels.shape[:2])
        if max(height, width) < WORK or min(height, width) < _LEAST_HALF:
            return self.pixels
        return cv2.resize(self.pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)

    @cached_property
    def small(self) -> np.ndarray:
        """Luma with a longer side of at most `WORK` pixels, each the mean of what it covers; uint8 (h, w)."""
        return reduced(cv2.cvtColor(self.half, cv2.COLOR_RGB2GRAY), WORK)

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

    @cached_property
    def grid_steps(self) -> tuple[np.ndarray, np.ndarray]:
        """`mean_steps` of a part of the picture, every fourth row and four strips: enough for what is regular."""
        if min(self.pixels.shape[:2]) < 4 * _STRIPS:
            return self.mean_steps
        rows = cv2.cvtColor(self.pixels[::4], cv2.COLOR_RGB2GRAY)
        width = self.pixels.shape[1] // (2 * _STRIPS)
        down = []
        for k in range(_STRIPS):
            strip = cv2.cvtColor(self.pixels[:, 2 * k * width : (2 * k + 1) * width], cv2.COLOR_RGB2GRAY)
            down.append(means(cv2.absdiff(strip[1:], strip[:-1]), 1))
        return means(cv2.absdiff(rows[:, 1:], rows[:, :-1]), 0), np.mean(down, axis=0)


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
