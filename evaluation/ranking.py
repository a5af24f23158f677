"""Best of k: several answers to each request from one batch, and the one that a ranker likes most.

A ranker that picks can be fooled by what it picks from (Gao et al. 2022, "Scaling laws for reward model
overoptimization"): the more candidates, the higher its reward, whether or not the pictures get better. So the reward is
never reported alone: `watch` sets a metric beside it that the ranker has never seen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from evaluation.bootstrap import Interval, mean_interval
from evaluation.measure import Rank
from infra.errors import BackdropError
from training.editing import Parts, complete, composite

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """The answers of one batch.

    `pictures`: uint8 (N, H, W, 3), the chosen ones before compositing; `index` (N,): which of the k they are;
    `rewards` (N, k), NaN where the ranker failed; `candidates`: uint8 (N, k, H, W, 3), before compositing.
    """

    pictures: np.ndarray
    index: np.ndarray
    rewards: np.ndarray
    candidates: np.ndarray

    @property
    def failures(self) -> int:
        """Requests that the ranker could not judge: they got candidate 0, which is what k = 1 gives."""
        return int(np.isnan(self.rewards).any(axis=1).sum())


def best_of_k(
    parts: Parts,
    images: np.ndarray,
    product: np.ndarray,
    captions: Sequence[str],
    *,
    k: int,
    ranker: Rank,
    steps: int,
    guidance: float,
    seeds: Sequence[int],
    student: bool,
    negative: Sequence[str] | None = None,
    shift: float = 1.0,
) -> Chosen:
    """k answers to each of N requests in one batch of N·k, ranked as composites. Arguments as of
    `training.editing.complete`.

    Candidate 0 has the request's own seed, so a failing ranker costs the choice and nothing else.

    Raises:
        BackdropError: k below 1.
    """
    if k < 1:
        raise BackdropError(f"the best of {k} candidates was asked for", "give k ≥ 1")
    rows = np.repeat(np.arange(len(images)), k)
    many, masks = images[rows], product[rows]
    asked = [captions[row] for row in rows]
    made = complete(
        parts, many, masks, asked,
        steps=steps, guidance=guidance, seeds=[candidate_seed(seed, j) for seed in seeds for j in range(k)],
        student=student, negative=None if negative is None else [negative[row] for row in rows], shift=shift,
    )  # fmt: skip
    rewards = judged(ranker, composite(many, made, masks), masks, asked).reshape(len(images), k)
    index = choose(rewards)
    candidates = made.reshape(len(images), k, *made.shape[1:])
    return Chosen(candidates[np.arange(len(images)), index], index, rewards, candidates)


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed of a request's candidate; its own for candidate 0."""
    if candidate == 0:
        return seed
    return int.from_bytes(sha256(f"{seed} candidate {candidate}".encode()).digest()[:8], "big")


def judged(ranker: Rank, composites: np.ndarray, products: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Rewards float64 (N,); all NaN, and a line in the log, where the ranker raises or answers with another shape."""
    try:
        rewards = np.asarray(ranker(composites, products, captions), np.float64)
        if rewards.shape != (len(composites),):
            raise ValueError(f"{rewards.shape} rewards for {len(composites)} pictures")
    except Exception as error:  # a ranker is a luxury: whatever is wrong with it, the request gets its picture
        log.warning("the ranker failed, candidate 0 is taken: %s: %s", type(error).__name__, error)
        return np.full(len(composites), np.nan)
    return np.where(np.isfinite(rewards), rewards, np.nan)


def choose(rewards: np.ndarray) -> np.ndarray:
    """(N, k) → the best of each row, the first of equals; 0 where one of the row's is NaN, int64 (N,)."""
    broken = np.isnan(rewards).any(axis=1)
    return np.where(broken, 0, np.where(broken[:, None], 0.0, rewards).argmax(axis=1))


@dataclass(frozen=True)
class Watch:
    """What choosing did to the reward and to a metric that the ranker never saw, each a mean over the requests.

    `gain`: the metric at the largest budget less that at 1, per request, so that more is better; and its interval.
    """

    budgets: tuple[int, ...]
    reward: tuple[float, ...]
    independent: tuple[float, ...]
    gain: Interval

    @property
    def over_optimised(self) -> bool:
        """The reward's choice is surely worse by the other metric than no choice."""
        return self.gain.high < 0

    def as_dict(self) -> dict[str, object]:
        """Plain numbers: reward@1, …, reward@k, the same of the other metric, and the gain's interval."""
        named = {f"reward@{k}": value for k, value in zip(self.budgets, self.reward, strict=True)}
        named |= {f"independent@{k}": value for k, value in zip(self.budgets, self.independent, strict=True)}
        gain = {"gain": self.gain.mean, "gain_low": self.gain.low, "gain_high": self.gain.high}
        return {**named, **gain, "over_optimised": self.over_optimised}


def watch(rewards: np.ndarray, independent: np.ndarray, *, higher_is_better: bool, seed: int = 0) -> Watch:
    """The first 1, 2, 4, … and all k of the candidates to choose from.

    Args:
        rewards: (N, k), as in `Chosen`.
        independent: (N, k), a metric of every candidate, of `evaluation.measure` for example.

    Raises:
        ValueError: shapes that differ, fewer than two requests, or a metric that is not finite.
    """
    if rewards.shape != independent.shape or rewards.ndim != 2:
        raise ValueError(f"rewards {rewards.shape} and the other metric {independent.shape} do not pair")
    count, k = rewards.shape
    budgets = tuple(sorted({2**power for power in range(k.bit_length()) if 2**power <= k} | {k}))
    rows = np.arange(count)
    picks = [choose(rewards[:, :budget]) for budget in budgets]
    other = [independent[rows, pick] for pick in picks]
    sign = 1 if higher_is_better else -1
    return Watch(
        budgets,
        tuple(float(np.nanmean(rewards[rows, pick])) for pick in picks),
        tuple(float(values.mean()) for values in other),
        mean_interval(sign * (other[-1] - other[0]), seed=seed),
    )
