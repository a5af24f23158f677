"""Object expansion: how far a model paints its product beyond the mask that it was given.

    E = (area(output's product ∪ input's product) − area(input's product)) / area(input's product)

measured on the generated picture before compositing (Pinterest Canvas, Wang et al. 2024, arXiv:2404.10157, who cut it
from SD2-inpaint's by training on masked products). Two models are compared on the same pictures, captions and seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.bootstrap import Interval, mean_interval

LEAST_IOU = 0.95
"""On held-out pictures, of the segmenter that finds the output's product."""

LARGEST_SHARE = 0.5
"""Of stage 1's mean expansion, what stage 2's may be at most."""


def expansion(output: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Expansion per picture, float64 (N,); 0 is none, 1 an added area as large as the product itself.

    Args:
        output: bool (N, H, W), the product as found in the generated pictures.
        product: bool (N, H, W), the product that was given.

    Raises:
        ValueError: shapes that do not fit, or a picture without a product.
    """
    if output.shape != product.shape or product.ndim != 3:
        raise ValueError(f"shapes differ: output {output.shape}, product {product.shape}; both must be (N, H, W)")
    area = product.sum(axis=(1, 2))
    if not area.all():
        raise ValueError(f"picture {int(np.argmin(area))} of {len(area)} has no product: nothing can expand")
    union = (output | product).sum(axis=(1, 2))
    return (union - area) / area


def intersection_over_union(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Per picture, float64 (N,), of bool (N, H, W) each; two empty masks agree."""
    both = (found & true).sum(axis=(1, 2))
    either = (found | true).sum(axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


@dataclass(frozen=True)
class Comparison:
    """Stage 2 against stage 1. `difference`: stage 2's expansion less stage 1's per picture, and its interval."""

    first: float
    second: float
    difference: Interval
    pictures: int

    @property
    def share(self) -> float | None:
        """Stage 2's mean expansion as a share of stage 1's; None where stage 1 never expands."""
        return self.second / self.first if self.first > 0 else None

    @property
    def passed(self) -> bool:
        """At most half of stage 1's, and surely less."""
        return self.share is not None and self.share <= LARGEST_SHARE and self.difference.high < 0


def compare_stages(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Comparison:
    """Expansions (N,) of the two stages on the same pictures → how they differ.

    Raises:
        ValueError: arrays that do not pair, or fewer than two pictures.
    """
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} expansions do not pair")
    difference = mean_interval(second - first, seed=seed)
    return Comparison(float(first.mean()), float(second.mean()), difference, len(first))
