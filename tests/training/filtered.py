"""Rows of a filtered slice, for tests that make their own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from infra import images


def filtered_row(name: str, picture: np.ndarray, product: np.ndarray | None, captions: Sequence[str]) -> dict[str, Any]:
    """A row for a picture uint8 (H, W, 3) with its product's mask uint8 (H, W), or without one."""
    height, width = picture.shape[:2]
    return {
        "id": name,
        "image": images.encode_png(picture),
        "mask": b"" if product is None else images.encode_png(product),
        "captions": list(captions),
        "attributes": {},
        "width": width,
        "height": height,
        "source": "test",
    }
