"""How well a picture goes with its caption, as a model of pictures and texts sees it."""

from __future__ import annotations

import numpy as np

_SCALE = 2.5  # brings most photographs' scores to about 0 … 1; Hessel et al.'s w


def clip_score(pictures: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """CLIPScore per pair, float64 (N,): 2.5 · max(cos, 0) (Hessel et al. 2021, eq. 1).

    Args:
        pictures, captions: float (N, D) embeddings of unit length, row by row of one pair.

    Raises:
        ValueError: embeddings that do not pair.
    """
    if pictures.shape != captions.shape or pictures.ndim != 2:
        raise ValueError(f"embeddings do not pair: {pictures.shape} and {captions.shape}")
    return _SCALE * np.maximum((pictures.astype(np.float64) * captions).sum(axis=1), 0)
