"""Model scores behind one interface: NSFW, text–image alignment, aesthetics; from an ONNX file, open_clip or an
endpoint.

No weights come with the line. A filter whose section names no model says `not scored`, never `kept`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np

from assets.curation.filters.base import DROP, KEEP, NOT_SCORED, Judgement, Picture
from assets.curation.filters.settings import ScorerSection

DEFAULT_SIZE = 224  # pixels, where a model leaves its input size open: CLIP's


class Scorer(Protocol):
    """A model that gives a picture (and its captions) a number."""

    def score(self, picture: Picture) -> float: ...


@dataclass(frozen=True)
class ScorerFilter:
    """Drops what a model scores on the wrong side of a threshold. Score: the model's; 0 where it was not scored."""

    name: str
    section: ScorerSection
    drops_above: bool  # NSFW: a high score is bad; alignment, aesthetics: a low one
    needs_caption: bool = False
    version: str = "1"

    def judge(self, picture: Picture) -> Judgement:
        if not self.section.model:
            return self._unscored("no model is configured")
        if self.needs_caption and not any(caption.strip() for caption in picture.captions):
            return self._unscored("there is no caption to compare with")
        score = self._scorer.score(picture)
        bad = score > self.section.threshold if self.drops_above else score < self.section.threshold
        if not bad:
            return Judgement(self.name, self._version, KEEP, score)
        side = "above" if self.drops_above else "below"
        reason = f"{self.name}: {score:.3f} is {side} {self.section.threshold:g}"
        return Judgement(self.name, self._version, DROP, score, reason)

    def _unscored(self, why: str) -> Judgement:
        return Judgement(self.name, self._version, NOT_SCORED, 0.0, f"not scored: {why}")

    @cached_property
    def _scorer(self) -> Scorer:
        """Loaded with the first picture, once per worker."""
        return load_scorer(self.section)

    @cached_property
    def _version(self) -> str:
        """Another model is another version of the filter."""
        return f"{self.version} {self.section.model}".strip()


def load_scorer(section: ScorerSection) -> Scorer:
    """The section's one model. Raises BackdropError for weights that are not there or do not fit."""
    if section.onnx is not None:
        from assets.curation.filters.onnx_scorer import OnnxScorer

        return OnnxScorer(section)
    if section.open_clip is not None:
        from assets.curation.filters.open_clip_scorer import OpenClipScorer

        return OpenClipScorer(section.open_clip)
    from assets.curation.filters.endpoint_scorer import EndpointScorer

    return EndpointScorer(section)


def model_input(pixels: np.ndarray, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """CLIP's preprocessing: shorter side to `size`, the centre cut out, normalised; float32 (1, 3, size, size)."""
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(pixels, shape, interpolation=method)
    top, left = (shape[1] - size) // 2, (shape[0] - size) // 2
    square = scaled[top : top + size, left : left + size].astype(np.float32) / 255
    normal = (square - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


def chosen_output(values: np.ndarray, section: ScorerSection) -> float:
    """The one number that is the score. Raises BackdropError where the model gives fewer, or none that is a number."""
    from infra.errors import BackdropError

    flat = np.asarray(values, dtype=np.float64).ravel()
    if section.output >= flat.size:
        raise BackdropError(f"{section.model} gives {flat.size} numbers, `output` asks for number {section.output}")
    if section.softmax:
        flat = np.exp(flat - flat.max())
        flat /= flat.sum()
    score = float(flat[section.output])
    if not np.isfinite(score):
        raise BackdropError(f"{section.model} gave {score} as a score", "check the model's inputs: mean, std and size")
    return score
