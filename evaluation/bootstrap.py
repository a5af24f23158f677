"""How sure a mean over pictures is: a paired bootstrap, for models that were given the same pictures and seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
_NORMAL = NormalDist()
_AT_ONCE = 1 << 22  # counts drawn at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds the true one with the given confidence."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """The bootstrap distribution of a mean, bias-corrected and accelerated (BCa; Efron 1987).

    `means`: those of the resamples (R,); `bias` and `acceleration`: z0 and a of the paper.
    """

    mean: float
    means: np.ndarray
    bias: float
    acceleration: float

    def interval(self, confidence: float = 0.95) -> Interval:
        """Two-sided, with equal tails."""
        if np.ptp(self.means) == 0:
            return Interval(self.mean, self.mean, self.mean)
        ends = []
        for share in ((1 - confidence) / 2, (1 + confidence) / 2):
            z = self.bias + _NORMAL.inv_cdf(share)
            ends.append(_NORMAL.cdf(self.bias + z / (1 - self.acceleration * z)))
        low, high = np.quantile(self.means, ends)
        return Interval(self.mean, float(low), float(high))

    def p_at_most(self, bound: float) -> float:
        """One-sided p of "the true mean is at most `bound`": the level at which the lower end would be `bound`."""
        if np.ptp(self.means) == 0:
            return 0.0 if self.mean > bound else 1.0
        z = _NORMAL.inv_cdf(_share_below(self.means, bound)) - self.bias
        return _NORMAL.cdf(z / (1 + self.acceleration * z) - self.bias)


def resample(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> list[Resampled]:
    """One distribution per column of `values` (N, M), all from the same resamples of the rows. Deterministic.

    Raises:
        ValueError: fewer than two rows, or values that are not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs at least 2 finite values, got {values.shape}")
    count = len(values)
    middle = values.mean(axis=0)  # (M,)
    centred = values - middle  # what is resampled, so that a constant column stays exactly constant
    parts = [counts @ centred / count for counts in _counts(count, resamples, seed)]
    means = middle + np.concatenate(parts)  # (R, M)
    found = []
    for column in range(values.shape[1]):
        # A jackknife's mean without value i differs from the mean by minus this / (N - 1).
        squares = float((centred[:, column] ** 2).sum())
        acceleration = float((centred[:, column] ** 3).sum()) / (6 * squares**1.5) if squares else 0.0
        mean, drawn = float(middle[column]), means[:, column]
        bias = _NORMAL.inv_cdf(_share_below(drawn, mean)) if squares else 0.0
        found.append(Resampled(mean, drawn, bias, acceleration))
    return found


def mean_interval(values: np.ndarray, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The interval of a mean of `values` (N,), for a paired comparison the differences per picture.

    Raises:
        ValueError: fewer than two values, or values that are not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"an interval needs at least 2 finite values, got {values.shape}")
    return resample(values[:, None], resamples, seed)[0].interval(confidence)


def _share_below(means: np.ndarray, bound: float) -> float:
    """Share of resamples below `bound`, ties half; away from 0 and 1, so that its z is finite."""
    share = (np.count_nonzero(means < bound) + 0.5 * np.count_nonzero(means == bound)) / len(means)
    return float(np.clip(share, 0.5 / len(means), 1 - 0.5 / len(means)))


def _counts(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `count` rows is in each resample, in chunks of float64 (some, count)."""
    if count * resamples <= _AT_ONCE:
        yield _kept_counts(count, resamples, seed)
        return
    rng = np.random.default_rng(seed)
    step = max(_AT_ONCE // count, 1)
    for start in range(0, resamples, step):
        yield _draw(rng, count, min(step, resamples - start))


@lru_cache(maxsize=4)
def _kept_counts(count: int, resamples: int, seed: int) -> np.ndarray:
    """Every decision on as many pictures uses the same resamples: drawing them is most of the work."""
    return _draw(np.random.default_rng(seed), count, resamples)


def _draw(rng: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    picks = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    return np.bincount(picks.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
