"""A sample's columns: pictures and masks at the size that a stage learns from, and the shapes of a latent slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from infra import images
from infra.errors import BackdropError
from infra.shards import Slice


def train_slices(version_slices: Sequence[Slice]) -> list[Slice]:
    """The slices to learn from. Raises BackdropError when there is none."""
    found = [piece for piece in version_slices if piece.split == "train" and piece.samples]
    if not found:
        raise BackdropError(
            "The dataset version holds no training image.", "Add pictures (IMAGES=…) or keep the sample catalogue."
        )
    return found


def latent_columns(
    channels: int, height: int, width: int, masks: int, captions: int, length: int, text_width: int
) -> dict[str, str]:
    """Columns of a latent slice of height × width cells: shapes are fixed per slice, so that reading one is a copy."""
    return {
        "id": "str",
        "latent": f"ndarray:float16:{channels},{height},{width}",
        "masked": f"ndarray:float16:{masks},{channels},{height},{width}",
        "masks": f"ndarray:uint8:{masks},{height},{width}",  # 255 = to generate
        "text": f"ndarray:float16:{captions},{length},{text_width}",
        "text_length": f"ndarray:uint8:{captions}",
        "has_product": "int",
    }


def picture_size(bucket: str, image_size: int, unit: int) -> tuple[int, int]:
    """(height, width) in pixels for the pictures of an aspect-ratio bucket such as "3x4" (width by height).

    Both are multiples of `unit`, the pixels of a token's side. A picture has no more tokens than the square of
    `image_size` has, and all but a row or column of them, so that every batch costs about the same (NovelAI, 2022;
    PixArt-α, Chen et al. 2023). "" and "1x1" are the square. Raises BackdropError for a name that is no ratio.
    """
    if not bucket:
        return image_size, image_size
    parts = bucket.split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise BackdropError(
            f"{bucket!r} is no aspect-ratio bucket", 'one is named like "3x4", or set latents.aspect_ratios to false'
        )
    ratio = math.log(int(parts[1]) / int(parts[0]))  # of height to width
    tokens = (image_size // unit) ** 2
    rows = min(range(1, tokens + 1), key=lambda rows: abs(math.log(rows / (tokens // rows)) - ratio))
    return rows * unit, tokens // rows * unit


def square(sample: dict[str, Any], size: int) -> np.ndarray:
    """A filtered sample's picture, uint8 (size, size, 3)."""
    return picture_of(sample, size, size)


def picture_of(sample: dict[str, Any], height: int, width: int) -> np.ndarray:
    """A filtered sample's picture, uint8 (height, width, 3)."""
    picture = images.decode(sample["image"])
    return picture if picture.shape[:2] == (height, width) else images.cover(picture, height, width)


def product_of(sample: dict[str, Any], height: int, width: int) -> np.ndarray:
    """A filtered sample's product, bool (height, width), True on it."""
    mask = images.decode_mask(sample["mask"])
    return mask if mask.shape == (height, width) else images.cover(mask.astype(np.uint8) * 255, height, width) > 127
