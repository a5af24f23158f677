"""Drops pictures that are too small to train on, or too long and thin to crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assets.curation.filters.base import DROP, KEEP, Judgement


@dataclass(frozen=True)
class SizeFilter:
    """The shorter side in pixels, and the longer over the shorter side. Score: the shorter side."""

    min_size: int
    max_aspect: float
    name: str = "size"
    version: str = "1"

    def judge(self, image: np.ndarray) -> Judgement:
        height, width = image.shape[:2]
        short, long = min(height, width), max(height, width)
        if short < self.min_size:
            reason = f"too small: {width} × {height}, the shorter side must have {self.min_size} pixels"
            return Judgement(self.name, self.version, DROP, short, reason)
        if long > self.max_aspect * short:
            reason = f"aspect ratio: {width} × {height} is longer than {self.max_aspect:g} : 1"
            return Judgement(self.name, self.version, DROP, short, reason)
        return Judgement(self.name, self.version, KEEP, short)
