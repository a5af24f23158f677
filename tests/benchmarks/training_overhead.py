"""What a step costs beside its forward and backward: optimiser, average, callbacks and logging, at DiT-B/2's size.

The same loss runs inside `fit`, which times its steps, and alone, in fp32 and in the format that the recipes choose
here; both take the best of several. A step of the loop is half of two neighbours: the average moves at every second.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from infra.jobs.channel import SilentChannel
from tests.benchmarks.promise import Promise
from tests.training.world import job_in
from training.draws import Draws
from training.ema import Ema
from training.feed import Batch
from training.models.dit import DiT, DiTConfig
from training.precision import autocast, fast_dtype
from training.presets.sections import OptimiserSection
from training.recipes.fit import fit

BATCH, WORDS, CHANNELS, SIDE, TEXT = 8, 16, 4, 32, 384
STEPS = int(os.environ.get("BENCH_STEPS", "8"))


class OneBatch:
    """A loader that gives the same batch again and again: waiting for data is no part of this figure."""

    batch_size = BATCH
    dropped: Mapping[str, int] = {}

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batch = {
            "latent": torch.randn(BATCH, CHANNELS, SIDE, SIDE, generator=generator),
            "text": torch.randn(BATCH, WORDS, TEXT, generator=generator),
        }

    def at(self, start: int, rank: int = 0, ranks: int = 1) -> OneBatch:
        return self

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch

    def ids(self, batch: Batch) -> Sequence[str]:
        return [str(row) for row in range(BATCH)]

    def close(self) -> None:
        """Nothing is open."""


class Steps:
    """A loss that notes when each of its forwards begins."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.began: list[float] = []

    def __call__(self, model: nn.Module, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        self.began.append(time.perf_counter())
        x = batch["latent"]
        length = torch.full((len(x),), WORDS)
        t = torch.linspace(0.1, 0.9, len(x))
        with autocast(self.dtype):
            out = model(x, t, x, torch.ones_like(x[:, :1]), batch["text"], length)
        return {"loss": (out.float() - x).square().mean()}


def promises() -> Iterator[Promise]:
    for dtype in dict.fromkeys((torch.float32, fast_dtype())):
        alone, whole = measure(dtype)
        name = str(dtype).removeprefix("torch.")
        print(f"{name}: forward and backward {alone:.2f} s, whole step in the loop {whole:.2f} s", flush=True)
        yield Promise(
            f"optimiser, average, callbacks, logging, of a {name} step", 1 - alone / whole, 0.04, at_least=False
        )


def measure(dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a forward and backward alone, and of a step in the loop."""
    torch.manual_seed(0)
    model = DiT(DiTConfig(CHANNELS, 768, 12, 12, 2, 4.0, TEXT))
    loader, steps = OneBatch(), Steps(dtype)
    alone = []
    for _ in range(STEPS):
        model.zero_grad(set_to_none=True)
        began = time.perf_counter()
        steps(model, loader.batch, Draws.of(loader.batch, 0, 0))["loss"].backward()
        alone.append(time.perf_counter() - began)
    steps.began.clear()
    folder = Path(tempfile.mkdtemp(prefix="backdrop-overhead-"))
    try:
        section = OptimiserSection(
            steps=STEPS, batch_size=BATCH, warmup=0, ema=0.99, log_every=1, save_seconds=1e9, device="cpu"
        )
        ema = Ema(model, section.ema, section.ema_every)
        fit(job_in(folder, SilentChannel()), "overhead", ema, steps, loader, section, seed=0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    marks = steps.began[-STEPS:]  # before them, `fit` counted the loss's operations once
    return min(alone), min(after - before for before, after in zip(marks, marks[2:], strict=False)) / 2
