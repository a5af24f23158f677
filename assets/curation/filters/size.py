"""Drops pictures that are too small to train on, or too long and thin to crop."""

from __future__ import annotations

from dataclasses import dataclass

from assets.curation.filters.base import DROP, KEEP, Judgement, Picture


@dataclass(frozen=True)
class SizeFilter:
    """The shorter side in pixels, and the longer over the shorter side. Score: the shorter side."""

    min_size: int
    max_aspect: float
    name: str = "size"
    version: str = "3"

    def judge(self, picture: Picture) -> Judgement:
        height, width = picture.pixels.shape[:2]
        short, long = min(height, width), max(height, width)
        detail = {"aspect": round(long / max(short, 1), 3)}
        if short < self.min_size:
            reason = f"too small: {width} × {height}, the shorter side must have {self.min_size} pixels"
            return Judgement(self.name, self.version, DROP, short, reason, detail)
        if long > self.max_aspect * short:
            reason = f"aspect ratio: {width} × {height} is longer than {self.max_aspect:g} : 1"
            return Judgement(self.name, self.version, DROP, short, reason, detail)
        return Judgement(self.name, self.version, KEEP, short, detail=detail)
