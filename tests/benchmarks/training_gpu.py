"""DiT-XL/2 on one GPU: images per second, share of the datasheet's bfloat16 rate, and joules per image.

Latents of 256 px (4 × 32 × 32, so 256 tokens), bfloat16 autocast, compiled, fused AdamW and the weights' average in
every step. It needs a GPU and `nvidia-ml-py`, and measures nothing without them. Batches come from memory unless
BENCH_LATENTS names MDS shards of latents: then from there, through `streaming`.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.promise import Promise
from training.ema import Ema
from training.models.dit import DiT, DiTConfig

WIDTH, DEPTH, HEADS, TOKENS, WORDS, TEXT = 1152, 28, 16, 256, 16, 384
BATCH = int(os.environ.get("BENCH_BATCH", "256"))
PEAK = float(os.environ.get("BENCH_PEAK_TFLOPS", "989")) * 1e12  # H200, dense bfloat16, datasheet
WARM, ROUNDS, STEPS = 10, 5, 20
BAR = 0.50


def promises() -> Iterator[Promise]:
    if not torch.cuda.is_available():
        print("no GPU here: DiT-XL/2 was not measured")
        return
    name = torch.cuda.get_device_name()
    device = torch.device("cuda")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    config = DiTConfig(4, WIDTH, DEPTH, HEADS, 2, 4.0, TEXT)
    model = DiT(config).to(device)
    ema = Ema(model, 0.9999)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    velocity: Any = torch.compile(model)
    source = batches(device)

    def step() -> None:
        x, text = next(source)
        t, noise = torch.rand(BATCH, device=device), torch.randn_like(x)
        z = x + t[:, None, None, None] * (noise - x)
        length = torch.full((BATCH,), WORDS, device=device)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            predicted = velocity(z, t, x, torch.ones_like(x[:, :1]), text, length)
        (predicted.float() - (noise - x)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ema.update()

    for _ in range(WARM):
        step()
    seconds, joules = [], []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        energy, began = millijoules(), time.perf_counter()
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - began) / STEPS)
        joules.append((millijoules() - energy) / 1e3 / STEPS / BATCH)
    share = operations(config.mlp_width) * BATCH / min(seconds) / PEAK
    print(
        f"{name}: {BATCH / min(seconds):.0f} images/s (median {BATCH / statistics.median(seconds):.0f}), "
        f"{statistics.median(joules):.3f} J per image, {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB",
        flush=True,
    )
    yield Promise(f"DiT-XL/2 on {name}, of {PEAK / 1e12:.0f} TFLOP/s", share, BAR)


def operations(mlp_width: int) -> float:
    """One sample's forward and backward in the blocks; a multiply and an add are two."""
    linear = TOKENS * (4 * WIDTH**2 + 3 * WIDTH * mlp_width) + WORDS * 2 * WIDTH**2
    attention = 2 * TOKENS * (TOKENS + WORDS) * WIDTH
    return 3 * 2.0 * DEPTH * (linear + attention)


def batches(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Latents (B, 4, 32, 32) and text (B, L, E) on `device`."""
    text = torch.randn(BATCH, WORDS, TEXT, device=device)
    folder = os.environ.get("BENCH_LATENTS")
    if folder is None:
        kept = torch.randn(4 * BATCH, 4, 32, 32)
        while True:
            yield kept[torch.randint(len(kept), (BATCH,))].pin_memory().to(device, non_blocking=True), text
    from torch.utils.data import DataLoader

    from infra._compat.streaming import load

    data = load().StreamingDataset(local=folder, batch_size=BATCH, shuffle=True)
    while True:
        for batch in DataLoader(data, batch_size=BATCH, num_workers=4, pin_memory=True, drop_last=True):
            yield batch["latent"].float().to(device, non_blocking=True), text


def millijoules() -> float:
    """What the GPU has used since its driver was loaded (NVML)."""
    import pynvml

    pynvml.nvmlInit()
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0)))
