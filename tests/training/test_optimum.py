"""The real model under the real loss learns the velocity of a mixture of Gaussians, which is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training import flow
from training.completion import completion_loss
from training.draws import Draws
from training.models.dit import DiT, DiTConfig
from training.optimisers import build
from training.presets.sections import CompletionSection

MEANS = torch.tensor([[1.5, 0.0], [-1.0, 1.2], [-0.6, -1.4]])  # (K, D)
SHARES = torch.tensor([0.5, 0.3, 0.2])  # (K,)
SPREAD = 0.4
BATCH, STEPS = 192, 900


def samples(draws: Draws) -> Tensor:
    """From the mixture, as latents (B, D, 1, 1)."""
    component = torch.searchsorted(SHARES.cumsum(0), draws.uniform("component")).clamp(max=2)
    return (MEANS[component] + SPREAD * draws.normal("sample", 2))[:, :, None, None]


def optimum(z: Tensor, t: Tensor) -> Tensor:
    """E[ε - x | z_t] (B, D): given component k, z_t is normal around (1 - t) μ_k with variance (1 - t)² σ² + t²."""
    z, t = z.flatten(1)[:, None], t[:, None, None]  # (B, 1, D), (B, 1, 1)
    variance = ((1 - t) * SPREAD).square() + t.square()
    off = z - (1 - t) * MEANS  # (B, K, D)
    noise = t / variance * off
    data = MEANS + (1 - t) * SPREAD**2 / variance * off
    likelihood = SHARES.log() - off.square().sum(2) / (2 * variance[:, :, 0]) - variance[:, :, 0].log()
    return (likelihood.softmax(1)[:, :, None] * (noise - data)).sum(1)


def batch_of(x: Tensor) -> dict[str, Tensor]:
    """Everything is to be generated, and there is no text."""
    count = len(x)
    return {
        "latent": x,
        "masked": torch.zeros(count, 3, 2, 1, 1),
        "masks": torch.full((count, 3, 1, 1), 255, dtype=torch.uint8),
        "text": torch.zeros(count, 1, 1, 4),
        "text_length": torch.zeros(count, 1, dtype=torch.int64),
        "has_product": torch.zeros(count, dtype=torch.bool),
    }


def everyone(step: int, count: int = BATCH) -> Draws:
    return Draws(0, step, torch.arange(count), count)


@pytest.mark.integration
def test_the_velocity_is_learned_to_two_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.completion.fast_dtype", lambda device: torch.float32)
    section = CompletionSection(
        learning_rate=8e-3, weight_decay=0.0, time_mean=0.0, time_std=1.0, hole_weight=1.0, text_dropout=0.0
    )
    torch.manual_seed(0)
    model = DiT(DiTConfig(latent_channels=2, width=64, depth=1, heads=1, patch=1, text_width=4))
    loss = completion_loss(section, 0.0, 1.0, patch=1)
    optimiser = build(model, section)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = section.learning_rate * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * step / STEPS)) / 2
        draws = everyone(step)
        optimiser.zero_grad()
        loss(model, batch_of(samples(draws)), draws)["loss"].backward()
        optimiser.step()

    draws = everyone(10**6, 20_000)
    x, noise = samples(draws), draws.normal("noise", 2, 1, 1)
    t = flow.logit_normal_times(draws, 0.0, 1.0)
    z, given = flow.interpolate(x, noise, t), batch_of(x)
    with torch.no_grad():
        learned = model(
            z,
            t,
            given["masked"][:, 0],
            given["masks"][:, :1].float() / 255,
            given["text"][:, 0],
            given["text_length"][:, 0],
        )
    best, actual = optimum(z, t), flow.velocity(x, noise).flatten(1)
    learned = learned.flatten(1)
    least = (best - actual).square().mean()  # what no model can know
    assert ((learned - actual).square().mean() - least) / least < 0.02
    assert (learned - best).square().mean() / best.square().mean() < 0.02
