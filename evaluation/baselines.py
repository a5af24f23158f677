"""What a trained model has to beat: three ways to fill a background without one.

Each returns whole pictures, uint8 (N, H, W, 3), that are scored as a model's are: before compositing.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

TELEA_RADIUS = 3.0  # pixels around a hole's edge that OpenCV's method looks at


def mean_background(samples: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The training backgrounds' mean colour at every pixel, a stronger guess than one colour for all.

    Args:
        samples: (image uint8 (H, W, 3), product bool (H, W)), all of one size; products do not count.

    Returns:
        uint8 (H, W, 3). Pixels that every product covers get the mean over all others.

    Raises:
        ValueError: no samples, or no background in any.
    """
    total = count = None
    for image, product in samples:
        if total is None or count is None:
            total, count = np.zeros(image.shape, np.float64), np.zeros(image.shape[:2], np.int64)
        hole = ~product
        total[hole] += image[hole]
        count[hole] += 1
    if total is None or count is None or not count.any():
        raise ValueError("the mean background needs at least one picture with a background")
    overall = total.sum(axis=(0, 1)) / count.sum()  # (3,)
    mean = np.where(count[..., None] > 0, total / np.maximum(count, 1)[..., None], overall)
    return (mean + 0.5).astype(np.uint8)


def nearest_captions(queries: np.ndarray, known: np.ndarray) -> np.ndarray:
    """For each query the index of the training caption with the largest cosine similarity.

    Args:
        queries: float (N, D) text embeddings.
        known: float (M, D) of the training captions.

    Returns:
        int64 (N,); the pictures at these places are the baseline's answer.

    Raises:
        ValueError: no training captions, or widths that differ.
    """
    if queries.ndim != 2 or known.ndim != 2 or queries.shape[1] != known.shape[1] or len(known) == 0:
        raise ValueError(f"need (N, D) and (M ≥ 1, D) embeddings, got {queries.shape} and {known.shape}")
    return (_unit(queries) @ _unit(known).T).argmax(axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def inpaint_telea(images: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Fills all but the product by fast marching from its edge.

    Source: A. Telea, "An image inpainting technique based on the fast marching method", 2004, as in OpenCV.

    Args:
        images: uint8 (N, H, W, 3); only the product's pixels are read.
        products: bool (N, H, W).
    """
    out = np.empty_like(images)
    for k, (image, product) in enumerate(zip(images, products, strict=True)):
        known = np.where(product[..., None], image, 0).astype(np.uint8)
        out[k] = cv2.inpaint(known, (~product).astype(np.uint8), TELEA_RADIUS, cv2.INPAINT_TELEA)
    return out
