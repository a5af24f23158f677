"""The gate on simulated challengers: how often an equal, a worse and a better one is promoted.

6 metrics, 256 tuples, correlation between the sides 0.7, margin 0.2 standard deviations, 30 rounds of latency with 5 %
of noise. BENCH_TRIALS and BENCH_SEED change how many and which.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

import numpy as np

from evaluation.gate import Policy, Side, decide
from tests.benchmarks.promise import Promise

METRICS = tuple(f"metric {number}" for number in range(6))
PRIMARY = METRICS[0]
TUPLES, CORRELATION, ROUNDS, NOISE = 256, 0.7, 30, 0.05
#: Half of them are better when lower, so that a sign that is lost is found.
POLICY = Policy(PRIMARY, {name: number % 2 == 0 for number, name in enumerate(METRICS)})


def sides(rng: np.random.Generator, gains: Mapping[str, float]) -> tuple[Side, Side]:
    """Champion and challenger; `gains`: metric → how much better the challenger is, in standard deviations."""
    covariance = [[1.0, CORRELATION], [CORRELATION, 1.0]]
    both = rng.multivariate_normal([0.0, 0.0], covariance, size=(len(METRICS), TUPLES))  # (M, N, 2)
    for index, name in enumerate(METRICS):
        both[index, :, 1] += gains.get(name, 0.0) * (1 if POLICY.higher_is_better[name] else -1)
    latency = 40.0 * np.exp(NOISE * rng.standard_normal((2, ROUNDS)))
    return tuple(  # type: ignore[return-value]
        Side("a" * 64, {name: both[index, :, side] for index, name in enumerate(METRICS)}, latency[side])
        for side in (0, 1)
    )


def promoted(trials: int, seed: int, gains: Mapping[str, float]) -> float:
    """Share of challengers that were promoted."""
    rng = np.random.default_rng(seed)
    return sum(decide(*sides(rng, gains), POLICY).promote for _ in range(trials)) / trials


def promises() -> Iterator[Promise]:
    trials, seed = int(os.environ.get("BENCH_TRIALS", "1000")), int(os.environ.get("BENCH_SEED", "0"))
    began = time.perf_counter()
    identical = 100 * promoted(trials, seed, {})
    worse = {name: 100 * promoted(trials, seed + 1 + index, {name: -0.3}) for index, name in enumerate(METRICS)}
    # The harder case: a challenger that has bought its primary metric with another.
    bought = {
        name: 100 * promoted(trials, seed + 10 + index, {PRIMARY: 0.5, name: -0.3})
        for index, name in enumerate(METRICS[1:])
    }
    better = 100 * promoted(trials, seed + 20, {PRIMARY: 0.5})
    each = (time.perf_counter() - began) / (trials * (2 + len(worse) + len(bought)))
    print(f"gate: {trials} trials each, {1000 * each:.1f} ms a decision", flush=True)
    yield Promise("identical challengers promoted", identical, 4.0, "%", at_least=False)
    yield Promise("worse by 0.3 on one metric, promoted", max(worse.values()), 1.0, "%", at_least=False)
    yield Promise("the same, and better by 0.5 on the primary", max(bought.values()), 1.0, "%", at_least=False)
    yield Promise("better by 0.5 on the primary, promoted", better, 93.0, "%")
