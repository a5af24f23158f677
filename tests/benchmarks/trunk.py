"""The transformer's trunk, forward and backward, against the machine's matrix products and against diffusers' DiT.

DiT-B/2's size: width 768, depth 12, 12 heads, 256 tokens, batch 8. Both transformers run in one process, one after the
other again and again, eager, with the same torch, threads and weights' format; each figure is the best of its rounds.
The process is one of `.venv-peers-training`, which is this project's environment and diffusers (`make bench` makes it).
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.settings import REPOSITORY
from tests.benchmarks.promise import Promise

PEERS = Path(os.environ.get("BENCH_PEERS_TRAINING", REPOSITORY / ".venv-peers-training")) / "bin" / "python"
SECONDS = float(os.environ.get("BENCH_SECONDS", "60"))
BATCH, TOKENS, WIDTH, DEPTH, HEADS, WORDS = 8, 256, 768, 12, 12, 16
BARS = {"float32": (0.92, 1.0), "bfloat16": (0.80, 1.15)}


def promises() -> Iterator[Promise]:
    if not PEERS.exists():
        print(f"no peer to compare with: {PEERS} is missing (`make bench NAME=training` makes it)")
        return
    command = [str(PEERS), "-m", "tests.benchmarks.trunk"]
    for dtype, (share, ratio) in BARS.items():
        done = subprocess.run([*command, dtype], check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        print(
            f"{dtype}, {found['threads']} threads: products {found['rate'] / 1e9:.0f} GFLOP/s, trunk "
            f"{found['ours']:.2f} s, diffusers {found['theirs']:.2f} s",
            flush=True,
        )
        reached = found["operations"] / found["ours"] / found["rate"]
        yield Promise(f"trunk {dtype}, of the products' rate", reached, share)
        yield Promise(f"trunk {dtype}, over diffusers' DiT", found["theirs"] / found["ours"], ratio)


def operations(mlp_width: int) -> tuple[list[tuple[int, int]], float]:
    """The block's four products (in, out), and what a forward and backward of all blocks computes, words included."""
    shapes = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * mlp_width), (mlp_width, WIDTH)]
    linear = BATCH * TOKENS * sum(a * b for a, b in shapes) + BATCH * WORDS * WIDTH * 2 * WIDTH
    attention = 2 * BATCH * TOKENS * (TOKENS + WORDS) * WIDTH
    return shapes, 3 * 2.0 * DEPTH * (linear + attention)


def measure(dtype_name: str) -> dict[str, float]:
    """Seconds of each side, the rate of the products and the operations of our trunk."""
    import torch
    import torch.nn.functional as F
    from diffusers import DiTTransformer2DModel

    from training.models.dit import DiT, DiTConfig

    dtype = getattr(torch, dtype_name)
    torch.manual_seed(0)
    config = DiTConfig(4, WIDTH, DEPTH, HEADS, 2, 4.0, 384)
    ours = DiT(config)
    theirs = DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, in_channels=4, num_layers=DEPTH, sample_size=32
    )
    for model in (ours, theirs):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)  # nothing is silent, so nothing can be skipped
    z, t, mask = torch.randn(BATCH, 4, 32, 32), torch.rand(BATCH), torch.ones(BATCH, 1, 32, 32)
    text, length = torch.randn(BATCH, WORDS, 384), torch.full((BATCH,), WORDS)
    steps, labels = torch.randint(0, 1000, (BATCH,)), torch.randint(0, 1000, (BATCH,))

    def step(model: torch.nn.Module, forward: Callable[[], torch.Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = forward()
        out.float().square().mean().backward()

    shapes, total = operations(config.mlp_width)
    products: list[Callable[[], torch.Tensor]] = []
    for inputs, outputs in shapes:
        x, w = torch.randn(BATCH * TOKENS, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
        g = torch.randn(BATCH * TOKENS, outputs, dtype=dtype)
        products += [lambda x=x, w=w: F.linear(x, w), lambda g=g, w=w: g @ w, lambda g=g, x=x: g.t() @ x]  # type: ignore[misc]
    sides: list[Callable[[], object]] = [
        lambda: step(ours, lambda: ours(z, t, z, mask, text, length)),
        lambda: step(theirs, lambda: theirs(z, timestep=steps, class_labels=labels).sample),
        *products,
    ]
    best = [float("inf")] * len(sides)
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or best[0] == float("inf"):
        for index, side in enumerate(sides):
            for _ in range(1 if index < 2 else 4):
                began = time.perf_counter()
                side()
                best[index] = min(best[index], time.perf_counter() - began)
    rate = 3 * 2.0 * BATCH * TOKENS * sum(a * b for a, b in shapes) / sum(best[2:])
    return {"ours": best[0], "theirs": best[1], "rate": rate, "operations": total, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    import sys

    print(json.dumps(measure(sys.argv[1])))
