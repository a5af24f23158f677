"""Distances between two sets of pictures, unbiased, and the null that says whether one is surely worse.

Such a distance is a guard, never a gate: it has no value per picture, and below a few thousand pictures its noise is as
large as what models differ by. FID is left out, for its bias is larger still (Bińkowski et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Features (N, D) and (M, D) → similarities (N, M)."""

SURE = 0.025
"""Probability under the null below which a challenger is surely worse."""

ROUNDS = 1000
_CMMD_SIGMA, _CMMD_SCALE = 10.0, 1000.0


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel, (x·y / D + 1)³ (Bińkowski et al. 2018, "Demystifying MMD GANs")."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """CMMD's kernel on features of unit length, deviation 10, times 1,000 (Jayasumana et al. 2024)."""
    x, y = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (x, y))
    return _CMMD_SCALE * np.exp((x @ y.T - 1) / _CMMD_SIGMA**2)  # |x - y|² = 2 - 2 x·y


KERNELS: dict[str, Kernel] = {"kid": polynomial, "cmmd": gaussian}


def mmd(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
    """Squared maximum mean discrepancy of two sets of features (Gretton et al. 2012, eq. 3): unbiased, so it may be
    below 0, and is 0 on average for two samples of one distribution.

    Raises:
        ValueError: fewer than two rows in either, widths that differ, or values that are not finite.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of widths {x.shape[1]} and {y.shape[1]}")
    return _within(kernel(x, x)) + _within(kernel(y, y)) - 2 * float(kernel(x, y).mean())


@dataclass(frozen=True)
class Guard:
    """Two models' distances to the same reference.

    `p`: the probability of the challenger being as much farther away, or more, if nobody could tell the two apart;
    `spread`: the difference's deviation in that case.
    """

    champion: float
    challenger: float
    spread: float
    p: float

    @property
    def worse(self) -> bool:
        """The challenger is surely farther from the reference."""
        return self.p < SURE


def guard(
    champion: np.ndarray,
    challenger: np.ndarray,
    reference: np.ndarray,
    kernel: Kernel,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Guard:
    """Whether a challenger's pictures lie farther from the reference's than the champion's: a paired permutation test.

    Row i of both answers the same tuple, so under the null the two may be swapped there. Only what follows from the
    swaps is computed anew, all of it from one kernel matrix.

    Args:
        champion, challenger: features (N, D) of the same N tuples.
        reference: features (M, D) of the pictures that both should look like.

    Raises:
        ValueError: sides that do not pair, and all that `mmd` refuses.
    """
    if champion.shape != challenger.shape:
        raise ValueError(f"{champion.shape} and {challenger.shape} features do not pair")
    count = len(champion)
    both = _checked(np.concatenate([champion, challenger]))  # (2N, D)
    own = kernel(both, both)
    np.fill_diagonal(own, 0)
    cross = kernel(both, _checked(reference)).mean(axis=1)  # (2N,)
    swapped = np.random.default_rng(seed).random((rounds, count)) < 0.5
    swapped[0] = False  # the first round is what was observed
    chosen = np.concatenate([swapped, ~swapped], axis=1).astype(np.float64)  # rows of the challenger, per round

    def nearness(rows: np.ndarray) -> np.ndarray:
        """Distance to the reference less what the reference adds by itself, per round; rows (R, 2N)."""
        within = ((rows @ own) * rows).sum(axis=1) / (count * (count - 1))
        return within - 2 * rows @ cross / count

    gaps = nearness(chosen) - nearness(1 - chosen)  # challenger less champion
    ties = np.isclose(gaps[1:], gaps[0], rtol=1e-9, atol=1e-12)
    farther = float(((gaps[1:] > gaps[0]) & ~ties).sum() + 0.5 * ties.sum())  # identical sides: p = 0.5
    return Guard(
        champion=mmd(champion, reference, kernel),
        challenger=mmd(challenger, reference, kernel),
        spread=float(gaps[1:].std()),
        p=(farther + 0.5) / rounds,
    )


def _within(similarity: np.ndarray) -> float:
    """Mean over all pairs of different rows."""
    count = len(similarity)
    return float((similarity.sum() - np.trace(similarity)) / (count * (count - 1)))


def _checked(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
        raise ValueError(f"a distance needs at least 2 finite rows of features, got {features.shape}")
    return features
