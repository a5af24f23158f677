"""How close a generated background is to the true one, and whether the product stayed what it was."""

from __future__ import annotations

import numpy as np


def masked_l1(generated: np.ndarray, truth: np.ndarray, product: np.ndarray) -> float:
    """Mean absolute difference over the hole (everything but the product), pictures taken as [0, 1].

    Args:
        generated, truth: uint8 (H, W, 3).
        product: bool (H, W); the hole is its complement.

    Raises:
        ValueError: shapes that do not fit, or a product that leaves no hole.
    """
    if generated.shape != truth.shape or truth.shape[:2] != product.shape:
        raise ValueError(f"shapes differ: {generated.shape}, {truth.shape}, mask {product.shape}")
    hole = ~product
    if not hole.any():
        raise ValueError("the product covers the whole picture: nothing to compare")
    difference = np.abs(generated[hole].astype(np.int16) - truth[hole].astype(np.int16))
    return float(difference.mean() / 255)


def product_identical(composite: np.ndarray, original: np.ndarray, product: np.ndarray) -> bool:
    """Whether every product pixel of the composite equals the input's (array-equal on the mask)."""
    return np.array_equal(composite[product], original[product])
