"""What a model changed in the region that it was to keep, before compositing puts the original's pixels back.

Compositing hides it, and the seam shows it: a model that repaints the product does not know where the product ends.
"""

from __future__ import annotations

import numpy as np


def keep_rmse(generated: np.ndarray, original: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Root mean square error over the kept region per picture, float64 (N,), of pictures in [0, 1]; 0 is best.

    Args:
        generated, original: uint8 (N, H, W, 3), generated as it is before compositing.
        product: bool (N, H, W), what was to be kept.

    Raises:
        ValueError: shapes that do not fit, or a picture with nothing to keep.
    """
    if generated.shape != original.shape or original.shape[:3] != product.shape:
        raise ValueError(f"shapes differ: {generated.shape}, {original.shape}, masks {product.shape}")
    kept = product.sum(axis=(1, 2))
    if not kept.all():
        raise ValueError(f"picture {int(np.argmin(kept))} of {len(kept)} keeps nothing: nothing can leak")
    square = ((generated.astype(np.float64) - original) ** 2).mean(axis=3)  # (N, H, W)
    return np.sqrt((square * product).sum(axis=(1, 2)) / kept) / 255
