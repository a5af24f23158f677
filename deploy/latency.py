"""How long an answer takes: encode, every step and decode, as a user waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from deploy.engines import onnxruntime, tensorrt
from deploy.engines.protocol import Engine
from evaluation.metrics.energy import Energy, energy_per_picture
from training.editing import complete

WARM_UP = 2
ENERGY_SECONDS = 2.0
"""For which pictures are made to see what one costs: counters tick in milliseconds, and are read twice."""


class _Embedded:
    """An engine whose captions are embedded already, so that only the graphs are timed."""

    def __init__(self, engine: Engine, captions: Sequence[str]) -> None:
        self._engine = engine
        self._text = engine.embed(captions)
        self.image_size, self.factor = engine.image_size, engine.factor
        self.encode, self.velocity, self.decode = engine.encode, engine.velocity, engine.decode

    def embed(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return self._text


def measure(
    engine: Engine,
    images: np.ndarray,
    product: np.ndarray,
    captions: Sequence[str],
    *,
    steps: int,
    batch_sizes: Sequence[int],
    runs: int,
) -> dict[str, dict[str, float]]:
    """Milliseconds per call: {"batch 1": {"p50", "p95", "per_picture"}, …, "caption": {"p50", "p95"}}.

    Args:
        images: uint8 (N, H, W, 3), repeated to fill a batch.
        product: bool (N, H, W).
        captions: N captions. "caption" is one caption's embedding, which the others leave out.
    """
    result = {}
    for batch in batch_sizes:
        rows = [k % len(images) for k in range(batch)]
        answer = _answering(engine, images[rows], product[rows], [captions[row] for row in rows], steps)
        taken = _time(answer, runs)
        result[f"batch {batch}"] = {**taken, "per_picture": taken["p50"] / batch}
    result["caption"] = _time(lambda: engine.embed([captions[0]]), runs)
    return {name: {key: round(value, 3) for key, value in numbers.items()} for name, numbers in result.items()}


def energy(engine: Engine, images: np.ndarray, product: np.ndarray, captions: Sequence[str], *, steps: int) -> Energy:
    """What a picture costs, encode, every step and decode, in batches of all `images` uint8 (N, H, W, 3)."""
    answer = _answering(engine, images, product, captions, steps)

    def run() -> int:
        made, until = 0, time.monotonic() + ENERGY_SECONDS
        while time.monotonic() < until:
            answer()
            made += len(images)
        return made

    on_gpu = engine.backend == tensorrt.BACKEND or onnxruntime.CUDA in onnxruntime.available()
    return energy_per_picture(run, torch.device("cuda" if on_gpu else "cpu"))


def _answering(
    engine: Engine, images: np.ndarray, product: np.ndarray, captions: Sequence[str], steps: int
) -> Callable[[], object]:
    parts, seeds = _Embedded(engine, captions), range(len(images))
    return lambda: complete(parts, images, product, captions, steps=steps, guidance=2.0, seeds=seeds, student=True)


def _time(call: Callable[[], object], runs: int) -> dict[str, float]:
    for _ in range(WARM_UP):
        call()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - start))
    return {"p50": float(np.percentile(taken, 50)), "p95": float(np.percentile(taken, 95))}
