"""Does the engine compute what PyTorch computes? Every graph, on shapes that the export never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.editing import Parts, noise

#: (batch, rows of patches, columns of patches) relative to the preset's own grid: none of them is the export's example.
SHAPES = ((1, 0, 0), (3, 0, 0), (5, 1, -1), (2, -1, 2), (4, 2, 1))


@dataclass(frozen=True)
class ParityRow:
    """One comparison: which graph, at which shape, and its relative L2 error."""

    graph: str
    shape: str
    relative_l2: float


def check_parity(
    engine: Parts, reference: Parts, images: np.ndarray, captions: Sequence[str], patch: int, seed: int
) -> list[ParityRow]:
    """Compare encoder, trunk and decoder on real pictures and captions.

    Args:
        engine, reference: the student in two forms. The reference also embeds the captions.
        images: float32 (N, 3, H, W) in [-1, 1], N at least 1; tiled and cropped to the other shapes.
        captions: N captions.
        patch: latent cells per side of the trunk's patch.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for batch, more_rows, more_columns in SHAPES:
        unit = patch * reference.factor
        height = max(1, images.shape[2] // unit + more_rows) * unit
        width = max(1, images.shape[3] // unit + more_columns) * unit
        pictures = np.ascontiguousarray(_tile(images, batch, height, width))
        latents = reference.encode(pictures)  # (B, C, h, w)
        shape = f"{batch} × {height} × {width}"
        rows.append(ParityRow("encoder", shape, relative_l2(engine.encode(pictures), latents)))
        rows.append(ParityRow("decoder", shape, relative_l2(engine.decode(latents), reference.decode(latents))))

        t = rng.uniform(0.05, 1.0, batch).astype(np.float32)
        z = noise(range(seed, seed + batch), latents.shape[1:])
        z = (1 - t[:, None, None, None]) * latents + t[:, None, None, None] * z
        mask = (rng.random((batch, 1, *latents.shape[2:])) < 0.7).astype(np.float32)
        text, length = reference.embed([captions[k % len(captions)] for k in range(batch)])
        length = np.where(np.arange(batch) == batch - 1, 0 if batch > 1 else length, length).astype(length.dtype)
        step = rng.choice([0.125, 0.25, 0.5, 1.0], batch).astype(np.float32)
        guidance = rng.uniform(1.0, 4.0, batch).astype(np.float32)
        away, away_length = reference.embed([captions[(k + 1) % len(captions)] for k in range(batch)])
        away_length = np.where(np.arange(batch) == 0, 0, away_length).astype(away_length.dtype)
        negative = (away.astype(np.float32), away_length)
        inputs = (z, t, latents, mask, text.astype(np.float32), length, step, guidance, *negative)
        error = relative_l2(engine.velocity(*inputs), reference.velocity(*inputs))
        rows.append(ParityRow("trunk", f"{shape}, {text.shape[1]} tokens", error))
    return rows


def _tile(images: np.ndarray, batch: int, height: int, width: int) -> np.ndarray:
    """(N, 3, H, W) repeated and cropped to (batch, 3, height, width)."""
    repeats = (-(-batch // images.shape[0]), 1, -(-height // images.shape[2]), -(-width // images.shape[3]))
    return np.tile(images, repeats)[:batch, :, :height, :width]


def relative_l2(got: np.ndarray, expected: np.ndarray) -> float:
    """‖got − expected‖ / ‖expected‖; infinite when shapes differ or a value is not finite."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(got.astype(np.float64) - expected.astype(np.float64)))
    return error / scale if scale else error


def worst(rows: Sequence[ParityRow]) -> ParityRow:
    """The row with the largest error. Raises ValueError when there is none."""
    return max(rows, key=lambda row: row.relative_l2)


def table(rows: Sequence[ParityRow]) -> list[dict[str, Any]]:
    """The rows as JSON."""
    return [asdict(row) for row in rows]
