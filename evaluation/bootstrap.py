"""How sure a mean over pictures is: a paired bootstrap, for models that were given the same pictures and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
_CHUNK = 500  # resamples drawn at once


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds the true one with the given confidence."""

    mean: float
    low: float
    high: float


def mean_interval(values: np.ndarray, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of a mean (Efron 1987). Deterministic.

    Args:
        values: float (N,), for a paired comparison the differences per picture; N at least 2.

    Raises:
        ValueError: fewer than two values, or values that are not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs at least 2 finite values, got {values.shape}")
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    means = _resampled_means(values, resamples, np.random.default_rng(seed))
    normal = NormalDist()
    # Clipped, so that a mean outside all resamples still has a finite z.
    below = np.clip((means < mean).mean() + 0.5 * (means == mean).mean(), 0.5 / resamples, 1 - 0.5 / resamples)
    bias = normal.inv_cdf(float(below))
    centred = mean - values  # a jackknife's mean without value i differs by this / (N - 1)
    acceleration = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    ends = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + normal.inv_cdf(share)
        ends.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(means, ends)
    return Interval(mean, float(low), float(high))


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means (resamples,) of samples of the same size drawn with replacement."""
    count = len(values)
    parts = []
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        parts.append(values[rng.integers(count, size=(rows, count))].mean(axis=1))
    return np.concatenate(parts)
