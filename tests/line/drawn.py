"""Photographs that are not from the catalogue, and have no mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, seed: int) -> None:
    """A soft blob in front of a gradient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:240, 0:320] / 240
    background = np.stack([0.3 + 0.5 * y, 0.4 + 0.2 * x, np.full_like(x, 0.6)], -1)
    blob = ((x - 0.66) ** 2 + (y - 0.5) ** 2 < 0.06)[..., None]
    pixels = np.where(blob, rng.uniform(0, 0.4, 3), background) + rng.normal(0, 0.02, background.shape)
    Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(path)
