"""Rectified flow (Liu et al. 2022; Lipman et al. 2023): noising, target, loss and sampler as pure functions.

z_t = (1 - t) x + t ε, so t = 0 is data and t = 1 is noise; the velocity is ε - x. Shapes: x, ε, z (B, C, h, w); t (B,);
mask (B, 1, h, w) with 1 = to generate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t on the straight line from data (t = 0) to noise (t = 1)."""
    t = t[:, None, None, None]
    return (1 - t) * x + t * noise


def velocity(x: Tensor, noise: Tensor) -> Tensor:
    """The line's direction dz/dt, the same at every t."""
    return noise - x


def logit_normal_times(count: int, mean: float, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Times (count,) in (0, 1): sigmoid of a normal (Esser et al. 2024), stratified over the batch."""
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count  # one draw per stratum
    u = u[torch.randperm(count, generator=generator)].clamp(1e-4, 1 - 1e-4)
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


def weighted_error(predicted: Tensor, target: Tensor, mask: Tensor, hole_weight: float) -> Tensor:
    """Squared error per sample (B,), `hole_weight` of it from the hole and the rest from what is kept.

    Each part is a mean over its own cells, so a small hole counts as much as a large one; a part without cells
    counts nothing.
    """
    error = (predicted - target).square().mean(1, keepdim=True)  # (B, 1, h, w)
    return hole_weight * _mean_over(error, mask) + (1 - hole_weight) * _mean_over(error, 1 - mask)


def _mean_over(error: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum((1, 2, 3))
    return (error * weight).sum((1, 2, 3)) / total.clamp(min=1.0)


def guide(conditional: Tensor, unconditional: Tensor, guidance: Tensor | float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): 1 is the conditional velocity, 0 the unconditional one."""
    if isinstance(guidance, Tensor):
        guidance = guidance[:, None, None, None]
    return unconditional + guidance * (conditional - unconditional)


def euler(velocity_at: Callable[[Tensor, Tensor, float], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate from noise (t = 1) to data (t = 0) in equal steps; `velocity_at(z, t (B,), step)`."""
    z = noise
    for index in range(steps):
        t = torch.full((z.shape[0],), 1 - index / steps)
        z = z - velocity_at(z, t, 1 / steps) / steps
    return z
