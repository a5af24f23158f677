"""Rectified flow (Liu et al. 2022; Lipman et al. 2023): times, noising, target and loss as pure functions.

z_t = (1 - t) x + t ε, so t = 0 is data and t = 1 is noise; the velocity is ε - x. Shapes: x, ε, z (B, C, h, w); t (B,);
mask (B, 1, h, w) with 1 = to generate. The sampler that walks back from noise to data is `training.editing.complete`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.draws import Draws


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t on the straight line from data (t = 0) to noise (t = 1)."""
    t = t[:, None, None, None]
    return (1 - t) * x + t * noise


def velocity(x: Tensor, noise: Tensor) -> Tensor:
    """The line's direction dz/dt, the same at every t."""
    return noise - x


def logit_normal_times(draws: Draws, mean: float, std: float, shift: float = 1.0) -> Tensor:
    """Times (B,) in (0, 1), one per stratum of the global batch: a normal's sigmoid (Esser et al. 2024), shifted."""
    u = draws.strata("times").clamp(1e-4, 1 - 1e-4)
    return shifted(torch.sigmoid(mean + std * torch.special.ndtri(u)), shift)


def shifted(t: Tensor, shift: float) -> Tensor:
    """Times moved towards noise by shift > 1 (Esser et al. 2024, eq. 23); 1 leaves them bit for bit, 0 and 1 stay."""
    return shift * t / (1 + (shift - 1) * t)


def resolution_shift(tokens: int, base_tokens: int) -> float:
    """The shift √(tokens / base_tokens) at which `tokens` are as uncertain as `base_tokens` were; without a base, 1.

    More tokens average the noise away, so that a picture of more tokens needs more of it (Esser et al. 2024, §5.3.2).
    """
    return math.sqrt(tokens / base_tokens) if base_tokens else 1.0


def noise_weight(t: Tensor, min_snr: float | None) -> Tensor:
    """What turns a squared error of the velocity (B,) into one of the noise, truncated by min-SNR where γ is given.

    The noise that a velocity means is ε̂ = z + (1 - t) v̂, so ‖ε̂ - ε‖² = (1 - t)² ‖v̂ - v‖². Said that way, a noise target
    needs no other model and is exact at t = 1, where z is the noise. Min-SNR-γ (Hang et al. 2023, §3.4) weighs it by
    min(SNR, γ) / SNR with SNR = (1 - t)² / t².
    """
    weight = (1 - t).square()
    return weight if min_snr is None else torch.minimum(weight, min_snr * t.square())


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
    """Classifier-free guidance (Ho & Salimans 2022): 1 is the conditional velocity bit for bit, 0 the unconditional."""
    if isinstance(guidance, Tensor):
        guidance = guidance[:, None, None, None]
    return conditional + (guidance - 1) * (conditional - unconditional)
