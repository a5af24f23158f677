"""The editing task in numpy: what a sampler does with any engine's parts, and the compositing that keeps the product.

`complete` knows no torch: PyTorch modules, ONNX Runtime sessions and TensorRT engines all enter as `Parts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from training.masks import product_hole, punch, to_cells


class Parts(Protocol):
    """An engine, opened: four functions on numpy arrays. Latents are normalised; all arrays float32 unless said."""

    image_size: int
    factor: int

    def encode(self, images: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) in [-1, 1] → (B, C, h, w)."""

    def velocity(
        self,
        z: np.ndarray,
        t: np.ndarray,
        masked: np.ndarray,
        mask: np.ndarray,
        text: np.ndarray,
        text_length: np.ndarray,
        step: np.ndarray | None = None,
        guidance: np.ndarray | None = None,
        negative: np.ndarray | None = None,
        negative_length: np.ndarray | None = None,
    ) -> np.ndarray:
        """Shapes as in DiT.forward; from `step` on for a student only, of which the last two may be left out."""

    def decode(
        self, latent: np.ndarray, picture: np.ndarray | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """(B, C, h, w) → (B, 3, H, W), about [-1, 1].

        A mask-conditioned decoder also reads what is kept of `picture` (B, 3, H, W): `mask` (B, 1, H, W) is 0 there.
        """

    def embed(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Captions → text (B, L, E) float16 and lengths (B,) uint8."""


def complete(
    parts: Parts,
    images: np.ndarray,
    product: np.ndarray,
    captions: Sequence[str],
    *,
    steps: int,
    guidance: float,
    seeds: Sequence[int],
    student: bool,
    negative: Sequence[str] | None = None,
    shift: float = 1.0,
) -> np.ndarray:
    """Generate a background for each product: uint8 (B, H, W, 3), raw, before compositing.

    images uint8 (B, H, W, 3); product bool (B, H, W), True is kept; a row's result depends on its own seed
    alone. A student takes one forward per step, guidance being an input; a teacher two (with guidance 1, one).
    `negative` are texts to lead away from, one per row, in place of no text: an input of the student, the second
    forward of a teacher. `shift` is that of the times in training.
    """
    holes = np.stack([product_hole(mask) for mask in product])  # (B, H, W)
    kept = np.stack([punch(to_float(image), hole) for image, hole in zip(images, holes, strict=True)])
    picture = np.ascontiguousarray(kept.transpose(0, 3, 1, 2))  # (B, 3, H, W)
    masked = parts.encode(picture)  # (B, C, h, w)
    mask = to_cells(holes, parts.factor)[:, None]  # (B, 1, h, w)
    text = embedded(parts, captions)
    away = null_text(*text) if negative is None else embedded(parts, negative)
    z = noise(seeds, masked.shape[1:])  # (B, C, h, w)
    times = time_grid(steps, shift)
    for now, then in pairwise(times):
        t, step = (np.full(len(z), value, np.float32) for value in (now, now - then))
        if student:
            v = parts.velocity(z, t, masked, mask, *text, step, np.full_like(t, guidance), *away)
        else:
            v = parts.velocity(z, t, masked, mask, *text)
            if guidance != 1.0:
                v = v + np.float32(guidance - 1) * (v - parts.velocity(z, t, masked, mask, *away))
        z = z - v * np.float32(now - then)
    made = parts.decode(z, picture, holes[:, None].astype(np.float32))  # (B, 3, H, W)
    return to_uint8(made.transpose(0, 2, 3, 1))


def time_grid(steps: int, shift: float = 1.0) -> list[float]:
    """`steps` + 1 times from 1 (noise) to 0 (data): in equal steps, moved by `shift` as in training."""
    even = [1 - index / steps for index in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]


def embedded(parts: Parts, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """text float32 (B, L, E) and its lengths (B,), as `velocity` takes them."""
    text, text_length = parts.embed(captions)
    return text.astype(np.float32), text_length


def null_text(text: np.ndarray, text_length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The text argument that stands for no text: length 0, for which the model puts in what it learned."""
    return np.zeros_like(text), np.zeros_like(text_length)


def noise(seeds: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 (B, *shape), one generator per seed."""
    return np.stack([np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for seed in seeds])


def composite(images: np.ndarray, generated: np.ndarray, product: np.ndarray) -> np.ndarray:
    """The generated background behind the untouched product: array-equal to `images` where `product` is True."""
    return np.where(product[..., None], images, generated)


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 [0, 255] → float32 [-1, 1]."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """float [-1, 1] → uint8 [0, 255], rounded and clipped."""
    return np.clip(np.rint((image + 1) * 127.5), 0, 255).astype(np.uint8)
